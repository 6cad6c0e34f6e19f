"""The measurements of `experiments.benchmarks.speed`: how they are taken, kept and shown."""

import doctest
import importlib
import json
import os
import sys
import time
from functools import partial
from types import ModuleType

import numpy as np
import pytest

from experiments.benchmarks.speed import __main__ as speed
from experiments.benchmarks.speed import device, host, machine, peers, report, timing
from experiments.benchmarks.speed.machine import Child, Failed, resident
from experiments.benchmarks.speed.peers import Peer, Program
from experiments.benchmarks.speed.plan import OBJECTIVES, Plan, Result, Shape, plan_of, settings
from lm.cost import ledger


@pytest.mark.parametrize("module", [machine, report, timing])
def test_the_examples_are_true(module: ModuleType):
    """Fails if an example in a docstring does not give what it says."""
    assert doctest.testmod(module).failed == 0


def test_programs_take_turns():
    """Fails if a program runs all its rounds at once, or one that fails takes others along."""
    turns = []

    def program(name: str, *, fails_at: int = 10**9):
        def run(steps: int) -> float:
            turns.append(name)
            if turns.count(name) > fails_at:
                raise Failed("out of memory")
            return 0.25 if name == "b" else 1.0

        return run

    runs = {"a": program("a"), "b": program("b"), "c": program("c", fails_at=3)}
    plan = plan_of("smoke", "cpu")._replace(rounds=3)
    seconds = timing.interleave(runs, plan)
    assert turns == [*"aabbcc", *"abc", *"abc", *"ab"]
    assert seconds == {"a": [1.0] * 3, "b": [0.25] * 3}


def test_a_ratio_is_that_of_the_rounds():
    """Fails if medians are divided: a slow spell of the machine would count as ours."""
    ours, theirs = [1.0, 10.0, 1.2], [2.0, 20.0, 3.0]
    found = timing.ratio(ours, theirs)
    assert (found["median"], found["low"], found["high"]) == (2.0, 2.0, 2.5)
    assert found["median"] != np.median(theirs) / np.median(ours)


def test_the_fraction_of_the_peak_is_that_of_the_same_rounds():
    """Fails if a slow spell of the machine makes a program look slow, or fast."""
    plan = plan_of("smoke", "cpu")._replace(product=100)  # 2 MFLOP
    found = device.peak_fraction(3_000_000, [3.0, 6.0, 30.0], [1.0, 2.0, 10.0], plan)
    assert found["low"] == found["median"] == found["high"] == pytest.approx(0.5)


def test_a_slope_is_the_exponent_and_its_error_covers_it():
    """Fails if the fit is not in logarithms, or the error is another quantity's."""
    random = np.random.default_rng(0)
    x = np.geomspace(1, 32, 12)
    noise = random.normal(scale=0.05, size=(400, len(x)))
    found = [timing.slope(x, 7 * x**0.8 * np.exp(row)) for row in noise]
    errors = [fit["slope"] - 0.8 for fit in found]
    assert abs(np.mean(errors)) < 0.003
    assert np.mean([fit["se"] for fit in found]) == pytest.approx(np.std(errors), rel=0.15)


def test_a_section_leaves_the_others_as_they_are(tmp_path):
    """Fails if a rerun of one section loses the others, or damaged results are overwritten."""
    file, machine = tmp_path / "deep" / "machine.json", {"cpu": "abacus"}
    for name, value in (("floors", 1), ("train", 2), ("floors", 3)):
        speed.merge(file, machine, name, {"value": value})
    content = json.loads(file.read_text())
    assert content["machine"] == machine
    assert content["sections"] == {"floors": {"value": 3}, "train": {"value": 2}}
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    file.write_text("{")
    with pytest.raises(speed.UserError, match="not results of this program"):
        speed.merge(file, machine, "train", {})
    assert file.read_text() == "{"


@pytest.fixture
def here(monkeypatch) -> None:
    """Has everything measured in this process."""
    call = lambda function, *arguments, cache=None: function(*arguments)  # noqa: E731
    for module in (speed, device, host):
        monkeypatch.setattr(module, "alone", call)
    for name in ("floors", "evaluate", "generate"):
        monkeypatch.setitem(speed.SECTIONS, name, getattr(device, name))


def test_a_toy_run_measures_keeps_and_shows(here, tmp_path, monkeypatch, capsys):
    """Fails if a section does not run, counts other FLOPs than the ledger, or is not shown."""
    command = ["--scale", "smoke", "--results", str(tmp_path), "--only"]
    speed.main([*command, "train"])
    assert "Training" in capsys.readouterr().out
    speed.main([*command, "floors"])
    (file,) = tmp_path.glob("*.json")
    assert file.stem.endswith("-smoke")
    sections = json.loads(file.read_text())["sections"]
    assert sections.keys() == {"train", "floors"}
    plan = plan_of("smoke", "cpu")
    shape = plan.shapes[plan.main]
    for row in sections["train"]["rows"]:
        run = settings(shape, OBJECTIVES[row["objective"]])
        assert row["flops"] == 3 * sum(ledger.step_flops(run, shape.vocabulary).values())
        assert row["seconds"]["repeats"] == plan.rounds
        assert 0 < row["seconds"]["low"] <= row["seconds"]["median"] <= row["seconds"]["high"]
        assert 0 < row["peak_fraction"]["median"] < 1
    assert sections["train"]["masked_to_causal"][plan.main]["ledger"] < 1

    # Shown again, nothing is measured.
    monkeypatch.setattr(speed, "alone", None)
    file.with_suffix(".png").unlink()
    capsys.readouterr()
    speed.main(["--results", str(tmp_path), "--report"])
    shown = capsys.readouterr().out
    assert "Floors" in shown and "Training" in shown and "of peak" in shown
    assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_kept_results_are_shown(tmp_path, capsys):
    """Fails if a name of what is kept differs from what the report reads."""
    files = sorted(speed.RESULTS.glob("*.json"))
    assert files
    for file in files:
        kept = tmp_path / file.name
        kept.write_bytes(file.read_bytes())
        report.show(kept)
        shown = capsys.readouterr().out
        sections = json.loads(kept.read_text())["sections"]
        assert report.TABLES.keys() >= sections.keys()
        assert "Floors" in shown
        assert "host" not in sections or sections["host"]["run"] in shown
        assert kept.with_suffix(".png").exists()


def test_processes_can_import_what_they_are_asked_for():
    """Fails if a process is asked for a function of the command's own module: it has none."""
    asked = [section for section in speed.SECTIONS.values() if isinstance(section, partial)]
    found = [speed.describe, *(each.args[0] for each in asked)]
    assert len(found) == 4
    assert all(function.__module__ != speed.__name__ for function in found)


def test_what_fails_is_one_line_and_loses_nothing(here, tmp_path, monkeypatch, capsys):
    """Fails if a section that cannot be measured ends the program, or goes unmentioned."""

    def broken(plan: Plan) -> Result:
        raise Failed("RuntimeError: no such device")

    monkeypatch.setitem(speed.SECTIONS, "train", broken)
    with pytest.raises(SystemExit) as exit_:
        speed.main(
            ["--scale", "smoke", "--results", str(tmp_path), "--only", "train", "floors"]
        )
    assert exit_.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert "lm: train: RuntimeError: no such device" in lines
    assert lines[-1] == "lm: train: not measured"
    (file,) = tmp_path.glob("*.json")
    assert json.loads(file.read_text())["sections"].keys() == {"floors"}


def test_a_peer_that_fails_loses_no_other(monkeypatch, capsys):
    """Fails if a peer that is missing or breaks ends the section, or has no second chance."""

    class Pretended(Child):
        def __init__(self, make, shape, **_: object) -> None:
            self.made = make(shape)

        def ask(self, method: str, *arguments: int) -> float:
            return getattr(self.made, method)(*arguments)

        def close(self) -> None:
            pass

    def works(shape: Shape) -> Program:
        return Program(lambda: time.sleep(0.001), lambda _: None, lambda: 7)

    def breaks(shape: Shape) -> Program:
        raise Failed("RuntimeError: no compiler")

    monkeypatch.setattr(peers, "Child", Pretended)
    monkeypatch.setattr(peers, "ours", works)
    pretended = {
        "hopeless": Peer(breaks, "json", "pip install json"),
        "eager": Peer(breaks, "json", "pip install json", otherwise=(works,)),
        "absent": Peer(works, "no_such_package", "pip install it"),
    }
    monkeypatch.setattr(peers, "PEERS", pretended)
    for platform in ("cpu", "gpu"):
        found = peers.peers(plan_of("smoke", platform))
        assert found["programs"].keys() == {"ours", "eager"}
        assert found["programs"]["eager"]["ratio"]["median"] == pytest.approx(1, rel=0.5)
        assert found["missing"] == {"no_such_package": "pip install it"}
        lines = capsys.readouterr().err.splitlines()
        assert "lm: peers: no_such_package is not installed: pip install it" in lines
        assert "lm: peers: hopeless: RuntimeError: no compiler" in lines


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--only", "trian"], "invalid choice: 'trian'"),
        (["--scale", "tiny"], "invalid choice: 'tiny'"),
        (["--pears"], "unrecognized arguments: --pears"),
        (["--report"], "no results there"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_in_one_line(arguments, part, tmp_path, capsys):
    """Fails if a wrong command measures first, or prints a page."""
    with pytest.raises(SystemExit) as exit_:
        speed.main(["--results", str(tmp_path), *arguments])
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lm: ")
    assert part in line


def test_a_child_has_a_cache_of_its_own_and_may_die(tmp_path, monkeypatch):
    """Fails if a cold start compiles from the user's cache, or a killed peer is waited for."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    with Child(importlib.import_module, "os", cache=tmp_path) as child:
        assert child.ask("getenv", "LM_CACHE") == str(tmp_path)
        assert child.ask("getenv", "JAX_COMPILATION_CACHE_DIR") is None
        assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "elsewhere"
        with pytest.raises(Failed, match="ended with code 3"):
            child.ask("_exit", 3)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_memory_of_a_child_is_its_own():
    """Fails if the peak is `ru_maxrss`, which a child has of its parent; or errors are lost."""
    ballast = np.ones(1 << 28, np.uint8)
    with Child(importlib.import_module, "experiments.benchmarks.speed.machine") as child:
        assert 2**26 < child.ask("resident", "VmHWM") < resident("VmHWM") - len(ballast) / 2
        with pytest.raises(Failed, match="TypeError: resident"):
            child.ask("resident")
