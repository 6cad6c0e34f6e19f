"""Muon: orthogonalized momentum for the matrices of the layers."""

import math
from functools import partial
from typing import Annotated, Any

import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from msgspec import Meta

from lm.distributed.mesh import constrain, num_shards
from lm.optimizer.axes import is_layer_matrix, map_axes, sides_of
from lm.optimizer.base import Base, BaseWidth, Clip, Epsilon, Peak, WeightDecay


class Muon(Base, tag="muon"):
    """Orthogonalized momentum for hidden matrices, adam for everything else.

    A matrix's step is scaled to the RMS that adam's has, 0.2 sqrt(max(inputs, outputs))
    (Liu et al. 2025, arXiv:2502.16982, eq. 4), so one rate and one decay serve both kinds.
    """

    learning_rate: Peak = 3e-3
    momentum: Annotated[float, Meta(ge=0, lt=1, description="decay of the momentum")] = 0.95
    iterations: Annotated[int, Meta(ge=1, description="of Newton and Schulz")] = 5
    b1: Annotated[float, Meta(ge=0, lt=1, description="adam's decay of the mean")] = 0.9
    b2: Annotated[float, Meta(ge=0, lt=1, description="adam's decay of the mean square")] = 0.95
    eps: Epsilon = 1e-8
    weight_decay: WeightDecay = 0.1
    clip: Clip = 1.0
    base_width: BaseWidth = None

    def direction(
        self, axes: Any, ratio: float, mesh: Mesh | None = None
    ) -> optax.GradientTransformation:
        adam = optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.eps / ratio)
        # The names of the parts are in checkpoints.
        parts = {"hidden": self._orthogonalized(axes, mesh), "rest": adam}
        return optax.partition(
            parts, map_axes(lambda names: "hidden" if is_layer_matrix(names) else "rest", axes)
        )

    def layer_step(self, ratio: float) -> float:
        return ratio**-0.5

    def _orthogonalized(self, axes: Any, mesh: Mesh | None) -> optax.GradientTransformation:
        def dimensions(names: tuple[str, ...]) -> Any:
            if not is_layer_matrix(names):
                return optax.MaskedNode()
            inputs, outputs = sides_of(names)
            return optax.contrib.MuonDimensionNumbers(inputs, outputs)

        def scale(names: tuple[str, ...], update: Any) -> Any:
            if not is_layer_matrix(names):
                return update
            sides = (math.prod(update.shape[i] for i in side) for side in sides_of(names))
            return 0.2 * math.sqrt(max(sides)) * update

        def scale_all(updates: Any, params: Any) -> Any:
            del params
            if shards > 1:
                whole = map_axes(spread, axes, updates)
                whole, _ = orthogonalize.update(whole, orthogonalize.init(whole))
                updates = map_axes(collect, axes, whole, updates)
            return map_axes(scale, axes, updates)

        def spread(names: tuple[str, ...], update: Any) -> Any:
            if not is_layer_matrix(names):
                return update
            more = [
                (0, -size % shards if name == "layers" else 0)
                for name, size in zip(names, update.shape, strict=True)
            ]
            return constrain(jnp.pad(update, more), mesh, _whole(names))

        def collect(names: tuple[str, ...], update: Any, before: Any) -> Any:
            if not is_layer_matrix(names):
                return update
            return constrain(update[tuple(map(slice, before.shape))], mesh, names)

        # Parts of matrices would be gathered in each iteration, so every device has some whole;
        # and as many as the others, zeros among them, or XLA moves parts of them again.
        shards = num_shards(mesh, "each_layer")
        muon = partial(
            optax.contrib.scale_by_muon, weight_dimension_numbers=map_axes(dimensions, axes)
        )
        orthogonalize = muon(beta=0.0, nesterov=False, ns_steps=self.iterations)
        steps = 0 if shards > 1 else self.iterations
        return optax.chain(muon(beta=self.momentum, ns_steps=steps), optax.stateless(scale_all))


def _whole(names: tuple[str, ...]) -> tuple[str, ...]:
    """The axes of a stack of matrices of which a device has some layers, each in all its width.

    >>> _whole(("layers", "embed", "heads", "head"))
    ('each_layer', 'act_embed', 'heads', 'head')
    """
    other = {"layers": "each_layer", "embed": "act_embed"}
    return tuple(other.get(name, name) for name in names)
