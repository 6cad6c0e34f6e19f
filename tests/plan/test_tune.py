"""The search for the fastest way of executing a run."""

import json
import math
from itertools import product

import msgspec
import pytest

from lm.cli import main
from lm.config import override
from lm.distributed.mesh import Mesh
from lm.plan import plan
from lm.plan.client import Compiler
from lm.plan.compile import CompileRequest
from lm.plan.found import Found
from lm.plan.tune import Tried, tune
from tests.plan.test_plan import GPUS, SMALL, Here

pytestmark = pytest.mark.eight_devices

RUN = msgspec.structs.replace(SMALL, mesh=Mesh(replica=2, fsdp=4), remat="block")


class Counted:
    """A compiler whose steps follow a formula: what remat and microbatches cost, and save."""

    def __init__(self) -> None:
        self.asked: list[CompileRequest] = []

    def find(self, request: CompileRequest) -> Found:
        self.asked.append(request)
        run = request.run
        mesh = plan.mesh_of(run, GPUS)
        again = {"none": 1.0, "matmuls": 0.5, "block": 0.25}[run.remat]
        held = 64e9 * again / run.microbatches / mesh["fsdp"] * 4
        return Found(
            mesh=mesh,
            temporary_bytes=int(held + 8e9 * mesh["tensor"]),
            flops=plan.ledger_flops(run, run.objective, GPUS),
            bytes=1e9 * (run.microbatches + 2 * mesh["tensor"] + mesh["fsdp"]),
        )


def everything():
    """All legal ways of executing the run, by force."""
    meshes = [
        (f"mesh.replica={r}", f"mesh.fsdp={f}", f"mesh.tensor={t}")
        for r, f, t in product((1, 2, 4, 8), repeat=3)
        if r * f * t == 8
    ]
    for remat, parts, mesh in product(("none", "matmuls", "block"), (1, 2, 4), meshes):
        change = (f"remat={remat}", f"microbatches={parts}", *mesh)
        rows = RUN.data.batch // math.prod(int(size.split("=")[1]) for size in mesh[:2])
        if plan.is_legal(RUN, change, GPUS) and rows % parts == 0:
            yield override(RUN, change)


@pytest.mark.parametrize("memory", [80e9, 30e9])
def test_the_fastest_that_fits_is_found(memory):
    """Fails if a change is not tried, one that does not fit is taken, or a slower one."""
    machine = GPUS._replace(memory=memory)
    compiled, tried = Counted(), list[Tried]()
    best = tune(RUN, machine, compiled, say=tried.append)
    founds = [compiled.find(CompileRequest(run, machine.name)) for run in everything()]
    least = min(machine.seconds(found) for found in founds if machine.fits(found))
    assert best.fits and best.seconds == pytest.approx(least)
    assert override(RUN, best.changes) == best.run
    assert (best.run.data, best.run.model) == (RUN.data, RUN.model)
    assert len(
        {(each.run.remat, each.run.microbatches, each.run.mesh) for each in tried}
    ) == len(tried)


def test_what_cannot_be_faster_is_not_compiled():
    """Fails if remat is compiled though its products alone take longer than the best step."""
    slow = GPUS._replace(flops=1e6)  # so that products are all
    compiled = Counted()
    best = tune(msgspec.structs.replace(RUN, remat="none"), slow, compiled)
    assert best.run.remat == "none"
    assert all(asked.run.remat == "none" for asked in compiled.asked)


def test_it_ends_after_so_many():
    compiled = Counted()
    best = tune(RUN, GPUS, compiled, most=3)
    assert len(compiled.asked) == 3 and best.fits


def test_where_nothing_fits_the_smallest_is_named():
    """Fails if the search stops where its first steps do not fit."""
    tight = GPUS._replace(memory=1.0)
    tried = list[Tried]()
    best = tune(RUN, tight, Counted(), say=tried.append)
    assert not best.fits
    assert best.used == min(each.used for each in tried) < tried[0].used


def test_tries_are_what_the_compiler_makes():
    """Fails if a way is timed by another program than that of its overrides."""
    run = msgspec.structs.replace(RUN, model=msgspec.structs.replace(RUN.model, depth=1))
    tried = list[Tried]()
    best = tune(run, GPUS, Here(), most=3, say=tried.append)
    for each in tried:
        planned = plan.plan(override(run, each.changes), GPUS, Here(), wanted=["train"])
        assert list(planned.train.values()) == list(each.founds)
        assert GPUS.seconds(each.founds[0]) == each.seconds >= best.seconds


def test_the_command_prints_a_table_and_overrides(capsys, monkeypatch):
    """Fails if the winner is not planned, or what was tried is not printed."""
    monkeypatch.setattr(Compiler, "find", lambda _, request: Counted().find(request))
    run = ["model.depth=2", "model.width=64", "model.heads=2", "data.batch=16", "remat=block"]
    asked = ["plan", "-", "--slice", "h100-8", "--tune", "--step", "train", *run]
    main([*asked, "--json"])
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert err.count("lm: ") == len(report["tried"]) > 2
    fastest = min(report["tried"], key=lambda each: each["seconds"])
    [planned] = report["runs"].values()
    assert planned["train"][0]["seconds"] == pytest.approx(fastest["seconds"])
    main(asked)
    out, err = capsys.readouterr()
    changes = " ".join(fastest["changes"])
    assert f"times as fast as it is: {changes}\n" in out
    assert out.count("remat=") > 2
    with pytest.raises(SystemExit, match="2"):
        main(["plan", "bert_vs_gpt", "--scale", "smoke", "--slice", "cpu", "--tune"])
    assert "--tune: of which run? as bert_vs_gpt:" in capsys.readouterr().err


def test_what_fits_is_better_than_what_is_faster():
    """Fails if a way that does not fit is kept for its speed, or a larger one of two is."""
    small, large = Found(mesh={}, temporary_bytes=1), Found(mesh={}, temporary_bytes=2)
    slow = Tried(RUN, (), (large,), seconds=2.0, fits=True)
    fast = Tried(RUN, (), (small,), seconds=1.0, fits=False)
    assert slow.before(fast) and not fast.before(slow)
    assert fast._replace(fits=True).before(slow)
    assert fast.before(slow._replace(fits=False, seconds=0.5))
