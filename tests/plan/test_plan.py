"""Plans: held to the compilers', to the ledger, and to what a user reads."""

import json
import statistics
from functools import cache
from typing import get_args

import jax
import msgspec
import pytest

from lm.commands import planned
from lm.config import override
from lm.cost.chips import parse_slice
from lm.data import Bytes, Data
from lm.distributed.mesh import Mesh
from lm.model import Convolution, LinearRecurrence, Lstm, Transformer
from lm.model.experts import Experts
from lm.objectives import AnyOrder, Causal, Curriculum
from lm.optimizer import Adamw
from lm.plan import client, network, plan
from lm.plan import compile as compiled
from lm.plan import machine as machines
from lm.plan.compile import CompileRequest
from lm.plan.found import HERE
from lm.plan.machine import Machine
from lm.run import EXECUTION, Run

pytestmark = pytest.mark.eight_devices

SMALL = Run(
    data=Data(length=64, batch=16, tokenizer=Bytes()),
    model=Transformer(depth=2, width=64, heads=2),
    optimizer=Adamw(),
    mesh=Mesh(fsdp=4, tensor=2),
    tokens=16 * 64 * 10,
)
GPUS = Machine("h100-8", 1, 8, 8, 989e12, 80e9, 3350e9, estimate="on CPUs")


class Here:
    """The compiler in this process, on its simulated devices."""

    @staticmethod
    @cache
    def _find(key: bytes) -> compiled.Found:
        return compiled.find(msgspec.json.decode(key, type=CompileRequest))

    def find(self, request: CompileRequest) -> compiled.Found:
        return self._find(msgspec.json.encode(request))


@pytest.mark.parametrize("step", ["train", "validate", "score"])
def test_arguments_are_the_compilers_and_flops_are_the_ledgers(step):
    """Fails if a sharding or an argument is left out, or a chip does what another does."""
    found = Here().find(CompileRequest(SMALL, "h100-8", step=step))
    assert sum(found.arguments.values()) == found.argument_bytes
    flops = plan.ledger_flops(SMALL, SMALL.objective, GPUS) / (1 if step == "train" else 3)
    assert found.flops == pytest.approx(flops, rel=0.02)
    assert {"fsdp", "tensor"} <= {moved.axes for moved in found.collectives}
    assert all(moved.ici_seconds > 0 == moved.dcn_seconds for moved in found.collectives)


@pytest.mark.slow
@pytest.mark.parametrize("model", [Lstm(), Convolution(), LinearRecurrence()], ids=str)
def test_models_without_attention_are_planned_as_they_are_counted(model):
    """Fails if a device does what another does, in a loop over positions or beside one."""
    small = msgspec.structs.replace(model, depth=2, width=64)
    run = msgspec.structs.replace(SMALL, model=small)
    found = Here().find(CompileRequest(run, "h100-8"))
    flops = plan.ledger_flops(run, SMALL.objective, GPUS)
    assert sum(found.arguments.values()) == found.argument_bytes
    assert found.flops == pytest.approx(flops, rel=0.02)


def test_members_are_planned_as_one_program_without_collectives():
    """Fails if a device has a part of a member, or what all of them do is counted once."""
    run = override(SMALL, ["mesh.fsdp=null", "mesh.tensor=null"])
    of = plan.plan(run, GPUS, Here(), members=16)
    (found,) = of.train.values()
    assert found.mesh == of.mesh and found.mesh["members"] == 8 and not found.collectives
    assert sum(found.arguments.values()) == found.argument_bytes
    alone = sum(run.model.parameters(0).values())
    assert found.arguments["parameters"] > 4 * 2 * alone
    flops = plan.ledger_flops(run, run.objective, GPUS, members=16)
    assert flops == 16 * plan.ledger_flops(run, run.objective, GPUS)
    assert found.flops == pytest.approx(flops, rel=0.02)


def test_gpus_that_are_not_wired_together_are_slices():
    """Fails if 16 GPUs are planned as if one switch joined them, or bytes go no way."""
    assert len(jax.devices()) == 8
    chip = parse_slice("h100-16").chip
    places = [network.DevicePlace(n // 2, ()) for n in range(4)]
    near, far = network.seconds_of(
        network.Collective("all-gather", 400, (0, 1, 2, 3), 1), places, "h100-4"
    )
    # Of four shards of 100 it lacks one of its own slice, and takes one of the two from afar.
    assert far == pytest.approx(100 / chip.dcn)
    assert near == pytest.approx(200 / chip.ici)


def test_what_makes_a_run_fit_was_compiled_and_does():
    """Fails if a suggestion is a guess, a smaller change would do, or the batch is changed."""
    mesh = Mesh(replica=2, fsdp=4)
    model = msgspec.structs.replace(SMALL.model, depth=1)
    run = msgspec.structs.replace(SMALL, model=model, mesh=mesh, remat="matmuls")
    need = plan.plan(run, GPUS, Here(), wanted=["train"])
    assert need.fits(GPUS) and not need.suggestions
    tight = GPUS._replace(memory=0.8 * need.used().used)
    found = plan.plan(run, tight, Here(), wanted=["train"])
    assert not found.fits(tight) and found.suggestions
    for change, with_it in found.suggestions.items():
        assert with_it.used <= tight.memory
        changed = override(run, change.split())
        assert changed.data == run.data
        again = Here().find(CompileRequest(plan.same_program(changed, run.objective), "h100-8"))
        assert again == with_it
    assert all(with_it.used > tight.memory for with_it in found.tried.values())
    hopeless = plan.plan(run, GPUS._replace(memory=1e3), Here(), wanted=["train"])
    assert not hopeless.suggestions and len(hopeless.tried) == 4
    lines = "\n".join(planned._details("x", hopeless, GPUS._replace(memory=1e3)))
    assert "take a larger slice" in lines


def test_a_program_that_cannot_be_read_is_planned_by_the_ledger(monkeypatch, capsys):
    """Fails if text that a later compiler writes ends a plan, or is passed over in silence."""
    whole = Here().find(CompileRequest(SMALL, "h100-8"))

    def other(text: str) -> None:
        raise ValueError("no closing parenthesis: fusion(")

    monkeypatch.setattr("lm.plan.hlo.parse_module", other)
    found = compiled.find(CompileRequest(SMALL, "h100-8"))
    assert found.unread == "ValueError: no closing parenthesis: fusion("
    assert found.flops == pytest.approx(whole.flops, rel=0.02)
    assert (found.used, found.arguments) == (whole.used, whole.arguments)
    assert found.bytes == 0 and not found.collectives
    forward = compiled.find(CompileRequest(SMALL, "h100-8", step="validate"))
    assert forward.flops == pytest.approx(whole.flops / 3, rel=0.02)
    of = plan.Plan(SMALL, {}, {SMALL.objective: found}, {"validate": forward}, {}, {})
    planned.show({"a run": of}, GPUS, quick=False)
    assert "note: a run: the compiled program could not be read (ValueError: no closing" in (
        said := capsys.readouterr().out
    )
    assert "FLOPs by the ledger" in said and "bound by compute" in said


def test_a_curriculum_takes_the_time_of_its_parts():
    """Fails if all steps are taken to cost what those of the first or the last cost."""
    objective = Curriculum(first=Causal(), then=AnyOrder(), switch=0.3)
    run = msgspec.structs.replace(SMALL, objective=objective)
    found = plan.plan(run, GPUS, Here(), wanted=["train"])
    (first, a), (then, b) = found.train.items()
    assert (first, then) == (Causal(), AnyOrder())
    seconds = 3 * GPUS.seconds(a) + 7 * GPUS.seconds(b)
    assert found.train_seconds(GPUS) == pytest.approx(seconds)


# The TPU's compiler


@pytest.fixture(scope="session")
def tpu():
    """A compiler for eight chips, in its own process."""
    machine = machines.find_machine("v5e-8", 1)
    with client.compiler(machine) as there:
        yield machine, there


def test_the_tpus_own_compiler_agrees_on_arguments_and_flops(tpu):
    """Fails if tiles are not filled up, a loop is read wrongly, or arrays are copied whole.

    Layers are a loop here, and the compiler turns some products into loops of its own.
    """
    machine, there = tpu
    found = there.find(CompileRequest(SMALL, "v5e-8", quick=True))
    assert sum(found.arguments.values()) == found.argument_bytes > 0
    assert found.flops == pytest.approx(plan.ledger_flops(SMALL, Causal(), machine), rel=0.02)
    assert not found.rematerialized and machine.fits(found)
    floors = machine.floors(found)
    assert floors["compute"] == found.flops / 197e12
    assert floors["ici"] > 0 == floors["dcn"]


@pytest.mark.slow
@pytest.mark.parametrize("model", [Lstm(), Convolution(), LinearRecurrence()], ids=str)
def test_the_tpus_compiler_takes_models_without_attention(tpu, model):
    """Fails if a loop over positions in a loop over layers is not read, or is read once."""
    machine, there = tpu
    small = msgspec.structs.replace(model, depth=2, width=256)
    run = override(
        msgspec.structs.replace(SMALL, model=small), ["mesh.fsdp=8", "mesh.tensor=1"]
    )
    found = there.find(CompileRequest(run, "v5e-8", quick=True))
    flops = plan.ledger_flops(run, Causal(), machine)
    assert not found.unread and found.flops == pytest.approx(flops, rel=0.05)


SPLIT_BY_COLUMNS = """
from lm.model import ends
constrain = ends.constrain

def left(x, mesh, axes):
    return x if tuple(axes) == ("vocab", "act_embed") else constrain(x, mesh, axes)

ends.constrain = left
from lm.plan import compile as compiled
compiled.main()
"""


@pytest.mark.parametrize("slice_", ["v5e-8", "h100-8"])
def test_an_array_that_is_laid_out_anew_in_full_is_noticed(monkeypatch, slice_):
    """Fails if the compiler's warning is not heard: no plan would ever show one."""
    run = override(
        SMALL,
        ["model.depth=1", "mesh.replica=2", "mesh.fsdp=2", "mesh.tensor=2"],
    )
    machine = machines.find_machine(slice_, 1)
    monkeypatch.setattr(client, "PROGRAM", ("-c", SPLIT_BY_COLUMNS))
    with client.compiler(machine) as there:
        found = there.find(CompileRequest(run, slice_, quick=True))
    assert found.rematerialized


def test_a_tpu_multiplies_matrices_whole_and_orthogonalizes_them_where_they_are(tpu):
    """Fails if parts of matrices are multiplied as they come from each device, or Muon gathers
    them in each iteration: of two layers too, which eight devices cannot divide.
    """
    sizes = ["model.width=1024", "model.heads=16", "data.length=512", "data.batch=32"]
    more = ["optimizer.type=muon", "precision=bfloat16", "mesh.fsdp=8", "mesh.tensor=1"]
    run = override(SMALL, [*sizes, *more])
    found = tpu[1].find(CompileRequest(run, "v5e-8", quick=True))
    received = {moved.kind: moved.bytes for moved in found.collectives}
    assert "collective-permute" not in received
    whole = 2 * sum(run.model.parameters(0).values())  # bytes, rounded
    assert received["all-gather"] < 3 * whole  # forward, backward, and what is no matrix


def test_what_a_tpus_compiler_refuses_does_not_fit(tpu):
    """Fails if a refusal ends the plan, or is taken for an empty program."""
    machine, there = tpu
    large = override(
        SMALL, ["data.batch=16384", "data.length=1024", "mesh.tensor=1", "mesh.fsdp=8"]
    )
    found = there.find(CompileRequest(large, "v5e-8", quick=True))
    assert "RESOURCE_EXHAUSTED" in found.refused and found.used > 17e9
    assert not machine.fits(found)


def test_a_step_that_is_refused_or_not_asked_for_takes_no_known_time(capsys):
    """Fails if it counts as none, breaks the table after all is compiled, or is NaN in JSON."""
    fits = plan.plan(SMALL, GPUS, Here(), wanted=["train", "validate"])
    refused = compiled.Found(mesh={}, refused="RESOURCE_EXHAUSTED", refused_bytes=20e9)
    too_large = fits._replace(train=dict.fromkeys(fits.train, refused))
    unasked = fits._replace(train={})
    plans = {"fits": fits, "large": too_large, "unasked": unasked}
    planned.show(plans, GPUS, quick=True)
    assert "all that fit" in capsys.readouterr().out
    found = planned.plan_report(plans, GPUS)
    json.dumps(found, allow_nan=False)
    assert found["seconds"] is None and found["runs"]["fits"]["seconds"] > 0
    assert found["runs"]["large"]["seconds"] is None is found["runs"]["unasked"]["seconds"]


def test_a_plan_is_of_the_programs_that_run():
    """Fails if a setting of execution is not compiled, or the mesh is of other neighbours.

    Or if what is frozen is planned as if it was trained.
    """
    changed = override(SMALL, ["attention=xla", "remat=block", "unroll=2", "microbatches=2"])
    changed = override(changed, ['trainable=["norm/*"]', "adapter.rank=2"])
    program = plan.same_program(changed, changed.objective)
    for name in {*EXECUTION, "trainable", "adapter"} - {"checkpoints", "faults"}:
        assert getattr(program, name) == getattr(changed, name), name
    machine = machines.find_machine("h100-16", 1)
    mesh = plan.mesh_of(override(SMALL, ["mesh.fsdp=null", "mesh.tensor=1"]), machine)
    assert (mesh["replica"], mesh["fsdp"]) == (2, 8)
    _, slice_of = compiled._devices(CompileRequest(SMALL, "h100-4", slices=2))
    assert len(set(slice_of.values())) == machines.find_machine("h100-4", 2).groups == 2


@pytest.mark.parametrize("step", get_args(compiled.StepKind))
def test_what_kernels_do_is_planned_too(tpu, step):
    """Fails if their FLOPs, which no compiler counts, are forgotten or are there twice."""
    machine, there = tpu
    run = override(SMALL, ["data.length=512", "data.batch=8", "precision=bfloat16"])
    found = there.find(CompileRequest(run, "v5e-8", quick=True, step=step))
    flops = plan.ledger_flops(run, Causal(), machine)
    scores = 4 * 512**2 * 64 * 2  # a row's, of both layers, forward: one block sees all
    if step == "train":
        assert found.kernel_flops == scores * 4.5
    else:
        assert found.kernel_flops == scores
        flops = (flops - 4.5 * scores) / 3 + scores
    assert found.flops + found.kernel_flops == pytest.approx(flops, rel=0.02)
    assert machine.floors(found)["compute"] > found.flops / 197e12


def test_a_tpus_compiler_takes_members_with_kernels(tpu):
    """Fails if attention's kernels cannot be members', or devices wait for each other."""
    machine, there = tpu
    changes = ["data.length=512", "data.batch=8", "precision=bfloat16", "model.depth=1"]
    run = override(SMALL, [*changes, "mesh.fsdp=null", "mesh.tensor=null"])
    of = plan.plan(run, machine, there, members=16, quick=True)
    (found,) = of.train.values()
    assert not found.collectives and found.kernel_flops > 0
    flops = plan.ledger_flops(run, Causal(), machine, members=16)
    assert found.flops + found.kernel_flops == pytest.approx(flops, rel=0.02)


@pytest.mark.slow
def test_an_unrolled_program_has_the_same_flops(tpu):
    """Fails if loops are counted too often or too seldom: here there are none of ours."""
    run = msgspec.structs.replace(SMALL, unroll=2)
    found = tpu[1].find(CompileRequest(run, "v5e-8", quick=True))
    flops = plan.ledger_flops(SMALL, Causal(), tpu[0])
    assert found.flops == pytest.approx(flops, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "matmuls"])
def test_a_tpu_computes_the_active_experts_alone(tpu, remat):
    """Fails if the kernels of ragged products are not counted, put tokens through all experts,
    or are done again where products are to be kept.
    """
    model = msgspec.structs.replace(SMALL.model, experts=Experts(count=4), mlp_width=128)
    run = msgspec.structs.replace(SMALL, model=model, remat=remat)
    found = tpu[1].find(CompileRequest(run, "v5e-8", quick=True))
    assert found.flops == pytest.approx(plan.ledger_flops(run, Causal(), tpu[0]), rel=0.02)


# This machine


SHAPES = {
    "wider": ["model.depth=6", "model.width=384", "model.heads=6", "data.batch=12"],
    "widest": ["model.depth=8", "model.width=512", "model.heads=8", "data.batch=4"],
    "small": [
        "model.depth=2", "model.width=128", "model.heads=2", "data.length=128",
        "data.batch=16", "data.tokenizer.type=bytes",
    ],
    "long rows": ["model.depth=4", "model.width=256", "data.length=1024", "data.batch=4"],
    "masked": ["objective.type=masked", "model.width=320", "model.heads=5", "data.batch=16"],
    "float32": ["model.depth=3", "model.width=192", "model.heads=3", "precision=float32"],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_a_step_on_this_machine_takes_what_was_planned(name):
    """Fails if a time is off by more than a factor of two: efficiency is of another shape."""
    machine = machines.find_machine(HERE, 1)
    with client.compiler(machine) as there:
        machine = plan.calibrated(machine, there)
        run = override(Run(), SHAPES[name])
        (found,) = plan.plan(run, machine, there, wanted=["train"], measure=True).train.values()
    ratio = machine.seconds(found) / statistics.median(found.measured_seconds)
    assert 0.5 < ratio < 2, ratio
