"""Attention and rotary positions against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np

from lm.model.attention import attend, rotate
from lm.numerics import float32_einsum


def test_attention_is_its_definition_with_shared_heads():
    """Fails if query heads are grouped in the other order, or scores are not scaled."""
    keys = jax.random.split(jax.random.key(0), 4)
    query_BLHA = jax.random.normal(keys[0], (2, 5, 6, 4))
    key_BMGA, value_BMGA = (jax.random.normal(key, (2, 5, 3, 4)) for key in keys[1:3])
    mask_BLM = jax.random.bernoulli(keys[3], 0.6, (2, 5, 5)) | jnp.eye(5, dtype=bool)[None]
    found = attend(query_BLHA, key_BMGA, value_BMGA, mask_BLM, einsum=float32_einsum)
    for b, q, h in np.ndindex(2, 5, 6):
        scores = np.asarray(key_BMGA)[b, :, h // 2] @ np.asarray(query_BLHA)[b, q, h] / 2
        shares = np.exp(scores) * np.asarray(mask_BLM)[b, q]
        expected = shares @ np.asarray(value_BMGA)[b, :, h // 2] / shares.sum()
        np.testing.assert_allclose(found[b, q, h], expected, rtol=1e-4, atol=1e-6)


def test_rotary_products_see_distances_and_nothing_else():
    """Fails if one half is left unturned, turned the wrong way, or by another frequency."""
    keys = jax.random.split(jax.random.key(0), 2)
    query, key = (jnp.tile(jax.random.normal(k, (1, 1, 1, 8)), (1, 12, 1, 1)) for k in keys)
    positions = jnp.arange(12)[None]
    turned = [rotate(x, positions, 100.0)[0, :, 0] for x in (query, key)]
    products_LM = np.asarray(turned[0] @ turned[1].T)
    for distance in range(-11, 12):
        diagonal = np.diagonal(products_LM, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-4)
    assert np.ptp(products_LM[0]) > 0.5
    np.testing.assert_allclose(
        np.linalg.norm(turned[0], axis=1), np.linalg.norm(query[0, :, 0], axis=1), rtol=1e-5
    )
