"""Which weights of a model are kept in few bits, and what shares a scale."""

import math
from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta

from lm.config import Config, UserError, divisors
from lm.model import Model
from lm.optimizer.axes import is_layer_matrix, sides_of, stack_axes
from lm.output.numbers import count

SCALE_BITS = 16
"""Of a scale, which is bfloat16: it has the range of float32, so that none is lost."""
FLOAT_BITS = 32
"""Of all other parameters."""

Bits = Literal[2, 3, 4, 8]
Method = Literal["nearest", "gptq"]


class Storage(NamedTuple):
    """What parameters take, as they are stored."""

    quantized: int
    """How many weights are quantized."""
    quantized_bits: int
    """Of them all, with their scales."""
    others: int
    """How many parameters are kept in float32."""

    @property
    def bits_per_weight(self) -> float:
        """Of what is quantized, with the scales."""
        return self.quantized_bits / self.quantized

    @property
    def bits_per_parameter(self) -> float:
        """Of all parameters."""
        return 8 * self.bytes / (self.quantized + self.others)

    @property
    def bytes(self) -> int:
        """Of all parameters."""
        return (self.quantized_bits + FLOAT_BITS * self.others) // 8

    @property
    def numbers(self) -> dict[str, float]:
        """All of it by name."""
        return {
            **self._asdict(),
            "bits_per_weight": self.bits_per_weight,
            "bits_per_parameter": self.bits_per_parameter,
            "bytes": self.bytes,
        }

    @property
    def text(self) -> str:
        """All of it, in a line.

        >>> Storage(quantized=3_000_000, quantized_bits=13_500_000, others=1_000_000).text
        '4.5 bits a weight of 3M in the layers, 32 of 1M others: 11.4 on average, 5.7 MB'
        """
        return (
            f"{self.bits_per_weight:.3g} bits a weight of {count(self.quantized)} in the"
            f" layers, {FLOAT_BITS} of {count(self.others)} others:"
            f" {self.bits_per_parameter:.3g} on average, {self.bytes / 1e6:.1f} MB"
        )


class Quantization(Config):
    """How the matrices of a model's layers are kept: small whole numbers, and scales.

    A weight is its whole number, from -2^(bits-1) to 2^(bits-1) - 1, times the scale of its
    group: so many inputs of one output. There is no zero point: weights of trained layers lie
    about 0, and a zero point for each group takes as many bits as scales of groups half as
    large, which gain more. Tables, norms, biases and what stands beside the layers stay as they
    are.
    """

    bits: Annotated[Bits, Meta(description="of each whole number")] = 8
    group: (
        Annotated[
            int,
            Meta(
                ge=2,
                description="inputs of an output that share a scale, at most: the largest"
                " number that divides a matrix's inputs; null: all of them",
            ),
        ]
        | None
    ) = None
    method: Annotated[
        Method,
        Meta(
            description="each weight to the nearest number, or so that the errors of a matrix"
            " make up for each other on a text (GPTQ)"
        ),
    ] = "nearest"

    def chosen(self, model: Model) -> tuple[str, ...]:
        """Paths of the matrices that are quantized, of a model's parameters.

        Raises UserError where the layers have matrices that cannot be.

        >>> from lm.model import Transformer
        >>> Quantization().chosen(Transformer(depth=2))[:2]
        ('layers/down', 'layers/key')
        """
        found = []
        for name, axes in model.axes().items():
            if axes[0] != "layers" or not is_layer_matrix(axes):
                continue
            if stack_axes(axes) > 1:
                raise UserError(
                    f"{name}: model.type={model.kind} has a matrix there for each of several"
                    f" {axes[1]}, which are no products of one matrix; they cannot be quantized"
                )
            found.append(name)
        return tuple(sorted(found))

    def blocks(self, axes: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
        """How many scales a stack of matrices has along each axis.

        >>> Quantization(group=32).blocks(("layers", "embed", "mlp"), (2, 96, 20))
        (2, 3, 20)
        >>> Quantization(group=32).blocks(("layers", "heads", "head", "embed"), (2, 4, 8, 9))
        (2, 1, 1, 9)
        >>> Quantization(group=32).blocks(("layers", "mlp", "embed"), (2, 172, 9))  # 43 x 4
        (2, 43, 9)
        """
        inputs, _ = sides_of(axes)
        counts = list(shape)
        room = self.group or math.prod(shape[axis] for axis in inputs)
        for axis in reversed(inputs):
            each = max(n for n in divisors(shape[axis]) if n <= room)
            counts[axis] = shape[axis] // each
            room = room // each if each == shape[axis] else 1
        return tuple(counts)

    def storage(self, model: Model, shapes: Mapping[str, tuple[int, ...]]) -> Storage:
        """What a model with parameters of these shapes takes."""
        axes, chosen = model.axes(), self.chosen(model)
        weights = sum(math.prod(shapes[name]) for name in chosen)
        scales = sum(math.prod(self.blocks(axes[name], shapes[name])) for name in chosen)
        others = sum(math.prod(shape) for shape in shapes.values()) - weights
        return Storage(weights, self.bits * weights + SCALE_BITS * scales, others)

    @property
    def text(self) -> str:
        """What it is, in a few words.

        >>> Quantization(bits=4, group=32, method="gptq").text
        'int4 in groups of at most 32, by GPTQ'
        """
        of = "by channel" if self.group is None else f"in groups of at most {self.group}"
        return f"int{self.bits} {of}, {_METHODS[self.method]}"


_METHODS: dict[Method, str] = {"nearest": "to nearest", "gptq": "by GPTQ"}
