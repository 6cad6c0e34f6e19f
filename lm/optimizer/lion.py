"""Lion: the sign of an interpolated momentum."""

from typing import Annotated, Any

import optax
from jax.sharding import Mesh
from msgspec import Meta

from lm.optimizer.base import Base, BaseWidth, Clip, Peak, WeightDecay


class Lion(Base, tag="lion"):
    """The sign of an interpolated momentum (Chen et al. 2023, arXiv:2302.06675).

    Its rate is about a tenth of adamw's and its decay ten times adamw's (their section 5).
    """

    learning_rate: Peak = 3e-4
    b1: Annotated[float, Meta(ge=0, lt=1, description="weight of the momentum in a step")] = 0.9
    b2: Annotated[float, Meta(ge=0, lt=1, description="decay of the momentum")] = 0.99
    weight_decay: WeightDecay = 1.0
    clip: Clip = 1.0
    base_width: BaseWidth = None

    def direction(
        self, axes: Any, ratio: float, mesh: Mesh | None = None
    ) -> optax.GradientTransformation:
        return optax.scale_by_lion(b1=self.b1, b2=self.b2)
