"""Adapters: what is trained beside frozen matrices, and what that costs."""

from functools import cache

import jax
import numpy as np
import pytest
from msgspec.structs import replace

from lm.artifact import as_tree, by_name
from lm.config import UserError, override
from lm.cost import ledger, memory
from lm.cost.memory import STATE
from lm.data import Bytes, Data
from lm.distributed import mesh
from lm.distributed.mesh import Mesh
from lm.example import Batch
from lm.model import EncoderDecoder, Transformer
from lm.objectives import Classify, Spans
from lm.optimizer import Adamw, Lora
from lm.run import Run, Start, identity, validate
from lm.train.step import Program, prepare

LORA = Lora(rank=4, alpha=12, targets=("*layers/*",))
SMALL = Run(
    data=Data(length=16, batch=8, tokenizer=Bytes(sentinels=4)),
    model=Transformer(depth=2, width=16, heads=4, kv_heads=2, mlp="swiglu", mlp_width=24),
    optimizer=Adamw(learning_rate=3e-2),
    tokens=4 * 8 * 16,
    precision="float32",
)
READS = replace(
    SMALL,
    model=EncoderDecoder(depth=1, width=16, heads=2, mlp_width=24),
    objective=Spans(stack="encoder_decoder"),
)
ONE, EIGHT = Mesh(replica=1, fsdp=1, tensor=1), Mesh(replica=2, fsdp=2, tensor=2)
VOCABULARY = Bytes(sentinels=4).open().vocabulary


@cache
def program(run: Run, grid: Mesh) -> Program:
    devices = jax.devices()[: grid.replica * grid.fsdp * grid.tensor]
    grid = replace(grid, context=1)
    return prepare(run, VOCABULARY, mesh.make(grid, devices))


def batch(step: int = 0) -> Batch:
    tokens_BL = np.random.default_rng(step).integers(5, 200, (8, 16), np.int32)
    return Batch(tokens_BL, np.ones_like(tokens_BL))


@cache
def trained(run: Run, grid: Mesh):
    """A program, its parameters before three steps and after them, and their losses."""
    made = program(replace(run, adapter=LORA), grid)
    state, losses = made.init(), []
    before = {name: np.array(x) for name, x in by_name(state.params).items()}
    for step in range(3):
        state, metrics = made.step(state, made.place(batch(step)))
        losses.append(float(metrics["loss"]))
    return made, before, state.params, losses


def loss(made: Program, params) -> float:
    return float(made.validate(params, made.place(batch(9)), jax.random.key(0))["loss"].mean)


@pytest.mark.eight_devices
@pytest.mark.parametrize("grid", [ONE, EIGHT], ids=["one device", "eight"])
def test_a_run_with_an_adapter_starts_as_its_base_to_the_last_bit(grid):
    """Fails if B is drawn, as A is, or if drawing them moves what the base is drawn with."""
    base, made = program(SMALL, grid), program(replace(SMALL, adapter=LORA), grid)
    params, state = base.init().params, made.init()
    assert loss(base, params) == loss(made, state.params)
    example = SMALL.objective(batch(), VOCABULARY, jax.random.key(0))

    def states(made, params):
        return jax.jit(lambda p: made.module.apply({"params": p}, example).hidden_BPD)(params)

    assert np.array_equal(states(base, params), states(made, made.join(state.params)))
    assert np.any(by_name(state.params)["lora/layers/up/a"])


def test_only_the_adapter_changes_and_merging_it_changes_no_loss():
    """Fails if decay reaches the base, or A B is merged unscaled, or transposed."""
    made, before, params, _ = trained(SMALL, ONE)
    after = by_name(jax.device_get(params))
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith("lora/")}
    matrices = {name.removeprefix("lora/")[:-2] for name in changed}
    assert matrices == SMALL.model.matrices().keys()
    base = program(SMALL, ONE)
    merged = made.merge(params)
    assert loss(base, merged) == pytest.approx(loss(made, params), rel=1e-6)
    assert abs(loss(base, base.init().params) - loss(base, merged)) > 1e-4


def test_an_encoder_and_a_decoder_have_adapters():
    """Fails if those of one stack, or of attention to the source, are passed over."""
    made = program(replace(READS, adapter=LORA), ONE)
    params = by_name(made.init().params)
    matrices = {name[5:-2] for name in params if name.startswith("lora/")}
    assert matrices == READS.model.matrices().keys()
    rough = np.random.default_rng(0)
    for name, array in params.items():
        if name.endswith("/b"):
            params[name] = 0.3 * rough.normal(size=array.shape).astype(np.float32)
    adapted, base = as_tree(params), program(READS, ONE)
    merged = made.merge(adapted)
    assert loss(base, merged) == pytest.approx(loss(made, adapted), rel=1e-5)
    assert abs(loss(base, merged) - loss(base, base.init().params)) > 1e-2


@pytest.mark.eight_devices
def test_a_mesh_trains_the_adapter_that_one_device_does():
    """Fails if a device's part of A B is added twice, or the sum over its inputs forgotten."""
    *_, one, losses = trained(SMALL, ONE)
    *_, eight, split = trained(SMALL, EIGHT)
    assert split == pytest.approx(losses, rel=1e-5)
    for name, array in by_name(jax.device_get(eight)).items():
        assert np.allclose(array, by_name(one)[name], atol=1e-4), name


def test_frozen_matrices_have_no_state_and_count_as_frozen():
    """Fails if adam keeps moments of the base, or the estimate of memory counts gradients.

    Or if the count of what is trained forgets B, or counts the base.
    """
    run = replace(SMALL, adapter=LORA)
    state = program(run, ONE).abstract
    size = sum(leaf.size for leaf in jax.tree.leaves(state.params["lora"]))
    moments = [leaf.size for leaf in jax.tree.leaves(state.optimizer) if leaf.ndim]
    assert sum(moments) == 2 * size
    found = ledger.parameters(run, VOCABULARY.size)
    assert found.trainable == found.groups["lora"] == size
    assert found.total == sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert memory.least(run, "cpu")[STATE] == 4 * (found.total + 3 * size)
    assert ledger.parameters(SMALL, VOCABULARY.size).trainable == found.total - size


def test_heads_and_what_trainable_names_change_as_well():
    """Fails if a head stays as it was drawn, or `trainable` is passed over."""
    run = replace(
        SMALL,
        objective=Classify(),
        adapter=Lora(rank=2, targets=("layers/up",)),
        trainable=("norm/*",),
    )
    found = ledger.parameters(run, VOCABULARY.size)
    head, norm = 2 * 17, 16
    assert found.trainable == 2 * 2 * (16 + 24) + head + norm
    assert (
        ledger.cost(run, VOCABULARY.size).flops
        < ledger.cost(replace(run, adapter=None, trainable=None), VOCABULARY.size).flops
    )


def test_an_adapter_is_drawn_by_its_own_names():
    """Fails if a further target draws another A for the others, or layers have equal ones."""
    few = program(replace(SMALL, adapter=Lora(rank=4)), ONE).init().params["lora"]["layers"]
    many = trained(SMALL, ONE)[1]
    assert few.keys() == {"query", "value"}
    assert np.array_equal(few["query"]["a"], many["lora/layers/query/a"])
    assert not np.array_equal(*few["query"]["a"])
    assert abs(few["value"]["a"]).max() <= 16**-0.5
    assert not np.array_equal(few["value"]["a"], few["query"]["a"])


def test_without_an_adapter_a_run_is_who_it_was():
    """Fails if the field, with its default, is in the digests of runs."""
    assert identity(replace(SMALL, adapter=None)) == identity(SMALL)
    assert identity(replace(SMALL, adapter=Lora()))["adapter"] == {}


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["adapter.rank=0"], "adapter.rank=0: must be >= 1"),
        (["adapter.rank=2"], "adapter: it is added to a model; say to which, by start.path"),
    ],
)
def test_oneline_an_adapter_that_cannot_be(overrides, line):
    with pytest.raises(UserError) as raised:
        validate(override(SMALL, overrides))
    assert str(raised.value) == line


def test_oneline_rates_are_not_transferred_to_an_adapter():
    run = replace(SMALL, start=Start(path="a"), adapter=Lora(), optimizer=Adamw(base_width=16))
    with pytest.raises(UserError, match=r"^optimizer.base_width: rates of adapters"):
        validate(run)


def test_oneline_a_target_that_is_no_matrix_is_refused_with_the_nearest():
    """Fails if a pattern that adds nothing is passed over, or a norm is taken for a matrix."""
    for pattern in ("layers/querry", "layers/norm_1/scale", "embedding"):
        run = replace(SMALL, adapter=Lora(targets=("layers/up", pattern)))
        with pytest.raises(UserError, match=f"^adapter.targets: {pattern} matches no matrix"):
            ledger.cost(run, VOCABULARY.size)
