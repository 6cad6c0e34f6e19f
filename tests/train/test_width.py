"""The coordinate check of `optimizer.base_width` (Yang et al. 2022, arXiv:2203.03466, D.1).

Models of several widths take the same few steps of training. What these change in the states
and the logits may not depend on the width.
"""

from functools import cache

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest

from lm.data import Data
from lm.distributed import mesh
from lm.distributed.mesh import Mesh
from lm.example import Batch, Vocabulary
from lm.model import Transformer
from lm.objectives import Causal, Masked
from lm.optimizer import Adamw, Lion, Muon, WarmupStableDecay
from lm.run import Run
from lm.train.step import prepare

PIECES = Vocabulary(
    size=32, pad=0, mask=1, bos=2, eos=3, first_ordinary=4, begins_word=(True,) * 32
)
ROWS = Batch(
    np.random.default_rng(0).integers(4, 32, (16, 16), np.int32), np.ones((16, 16), np.int32)
)
STEPS = 4
SEEDS = 4
BASE = 64
# So small that no change comes near its bound: a normed state cannot move further than 2.
OPTIMIZERS = {
    "adamw": Adamw(learning_rate=3e-4),
    "lion": Lion(learning_rate=3e-4),
    "muon": Muon(learning_rate=1e-3),
}
OBJECTIVES = {"causal": Causal(), "masked": Masked(rate=0.3)}


@cache
def trained(name, objective, width, base):
    """Sizes of three changes, over all seeds, and what the parameters became at the last.

    They are: of the states by the layers' parameters alone, of the logits by these, and of the
    logits by all parameters.
    """
    optimizer = msgspec.structs.replace(OPTIMIZERS[name], base_width=base)
    run = Run(
        model=Transformer(depth=2, width=width, heads=width // 16),
        data=Data(length=16, batch=16),
        objective=OBJECTIVES[objective],
        optimizer=optimizer,
        schedule=WarmupStableDecay(warmup=0, decay=0),
        tokens=STEPS * 16 * 16,
        precision="float32",
        unroll=1,
    )
    program = prepare(run, PIECES, mesh.make(Mesh(), jax.devices()[:1]))
    example = run.objective(jax.tree.map(jnp.asarray, ROWS), PIECES, jax.random.key(0), 0)

    @jax.jit
    def look(params):
        hidden_BPD, unembedding_VD, *_ = program.module.apply({"params": params}, example)
        # What went into the last norm's scale: that is smaller on purpose, beyond the base.
        state_BPD = hidden_BPD / params["norm"]["scale"][None, None, :]
        return state_BPD, jnp.einsum("BPD,VD->BPV", hidden_BPD, unembedding_VD)

    squares = []
    for seed in range(SEEDS):
        state = program.initial(np.uint32(seed))
        old = jax.tree.map(np.asarray, state.params)
        for _ in range(STEPS):
            state, _ = program.step(state, program.place(ROWS))
        before, by_layers, after = map(
            look, (old, old | {"layers": state.params["layers"]}, state.params)
        )
        changes = by_layers[0] - before[0], by_layers[1] - before[1], after[1] - before[1]
        squares.append([float(jnp.mean(jnp.square(change))) for change in changes])
    return np.sqrt(np.mean(squares, axis=0)), jax.tree.map(np.asarray, state.params)


def slopes(name, objective, widths, base):
    """The power of the width with which each change grows."""
    sizes = [trained(name, objective, width, base)[0] for width in widths]
    return np.polyfit(np.log(widths), np.log(sizes), 1)[0]


@pytest.mark.parametrize(
    ("name", "objective"),
    [("adamw", "causal"), pytest.param("muon", "masked", marks=pytest.mark.slow)],
)
def test_steps_change_as_much_at_every_width(name, objective):
    """Catches: a factor that is missing or of another power; `slow` does this for all."""
    assert np.abs(slopes(name, objective, (BASE, 4 * BASE), BASE)).max() < 0.25


@pytest.mark.slow
def test_without_a_base_width_wider_models_change_more():
    """Catches: a check that finds no growth anywhere, an option that is never off."""
    state, layers, logits = slopes("adamw", "causal", (BASE, 4 * BASE), None)
    assert state > 0.25 and layers > 0.8 and logits > 0.7


def test_nothing_changes_at_the_base_width():
    """Catches: initial values or steps that differ in the last bit."""
    (_, based), (_, plain) = (trained("adamw", "causal", BASE, base) for base in (BASE, None))
    jax.tree.map(np.testing.assert_array_equal, based, plain)


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_coordinate_check(name, objective):
    """Catches: what of the above holds for one optimizer, objective or pair of widths only."""
    # Below the base, products with the random embeddings, which fall as 1 / sqrt(width), show.
    widths = (BASE, 2 * BASE, 4 * BASE)
    flat, growing = (slopes(name, objective, widths, base) for base in (BASE, None))
    assert np.abs(flat).max() < 0.25, flat
    assert growing[1:].min() > 0.8, growing
