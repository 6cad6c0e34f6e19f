"""Adam with decoupled weight decay."""

from typing import Annotated, Any

import optax
from jax.sharding import Mesh
from msgspec import Meta

from lm.optimizer.base import Base, BaseWidth, Clip, Epsilon, Peak, WeightDecay


class Adamw(Base, tag="adamw"):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    learning_rate: Peak = 3e-3
    b1: Annotated[float, Meta(ge=0, lt=1, description="decay of the mean gradient")] = 0.9
    b2: Annotated[float, Meta(ge=0, lt=1, description="decay of the mean square")] = 0.95
    eps: Epsilon = 1e-8
    weight_decay: WeightDecay = 0.1
    clip: Clip = 1.0
    base_width: BaseWidth = None

    def direction(
        self, axes: Any, ratio: float, mesh: Mesh | None = None
    ) -> optax.GradientTransformation:
        return optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.eps / ratio)
