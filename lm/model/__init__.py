"""What computes. A new model: one file with what `base.py` says, and a line in `Model`."""

import jax

from lm.example import Output
from lm.model.attention import Attention
from lm.model.base import Base, Execution, Module, Remat, blank_example
from lm.model.convolution import Convolution
from lm.model.encoder_decoder import EncoderDecoder
from lm.model.lstm import Lstm
from lm.model.matched import matched
from lm.model.recurrence import LinearRecurrence
from lm.model.transformer import Transformer
from lm.numerics import Precision

Model = Transformer | EncoderDecoder | Lstm | Convolution | LinearRecurrence

__all__ = [
    "Attention",
    "Base",
    "Convolution",
    "EncoderDecoder",
    "Execution",
    "LinearRecurrence",
    "Lstm",
    "Model",
    "Module",
    "Output",
    "Remat",
    "Transformer",
    "blank_example",
    "build",
    "matched",
]


def build(
    config: Base,
    vocabulary_size: int,
    *,
    mesh: jax.sharding.Mesh | None,
    precision: Precision = "bfloat16",
    remat: Remat = "none",
    unroll: int | None = None,
    attention: Attention = "auto",
) -> Module:
    """The module of a model, ready for `init` and `apply`; see `Base.build`."""
    return config.build(
        vocabulary_size,
        mesh=mesh,
        precision=precision,
        remat=remat,
        unroll=unroll,
        attention=attention,
    )
