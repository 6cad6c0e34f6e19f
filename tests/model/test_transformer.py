"""The behaviours of the transformer that every study rests on."""

import re
from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.distributed import mesh
from lm.example import (
    BidirectionalMask,
    CausalMask,
    Example,
    UntilMask,
    mask_array,
    positions_of,
)
from lm.loss import cross_entropy
from lm.model import Transformer, build
from lm.model.layers import LayerNorm
from lm.verify.dependence import reach

SMALL = Transformer(depth=2, width=16, heads=4, kv_heads=2)
VARIANTS = {
    "default": SMALL,
    "layer norm, gated, untied": Transformer(
        depth=2, width=16, heads=2, mlp="swiglu", norm=LayerNorm(), embedding="untied"
    ),
    "relu2, one kv head": Transformer(depth=2, width=16, heads=4, kv_heads=1, mlp="relu2"),
}
LENGTH, VOCABULARY = 12, 32


@cache
def module(config=SMALL, **settings):
    one = mesh.make(mesh.Mesh(), jax.devices()[:1])
    return build(config, VOCABULARY, mesh=one, **{"precision": "float32"} | settings)


def example(attention_mask, segments=None, seed=0, target_positions=None):
    segments = jnp.ones((2, LENGTH), int) if segments is None else jnp.array(segments)
    inputs = jax.random.randint(jax.random.key(seed), segments.shape, 4, VOCABULARY)
    return Example(
        inputs=inputs,
        target_positions=target_positions,
        targets=inputs,
        weights=jnp.ones(inputs.shape),
        segments=segments,
        positions=positions_of(segments),
        attention_mask=attention_mask,
    )


@cache
def initial(config=SMALL):
    init = jax.jit(module(config).init)
    return nn.unbox(init(jax.random.key(0), example(BidirectionalMask())))["params"]


@cache
def params(config=SMALL, seed=1):
    # Far from the initial values, where scales are 1 and attention is flat. By numpy, as JAX
    # would compile programs for each shape.
    draw = np.random.default_rng(seed)
    tree = jax.device_get(initial(config))
    return jax.device_put(
        jax.tree.map(lambda x: np.float32(x + 0.3 * draw.normal(size=x.shape)), tree)
    )


@cache
def compiled(config=SMALL, **settings):
    """What the module computes, in one program."""
    return jax.jit(module(config, **settings).apply)


def hidden(given, config=SMALL):
    return compiled(config)({"params": params(config)}, given).hidden_BPD


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(config, id=name, marks=() if name == "default" else pytest.mark.slow)
        for name, config in VARIANTS.items()
    ],
)
@pytest.mark.parametrize("kind", ["causal", "full", "until"])
def test_a_state_depends_on_what_it_may_see_and_on_nothing_else(config, kind):
    """Fails if the mask is transposed, off by one, or does not stop at a segment's end."""
    segments = jnp.array([[1] * 5 + [2] * 4 + [0] * 3, [1] * LENGTH])
    until = jnp.minimum(jnp.arange(LENGTH)[None, :] // 3 * 3 + 2, LENGTH - 1)
    attention_mask = {
        "causal": CausalMask(),
        "full": BidirectionalMask(),
        "until": UntilMask(jnp.broadcast_to(until, segments.shape)),
    }[kind]
    reached = reach(module(config), params(config), example(attention_mask, segments))
    allowed = np.array(mask_array(attention_mask, segments))
    real = np.asarray(segments) > 0
    # What a position of padding depends on is nobody's concern, as nobody sees it.
    for row in range(2):
        assert (reached[row, :, row][real[row]] == allowed[row][real[row]]).all()
        assert not reached[row, :, 1 - row].any(), "rows of a batch see each other"


def test_editing_one_document_leaves_the_others_states_untouched():
    """Fails if segments are ignored in attention, by however little."""
    segments = jnp.array([[1] * 5 + [2] * 7])
    given = example(BidirectionalMask(), segments)
    edited = example(BidirectionalMask(), segments, seed=9)
    mixed = jnp.where(segments == 1, edited.inputs, given.inputs)
    other = Example(
        **{n: getattr(given, n) for n in given.__dataclass_fields__} | {"inputs": mixed}
    )
    before, after = hidden(given), hidden(other)
    assert (before[:, 5:] == after[:, 5:]).all()
    assert (before[:, :5] != after[:, :5]).any()


@pytest.mark.parametrize("attention_mask", [CausalMask(), BidirectionalMask()])
def test_packed_equals_unpacked(attention_mask):
    """Fails if attention crosses a segment's end (rotary positions see only distances)."""
    packed = example(attention_mask, jnp.array([[1] * 5 + [2] * 7]))
    alone = Example(
        inputs=jnp.pad(packed.inputs[:, 5:], ((0, 0), (0, 5))),
        target_positions=None,
        targets=packed.targets,
        weights=packed.weights,
        segments=jnp.array([[1] * 7 + [0] * 5]),
        positions=positions_of(jnp.array([[1] * 7 + [0] * 5])),
        attention_mask=attention_mask,
    )
    np.testing.assert_allclose(hidden(packed)[:, 5:], hidden(alone)[:, :7], atol=1e-5)


def test_order_matters():
    """Fails if rotary positions are left out: a bag of tokens would give the same states."""
    given = example(BidirectionalMask())
    swapped = given.inputs.at[:, [3, 4]].set(given.inputs[:, [4, 3]])
    other = Example(
        **{n: getattr(given, n) for n in given.__dataclass_fields__} | {"inputs": swapped}
    )
    assert jnp.abs(hidden(given)[:, 8] - hidden(other)[:, 8]).max() > 1e-3


@pytest.mark.eight_devices
@pytest.mark.parametrize("kind", ["causal", "full", "until"])
@pytest.mark.parametrize(
    ("attention", "context"),
    [
        ("xla", 4),
        pytest.param("xla", 2, marks=pytest.mark.slow),
        pytest.param("splash", 4, marks=pytest.mark.slow),
        pytest.param("cudnn", 4, marks=pytest.mark.slow),
    ],
)
def test_positions_may_be_spread_over_devices(kind, attention, context):
    """Fails if a device takes its first query for the row's first one, or misses its keys."""
    segments = jnp.array([[1] * 5 + [2] * 4 + [0] * 3, [1] * LENGTH])
    until = jnp.minimum(jnp.arange(LENGTH)[None, :] // 5 * 5 + 4, LENGTH - 1)
    until = UntilMask(jnp.broadcast_to(until, segments.shape))
    given = example(
        {"causal": CausalMask(), "full": BidirectionalMask(), "until": until}[kind], segments
    )
    many = mesh.make(mesh.Mesh(fsdp=2, context=context), jax.devices()[: 2 * context])

    def both(made):
        def loss(params):
            states_BLD = made.apply({"params": params}, given).hidden_BPD
            states_BLD = jnp.where(segments[:, :, None] > 0, states_BLD, 0)
            return jnp.sum(jnp.sin(states_BLD)), states_BLD

        return jax.jit(jax.grad(loss, has_aux=True))(jax.tree.map(np.asarray, params()))

    expected = both(module())
    found = both(build(SMALL, VOCABULARY, mesh=many, precision="float32", attention=attention))
    for was, should in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(was, should, atol=1e-5 * float(jnp.abs(should).max()))


@pytest.mark.eight_devices
@pytest.mark.parametrize("attention", ["xla", "splash"])
def test_of_spread_positions_keys_and_values_alone_are_gathered(attention):
    """Fails if queries or scores are gathered too, or keys before they are projected."""
    many = mesh.make(mesh.Mesh(fsdp=2, context=4))
    made = build(SMALL, VOCABULARY, mesh=many, precision="float32", attention=attention)
    given = example(CausalMask())

    def loss(params):
        return made.apply({"params": params}, given).hidden_BPD.sum()

    anywhere = jax.tree.map(np.asarray, params())
    program = jax.jit(jax.grad(loss)).lower(anywhere).compile().as_text()
    lines = [line for line in program.splitlines() if "layers._attention" in line]
    layers = "\n".join(lines)
    gathered = re.findall(r"= \S*?\[([\d,]+)\]\S* all-gather\(", layers)
    of_positions = {shape for shape in gathered if f",{LENGTH}," in shape}
    assert of_positions == {f"1,{LENGTH},{SMALL.groups},{SMALL.head_size}"}
    assert len(of_positions) < len(gathered)
    assert not re.search(r" (all-to-all|collective-permute|reduce-scatter)\(", layers)


@cache
def value_and_gradients(**settings):
    def total(tree, given):
        return jnp.square(module(**settings).apply({"params": tree}, given)[0]).sum()

    return jax.jit(jax.value_and_grad(total))(params(), example(CausalMask()))


@pytest.mark.parametrize("settings", [{"unroll": 1}, {"remat": "block"}, {"remat": "matmuls"}])
def test_execution_changes_neither_values_nor_gradients(settings):
    """Fails if a layer is left out by unrolling, or remat drops a residual."""
    value, grads = value_and_gradients()
    other, other_grads = value_and_gradients(**settings)
    assert float(value) == pytest.approx(float(other), rel=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), grads, other_grads
    )


def test_remat_computes_again():
    """Fails if the setting is not passed on: then nothing would be computed again."""

    def products(remat):
        def total(tree):
            return jnp.square(
                module(remat=remat).apply({"params": tree}, example(BidirectionalMask()))[0]
            ).sum()

        return str(jax.make_jaxpr(jax.grad(total))(params())).count("dot_general")

    assert products("block") > products("matmuls") > products("none") - 1
    assert products("block") > products("none")


def test_initial_values_do_not_depend_on_execution_or_example():
    """Fails if unrolling names each layer, or an example's kind key_extents the parameters."""
    trees = [
        nn.unbox(module(**settings).init(jax.random.key(0), given))["params"]
        for settings in ({}, {"unroll": 1}, {"remat": "block"})
        for given in (
            example(CausalMask()),
            example(BidirectionalMask(), target_positions=jnp.zeros((2, 3), int)),
        )
    ]
    for tree in trees[1:]:
        jax.tree.map(np.testing.assert_array_equal, trees[0], tree)


def test_initial_weights_differ_between_layers():
    """Fails if the layers of the stack are drawn from one key."""
    up = initial()["layers"]["up"]
    assert (up[0] != up[1]).all()


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_an_untrained_model_is_about_uniform(config):
    """Fails if the head's initial scale is that of the other matrices."""
    given = example(BidirectionalMask())

    @jax.jit
    def loss(tree, given):
        output, einsum = module(config).apply({"params": tree}, given), module(config).einsum
        return cross_entropy(output, given.targets, given.weights, einsum=einsum).mean

    assert float(loss(initial(config), given)) == pytest.approx(np.log(VOCABULARY), abs=0.15)


def test_the_head_runs_on_predicted_positions_only():
    """Fails if `target_positions` is ignored, or gathers from another row."""
    given = example(BidirectionalMask())
    target_positions = jnp.array([[3, 0], [7, 7]])
    fields = {n: getattr(given, n) for n in given.__dataclass_fields__}
    some = hidden(Example(**fields | {"target_positions": target_positions}))
    every = hidden(given)
    for row in range(2):
        np.testing.assert_allclose(some[row], every[row][target_positions[row]], atol=1e-5)


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_the_ledger_counts_the_parameters_there_are(config):
    """Fails if kv heads, the gate, LayerNorm's bias or an untied table are forgotten."""
    there = sum(x.size for x in jax.tree.leaves(params(config)))
    assert sum(config.parameters(VOCABULARY).values()) == there


def test_dropout_is_for_training_only():
    """Fails if dropout is on without a key, or never on."""
    config = Transformer(depth=2, width=16, heads=2, dropout=0.5)
    given = example(BidirectionalMask())
    apply = compiled(config)
    plain = apply({"params": params(config)}, given).hidden_BPD
    assert (plain == apply({"params": params(config)}, given).hidden_BPD).all()
    dropped = [
        apply({"params": params(config)}, given, rngs={"dropout": jax.random.key(seed)})
        for seed in (0, 0, 1)
    ]
    assert (dropped[0].hidden_BPD == dropped[1].hidden_BPD).all()
    assert (dropped[0].hidden_BPD != plain).any()
    assert (dropped[0].hidden_BPD != dropped[2].hidden_BPD).any()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"width": 16, "heads": 5}, "heads=5 does not divide width 16"),
        ({"width": 12, "heads": 4}, "odd head size 3"),
        ({"width": 16, "heads": 4, "kv_heads": 3}, r"one of \[1, 2, 4\]"),
    ],
)
def test_shapes_that_cannot_be_are_named(wrong, says):
    """Fails if a check is dropped."""
    import re

    assert re.search(says, Transformer(**wrong).check() or "")


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_going_on_from_the_past_gives_the_states_of_the_whole_row(config):
    """Fails if keys are put one off or turned otherwise, or padding before a row is seen."""
    segments = jnp.array([[1] * LENGTH, [0] * 4 + [1] * (LENGTH - 4)])
    given = example(CausalMask(), segments)
    whole = hidden(given, config)
    cache = module(config).init_cache(2, LENGTH + 3)
    found = []
    for start, stop in ((0, 5), (5, 6), (6, LENGTH)):
        fields = {
            name: getattr(given, name)[:, start:stop]
            for name in ("inputs", "targets", "weights", "segments", "positions")
        }
        part = Example(**fields, target_positions=None, attention_mask=CausalMask())
        output, cache = compiled(config)({"params": params(config)}, part, cache)
        found.append(output.hidden_BPD)
    real = np.asarray(segments) > 0
    np.testing.assert_allclose(
        np.concatenate(found, axis=1)[real], np.asarray(whole)[real], atol=2e-5
    )


def test_only_causal_rows_go_on_from_their_past():
    """Fails if states that a later position would have changed are taken for final."""
    with pytest.raises(ValueError, match="causal"):
        module().apply(
            {"params": params()}, example(BidirectionalMask()), module().init_cache(2, LENGTH)
        )


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_what_a_mesh_must_divide_is_what_the_parameters_have(config):
    """Fails if preflight knows another size of an axis than the parameters do, or lacks one."""
    boxed = jax.eval_shape(
        module(config).init, jax.random.key(0), example(BidirectionalMask())
    )["params"]
    sizes: dict[str, set[int]] = {}
    for box in jax.tree.leaves(boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned)):
        for name, size in zip(box.names, box.value.shape, strict=True):
            if mesh.LAYOUT[name]:
                sizes.setdefault(name, set()).add(size)
    assert sizes.pop("vocab") == {VOCABULARY}
    assert sizes.pop("last_embed") == {config.width}
    assert sizes == {axis: {size} for axis, (_, size) in config.splits().items()}
    assert all(hasattr(config, field) for field, _ in config.splits().values())
