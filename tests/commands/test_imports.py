"""What a command imports: nobody waits for a library that the command does not use."""

import subprocess
import sys
from pathlib import Path

import pytest

from lm.cli import COMMANDS

HEAVY = (
    *("jax", "flax", "optax", "orbax", "grain", "tensorstore", "sentencepiece", "tensorboardX"),
    *("tensorflow", "tensorflow_datasets", "matplotlib", "scipy", "pyarrow", "rich"),
)
ROWS = [
    f"{params:g},{tokens:g},{1.7 + 400 / params**0.34 + 400 / tokens**0.28}"
    for params in (1e6, 1e7, 1e8)
    for tokens in (1e8, 1e9, 1e10)
]


def imported(*arguments: str, cwd: Path | None = None) -> set[str]:
    """The heavy libraries that a command imports, as a process."""
    code = (
        "import sys\n"
        "from lm.cli import main\n"
        "try: main()\n"
        f"finally: print('imported', *set({HEAVY}) & set(sys.modules), file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    assert ran.returncode == 0, ran.stderr
    return set(ran.stderr.splitlines()[-1].split()[1:])


def test_lms_own_help_imports_nothing_heavy():
    """Fails if a command is imported to be listed."""
    assert imported("--help") == set()


@pytest.mark.parametrize(
    "command", [name for name in COMMANDS if name not in ("train", "score", "eval")]
)
def test_a_commands_help_imports_nothing_heavy(command):
    """Fails if a choice, or a default, is read off a module that computes."""
    assert imported(command, "--help") <= {"rich"}


@pytest.mark.parametrize("command", ["train", "score", "eval"])
def test_the_help_of_settings_scorers_and_tasks_imports_no_more_than_they_do(command):
    """Fails if settings, which are declared beside what they set, come with all of training."""
    allowed = {"jax", "flax", "optax", "sentencepiece", "tensorstore", "rich"}
    assert imported(command, "--help") <= allowed


@pytest.mark.parametrize(
    ("options", "libraries"),
    [
        (["--law", "power"], set()),
        (["--law", "envelope"], set()),
        (["--law", "parametric"], {"scipy"}),
        (["--law", "power", "--bootstrap", "20"], {"scipy"}),
        (["--law", "power", "--plot", "out.svg"], {"matplotlib"}),
    ],
)
def test_a_fit_imports_what_it_uses(tmp_path, options, libraries):
    """Fails if jax comes with the error handling, or figures and solvers with every fit."""
    (tmp_path / "runs.csv").write_text("\n".join(["params,tokens,loss", *ROWS]))
    bootstrap = [] if "--bootstrap" in options else ["--bootstrap", "0"]
    found = imported("fit", "runs.csv", *bootstrap, *options, cwd=tmp_path)
    assert found - {"rich"} == libraries


def test_a_comparison_imports_neither_jax_nor_figures(tmp_path):
    """Fails if whoever compares two tables waits for a compiler."""
    (tmp_path / "runs.csv").write_text("\n".join(["params,tokens,loss", *ROWS]))
    command = ["compare", "runs.csv", "runs.csv", "--bootstrap", "0"]
    assert imported(*command, cwd=tmp_path) <= {"rich"}
