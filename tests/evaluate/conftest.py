"""A tiny body in which every token and place matters, so that brute force can check scorers."""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.example import Example, Output, Vocabulary, mask_array
from lm.numerics import Einsum

# Pad and mask stand in for sentinels: no scorer shows both, and none is ever said.
VOCABULARY = Vocabulary(
    size=7,
    pad=0,
    mask=1,
    bos=2,
    eos=3,
    first_ordinary=4,
    begins_word=(True,) * 7,
    sentinels=(1, 0),
)


@dataclass(frozen=True)
class Tiny:
    """States from the mean over what is visible; special tokens but the end are never said.

    Padding has nothing visible and gets NaN: no scorer may let that through.
    """

    special: float = -1e9
    end: float = 0.0
    einsum: ClassVar = Einsum("float32")
    mesh: ClassVar = None

    def init(self, seed: int, *, length: int = 32, width: int = 6) -> dict[str, jax.Array]:
        shapes = {
            "token": (VOCABULARY.size, width),
            "place": (length, width),
            "mix": (width, width),
            "unembedding": (VOCABULARY.size, width),
        }
        random = np.random.default_rng(seed)
        return {k: jnp.array(random.normal(size=s), jnp.float32) for k, s in shapes.items()}

    def for_generating(self, params: dict, *, rows: int) -> tuple:
        return self, params

    def init_cache(self, rows: int, capacity: int) -> tuple:
        return (jnp.zeros((3, rows, capacity), jnp.int32), jnp.zeros(rows, jnp.int32))

    def apply(self, variables: dict, example: Example, cache: tuple | None = None) -> tuple:
        if cache is None:
            return self.states(variables["params"], example)
        # It reads again all that it has read.
        fields, (seen, read_B) = ("inputs", "segments", "positions"), cache
        new = jnp.stack([getattr(example, name).astype(jnp.int32) for name in fields])
        rows_B1, real_BL = jnp.arange(len(read_B))[:, None], example.segments > 0
        place_BL = read_B[:, None] + jnp.cumsum(real_BL, axis=1) - 1
        place_BL = jnp.where(real_BL, place_BL, seen.shape[2])
        seen = seen.at[:, rows_B1, place_BL].set(new, mode="drop")
        next_B = read_B + real_BL.sum(axis=1)
        # What a row that is gone has left behind is not read.
        seen = seen.at[1].multiply(jnp.arange(seen.shape[2])[None] < next_B[:, None])
        asked_BP = jnp.minimum(place_BL, seen.shape[2] - 1)
        if example.target_positions is not None:
            asked_BP = jnp.take_along_axis(asked_BP, example.target_positions, axis=1)
        whole = replace(
            example,
            target_positions=asked_BP,
            **dict(zip(fields, seen, strict=True)),
        )
        return self.states(variables["params"], whole), (seen, next_B)

    def states(self, p: dict[str, jax.Array], example: Example) -> Output:
        own_BLD = 2 * p["token"][example.inputs] * p["place"][example.positions]
        mask_BLM = mask_array(example.attention_mask, example.segments).astype(jnp.float32)
        mean_BLD = mask_BLM @ jnp.tanh(own_BLD) / mask_BLM.sum(-1, keepdims=True)
        state_BLD = jnp.tanh(
            (3 * mean_BLD + own_BLD + p["place"][example.positions]) @ p["mix"]
        )
        if example.target_positions is not None:
            state_BLD = jnp.take_along_axis(
                state_BLD, example.target_positions[..., None], axis=1
            )
        bias_V = jnp.where(
            jnp.arange(VOCABULARY.size) < VOCABULARY.first_ordinary, self.special, 0.0
        )
        bias_V = bias_V.at[VOCABULARY.eos].set(self.end)
        hidden_BPD = jnp.pad(state_BLD, ((0, 0), (0, 0), (0, 1)), constant_values=1.0)
        table_VD = jnp.concatenate([p["unembedding"], bias_V[:, None]], axis=1)
        return Output(hidden_BPD, table_VD)


@pytest.fixture
def vocabulary() -> Vocabulary:
    return VOCABULARY


@pytest.fixture
def tiny() -> type[Tiny]:
    return Tiny


@pytest.fixture
def module() -> Tiny:
    return Tiny()


@pytest.fixture
def params(module: Tiny) -> dict[str, jax.Array]:
    return module.init(0)
