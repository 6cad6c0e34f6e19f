"""Optimizers whose parameters and state are split over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.distributed import mesh
from lm.optimizer import (
    Adafactor,
    Adamw,
    Lion,
    Muon,
    Slopes,
    WarmupStableDecay,
    build,
    state_axes,
)

pytestmark = pytest.mark.eight_devices

AXES = {
    "embedding": ("vocab", "embed"),
    "norm": ("layers", "embed"),
    "query": ("layers", "embed", "heads", "head"),
    "up": ("layers", "embed", "mlp"),
}
SHAPES = {"embedding": (24, 16), "norm": (3, 16), "query": (3, 16, 2, 4), "up": (3, 16, 40)}


@pytest.mark.parametrize(
    "optimizer", [Adafactor(), Adamw(), Lion(), Muon()], ids=lambda each: type(each).__name__
)
def test_devices_make_the_update_that_one_does(optimizer):
    """Fails if a norm, a mean or an orthogonalization is of a device's part alone."""
    schedule = WarmupStableDecay(warmup=0, decay=0)
    slopes = Slopes.of(schedule, 9)
    transformation = build(optimizer, schedule, slopes, AXES, width=16)
    keys = iter(jax.random.split(jax.random.key(0), 9))
    params, gradient = (
        {name: jax.random.normal(next(keys), shape) for name, shape in SHAPES.items()}
        for _ in range(2)
    )
    state = transformation.init(params)
    step = jax.jit(transformation.update)
    where = mesh.make(mesh.Mesh(fsdp=4, tensor=2))
    there = jax.jit(build(optimizer, schedule, slopes, AXES, width=16, mesh=where).update)

    def split(tree, axes):
        return jax.tree.map(
            lambda x, names: jax.device_put(np.asarray(x), mesh.sharding(where, *names)),
            tree,
            axes,
        )

    of_state = state_axes(transformation, jax.eval_shape(lambda: params), AXES)
    found, _ = there(split(gradient, AXES), split(state, of_state), split(params, AXES))
    expected, _ = step(gradient, state, params)
    for name, update in expected.items():
        largest = float(jnp.abs(update).max())
        assert largest > 0
        np.testing.assert_allclose(found[name], update, atol=1e-4 * largest, err_msg=name)
