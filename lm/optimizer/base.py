"""What every optimizer declares, and what it owes `lm.optimizer.build`."""

from typing import Annotated, Any

import optax
from jax.sharding import Mesh
from msgspec import Meta

from lm.config import Config

Peak = Annotated[float, Meta(ge=0, description="learning rate at the peak of the schedule")]
WeightDecay = Annotated[
    float, Meta(ge=0, description="fraction of a weight lost, per unit of rate")
]
Clip = Annotated[float, Meta(gt=0, description="largest global norm of a gradient")] | None
Epsilon = Annotated[float, Meta(gt=0, description="added to the root of the mean square")]
BaseWidth = (
    Annotated[
        int,
        Meta(ge=2, description="model width that the rate was tuned at; null: rate as it is"),
    ]
    | None
)


class Base(Config):
    """An optimizer: its settings, and the direction in which it moves parameters."""

    learning_rate: Peak
    weight_decay: WeightDecay
    clip: Clip = 1.0

    def direction(
        self, axes: Any, ratio: float, mesh: Mesh | None = None
    ) -> optax.GradientTransformation:
        """From gradients to steps of about unit size, without decay and learning rate.

        `axes` is the parameters' tree with tuples of axis names for leaves, `ratio` how many
        times as wide as its base the model is. What is computed is the same on any `mesh`.
        """
        raise NotImplementedError

    def width_ratio(self, width: int) -> float:
        """How many times as wide as the base a model of this width is."""
        return width / (getattr(self, "base_width", None) or width)

    def layer_step(self, ratio: float) -> float:
        """What steps of the layers' matrices are multiplied by, so that the rate suits them."""
        return 1 / ratio
