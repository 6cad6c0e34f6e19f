"""Attention against its definition."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.example import BidirectionalMask, CausalMask, UntilMask, mask_array
from lm.model.attention import attend, key_extents, xla
from lm.numerics import Einsum

EXACT = Einsum("float32")


def definition(query_BLHA, key_BMGA, value_BMGA, mask_BLM):
    """Softmax attention by the book, on copies of the shared heads."""
    shared = query_BLHA.shape[2] // key_BMGA.shape[2]
    key_BMHA, value_BMHA = (jnp.repeat(x, shared, axis=2) for x in (key_BMGA, value_BMGA))
    dot = partial(jnp.einsum, precision="highest")
    scores_BHLM = dot("BLHA,BMHA->BHLM", query_BLHA, key_BMHA) / query_BLHA.shape[-1] ** 0.5
    scores_BHLM = jnp.where(mask_BLM[:, None], scores_BHLM, -1e30)
    return dot("BHLM,BMHA->BLHA", jax.nn.softmax(scores_BHLM, axis=-1), value_BMHA)


def arrays(length=22, heads=6, groups=3, size=4):
    keys = jax.random.split(jax.random.key(0), 4)
    query, wanted = (jax.random.normal(key, (2, length, heads, size)) for key in keys[:2])
    key, value = (jax.random.normal(key, (2, length, groups, size)) for key in keys[2:])
    return query, key, value, wanted


def attention_masks(length):
    until = jnp.minimum(jnp.arange(length)[None, :] // 5 * 5 + 7, length - 1)
    return {
        "causal": CausalMask(),
        "full": BidirectionalMask(),
        "until": UntilMask(jnp.tile(until, (2, 1))),
    }


@pytest.mark.parametrize("kind", ["causal", "full", "until"])
@pytest.mark.parametrize("groups", [1, 3, 6])
@pytest.mark.parametrize(
    ("precision", "tolerance"), [("float32", 2e-6), ("bfloat16", 0.02)], ids=str
)
def test_values_and_gradients_are_the_definitions(
    monkeypatch, kind, groups, precision, tolerance
):
    """Fails if heads are grouped otherwise, a block's keys end early, or a derivative is off.

    Tolerances are fractions of the largest value: an operand in bfloat16 is off by up to 2^-9.
    """
    monkeypatch.setattr(xla, "BLOCK", 4)
    query, key, value, wanted = arrays(groups=groups)
    length = query.shape[1]
    segments = jnp.array([[1] * length, [1] * 9 + [2] * (length - 9)])
    attention_mask = attention_masks(length)[kind]
    mask_BLM = mask_array(attention_mask, segments)
    blocks = key_extents(attention_mask, length)
    assert len(blocks) == (4 if kind == "causal" else 1)

    def both(attention):
        def loss(query, key, value):
            mixed = attention(query, key, value)
            return (mixed * wanted).sum(), mixed

        gradients, mixed = jax.grad(loss, (0, 1, 2), has_aux=True)(query, key, value)
        return mixed, *gradients

    expected = both(lambda *qkv: definition(*qkv, mask_BLM))
    found = jax.jit(
        lambda: both(lambda *qkv: attend(*qkv, mask_BLM, blocks, einsum=Einsum(precision)))
    )()
    for was, should in zip(found, expected, strict=True):
        np.testing.assert_allclose(was, should, atol=tolerance * float(jnp.abs(should).max()))


@pytest.mark.parametrize("length", [1, 3, 128, 129, 300, 512, 2048])
def test_blocks_of_queries_cover_the_row_and_reach_all_keys_before_them(length):
    """Fails if a query is in no block or in two, or a block's last query misses its own key."""
    blocks = key_extents(CausalMask(), length)
    assert [q for start, stop, _ in blocks for q in range(start, stop)] == [*range(length)]
    assert all(keys == stop for _, stop, keys in blocks)
    assert len(blocks) == min(4, -(-length // 128))
    assert key_extents(BidirectionalMask(), length) == ((0, length, length),)
