"""Gated dilated convolutions: each layer reads a few positions, later ones further apart."""

from typing import Annotated, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import msgspec
from msgspec import Meta

from lm.distributed.mesh import constrain
from lm.model.reading import Reading
from lm.model.residual import Mixer, Residual


class Convolution(Residual, tag="convolution"):
    """Gated linear units over a few positions, each layer followed by an MLP.

    Dauphin et al. 2017 (arXiv:1612.08083), with the distances between the positions doubled
    from layer to layer, as in van den Oord et al. 2016 (WaveNet, arXiv:1609.03499). Channels
    have two halves: both read from the left, or, bidirectional, one of them from the right.
    """

    taps: Annotated[
        int, Meta(ge=1, description="positions K that a layer reads, the own one among them")
    ] = 4
    cycle: Annotated[
        int, Meta(ge=1, description="layers after which distances begin at 1 again")
    ] = 8
    half_width: (
        Annotated[int, Meta(ge=1, description="channels of each half; null: half the width")]
        | None
    ) = None

    @property
    def channels(self) -> int:
        """Channels C of each half."""
        return self.half_width or self.width // 2

    @property
    def mixer_type(self) -> "type[ConvolutionMixer]":
        return ConvolutionMixer

    @property
    def window(self) -> int:
        """Of the layer that reads farthest."""
        return (self.taps - 1) * 2 ** (min(self.cycle, self.depth) - 1)

    @property
    def before(self) -> int:
        return max(1, self.window)

    @property
    def width_multiple(self) -> int:
        return 1 if self.half_width else 2

    def check(self) -> str | None:
        if self.half_width is None and self.width % 2:
            near = f"{self.width - 1} or {self.width + 1}"
            return f"width={self.width}: has no halves; nearest: {near}, or set half_width"
        return None

    def splits(self) -> dict[str, tuple[str, int]]:
        return super().splits() | {"channels": ("half_width", self.channels)}

    def tiny(self, depth: int) -> Self:
        half = None if self.half_width is None else 12
        return msgspec.structs.replace(super().tiny(depth), half_width=half)

    def at_depth(self, depth: int) -> Self:
        return msgspec.structs.replace(super().at_depth(depth), half_width=None)

    def empty_state(self, rows: int) -> dict[str, jax.Array]:
        return {"inputs": jnp.zeros((rows, self.before, self.width))}


class ConvolutionMixer(Mixer):
    """One gated convolution: (x * W + b) sigmoid(x * V + c), and a matrix to the stream.

    Between the segments of a packed row stands nothing that keeps a convolution from mixing
    them. So what each tap reads is laid side by side, without what is not of its segment, and
    multiplied with the matrices of all taps at once.
    """

    config: Convolution

    @nn.compact
    def __call__(
        self,
        x_BLD: jax.Array,
        rows: Reading,
        state: dict[str, jax.Array] | None,
        number: jax.Array,
    ) -> tuple[jax.Array, dict[str, jax.Array] | None]:
        c, width, channels = self.config, self.config.width, self.config.channels
        x_BLD = constrain(x_BLD, self.mesh, ("batch", "steps", "act_embed"))
        before_BTD = None if state is None else state["inputs"]
        apart = 2 ** (number % c.cycle)

        def seen_from(side: int) -> jax.Array:
            """What each tap reads, [B, L, K, D]."""
            order = slice(None, None, -1 if side else 1)
            x_BED, rows_of_side = rows.joined(before_BTD, x_BLD[:, order]), rows.of(side)
            taps = [rows_of_side.past(x_BED, tap * apart) for tap in range(c.taps)]
            return jnp.stack(taps, axis=2)[:, order]

        left_BLKD = seen_from(0)
        right_BLKD = seen_from(1) if rows.two_way else left_BLKD
        gated = []
        for name, seen_BLKD in (("first", left_BLKD), ("second", right_BLKD)):
            axes, shape = ("taps", "embed", "gates", "channels"), (c.taps, width, 2, channels)
            weight_KD2C = self.matrix(name, axes, shape, inputs=c.taps * width)
            bias_2C = self.parameter(f"{name}_bias", ("gates", "channels"), (2, channels))
            both_BL2C = self.einsum("BLKD,KDGC->BLGC", seen_BLKD, weight_KD2C)
            both_BL2C += bias_2C[None, None]
            gated.append(both_BL2C[:, :, 0] * nn.sigmoid(both_BL2C[:, :, 1]))
        gated_BLC = jnp.stack(gated, axis=2)
        out_2CD = self.matrix(
            "out",
            ("halves", "channels", "embed"),
            (2, channels, width),
            inputs=2 * channels,
        )
        added_BLD = self.einsum("BLHC,HCD->BLD", gated_BLC, out_2CD)
        if state is None:
            return added_BLD, None
        return added_BLD, {"inputs": rows.last(rows.joined(before_BTD, x_BLD))}
