"""The mixture of experts: who is sent where, what comes back, and what is added to the loss.

What holds for every kind of model is asked in `test_kinds.py`, where two mixtures are.
"""

import math
from functools import cache, partial

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest

from lm.config import UserError
from lm.cost import ledger
from lm.data import Bytes, Data
from lm.distributed import mesh
from lm.example import Batch
from lm.hub.base import FamilySettings
from lm.hub.writing import choose_family
from lm.loss import Sum, minimized
from lm.model import Transformer
from lm.model.experts import Experts, Routing, mixture_of_experts, terms_of
from lm.model.layers import GATED, activate
from lm.model.ragged import block_size, ragged_product
from lm.numerics import Einsum
from lm.objectives import Causal, Masked
from lm.optimizer import Adafactor, Adamw, Lora, Muon, Slopes, WarmupStableDecay
from lm.optimizer import build as build_optimizer
from lm.plan.hlo import work
from lm.run import Run, validate
from lm.train.step import prepare

EXACT = Einsum("float32")
FLAT = WarmupStableDecay(warmup=0.0)
SEGMENTS = jnp.array([[1] * 30 + [2] * 20 + [0] * 14, [1] * 64])
WIDTH, INNER, COUNT = 6, 10, 4


def random(*shape, seed=0):
    return jnp.array(np.random.default_rng((seed, *shape)).normal(size=shape), jnp.float32)


GIVEN = {
    "x": random(2, 64, WIDTH),
    "router": random(WIDTH, COUNT),
    "up": random(COUNT, WIDTH, INNER, seed=1),
    "gate": random(COUNT, WIDTH, INNER, seed=2),
    "down": random(COUNT, INNER, WIDTH),
}


@partial(jax.jit, static_argnames=("kind", "active"))
def mixed(given, kind="swiglu", active=2):
    names = "router", "up", "gate", "down"
    arrays = [given[name] if name != "gate" or kind in GATED else None for name in names]
    how = {"kind": kind, "active": active, "einsum": EXACT, "mesh": None}
    return mixture_of_experts(given["x"], SEGMENTS, *arrays, **how)


def by_hand(given, kind="swiglu", active=2):
    """Every token through every expert, times its probability if it is of the largest."""
    p = jax.nn.softmax(jnp.einsum("bld,de->ble", given["x"], given["router"]))
    least = jnp.sort(p)[..., -active][..., None]
    weight = jnp.where(p >= least, p, 0) * (SEGMENTS > 0)[..., None]
    total = 0.0
    for expert in range(COUNT):
        inner = given["x"] @ given["up"][expert]
        if kind in GATED:
            inner = inner * activate(given["x"] @ given["gate"][expert], GATED[kind])
        else:
            inner = activate(inner, kind)
        total += weight[..., expert, None] * (inner @ given["down"][expert])
    return total


@pytest.mark.parametrize(("kind", "active"), [("swiglu", 2), ("gelu", 1), ("relu", COUNT)])
def test_it_is_a_sum_over_the_experts_that_are_chosen(kind, active):
    """Fails if a token meets another's expert, is dropped, or a weight has no gradient."""
    assert block_size(2 * 64 * active, COUNT, None) > 1  # and some blocks are not full
    with jax.default_matmul_precision("highest"):
        for found, wanted in zip(
            jax.tree.leaves(values(mixed, kind, active)),
            jax.tree.leaves(values(by_hand, kind, active)),
            strict=True,
        ):
            np.testing.assert_allclose(found, wanted, atol=2e-5 * float(abs(wanted).max()))


def values(function, kind, active):
    """What it computes, and its gradients by all that it is given."""
    weight = random(2, 64, WIDTH, seed=3)

    def total(given):
        found = function(given, kind, active)
        y = found[0] if isinstance(found, tuple) else found
        return (weight * y).sum(), y

    (_, y), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(GIVEN)
    if kind not in GATED:
        assert not np.any(gradients.pop("gate"))
    return y, gradients


def test_no_token_is_dropped_where_all_want_the_same_expert():
    """Fails if an expert has a capacity: those beyond it would get nothing."""
    router = jnp.zeros((WIDTH, COUNT)).at[:, 2].set(1.0)
    given = GIVEN | {"x": jnp.abs(GIVEN["x"]), "router": router}
    y, routing = mixed(given, active=1)
    assert routing.load_E.tolist() == [0, 0, 114, 0]
    assert bool((jnp.abs(y).max(-1) > 0)[SEGMENTS > 0].all())
    assert not y[SEGMENTS == 0].any()


@pytest.mark.parametrize("block", [1, 4, None])
def test_a_ragged_product_is_each_row_times_the_matrix_of_its_group(block):
    """Fails if a block is of the wrong group, an empty group is met, or a row is left out."""
    sizes = np.array([8, 0, 4, 12])
    x, weight = random(28, 5), random(4, 5, 3)
    group = np.repeat([0, 1, 2, 3], sizes)
    x = x.at[24:].set(0)  # behind the last group
    cotangent = random(24, 3, seed=1)

    def total(x, weight):
        return (
            cotangent * ragged_product(EXACT, block, x, weight, jnp.array(sizes))[:24]
        ).sum()

    def wanted(x, weight):
        return (cotangent * jnp.einsum("ri,rio->ro", x[:24], weight[group])).sum()

    with jax.default_matmul_precision("highest"):
        found = jax.jit(jax.value_and_grad(total, (0, 1)))(x, weight)
        for a, b in zip(
            jax.tree.leaves(found),
            jax.tree.leaves(jax.value_and_grad(wanted, (0, 1))(x, weight)),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_half_precision_is_that_of_all_products():
    """Fails if operands are not rounded, or what they give is."""
    x, weight, rows = random(16, 64), random(2, 64, 8), jnp.array([8, 8])
    found = jax.jit(partial(ragged_product, Einsum("bfloat16"), 8))(x, weight, rows)
    assert found.dtype == jnp.float32
    wanted = Einsum("bfloat16")("RI,IO->RO", x[8:], weight[1])
    np.testing.assert_allclose(found[8:], wanted, rtol=1e-5, atol=1e-5)
    assert float(jnp.abs(found[8:] - x[8:] @ weight[1]).max()) > 1e-4


@pytest.mark.eight_devices
def test_rows_that_a_mesh_does_not_divide_are_routed_too():
    """Fails if a prompt's few rows are refused, or some of them are lost, on many devices."""
    made = mesh.make(mesh.Mesh(fsdp=4, tensor=2))
    names = "x", "router", "up", "gate", "down"
    x, *arrays = (GIVEN[name] for name in names)
    how = {"kind": "swiglu", "active": 2, "einsum": EXACT, "mesh": made}
    apply = jax.jit(lambda x, *arrays: mixture_of_experts(x, SEGMENTS, *arrays, **how))
    for found, wanted in zip(
        jax.tree.leaves(apply(x, *arrays)), jax.tree.leaves(mixed(GIVEN)), strict=True
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_load_balance_is_what_a_hand_counts():
    """Fails if padding counts, rows are not weighted by their tokens, or choices by K."""
    _, routing = mixed(GIVEN)
    terms = terms_of(jax.tree.map(lambda x: x[None], routing), Experts(count=COUNT))
    p = np.asarray(jax.nn.softmax(GIVEN["x"] @ GIVEN["router"], axis=-1), np.float64)
    logits = np.asarray(GIVEN["x"] @ GIVEN["router"], np.float64)
    total, square, load = 0.0, 0.0, np.zeros(COUNT)
    for row in range(2):
        real = np.asarray(SEGMENTS[row]) > 0
        best = np.argsort(p[row][real], axis=-1)[:, -2:]
        counts = np.bincount(best.ravel(), minlength=COUNT)
        fraction = counts / (2 * real.sum())
        total += real.sum() * COUNT * (fraction * p[row][real].mean(0)).sum()
        square += (np.log(np.exp(logits[row][real]).sum(-1)) ** 2).sum()
        load += counts
    assert float(terms["load_balance"].mean) == pytest.approx(total / 114, rel=1e-5)
    assert float(terms["router_z"].mean) == pytest.approx(square / 114, rel=1e-5)
    np.testing.assert_allclose(terms["load"].mean[0], load / 228, rtol=1e-6)
    assert (terms["load_balance"].coefficient, terms["load"].coefficient) == (0.01, 0.0)


def test_a_router_that_prefers_nothing_has_a_balance_of_one():
    """Fails if the balance is not scaled by the number of experts, or of choices."""
    for active in (1, 2):
        _, routing = mixed(GIVEN | {"router": jnp.zeros((WIDTH, COUNT))}, active=active)
        assert float(routing.balance / routing.tokens) == pytest.approx(1.0)
        assert float(routing.router_z / routing.tokens) == pytest.approx(math.log(COUNT) ** 2)


def test_terms_of_stacks_of_unequal_length_are_means_over_tokens():
    """Fails if an encoder's layers count as a decoder's do: they read other tokens."""
    two = Routing(
        *(jnp.array(x) for x in ([6.0, 2.0], [0.0, 8.0], [[6.0, 0.0], [1.0, 1.0]], [6.0, 2.0]))
    )
    found = terms_of(two, Experts(count=2, active=1))
    assert float(found["load_balance"].mean) == 1.0
    assert float(found["router_z"].mean) == 1.0
    assert found["load"].mean.tolist() == [[1.0, 0.0], [0.5, 0.5]]


MODEL = Transformer(
    depth=1, width=16, heads=2, mlp_width=24, experts=Experts(count=4, active=2, balance=0.5)
)
RUN = Run(
    model=MODEL,
    objective=Masked(rate=0.3),
    data=Data(tokenizer=Bytes(), length=32, batch=4),
    optimizer=Adamw(clip=None),
    precision="float32",
    tokens=4 * 32 * 4,
)
ROWS = Batch(
    np.random.default_rng(0).integers(4, 200, size=(4, 32)).astype(np.int32),
    np.array([[1] * 32, [1] * 20 + [0] * 12, [1] * 9 + [2] * 23, [1] * 5 + [0] * 27], np.int32),
)


@cache
def program(**changes):
    one = mesh.make(mesh.Mesh(), jax.devices()[:1])
    run = msgspec.structs.replace(RUN, **changes)
    return prepare(run, Bytes().open().vocabulary, one)


@cache
def compiled(**changes):
    made = program(**changes)
    rows = jax.ShapeDtypeStruct((4, 32), jnp.int32)
    given = made.abstract, Batch(rows, rows), np.uint32(0), made.run.objective, made.beside
    return made.update.lower(*given).compile()


def stepped(**changes):
    made = program(**changes)
    state, metrics = compiled(**changes)(
        made.init(), made.place(ROWS), np.uint32(0), made.beside
    )
    return state.params, {name: np.asarray(value) for name, value in metrics.items()}


def test_microbatches_change_neither_metrics_nor_the_step():
    """Fails if terms are weighted by a part's own tokens, or loads are means of means."""
    params, metrics = stepped()
    others, found = stepped(microbatches=2)
    names = {"load_balance", "router_z", "load_max", "load_entropy"}
    assert names <= metrics.keys()
    for name in names | {"loss", "gradient_norm"}:
        assert found[name] == pytest.approx(metrics[name], rel=1e-5), name
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(others), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    # Of an untrained model, without what the router adds.
    assert metrics["loss"] == pytest.approx(math.log(Bytes().open().vocabulary.size), abs=0.2)
    assert 1 <= float(metrics["load_max"]) <= 2 and 0 < float(metrics["load_entropy"]) < 1


def test_the_weights_of_a_whole_batch_cost_no_products():
    """Fails if microbatches are computed twice to know how many tokens they have."""
    once, parts = (
        work(compiled(**how).as_text(), 1).flops for how in ({}, {"microbatches": 2})
    )
    assert parts == pytest.approx(once, rel=0.02)


def test_products_are_those_of_the_active_experts():
    """Fails if the ledger counts experts that are not chosen, or forgets the router."""
    size = Bytes().open().vocabulary.size
    done = work(compiled().as_text(), 1).flops
    counted = ledger.program_flops(RUN, RUN.objective, size, "cpu")
    each = 3 * 2 * MODEL.depth * 2 * MODEL.width * MODEL.mlp_size  # of a row of the experts
    rows, block = 4 * 32 * 2, block_size(4 * 32 * 2, 4, "cpu")
    filled = (rows + 4 * (block - 1)) // block * block
    assert block == 8 and filled == 280
    assert done == pytest.approx(counted + each * (filled - rows), rel=2e-3)


def test_each_term_is_minimized_by_its_own_weight():
    """Fails if a term is summed over tokens where the loss is a mean over targets."""
    one = jnp.float32(1)
    terms = {"loss": Sum(8 * one, 4 * one), "router_z": Sum(6 * one, 2 * one, 0.5)}
    assert float(minimized(terms)) == 8 + 0.5 * 3 * 4
    assert float(minimized(terms, {"loss": 2 * one, "router_z": one})) == 8 + 0.5 * 6 * 2


def test_parameters_are_total_and_active():
    """Fails if the shorthand counts experts that a token does not pass."""
    found = ledger.parameters(RUN, 256)
    idle = 2 * 2 * 16 * 24  # experts, matrices
    assert found.total - found.active == idle
    assert ledger.cost(RUN, 256).flops_6nd == 6 * (found.non_embedding - idle) * RUN.tokens
    dense = msgspec.structs.replace(RUN, model=msgspec.structs.replace(MODEL, experts=None))
    plain = ledger.parameters(dense, 256)
    assert plain.active == plain.total
    # As many as of an MLP as wide as the active experts, and a router.
    wide = msgspec.structs.replace(MODEL, experts=None, mlp_width=48)
    assert sum(MODEL.matmul_parameters(256).values()) == (
        sum(wide.matmul_parameters(256).values()) + 16 * 4
    )


def test_every_expert_starts_as_an_mlp_does():
    """Fails if the experts count as inputs of a matrix, and so shrink what they give."""
    layers = program().init().params["layers"]
    for name, deviation in {"up": 16**-0.5, "down": (2 * 24) ** -0.5}.items():
        # Of a normal distribution that is cut at two deviations.
        assert float(layers[name].std()) == pytest.approx(0.88 * deviation, rel=0.1), name


@pytest.mark.parametrize("optimizer", [Muon(clip=None), Adafactor(factor_from=2, clip=None)])
def test_optimizers_take_every_expert_by_itself(optimizer):
    """Fails if experts are orthogonalized, or factored, as parts of one matrix."""
    axes = {"up": ("layers", "experts", "embed", "mlp")}
    params, gradient = random(1, COUNT, 6, 8), random(1, COUNT, 6, 8, seed=1)

    @partial(jax.jit, static_argnums=0)
    def step(axes, params, gradient):
        update = build_optimizer(optimizer, FLAT, Slopes.of(FLAT, 4), {"up": axes}, width=6)
        state = update.init({"up": params})
        return update.update({"up": gradient}, state, {"up": params})[0]["up"]

    found = step(axes["up"], params, gradient)
    for expert in range(COUNT):
        alone = step(("layers", "embed", "mlp"), params[:, expert], gradient[:, expert])
        np.testing.assert_allclose(found[:, expert], alone, rtol=1e-3, atol=1e-6)


def test_an_adapter_passes_experts_over():
    """Fails if a pattern gives experts narrow matrices, which no product knows."""
    axes = MODEL.axes()
    assert Lora(targets=("layers/*",)).chosen(axes) == (
        *("layers/key", "layers/out", "layers/query", "layers/router", "layers/value"),
    )
    with pytest.raises(UserError, match=r"layers/up matches no matrix"):
        Lora(targets=("layers/up",)).chosen(axes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"experts": Experts(count=4, active=5)},
            "experts.active=5 is more than experts.count 4",
        ),
        ({"experts": Experts(), "mlp_bias": "all"}, "mlp_bias=all: experts have none"),
    ],
)
def test_what_cannot_be_is_named(changes, says):
    """Fails if a bad value gets as far as a program."""
    model = msgspec.structs.replace(MODEL, **changes)
    with pytest.raises(UserError, match=says):
        validate(msgspec.structs.replace(RUN, model=model))


def test_no_format_of_others_has_experts():
    """Fails if a mixture is exported without its experts."""
    settings = FamilySettings(MODEL, Causal(), 32, 256)
    with pytest.raises(UserError, match=r"model\.experts=null"):
        choose_family(settings)
