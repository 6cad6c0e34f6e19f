"""Heads: a document's outputs are of its own tokens, and leave the other parameters alone."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.distributed import mesh
from lm.distributed.mesh import Mesh
from lm.example import BidirectionalMask, Example, Head, positions_of
from lm.model import Transformer, build
from lm.model.heads import parameters_of, pooled

SEGMENTS = jnp.array([[1, 1, 1, 2, 2, 3, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1]])
SLOTS = 4


def example_of(head: Head | None, inputs: jax.Array | None = None) -> Example:
    inputs = jnp.arange(16).reshape(2, 8) if inputs is None else inputs
    zeros = jnp.zeros((2, SLOTS if head and head.pool else 8), int)
    return Example(
        inputs=inputs,
        target_positions=None,
        targets=zeros,
        weights=zeros,
        segments=SEGMENTS,
        positions=positions_of(SEGMENTS),
        attention_mask=BidirectionalMask(),
        head=head,
    )


@pytest.fixture(scope="module")
def module():
    config = Transformer(depth=1, width=16, heads=2)
    alone = mesh.make(Mesh(), jax.devices()[:1])
    return build(config, 32, mesh=alone, precision="float32")


QUERY = np.array([3.0, -1.0, 0.5, 2.0], np.float32)


def weighted(own: np.ndarray) -> np.ndarray:
    """The mean of states weighted by the softmax of their products with the query."""
    weights = np.exp(own @ QUERY / 2)
    return weights @ own / weights.sum()


@pytest.mark.parametrize("pool", ["first", "last", "mean", "attention"])
def test_a_slot_is_of_its_own_document_alone(pool: str) -> None:
    """Fails if pooling goes over a segment's edge, takes in padding, or counts slots from 0; or
    if the softmax of attention is over the row, or its scores are not divided by sqrt(D).
    """
    head = Head("label", 3, pool)  # type: ignore[arg-type]
    states = jnp.array(np.random.default_rng(0).normal(size=(2, 8, 4)), jnp.float32)
    found = np.asarray(pooled(states, SEGMENTS, SLOTS, head, jnp.array(QUERY)))
    for row in range(2):
        for slot in range(SLOTS):
            own = np.asarray(states[row][SEGMENTS[row] == slot + 1])
            if len(own):
                expected = {
                    "first": own[0],
                    "last": own[-1],
                    "mean": own.mean(0),
                    "attention": weighted(own),
                }[pool]
                np.testing.assert_allclose(found[row, slot], expected, atol=1e-6)
            else:
                assert (found[row, slot] == 0).all()


def test_attention_is_packed_as_it_is_unpacked() -> None:
    """Fails if what a document shares its row with changes its vector or the gradients, or if
    a slot that no document has makes them no numbers.
    """
    head = Head("label", 3, "attention")
    states = jnp.array(np.random.default_rng(1).normal(size=(1, 8, 4)), jnp.float32)
    pull = jnp.array(np.random.default_rng(2).normal(size=(3, 4)), jnp.float32)

    def told(states, query, segments, slots):
        found = pooled(states, segments, SLOTS, head, query)
        return jnp.sum(found[0, : len(slots)] * pull[jnp.array(slots)])

    gradient = jax.value_and_grad(told, argnums=(0, 1))
    value, (by_state, by_query) = gradient(states, QUERY, SEGMENTS[:1], [0, 1, 2])
    alone = [
        gradient(states[:, at], QUERY, jnp.ones((1, at.stop - at.start), int), [slot])
        for slot, at in enumerate((slice(0, 3), slice(3, 5), slice(5, 6)))
    ]
    assert float(value) == pytest.approx(sum(float(each) for each, _ in alone), rel=1e-5)
    np.testing.assert_allclose(by_query, sum(each for _, (_, each) in alone), atol=1e-5)
    one_by_one = jnp.concatenate([each for _, (each, _) in alone], axis=1)
    np.testing.assert_allclose(by_state[:, :6], one_by_one, atol=1e-5)
    assert (by_state[:, 6:] == 0).all()


def test_outputs_are_of_the_shape_that_the_head_says(module) -> None:
    """Fails if a head of tokens is pooled, one number is two, or the bias is left out."""
    for head, shape in [
        (Head("label", 3, "last"), (2, SLOTS, 3)),
        (Head("value", 1, "mean"), (2, SLOTS, 1)),
        (Head("tags", 5), (2, 8, 5)),
        (Head("asked", 2, "attention"), (2, SLOTS, 2)),
    ]:
        example = example_of(head)
        params = nn.unbox(jax.jit(module.init)(jax.random.key(0), example))["params"]
        own = params[f"head_{head.name}"]
        there = {f"head_{head.name}/{part}": array.shape for part, array in own.items()}
        assert there == {n: shape for n, (shape, _) in parameters_of(head, 16).items()}
        assert (own["bias"] == 0).all() and own["bias"].shape == shape[2:]
        own["bias"] = own["bias"] + 7
        states, table, *_ = jax.jit(module.apply)({"params": params}, example)
        logits = jnp.einsum("BPD,CD->BPC", states, table)
        assert logits.shape == shape
        without = jnp.einsum("BPD,CD->BPC", states[..., :-1], own["table"])
        np.testing.assert_allclose(logits, without + 7, rtol=1e-5)


def test_a_head_leaves_all_other_parameters_as_they_are(module) -> None:
    """Fails if a head draws from the stream of the module's own initial values."""
    init = jax.jit(module.init)
    plain = nn.unbox(init(jax.random.key(3), example_of(None)))["params"]
    head = Head("label", 2, "mean")
    headed = dict(nn.unbox(init(jax.random.key(3), example_of(head)))["params"])
    own = headed.pop("head_label")
    jax.tree.map(np.testing.assert_array_equal, plain, headed)
    other = nn.unbox(init(jax.random.key(3), example_of(Head("other", 2, "mean"))))
    assert not np.array_equal(own["table"], other["params"]["head_other"]["table"])
