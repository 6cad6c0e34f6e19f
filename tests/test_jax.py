"""What the installed JAX must not do wrong."""

import jax
import jax.numpy as jnp
import numpy as np


def test_this_jax_does_not_miscompile_the_batched_gradient_of_a_scan():
    """Fails on jax 0.10.2 (CPU), where cotangents from number 85 on came out wrong by over 1.

    It is a transformer in small: a scan over two layers that add a scaled RMSNorm to the
    stream; a batch of cotangents must give what each gives by itself. If it fails, this version
    returns wrong numbers without a word: do not use it. Exclude it in setup.cfg beside 0.10.2,
    with the issue's number, pin another in constraints.txt, and report it to jax-ml/jax.
    """
    random = np.random.default_rng(0)
    x_BLD = jnp.array(random.standard_normal((2, 12, 16)), jnp.float32)
    scale_ND = jnp.array(random.standard_normal((2, 16)), jnp.float32)
    cotangents_CBLD = jnp.array(random.standard_normal((384, 2, 12, 16)), jnp.float32)

    def layer(x_BLD, scale_D):
        root_BL1 = jax.lax.rsqrt(jnp.square(x_BLD).mean(-1, keepdims=True) + 1e-6)
        return x_BLD + 0.5 * x_BLD * root_BL1 * scale_D[None, None, :], None

    _, pull = jax.vjp(lambda x_BLD: jax.lax.scan(layer, x_BLD, scale_ND)[0], x_BLD)
    together = jax.vmap(lambda cotangent_BLD: pull(cotangent_BLD)[0])(cotangents_CBLD)
    alone = jax.jit(lambda cotangent_BLD: pull(cotangent_BLD)[0])
    one_by_one = np.stack([alone(cotangent_BLD) for cotangent_BLD in cotangents_CBLD])
    np.testing.assert_allclose(together, one_by_one, atol=1e-4)
