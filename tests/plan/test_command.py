"""`lm plan`: what it prints, and what it refuses."""

import json
import sys

import pytest

from lm.cli import main
from lm.commands import planned
from lm.config import UserError
from lm.cost import memory
from lm.cost.chips import parse_slice
from lm.plan import client, plan
from lm.plan import compile as compiled
from lm.plan import machine as machines
from lm.plan.compile import CompileRequest
from lm.plan.found import HERE, Traffic
from lm.plan.machine import Machine
from lm.run import Run
from tpu.slices import SLICES

RUN = Run()


def test_the_command_prints_a_plan_or_all_of_its_numbers(capsys, monkeypatch):
    """Fails if a number is printed that is not in the JSON, or a run of no study is refused."""
    kept, ask = {}, client.Compiler._ask

    def ask_once(compiler, line):  # both times for the same program
        if line not in kept:
            kept[line] = ask(compiler, line)
        return kept[line]

    monkeypatch.setattr(client.Compiler, "_ask", ask_once)
    small = [
        "model.depth=1",
        "model.width=32",
        "model.heads=1",
        "data.length=32",
        "data.batch=8",
    ]
    command = ["plan", "-", "--slice", "h100-8", "--step", "train", *small]
    main([*command, "--json"])
    found = json.loads(capsys.readouterr().out)
    main(command)
    said = capsys.readouterr().out
    (cell,) = found["runs"].values()
    assert cell["mesh"]["fsdp"] == 8 and cell["fits"]
    (train,) = cell["train"]
    assert train["flops"] == pytest.approx(train["flops_ledger"], rel=0.02)
    assert train["seconds"] == max(train["floors"].values())
    assert "an estimate: compiled for CPUs" in said
    assert f"{cell['steps']:,} steps" in said and "most traffic" not in said
    main([*command, "--traffic"])
    said = capsys.readouterr().out
    first, *_, last = train["traffic"]
    assert said.index(first["name"]) < said.index(last["name"])
    assert f"{first['bytes'] / train['bytes']:.1%}" in said


def test_traffic_is_printed_with_its_part_of_all(capsys):
    """Fails if a column has another's numbers, or parts are of what is listed alone."""
    most = [Traffic("forward mul f32[8]", 7, 1.5e9), Traffic("add f32[2]", 1000, 1e9)]
    planned._show_traffic("train", compiled.Found({}, bytes=5e9, traffic=most))
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    assert [[each.strip() for each in line if each.strip()] for line in lines] == [
        ["GB", "of all", "times", "most traffic in train"],
        ["1.5", "30.0%", "7", "forward mul f32[8]"],
        ["1", "20.0%", "1,000", "add f32[2]"],
    ]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["-", "--slice", "v5-256"], "--slice v5-256: no such slice; nearest: v5p-256"),
        (
            ["-", "--slice", "v5e-12"],
            "--slice v5e-12: no such shape is offered; nearest: v5e-8, v5e-16",
        ),
        (["-", "--slice", "v5p-4"], "no such shape is offered; nearest: v5p-8"),
        (["-", "--slice", "v5e-512"], "no such shape is offered; nearest: v5e-256"),
        (["-", "--slice", "v5e-8", "attention=cudnn"], "is for the platform gpu"),
        (["-"], "for which slice"),
        (["-", "--slice", ""], "--slice : no such slice"),
        (["bert_vs_gpt", "--scale", "v5e-8", "--slice", ""], "--slice : no such slice"),
        (["-", "--slice", "v4-8", "--slices", "2"], "network between v4 slices is not known"),
        (["-", "--slice", "v5e-8", "--slices", "0"], "must be >= 1"),
        (["-", "--slice", "v5e-32", "data.batch=48", "mesh.fsdp=32"], "nearest: 32 or 64"),
        (["-", "--slice", "v5e-8", "--measure"], "is not here"),
        (["-", "--slice", "v5e-8", "--efficiency", "2"], "at most 1"),
        (["-", "--slice", "v5e-8", "--members", "12"], "nearest: 8 or 16"),
        (["-", "--slice", "v5e-8", "--members", "8", "mesh.fsdp=8"], "is trained alone"),
        (["-", "--slice", "v5e-8", "--members", "8", "--tune"], "the training step alone"),
        (["nothing", "--slice", "v5e-8"], "no study experiments/nothing.py"),
        (["bert_vs_gpt:causal-86M"], "nearest: causal-85M"),
        (["bert_vs_gpt", "--scale", "v5e-9"], "bert_vs_gpt has"),
    ],
)
def test_what_cannot_be_planned_is_one_line(arguments, line, capsys):
    """Fails if it is a traceback, or comes after minutes of compilation."""
    with pytest.raises(SystemExit) as exit_:
        main(["plan", *arguments])
    said = capsys.readouterr().err
    assert exit_.value.code == 2 and said.count("\n") == 1
    assert line in said


def test_h10_notes_say_what_hours_and_efficiency_are():
    """Fails when what --efficiency says is called measured, or hours miss validation unsaid."""
    found = compiled.Found({}, flops=1e6)
    whole = plan.Plan(RUN, {}, {RUN.objective: found}, {"validate": found}, {}, {})
    measured = Machine(HERE, 1, 1, 1, 1e12, 1e9, 1e9, efficiency=0.5)
    said = " ".join(planned._notes({"a": whole}, measured, quick=False))
    assert "reaches 50% of them, as one of 4 layers" in said
    assert "hours are of training and validation" in said
    train = whole._replace(others={})
    said = " ".join(planned._notes({"a": train}, measured._replace(told=True), quick=False))
    assert "reaches 50% of them, as --efficiency says" in said
    assert "hours are of training alone" in said and "and validation" not in said


def test_h13_here_a_plan_has_the_memory_that_training_has(monkeypatch):
    """Fails if a plan fits by the machine's memory where a container grants less of it."""
    monkeypatch.setattr(memory, "_cgroup_limits", lambda: [9000])
    assert machines.find_machine(HERE, 1).memory == memory.machine_memory() == 9000


def test_a_compiler_that_is_not_there_is_one_line(monkeypatch):
    """Fails if the child's import error is what a user reads."""
    monkeypatch.setattr(machines.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'yardstick-lm\[plan\]'"):
        machines.find_machine("v5e-8", 1)
    assert machines.find_machine("h100-8", 1).estimate


def test_a_compiler_that_dies_is_one_line(monkeypatch):
    """Fails if the parent waits for an answer for ever."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with (
        client.compiler(machines.find_machine(HERE, 1)) as there,
        pytest.raises(UserError, match="ended without an answer"),
    ):
        there.find(CompileRequest(RUN, HERE))


def test_shapes_are_those_that_google_offers():
    """Fails if a slice is compiled for other neighbours than it will have."""
    for name, slice_ in SLICES.items():
        topology = "x".join(map(str, parse_slice(name).topology))
        assert topology in (slice_.topology, ""), name
    assert sum(not parse_slice(name).topology for name in SLICES) <= 2
