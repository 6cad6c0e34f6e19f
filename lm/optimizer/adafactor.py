"""Adafactor: factored second moments."""

import math
from typing import Annotated, Any

import jax
import optax
from jax.sharding import Mesh
from msgspec import Meta

from lm.optimizer.axes import map_axes, sides_of, stack_axes
from lm.optimizer.base import Base, Clip, Peak, WeightDecay


class Adafactor(Base, tag="adafactor"):
    """Factored second moments (Shazeer & Stern 2018, arXiv:1804.04235, algorithms 4 and 5).

    No momentum; steps are relative to the RMS of the parameter, and the decay of the second
    moment is 1 - t^-exponent. It has no `base_width`: how far that RMS depends on the width
    changes as training goes on.
    """

    learning_rate: Peak = 1e-2
    exponent: Annotated[float, Meta(gt=0, le=1, description="of the moment's decay")] = 0.8
    factor_from: Annotated[int, Meta(ge=1, description="sides smaller than this are whole")] = (
        128
    )
    threshold: Annotated[float, Meta(ge=1, description="largest RMS of an update")] = 1.0
    weight_decay: WeightDecay = 0.0
    clip: Clip = 1.0

    def direction(
        self, axes: Any, ratio: float, mesh: Mesh | None = None
    ) -> optax.GradientTransformation:
        matrix = optax.chain(
            optax.scale_by_factored_rms(
                decay_rate=self.exponent, min_dim_size_to_factor=self.factor_from
            ),
            optax.clip_by_block_rms(self.threshold),
            optax.scale_by_param_block_rms(),
        )
        return _each_matrix(matrix, axes)


def _each_matrix(
    inner: optax.GradientTransformation, axes: Any
) -> optax.GradientTransformation:
    """Apply `inner` to every layer of every parameter by itself, with each side one dimension.

    Otherwise Adafactor would factor the two largest dimensions, which may be layers or heads,
    and take its root mean squares over all layers; and over experts.
    """

    def over(names: tuple[str, ...], function: Any) -> Any:
        for _ in range(stack_axes(names)):
            function = jax.vmap(function)
        return function

    def matrix(names: tuple[str, ...], x: jax.Array) -> jax.Array:
        sides = tuple(math.prod(x.shape[i] for i in side) for side in sides_of(names))
        return x.reshape(x.shape[: stack_axes(names)] + sides)

    def init(params: Any) -> Any:
        return map_axes(lambda n, p: over(n, inner.init)(matrix(n, p)), axes, params)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        def one(names: tuple[str, ...], u: jax.Array, s: Any, p: jax.Array) -> tuple[Any, Any]:
            move, new = over(names, inner.update)(matrix(names, u), s, matrix(names, p))
            return move.reshape(u.shape), new

        both = map_axes(one, axes, updates, state, params)
        return tuple(map_axes(lambda _, pair, i=i: pair[i], axes, both) for i in (0, 1))

    return optax.GradientTransformation(init, update)
