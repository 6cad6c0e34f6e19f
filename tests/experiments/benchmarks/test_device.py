"""The script for a device: its order, its clock, and what a cut leaves."""

import json
import time
from functools import partial

import jax
import numpy as np
import pytest

from experiments.benchmarks.device import __main__ as device
from experiments.benchmarks.device import checks, parts
from experiments.benchmarks.device.page import page
from experiments.benchmarks.device.parts import Part
from experiments.benchmarks.speed.machine import Failed
from experiments.benchmarks.speed.plan import Shape
from lm.distributed import mesh
from lm.model.attention import KERNELS

MACHINE = {"platform": "cpu", "device": "cpu", "cpu": "a test", "cores": 2}
RIGHT = {"backend": "cudnn", "mask": "full", "keys": 2, "precision": "float32", "worst": 1e-7}


class Pretended:
    """A part that is found in this process."""

    def __init__(self, make, find, *, limit):
        self.find, self.limit = find, limit

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def ask(self, method):
        return self.find()


@pytest.fixture
def findings(monkeypatch, tmp_path):
    monkeypatch.setattr(device, "Child", Pretended)
    made = device.Findings(600)
    made.file, made.content["machine"] = tmp_path / "results" / "here.json", MACHINE
    return made


def _raises(error):
    raise error


def test_a_part_that_fails_is_one_line_and_the_others_are_measured(findings, capsys):
    """Fails if an error ends the script, or results are written at its end alone."""
    seen = []

    def look():
        seen.append(sorted(json.loads(findings.file.read_bytes())["parts"]))
        return {"rows": []}

    failed = partial(_raises, Failed("RuntimeError: out of memory"))
    device.measure(findings, [Part("breaks", 60, failed), Part("generation", 60, look)])
    assert seen == [["breaks"]]
    content = json.loads(findings.file.read_bytes())
    assert content["parts"]["breaks"]["error"] == "RuntimeError: out of memory"
    assert content["parts"]["generation"]["found"] == {"rows": []}
    text = findings.file.with_suffix(".html").read_text()
    assert "breaks: RuntimeError: out of memory" in text and "Generation" in text
    assert "lm: breaks: RuntimeError: out of memory" in capsys.readouterr().err.splitlines()


def test_no_part_takes_what_is_kept_for_the_study(findings, monkeypatch):
    """Fails if a part is begun too late, or given more than is left but for the study's."""
    clock, limits = [0.0], []
    monkeypatch.setattr(device.time, "monotonic", lambda: clock[0])
    findings.end = 100.0

    def take(seconds):
        clock[0] += seconds
        return {}

    class Limited(Pretended):
        def __init__(self, make, find, *, limit):
            super().__init__(make, find, limit=limit)
            limits.append(limit)

    monkeypatch.setattr(device, "Child", Limited)
    slow = [Part(str(n), 50, partial(take, 40)) for n in range(3)]
    device.measure(findings, slow)
    assert limits == [50, 35]
    assert findings.content["parts"]["2"] == {"left_out": True}


def test_checks_are_what_the_parts_found():
    """Fails if a kernel that its compiler refuses is right, or runs that differ are equal."""
    rows = [RIGHT | {"right": True}, RIGHT | {"right": False}]
    cell = {"loss": 2.0, "batches": "a", "device": "x", "run": "y"}
    found = {
        f"{parts.ATTENTION}good": {"found": rows[:1]},
        f"{parts.ATTENTION}bad": {"found": rows},
        f"{parts.ATTENTION}refused": {"found": [{"backend": "cudnn", "error": "no"}]},
        parts.CELL: {"found": cell},
        parts.CPU_CELL: {"found": cell | {"batches": "b"}},
        "floors": {"error": "no"},
    }
    checked = device.checks_of(found)
    assert list(checked.values()) == [True, False, False, False]
    assert not any(checked[name] for name in checked if "good" not in name)
    text = page({"machine": {}, "made": {}, "checks": checked, "parts": found})
    assert "WRONG" in text and "no" in text


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_every_kernel_of_a_platform_is_checked_and_trained_with(platform):
    """Fails if a kernel is added and nobody looks at it, or two parts have one name."""
    named = parts.parts(platform, parts.sizes_of(platform))
    names = [part.name for part in named]
    assert len(set(names)) == len(names)
    home = [name for name, kernel in KERNELS.items() if kernel.home == platform]
    assert names[: len(home)] == [f"{parts.ATTENTION}{name}" for name in home]
    for kind in [*home, "xla"]:
        assert sum(name.endswith(f", {kind}") and "causal" in name for name in names) == 3
    assert [part.name for part in named if part.on_cpu] == [parts.CPU_CELL]
    assert sum("PyTorch" in name for name in names) == 2


def test_the_study_is_asked_to_end_in_time_to_save(findings, monkeypatch, tmp_path):
    """Fails if it goes on when the time is over, is killed unsaved, or is not counted."""
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\ntrap "echo saved; exit 75" TERM\nsleep 60 &\nwait\n')
    fake.chmod(0o755)
    finished = tmp_path / "runs" / "known_truth" / "smoke" / "a" / "result.json"
    finished.parent.mkdir(parents=True)
    finished.write_text("{}")
    monkeypatch.setattr(device.sys, "executable", str(fake))
    monkeypatch.setattr(device, "LEAST", 0.1)
    findings.end = time.monotonic() + device.SAVING + 1
    device.study(findings, "smoke", tmp_path / "runs")
    assert findings.left > device.SAVING - 10
    found = findings.content["parts"]["study"]["found"]
    assert (found["exit_code"], found["said"], found["finished"]) == (75, "saved", 1)
    assert "saved" in findings.file.with_suffix(".html").read_text()
    findings.end = time.monotonic()
    device.study(findings, "smoke", tmp_path / "runs")
    assert findings.content["parts"]["study"] == {"left_out": True}


def _trained(attention, seconds, **more):
    row = {"shape": "a", "length": 8, "objective": "causal", "peak_fraction": {}}
    row |= {"attention": attention, "seconds": {"median": seconds}}
    return {"found": row | more}


def test_auto_is_the_fastest_kernel_that_was_right():
    """Fails if a kernel that is wrong, another model's time or PyTorch's decides."""
    rows = {
        "1": _trained("cudnn", 1.0),
        "2": _trained("triton", 2.0),
        "3": _trained("xla", 3.0),
        "4": _trained("PyTorch", 0.5),
        "5": _trained("xla", 0.1, shape="b"),
        "6": {"error": "no"},
    }
    checked = {f"{parts.ATTENTION}cudnn": False, f"{parts.ATTENTION}triton": True}
    assert device.best_attention({"checks": checked, "parts": rows}) == "triton"
    rows["2"] = _trained("triton", 4.0)
    assert device.best_attention({"checks": checked, "parts": rows}) == "xla"
    assert device.best_attention({"checks": {}, "parts": {"2": rows["2"]}}) is None
    assert device.best_attention({"checks": {}, "parts": {}}) is None


def test_packed_rows_hold_documents_that_begin_where_their_first_token_says():
    """Fails if rows are one document each, or a segment goes on into the next row."""
    shape = Shape(1, 8, 1, batch=3, vocabulary=50, length=1024)
    rows = parts.packed_rows(shape)
    begins = np.diff(rows.segments_BL, axis=1, prepend=0) == 1
    assert (rows.segments_BL[:, 0] == 1).all() and (rows.segments_BL.max(1) > 1).all()
    np.testing.assert_array_equal(rows.tokens_BL == parts.vocabulary_of(shape).bos, begins)
    assert (np.diff(rows.segments_BL, axis=1) >= 0).all()


def test_a_kernel_that_takes_no_such_heads_is_a_line():
    """Fails if the refusal is a traceback of JAX's, minutes later."""
    sizes = parts.sizes_of("cpu")
    with pytest.raises(Failed, match="takes heads of"):
        parts.train(sizes.small._replace(width=36), "causal", "cudnn", sizes.plan)


def test_a_kernel_that_is_wrong_is_seen(monkeypatch):
    """Fails if segments that a kernel does not look at pass the check."""

    def blind(query, key, value, rows, others, attention_mask, *, at_home):
        ones = jax.numpy.ones_like
        return KERNELS["cudnn"].attend(
            query, key, value, ones(rows), ones(others), attention_mask, at_home=at_home
        )

    one = mesh.make(mesh.Mesh(), jax.devices()[:1])
    wrong = KERNELS["cudnn"]._replace(attend=blind)
    monkeypatch.setitem(KERNELS, "blind", wrong)
    found = checks.deviations("blind", "causal", mesh=one, precision="float32", size=8)
    assert max(found.values()) > 0.1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["--minutes", "0"], "--minutes 0"), (["--pears"], "unrecognized arguments")],
)
def test_a_wrong_command_line_is_one_line(arguments, says, capsys):
    """Fails if a script of no time is begun."""
    with pytest.raises(SystemExit) as ended:
        device.main(arguments)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


@pytest.mark.slow
def test_the_whole_script_runs_on_a_cpu(tmp_path, capsys):
    """Fails if a part no longer works: on a lent device it would be found out too late."""
    device.main(
        ["--tiny", "--minutes", "20", "--results", str(tmp_path), "--runs", str(tmp_path / "r")]
    )
    (file,) = tmp_path.glob("*-tiny.json")
    content = json.loads(file.read_bytes())
    errors = {name: part["error"] for name, part in content["parts"].items() if "error" in part}
    assert all("PyTorch" in name for name in errors), errors
    assert content["checks"] and all(content["checks"].values())
    toy = parts.sizes_of("cpu").small
    found = content["parts"][f"1 x 32, masked, {toy.length}, xla"]["found"]
    assert found["tokens"] == toy.tokens and found["attention"] == "xla"
    assert 0 < found["peak_fraction"]["median"] < 1 and found["peak_bytes"] > 0
    study = content["parts"]["study"]["found"]
    assert study["finished"] == study["runs"] and study["exit_code"] == 0
    assert "Checked:" in capsys.readouterr().out
