"""The machine made ready, each in a process of its own."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import UserError
from lm.distributed import signals
from lm.distributed.process import forget_programs, needless_libtpu, one_line_errors
from lm.distributed.signals import STOPPED

PROGRAM = """
import resource, sys
import numpy as np
from lm.distributed.process import keep_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(1 << 23)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults(), faults()
keep_memory()
print(*before, faults(), faults())
"""


def test_a_request_to_end_is_answered_with_the_code_to_come_again(capsys):
    """Fails if SIGTERM kills a command that is not training: Slurm would not run it again."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, one_line_errors():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert ended.value.code == STOPPED == 75
    assert "the same command goes on" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


LISTENING = "import signal, time; from lm.distributed import signals; signals.listen()\n"
CLI = "from lm.cli import main; main()"


def begin(*command: str) -> subprocess.Popen[str]:
    """A Python that has begun to listen for SIGTERM, as the kernel says."""
    process = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    status = Path(f"/proc/{process.pid}/status")
    while not int(re.findall(r"SigCgt:\s(\w+)", status.read_text())[0], 16) >> 14 & 1:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    return process


def ended(process: subprocess.Popen[str], within: float) -> tuple[int, str, str]:
    """Asks a process to end, and says how it did: exit code, output, errors."""
    process.send_signal(signal.SIGTERM)
    try:
        out, err = process.communicate(timeout=within)
    finally:
        process.kill()
        process.communicate()
    return process.returncode, out, err


def test_a_thread_that_waits_does_not_keep_an_error():
    """Fails if threads of a write that was given up hold a command that said why it ends."""
    code = (
        f"{LISTENING}import threading\nfrom lm.distributed.process import one_line_errors\n"
        "from lm.config import UserError\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "with one_line_errors(jax=False): print('said'); raise UserError('refused')"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (2, "said\n", "lm: refused\n")


@pytest.mark.parametrize(
    "command",
    [
        ("-c", CLI, "train", "-"),
        ("-c", CLI, "fit", "nowhere.csv"),
        ("-m", "experiments.bert_vs_gpt"),
    ],
)
def test_oneline_a_request_to_end_is_heard_during_imports(command):
    """Fails if a module that takes seconds to import is imported before signals are heard."""
    assert ended(begin(*command), within=signals.PATIENCE + 2) == (
        STOPPED,
        "",
        f"{signals.SAID}\n",
    )


def test_oneline_help_imports_no_jax():
    """Fails if `lm --help`, or a misspelt command, waits for modules that it does not need."""
    code = f"import sys\ntry: {CLI}\nfinally: print('jax' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True)
    assert ran.returncode == 0 and ran.stdout.endswith("\nFalse\n")


@pytest.mark.parametrize("jax", [True, False])
def test_oneline_jax_is_imported_before_interrupts_are_raised_if_at_all(jax):
    """Fails if SIGTERM during the import of jax, whose C++ lets no exception through, aborts.

    Or if a command that has no use for it waits for it.
    """
    code = (
        "import sys; from lm.distributed.process import one_line_errors\n"
        f"with one_line_errors(jax={jax}): print('jax' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout == f"{jax}\n", ran.stderr


def test_oneline_a_request_to_end_is_heard_in_a_long_call_of_c():
    """Fails if whoever is in a compiler, which lets no handler of Python's run, is deaf."""
    call = (
        "import numpy; matrix = numpy.random.default_rng(0).random((3000, 3000))\n"
        "with signals.as_interrupts(): print('here', flush=True); numpy.linalg.eigvals(matrix)"
    )
    process = begin("-c", LISTENING + call)
    assert process.stdout and process.stdout.readline() == "here\n"
    time.sleep(0.3)
    code, _, said = ended(process, within=signals.PATIENCE + 2)
    assert (code, said) == (STOPPED, f"{signals.SAID}\n")


def test_oneline_what_is_done_ends_with_its_own_code():
    """Fails if a request during Python's own end, when handlers are gone, ends it with -15."""
    ending = (
        "import os, time\n"
        "class Late:\n"
        "    def __del__(self, write=os.write, sleep=time.sleep):\n"
        "        write(1, b'here\\n'); sleep(1)\n"
        "late = Late(); time.sleep(0.5)"
    )
    process = begin("-c", LISTENING + ending)
    assert process.stdout and process.stdout.readline() == "here\n"
    assert ended(process, within=5) == (0, "", "")


def test_oneline_whoever_has_something_to_save_is_left_the_time():
    """Fails if a second after the request a save is cut in two, or what is said of it."""
    saves = "signals.keep_alive(True); signal.signal(15, lambda *_: None)\n"
    saves += "print('here', flush=True)\n"
    wait = f"time.sleep({signals.PATIENCE} + .5)\n"
    for in_time in (
        wait,  # it saves still
        f"time.sleep({signals.PATIENCE} / 2); signals.keep_alive(False); {wait}",  # it has
    ):
        process = begin("-c", LISTENING + saves + in_time + "print('saved')\n")
        assert process.stdout and process.stdout.readline() == "here\n"
        assert ended(process, within=5) == (0, "saved\n", "")


@pytest.mark.parametrize("allocate", [np.ones, jnp.ones], ids=["host", "device"])
def test_oneline_more_than_memory_after_all_is_one_line(capsys, allocate):
    """Fails if what no estimate foresaw ends in the allocator's traceback."""
    with pytest.raises(SystemExit) as ended, one_line_errors():
        allocate((1 << 25, 1 << 25))
    assert ended.value.code == 2
    assert re.fullmatch(r"lm: more than .* memory: .*\n", capsys.readouterr().err)


def test_oneline_an_error_that_names_a_file_with_a_line_end_is_one_line(capsys):
    """Fails if what the user named breaks the line."""
    with pytest.raises(SystemExit), one_line_errors():
        raise UserError("a\nb: no such file")
    assert capsys.readouterr().err == "lm: a b: no such file\n"


@pytest.mark.parametrize("name", ["x" * 300, "file/below"])
def test_names_that_cannot_be_are_one_line(tmp_path, capsys, name):
    """Fails if a path that is too long, or below a file, ends in a traceback."""
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as ended, one_line_errors():
        (tmp_path / name).mkdir(parents=True)
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_freed_memory_is_kept_for_the_next_step():
    """Fails if large arrays are still handed back to Linux, which clears each page again.

    An array of 64 MiB is 16384 pages, fewer where the system joins them.
    """
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True)
    _, again, _, kept = map(int, ran.stdout.split())
    assert kept < 16
    assert again > kept


@pytest.mark.parametrize(
    ("vendors", "platforms", "plugins", "needless"),
    [
        ([], "", ["libtpu"], True),
        (["0x8086", "0x10de"], "", ["libtpu"], True),
        (["0x8086", "0x1ae0"], "", ["libtpu"], False),
        (["0x8086"], "tpu", ["libtpu"], False),
        (["0x8086"], "", ["libtpu", "jax_plugins"], False),
        (["0x8086"], "", [], False),
    ],
)
def test_a_tpus_library_is_left_alone_where_there_is_none(
    monkeypatch, tmp_path, vendors, platforms, plugins, needless
):
    """Fails if a TPU, or a GPU, is not used where there is one, or a choice is overruled."""
    for number, vendor in enumerate(vendors):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "vendor").write_text(vendor + "\n")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name in plugins or None)
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    assert needless_libtpu(tmp_path) is needless


def test_commands_say_nothing_of_tpus_that_are_not_here(tmp_path):
    """Fails if whoever installed the TPU's compiler reads its complaints ever after."""
    program = (
        "from lm.distributed.process import prepare_machine as p; p();"
        " import jax; print(jax.devices())"
    )
    environment = {name: os.environ[name] for name in os.environ if name != "JAX_PLATFORMS"}
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, env=environment
    )
    assert b"WARNING" not in ran.stderr, ran.stderr


def test_programs_are_forgotten_when_there_are_too_many():
    """Fails if a study of many runs keeps all programs, or forgets them after each."""
    double = jax.jit(lambda x: 2 * x)
    double(jnp.ones(3))
    forget_programs(most=10**9)
    assert double._cache_size() == 1
    forget_programs(most=0)
    assert double._cache_size() == 0
    assert double(jnp.ones(3)).sum() == 6
