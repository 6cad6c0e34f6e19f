"""What lies between an encoder and a decoder: a few numbers for each document, and no more."""

from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from msgspec import Meta

from lm.config import Config
from lm.numerics import Einsum


class Code(Config):
    """A narrow code: all that a decoder is told of its source."""

    size: Annotated[int, Meta(ge=1, description="numbers of a document's code")] = 2
    levels: (
        Annotated[
            int,
            Meta(
                ge=2,
                description="values that each may have (Mentzer et al. 2023, FSQ); null: any"
                " between -1 and 1",
            ),
        ]
        | None
    ) = None


class Bottleneck(nn.Module):
    """From the states of a source to its code, and from that to what a decoder reads.

    The code of a document is the mean of its states, projected to a few numbers and bounded by
    tanh. Each of its positions then has that code, projected back: a decoder that reads them
    finds the same at all.
    """

    code: Code
    einsum: Einsum

    @nn.compact
    def __call__(self, x_BMD: jax.Array, segments_BM: jax.Array) -> jax.Array:
        width, size = x_BMD.shape[-1], self.code.size
        # Small at first, as states have much in common: tanh would begin where it is flat.
        narrow_DE = self._matrix("narrow", ("embed", "code"), (width, size), 0.1)
        widen_ED = self._matrix("widen", ("code", "embed"), (size, width), 1.0)
        mean_BSE = mean_by_segment(self.einsum("BMD,DE->BME", x_BMD, narrow_DE), segments_BM)
        code_BSE = BoundCode(self.code, name="codes")(mean_BSE)
        code_BME = jnp.take_along_axis(code_BSE, segments_BM[..., None], axis=1)
        return self.einsum("BME,ED->BMD", code_BME, widen_ED)

    def _matrix(
        self, name: str, axes: tuple[str, ...], shape: tuple[int, ...], scale: float
    ) -> jax.Array:
        normal = nn.initializers.truncated_normal(scale * shape[0] ** -0.5)
        weight: Any = self.param(name, nn.with_logical_partitioning(normal, axes), shape)
        return weight


class BoundCode(nn.Module):
    """The codes of a batch's documents: a module, so that others can be put in their place.

    They are kept as `codes` among the intermediates.
    """

    code: Code

    @nn.compact
    def __call__(self, mean_BSE: jax.Array) -> jax.Array:
        code_BSE = rounded(jnp.tanh(mean_BSE), self.code.levels)
        self.sow("intermediates", "codes", code_BSE)
        return code_BSE


def mean_by_segment(x_BME: jax.Array, segments_BM: jax.Array) -> jax.Array:
    """The mean of each segment of each row, by its number, float32[B, M + 1, E].

    >>> mean_by_segment(jnp.array([[[1.0], [3.0], [5.0]]]), jnp.array([[1, 1, 0]]))[0].tolist()
    [[5.0], [2.0], [0.0], [0.0]]
    """
    number = x_BME.shape[1] + 1
    ones_BM1 = jnp.ones((*segments_BM.shape, 1), x_BME.dtype)
    both = jnp.concatenate([x_BME, ones_BM1], axis=2)
    sums = jax.vmap(lambda x, at: jax.ops.segment_sum(x, at, num_segments=number))
    sum_BSE, count_BS1 = jnp.split(sums(both, segments_BM), [x_BME.shape[2]], axis=2)
    return sum_BSE / jnp.maximum(count_BS1, 1)


def rounded(code: jax.Array, levels: int | None) -> jax.Array:
    """Numbers between -1 and 1 at the nearest of so many levels; None: as they are.

    The gradient is that of no rounding (Bengio et al. 2013).

    >>> rounded(jnp.array([-0.9, 0.2, 0.6]), 3).tolist()
    [-1.0, 0.0, 1.0]
    """
    if levels is None:
        return code
    step = 2 / (levels - 1)
    return code + jax.lax.stop_gradient(jnp.round((code + 1) / step) * step - 1 - code)


def codes_given(codes_BSE: jax.Array) -> Any:
    """Within, these are the codes of a batch's documents, whatever the encoder reads.

    Row s of each is that of segment s; see `mean_by_segment`.
    """

    def in_their_place(usual: Any, args: Any, kwargs: Any, context: Any) -> Any:
        is_codes = isinstance(context.module, BoundCode) and context.method_name == "__call__"
        return codes_BSE if is_codes else usual(*args, **kwargs)

    return nn.intercept_methods(in_their_place)


def codes_of(variables: Any) -> jax.Array:
    """The codes that a model kept among its intermediates, float32[B, M + 1, E]."""
    codes_BSE: jax.Array = variables["intermediates"]["encoder"]["code"]["codes"]["codes"][0]
    return codes_BSE
