"""What layers are made of, against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np

from lm.model.positions import Rotary, rotate


def test_rotary_products_see_distances_and_nothing_else():
    """Fails if one half is left unturned, turned the wrong way, or by another frequency."""
    keys = jax.random.split(jax.random.key(0), 2)
    query, key = (jnp.tile(jax.random.normal(k, (1, 1, 1, 8)), (1, 12, 1, 1)) for k in keys)
    by = Rotary(theta=100.0).table(jnp.arange(12)[None], size=8, length=12)
    turned = [rotate(x, by)[0, :, 0] for x in (query, key)]
    products_LM = np.asarray(turned[0] @ turned[1].T)
    for distance in range(-11, 12):
        diagonal = np.diagonal(products_LM, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-4)
    assert np.ptp(products_LM[0]) > 0.5
    np.testing.assert_allclose(
        np.linalg.norm(turned[0], axis=1), np.linalg.norm(query[0, :, 0], axis=1), rtol=1e-5
    )
