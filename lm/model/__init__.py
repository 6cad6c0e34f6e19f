"""What computes. A new body: one file, one line in the union and in `build`."""

import jax

from lm.model.backends import HOME, Attention, choose, refusal
from lm.model.transformer import Body, Output, Remat, Transformer
from lm.numerics import Precision

Model = Transformer

__all__ = [
    "HOME",
    "Attention",
    "Body",
    "Model",
    "Output",
    "Remat",
    "Transformer",
    "build",
    "choose",
    "refusal",
]


def build(
    config: Model,
    vocabulary_size: int,
    *,
    mesh: jax.sharding.Mesh,
    precision: Precision = "bfloat16",
    remat: Remat = "none",
    unroll: int | None = None,
    attention: Attention = "auto",
) -> Body:
    """The body of a configuration, ready for `init` and `apply`.

    `body.apply({"params": params}, example)` gives an `Output`; a `dropout` rng turns it on.
    """
    if unroll is None:  # a rolled loop costs a CPU a third of its speed, a TPU nothing
        unroll = config.depth if mesh.devices.flat[0].platform == "cpu" else 1
    return Body(
        config=config,
        vocabulary_size=vocabulary_size,
        mesh=mesh,
        precision=precision,
        remat=remat,
        unroll=unroll,
        attention=attention,
    )
