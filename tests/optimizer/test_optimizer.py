"""Optimizers and schedules: each test says which mutation it catches."""

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import optax
import pytest

from lm.config import UserError
from lm.optimizer import (
    Adafactor,
    Adamw,
    Cosine,
    Lion,
    Muon,
    Optimizer,
    Schedule,
    Slopes,
    WarmupStableDecay,
    build,
    check,
    decay_steps,
    initial,
    learning_rate,
    state_axes,
    warmup_steps,
)

FLAT = WarmupStableDecay(warmup=0, decay=0)
AXES = {
    "embedding": ("vocab", "embed"),
    "final": ("last_embed",),
    "norm": ("layers", "embed"),
    "query": ("layers", "embed", "heads", "head"),
    "query_bias": ("layers", "heads", "head"),
    "out": ("layers", "heads", "head", "embed"),
    "up": ("layers", "embed", "mlp"),
}
SIZES = {"layers": 3, "vocab": 24, "embed": 16, "heads": 2, "head": 4, "mlp": 40}
SIZES["last_embed"] = SIZES["embed"]
WIDTH = SIZES["embed"]
WEIGHTS = {"embedding", "query", "out", "up"}


def tree(seed):
    keys = jax.random.split(jax.random.key(seed), len(AXES))
    return {
        name: jax.random.normal(key, tuple(SIZES[axis] for axis in axes))
        for key, (name, axes) in zip(keys, AXES.items(), strict=True)
    }


def run(optimizer, axes, params, gradients, schedule=FLAT):
    """Parameters after a step for each of the gradients, and the state."""
    transformation = build(
        optimizer, schedule, Slopes.of(schedule, len(gradients)), axes, width=WIDTH
    )
    state = transformation.init(params)
    for gradient in gradients:
        updates, state = jax.jit(transformation.update)(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def test_adamw_equals_the_paper():
    """Catches: no bias correction, decay scaled by the gradient, decay of scales, b1 for b2."""
    config = Adamw(learning_rate=0.1, b1=0.8, b2=0.9, eps=1e-3, weight_decay=0.5, clip=None)
    params, gradients = tree(0), [tree(1), tree(2)]
    moved, _ = run(config, AXES, params, gradients)
    for name, axes in AXES.items():
        x, m, v = np.asarray(params[name], np.float64), 0.0, 0.0
        for t, g in enumerate((np.asarray(g[name], np.float64) for g in gradients), 1):
            m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g * g
            step = (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.9**t)) + 1e-3)
            x = x - 0.1 * (step + 0.5 * x * (name in WEIGHTS))
        np.testing.assert_allclose(moved[name], x, rtol=1e-4, atol=1e-5, err_msg=str(axes))


def test_lion_equals_the_paper():
    """Catches: b1 and b2 swapped, the sign of the momentum instead of the interpolation."""
    config = Lion(learning_rate=0.1, b1=0.2, b2=0.9, weight_decay=0.5, clip=None)
    params, gradients = tree(0), [tree(1), tree(2)]
    moved, _ = run(config, AXES, params, gradients)
    for name in AXES:
        x, m = np.asarray(params[name], np.float64), 0.0
        for g in (np.asarray(g[name], np.float64) for g in gradients):
            x = x - 0.1 * (np.sign(0.2 * m + 0.8 * g) + 0.5 * x * (name in WEIGHTS))
            m = 0.9 * m + 0.1 * g
        np.testing.assert_allclose(moved[name], x, rtol=1e-4, atol=1e-5)


def test_adafactor_equals_the_paper():
    """Catches: rows for columns, no relative step, another exponent, no clipping of updates."""
    config = Adafactor(learning_rate=0.1, exponent=0.7, factor_from=4, threshold=1.1, clip=None)
    axes, x = {"w": ("embed", "mlp")}, np.asarray(tree(0)["up"][0], np.float64)
    gradients = [np.asarray(tree(seed)["up"][0], np.float64) * seed for seed in (1, 2)]
    moved, _ = run(
        config, axes, {"w": jnp.float32(x)}, [{"w": jnp.float32(g)} for g in gradients]
    )
    row = column = 0.0
    for t, g in enumerate(gradients, 1):
        keep = 1 - t**-0.7
        row = keep * row + (1 - keep) * np.mean(g * g, axis=1)
        column = keep * column + (1 - keep) * np.mean(g * g, axis=0)
        step = g / np.sqrt(np.outer(row, column) / np.mean(row))
        step /= max(1, np.sqrt(np.mean(step**2)) / 1.1)
        x = x - 0.1 * np.sqrt(np.mean(x**2)) * step
    np.testing.assert_allclose(moved["w"], x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", [Muon(clip=None), Adafactor(factor_from=4, clip=None)])
def test_stacked_layers_move_as_each_layer_alone(optimizer):
    """Catches: optax's default dimensions, factoring over layers, an RMS over all layers."""
    stacked = {name: axes for name, axes in AXES.items() if "layers" in axes}
    # Layers of very different sizes, so that anything shared between them shows.
    scale = {name: 10.0 ** jnp.arange(3).reshape((3,) + (1,) * (len(axes) - 1))
             for name, axes in stacked.items()}  # fmt: skip
    params, *gradients = (
        {name: tree(seed)[name] * scale[name] for name in stacked} for seed in range(3)
    )
    together, _ = run(optimizer, stacked, params, gradients)
    for layer in range(3):
        alone, _ = run(
            optimizer,
            {name: axes[1:] for name, axes in stacked.items()},
            *jax.tree.map(lambda x, layer=layer: x[layer], (params, gradients)),
        )
        for name in stacked:
            np.testing.assert_allclose(together[name][layer], alone[name], rtol=1e-4, atol=1e-5)


def test_muon_orthogonalizes_hidden_matrices_and_nothing_else():
    """Catches: orthogonalized scales or embeddings, sides split at another axis."""
    config = Muon(learning_rate=1.0, weight_decay=0, clip=None)
    params, gradient = tree(0), tree(1)
    moved, _ = run(config, AXES, params, [gradient])
    step = jax.tree.map(lambda x, y: np.asarray(x - y), params, moved)
    matrices = {"query": (16, 8), "out": (8, 16), "up": (16, 40)}
    for name in AXES:
        if name in matrices:
            singular = np.linalg.svd(step[name].reshape(3, *matrices[name]), compute_uv=False)
            # Five iterations bring every singular value to 0.7 .. 1.2, times the RMS scale.
            singular = singular / (0.2 * np.sqrt(max(matrices[name])))
            assert singular.min() > 0.6 and singular.max() < 1.3, name
        else:  # adam's first step is the sign of the gradient
            np.testing.assert_allclose(step[name], np.sign(gradient[name]), rtol=1e-3)


def test_decay_reaches_matrices_and_embeddings_only():
    """Catches: a mask by ndim (stacked scales and head biases would decay), no embeddings.

    With a base width: a decay that shrinks with the steps, so that it vanishes in wide models.
    """
    params, zero = tree(0), jax.tree.map(jnp.zeros_like, tree(0))
    for optimizer in (Adamw(), Lion(), Adafactor(), Muon(), Muon(base_width=4)):
        optimizer = msgspec.structs.replace(optimizer, learning_rate=0.1, weight_decay=0.5)
        moved, _ = run(optimizer, AXES, params, [zero])
        for name in AXES:
            kept = 0.95 if name in WEIGHTS else 1.0
            np.testing.assert_allclose(moved[name], kept * params[name], rtol=1e-6)


def test_clip_bounds_the_global_norm():
    """Catches: clipping leaf by leaf, clipping after the direction, ignoring `clip`."""
    axes, big = (
        {"a": ("embed",), "b": ("embed",)},
        {"a": jnp.full(4, 30.0), "b": jnp.full(4, 40.0)},
    )
    params = jax.tree.map(jnp.zeros_like, big)
    # With eps far above the gradient, adam's first step is gradient / eps: its size shows.
    config = Adamw(learning_rate=1.0, eps=1e6, weight_decay=0, clip=1.0)
    moved, _ = run(config, axes, params, [big])
    np.testing.assert_allclose(moved["a"] * -1e6, np.full(4, 0.3), rtol=1e-4)
    moved, _ = run(msgspec.structs.replace(config, clip=None), axes, params, [big])
    np.testing.assert_allclose(moved["a"] * -1e6, np.full(4, 30.0), rtol=1e-3)


@pytest.mark.parametrize(
    ("optimizer", "matrices"),
    [
        (Adamw(eps=1.0, weight_decay=0, clip=None), 1 / 4),
        (Lion(weight_decay=0, clip=None), 1 / 4),
        (Muon(eps=1.0, weight_decay=0, clip=None), 1 / 2),
    ],
)
def test_steps_beyond_the_base_width(optimizer, matrices):
    """Catches: another power of the width, scaled embeddings or scales, an eps as it was.

    A model four times as wide has a fourth of the gradients, but for the last norm's, whose
    value is a fourth.
    """
    params, gradients = tree(0), [tree(1), tree(2)]
    moved, _ = run(optimizer, AXES, params, gradients)
    wide = msgspec.structs.replace(optimizer, base_width=WIDTH // 4)
    smaller = [{n: x if n == "final" else x / 4 for n, x in g.items()} for g in gradients]
    moved_wide, _ = run(wide, AXES, params, smaller)
    expected = dict.fromkeys(AXES, 1.0) | dict.fromkeys(("query", "out", "up"), matrices)
    expected["final"] = 1 / 4
    for name in AXES:
        step, step_wide = moved[name] - params[name], moved_wide[name] - params[name]
        np.testing.assert_allclose(step_wide, expected[name] * step, rtol=5e-3, atol=1e-6)
    at_first = initial(wide, params, AXES, width=WIDTH)
    for name in AXES:
        np.testing.assert_array_equal(
            at_first[name], params[name] / 4 if name == "final" else params[name]
        )


def test_clip_sees_the_last_norm_as_if_logits_were_multiplied():
    """Catches: a gradient of the last norm that grows with the width and clips all others."""
    axes = {"final": ("last_embed",)}
    params, gradient = {"final": jnp.zeros(16)}, {"final": jnp.ones(16)}  # of norm 4
    config = Adamw(learning_rate=1.0, eps=1e6, weight_decay=0, clip=1.0, base_width=4)
    moved, _ = run(config, axes, params, [gradient])
    np.testing.assert_allclose(moved["final"] * -1e6, np.full(16, 1 / 4), rtol=1e-4)


@pytest.mark.parametrize("optimizer", [Adamw(), Lion(), Muon()])
def test_the_base_width_changes_nothing_at_itself(optimizer):
    """Catches: a factor that is 1 only nearly."""
    based = msgspec.structs.replace(optimizer, base_width=WIDTH)
    params, gradients = tree(0), [tree(1), tree(2)]
    plain, _ = run(optimizer, AXES, params, gradients)
    jax.tree.map(np.testing.assert_array_equal, plain, run(based, AXES, params, gradients)[0])
    jax.tree.map(
        np.testing.assert_array_equal, params, initial(based, params, AXES, width=WIDTH)
    )


@pytest.mark.parametrize("optimizer", [Adamw(), Lion(), Adafactor(factor_from=4), Muon()])
def test_state_is_float32_and_has_its_parameters_axes(optimizer):
    """Catches: a bfloat16 moment, moments left replicated, a moment with other axes."""
    params = tree(0)
    transformation = build(optimizer, FLAT, Slopes.of(FLAT, 10), AXES, width=WIDTH)
    state = transformation.init(params)
    assert {str(x.dtype) for x in jax.tree.leaves(state)} <= {"float32", "int32"}
    axes = state_axes(transformation, jax.eval_shape(lambda: params), AXES)
    found = []
    for leaf, names in zip(
        jax.tree.leaves(state),
        jax.tree.leaves(
            axes, is_leaf=lambda x: type(x) is tuple and all(type(n) is str for n in x)
        ),
        strict=True,
    ):
        assert names == () or leaf.shape == tuple(SIZES[name] for name in names)
        found += [names] if names else []
    moments = {"adamw": 2, "lion": 1, "adafactor": 0, "muon": 2}
    expected = [axes for axes in AXES.values() for _ in range(moments[tag(optimizer)])]
    if isinstance(optimizer, Muon):
        expected = [*AXES.values(), *(AXES[n] for n in AXES if n not in {"query", "out", "up"})]
    assert sorted(found) == sorted(expected)


def tag(config):
    return msgspec.to_builtins(config)["type"]


def test_axes_that_say_nothing_are_refused():
    """Catches: guessing which side is which for a kind of weight that nobody declared."""
    with pytest.raises(ValueError, match="inputs"):
        build(
            Adamw(),
            FLAT,
            Slopes.of(FLAT, 1),
            {"w": ("layers", "embed", "mlp", "embed")},
            width=WIDTH,
        )
    with pytest.raises(ValueError, match="inputs"):
        build(Adamw(), FLAT, Slopes.of(FLAT, 1), {"w": ("window", "embed")}, width=WIDTH)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (
            WarmupStableDecay(warmup=0.2, decay=0.4, final=0.1, shape="linear"),
            [1, 2, 2, 2, 2, 2, 2, 1.55, 1.1, 0.65, 0.2],
        ),
        (
            WarmupStableDecay(warmup=0.2, decay=0.4, final=0, shape="sqrt"),
            [1, 2, 2, 2, 2, 2, 2, 1, 2 - 2**0.5, 2 - 3**0.5, 0],
        ),
        (
            Cosine(warmup=0.2, final=0.5),
            [1, 2, *(1.5 + 0.5 * np.cos(np.pi * np.arange(9) / 8))],
        ),
        (WarmupStableDecay(warmup=0, decay=0), [2.0] * 11),
        (Cosine(warmup=1), [0.2 * (step + 1) for step in range(10)]),
    ],
)
def test_schedules_at_known_steps(schedule, expected):
    """Catches: off by one in either part, a wasted step at rate 0, no or a wrong `final`."""
    rate = jax.jit(learning_rate(Adamw(learning_rate=2.0), schedule, Slopes.of(schedule, 10)))
    got = [float(rate(step)) for step in range(len(expected))]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.parametrize(
    "schedule",
    [Cosine(), Cosine(warmup=0), Cosine(warmup=1), WarmupStableDecay(), FLAT]
    + [WarmupStableDecay(warmup=fraction, decay=1 - fraction) for fraction in (0, 0.5, 1)],
)
def test_short_runs_have_a_rate(schedule, steps):
    """Catches: division by no steps, parts that overlap by rounding, a zero rate."""
    assert 0 <= warmup_steps(schedule, steps) <= steps
    assert 0 <= decay_steps(schedule, steps) <= steps - warmup_steps(schedule, steps)
    rate = learning_rate(Adamw(learning_rate=2.0), schedule, Slopes.of(schedule, steps))
    rates = [float(rate(step)) for step in range(steps)]
    assert all(0 < r <= 2.0 for r in rates) and max(rates) == 2.0


def test_the_rate_follows_the_step_inside_the_optimizer():
    """Catches: a schedule evaluated once, or on a counter that starts at 1."""
    axes, params = {"a": ("last_embed",)}, {"a": jnp.zeros(4)}
    schedule = WarmupStableDecay(warmup=1, decay=0)
    moved, _ = run(Lion(learning_rate=1.0), axes, params, [{"a": jnp.ones(4)}] * 4, schedule)
    np.testing.assert_allclose(moved["a"], -(0.25 + 0.5 + 0.75 + 1.0), rtol=1e-6)


def test_schedule_parts_that_do_not_fit_are_refused():
    """Catches: no check, or one that refuses parts that fill the run exactly."""
    with pytest.raises(UserError, match=r"schedule.decay: 0.6 .* at most 0.5"):
        check(WarmupStableDecay(warmup=0.5, decay=0.6))
    for warmup in np.linspace(0, 1, 101):
        check(WarmupStableDecay(warmup=float(warmup), decay=float(1 - warmup)))
    check(Cosine(warmup=1))


@pytest.mark.parametrize("config", [Adamw(b1=0.3), Lion(), Adafactor(), Muon(clip=None)])
def test_json_out_and_in_is_the_identity(config):
    """Catches: two variants with one tag, a field that does not survive."""
    assert msgspec.json.decode(msgspec.json.encode(config), type=Optimizer) == config
    for schedule in (FLAT, Cosine(final=0.3)):
        assert msgspec.json.decode(msgspec.json.encode(schedule), type=Schedule) == schedule


def test_ranges_are_checked_when_read():
    """Catches: a lost constraint."""
    for wrong in ({"type": "adamw", "b2": 1.0}, {"type": "muon", "clip": 0}, {"type": "sgd"}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wrong, Optimizer)
