"""Training on eight devices is training on one, however they share the work."""

import json
from functools import cache

import jax
import msgspec
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from lm.config import UserError, dump
from lm.data.digest import chain_text
from lm.objectives import Mixture, Part, Prefix, Spans
from lm.run import Run
from lm.train.checkpoint import Checkpoints, leaf_digests
from lm.train.load import load_model, load_run
from lm.train.train import train_run
from tests.makers import one_device
from tests.train.steps import change, program, train

pytestmark = pytest.mark.eight_devices

MESHES = {
    "8": {},
    "2,2,2": {"replica": 2, "fsdp": 2, "tensor": 2},
    "4 tensor": {"fsdp": 2, "tensor": 4},
    "context": {"fsdp": 4, "context": 2},
}


@pytest.fixture(scope="module")
def run(run) -> Run:
    """The small run with layers to loop over, and a width that eight devices can share."""
    return change(run, "model.depth=2", "model.width=32")


@pytest.fixture(scope="module")
def alone(run):
    """Losses of an objective in a precision on one device, and the state they lead to."""
    return cache(
        lambda name, precision: train(
            change(run, f"objective.type={name}", f"precision={precision}"), 4
        )
    )


@pytest.mark.parametrize(
    ("name", "shape", "precision"),
    [
        ("causal", "2,2,2", "float32"),
        pytest.param("any_order", "8", "float32", marks=pytest.mark.slow),
        ("any_order", "context", "float32"),
        pytest.param("masked", "4 tensor", "bfloat16", marks=pytest.mark.slow),
        pytest.param("any_order", "2,2,2", "bfloat16", marks=pytest.mark.slow),
        pytest.param("causal", "8", "float32", marks=pytest.mark.slow),
        pytest.param("masked", "2,2,2", "float32", marks=pytest.mark.slow),
        pytest.param("masked", "8", "float32", marks=pytest.mark.slow),
    ],
)
def test_the_mesh_changes_no_loss(run, alone, name, shape, precision):
    """Fails if a loss is a mean of device means, or masks depend on the device."""
    changed = change(run, f"objective.type={name}", f"precision={precision}")
    losses, state = train(changed, 4, devices=8, **MESHES[shape])
    expected, state_alone = alone(name, precision)
    assert losses == pytest.approx(expected, rel=1e-4 if precision == "float32" else 5e-3)
    assert (np.asarray(state.batches) == np.asarray(state_alone.batches)).all()


MIXED = {
    "UL2": Mixture(mixed=(Part(objective=Prefix()), Part(objective=Spans(rate=0.4)))),
    "GPT-BERT": Mixture(),
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shape"), [("GPT-BERT", "8"), ("UL2", "2,2,2")])
def test_the_mesh_changes_no_loss_of_a_mixture(run, name, shape):
    """Fails if what a row draws, or what it may see, depends on the device that holds it."""
    changed = change(run, "data.tokenizer.sentinels=8")
    changed = msgspec.structs.replace(changed, objective=MIXED[name])
    losses, _ = train(changed, 3, devices=8, **MESHES[shape])
    assert losses == pytest.approx(train(changed, 3)[0], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["splash", "cudnn"])
@pytest.mark.parametrize("name", ["causal", "any_order"])
def test_the_backend_changes_no_loss(run, alone, name, attention):
    """Fails if a kernel's gradient is lost on its way through layers, or a mesh's axis is."""
    changed = change(run, f"objective.type={name}", f"attention={attention}")
    losses, _ = train(changed, 3, devices=8, fsdp=2, tensor=2, context=2)
    assert losses == pytest.approx(alone(name, "float32")[0][:3], rel=1e-4)


def test_no_array_is_laid_out_anew_in_full(run, capfd):
    """Fails if embedding tables are looked up while they are split by columns."""
    cache = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)  # it masks what the compiler says
    compilation_cache.reset_cache()
    try:
        made, batches = program(change(run, "objective.type=masked"), 8, **MESHES["2,2,2"])
        made.update.lower(
            made.abstract, made.place(batches(0)), np.uint32(0), made.run.objective, made.beside
        ).compile()
    finally:
        jax.config.update("jax_enable_compilation_cache", cache)
        compilation_cache.reset_cache()
    assert "Involuntary full rematerialization" not in capfd.readouterr().err


def test_initial_values_are_those_of_any_mesh_and_objective(run):
    """Fails if the key is split differently on a mesh, or by objective."""
    first, _ = program(run)
    second, _ = program(change(run, "objective.type=masked"), 8, fsdp=2, tensor=4)
    jax.tree.map(np.testing.assert_array_equal, first.init().params, second.init().params)


def test_parameters_and_moments_are_split_over_the_mesh(run):
    """Fails if the optimizer's state is replicated, or a rule of the table is dropped."""
    made, _ = program(run, 8, fsdp=4, tensor=2)
    state = made.init()
    up = state.params["layers"]["up"]
    assert up.addressable_shards[0].data.shape == (2, 32 // 4, 128 // 2)
    sizes = [
        x.addressable_shards[0].data.size / x.size
        for x in jax.tree.leaves(state.optimizer)
        if x.size > 1000
    ]
    assert sizes and max(sizes) <= 0.25


@pytest.fixture(scope="module")
def halfway(run, tmp_path_factory):
    """Eight devices' checkpoint of ten steps, its digests, and the metrics four steps later."""
    directory = tmp_path_factory.mktemp("halfway")
    made, batches = program(run, 8)
    state = made.init()
    for step in range(14):
        if step == 10:
            digests = leaf_digests(state)
            with Checkpoints(str(directory), keep=1) as checkpoints:
                checkpoints.save(10, state, {})
        state, metrics = made.step(state, made.place(batches(step)))
    return directory, digests, metrics


ELASTIC = {
    "1": (1, {}),
    "2,4": (8, {"fsdp": 2, "tensor": 4}),
    "1,8": (8, {"fsdp": 1, "context": 8}),
}


@pytest.mark.parametrize("shape", ELASTIC)
def test_a_run_goes_on_on_any_mesh(run, halfway, shape):
    """Fails if a value, the place in the data or the chain depends on what it was saved on."""
    directory, digests, expected = halfway
    devices, axes = ELASTIC[shape]
    made, batches = program(run, devices, **axes)
    with Checkpoints(str(directory), keep=1) as checkpoints:
        state = checkpoints.restore_newest(made.abstract).state
    assert leaf_digests(state) == digests
    assert jax.tree.map(lambda x: x.sharding, state) == jax.tree.map(
        lambda x: x.sharding, made.abstract
    )
    for step in range(10, 14):
        state, metrics = made.step(state, made.place(batches(step)))
    assert chain_text(metrics["batches"]) == chain_text(expected["batches"])
    assert float(metrics["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-4)


def test_a_batch_that_does_not_divide_is_named_before_anything_is_written(run, tmp_path):
    """Fails if the check is left to the compiler."""
    with pytest.raises(UserError, match=r"data.batch=12 .* 8 .*nearest: 8 or 16"):
        train_run(change(run, "data.batch=12", "mesh.fsdp=8"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_parameters_that_do_not_divide_over_the_mesh_are_named(run):
    """Fails if it is left to the compiler, which answers with a traceback."""
    with pytest.raises(UserError, match=r"mesh.fsdp=8 does not divide the axis 'embed' of 12 "):
        program(change(run, "model.width=12", "model.heads=2"), 8)


def test_a_run_trained_on_a_mesh_is_used_on_any(run, tmp_path):
    """Fails if a model is bound to the mesh, or the platform, that it was trained on."""
    run = change(run, "mesh.fsdp=2", "mesh.tensor=4", "tokens=512", "precision=bfloat16")
    train_run(run, tmp_path / "run")
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["mesh"] == {"replica": 1, "fsdp": 2, "tensor": 4, "context": 1}
    (tmp_path / "run" / "config.json").write_text(dump(change(run, "attention=splash")))
    trained = load_run(tmp_path / "run")
    assert trained.program.module.attention == "auto"
    up = trained.params["layers"]["up"]
    assert up.addressable_shards[0].data.shape == (2, 32 // 8, 128)
    written = load_model(tmp_path / "run").generate(["one"], count=9, temperature=0)
    with one_device():
        alone = load_model(tmp_path / "run")
        assert alone.generate(["one"], count=9, temperature=0) == written
