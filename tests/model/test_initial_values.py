"""The values that training begins from, held as they were when results were kept."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from lm.distributed import mesh
from lm.model import Transformer, blank_example, build
from lm.model.layers import LayerNorm

CONFIGS = {
    "default": Transformer(depth=2, width=16, heads=2),
    "swiglu, layer norm, untied": Transformer(
        depth=2, width=16, heads=2, mlp="swiglu", norm=LayerNorm(), embedding="untied"
    ),
    "shared key heads": Transformer(depth=3, width=16, heads=4, kv_heads=2, mlp="relu2"),
    "odd widths": Transformer(depth=1, width=30, heads=5, mlp_width=37, mlp="geglu"),
    "dropout": Transformer(depth=2, width=16, heads=2, dropout=0.1),
}
HELD = {
    "default": {
        "embedding": -0.22149,
        "layers/down": -2.01986,
        "layers/key": 7.76623,
        "layers/norm_1/scale": 0.58758,
        "layers/norm_2/scale": 0.58758,
        "layers/out": 0.60746,
        "layers/query": -0.58648,
        "layers/up": -5.48492,
        "layers/value": -0.42944,
        "norm/scale": 0.71533,
    },
    "swiglu, layer norm, untied": {
        "embedding": -0.22149,
        "layers/down": 0.59467,
        "layers/gate": 5.17260,
        "layers/key": -0.42944,
        "layers/norm_1/bias": 0.00000,
        "layers/norm_1/scale": 0.58758,
        "layers/norm_2/bias": 0.00000,
        "layers/norm_2/scale": 0.58758,
        "layers/out": -3.66850,
        "layers/query": 7.76623,
        "layers/up": 1.01853,
        "layers/value": 1.21493,
        "norm/bias": 0.00000,
        "norm/scale": 0.71533,
        "unembedding": 0.36150,
    },
    "shared key heads": {
        "embedding": -0.22149,
        "layers/down": -0.41194,
        "layers/key": -4.07933,
        "layers/norm_1/scale": 0.11693,
        "layers/norm_2/scale": 0.11693,
        "layers/out": 2.08965,
        "layers/query": 4.93173,
        "layers/up": -16.97204,
        "layers/value": 1.19664,
        "norm/scale": 0.71533,
    },
    "odd widths": {
        "embedding": -0.33198,
        "layers/down": 2.63940,
        "layers/gate": 1.83224,
        "layers/key": 1.34438,
        "layers/norm_1/scale": -0.48142,
        "layers/norm_2/scale": -0.48142,
        "layers/out": -0.49956,
        "layers/query": 1.97402,
        "layers/up": 0.87367,
        "layers/value": 0.12463,
        "norm/scale": -0.48142,
    },
    "dropout": {
        "embedding": -0.22149,
        "layers/down": -2.01986,
        "layers/key": 7.76623,
        "layers/norm_1/scale": 0.58758,
        "layers/norm_2/scale": 0.58758,
        "layers/out": 0.60746,
        "layers/query": -0.58648,
        "layers/up": -5.48492,
        "layers/value": -0.42944,
        "norm/scale": 0.71533,
    },
}


def _projection(x: jax.Array) -> float:
    """One number that every value of an array, and its place, decides."""
    flat = np.asarray(x, np.float64).ravel()
    return float(flat @ np.cos(np.arange(flat.size)))


@pytest.mark.parametrize("name", CONFIGS)
def test_initial_values_are_as_they_were(name):
    """Fails if a scope is renamed, a `param` is called earlier, or a scale is another."""
    config = CONFIGS[name]
    module = build(config, 11, mesh=mesh.make(mesh.Mesh(), jax.devices()[:1]))
    boxed = jax.jit(lambda key: module.init(key, blank_example(config, 1, 6)))(
        jax.random.key(3)
    )
    leaves = jax.tree_util.tree_leaves_with_path(nn.unbox(boxed)["params"])
    found = {"/".join(key.key for key in path): _projection(x) for path, x in leaves}
    # To five places: compilers differ in the last bits of a float32.
    assert found == pytest.approx(HELD[name], abs=2e-5)
