"""A linear recurrence: a state that decays, by how much each token says (RG-LRU)."""

from typing import Annotated, Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import msgspec
from msgspec import Meta

from lm.config import divisors
from lm.distributed.mesh import constrain
from lm.model.layers import activate
from lm.model.reading import Reading
from lm.model.residual import WIDTH_A_LAYER, Mixer, Residual

TAPS = 4
"""Positions that the convolution before the recurrence reads."""
SHARPNESS = 8.0
"""c: how much further gates can move decays than 1."""


class LinearRecurrence(Residual, tag="linear_recurrence"):
    """Griffin's recurrent blocks (De et al. 2024, arXiv:2402.19427), each before an MLP.

    A short convolution of each channel, then h = a h + sqrt(1 - a^2) (i x) with the gates a and
    i by token, beside a branch that gates what comes out. Bidirectional, half of the channels
    read from the right.
    """

    recurrence_width: (
        Annotated[int, Meta(ge=2, description="channels R of the recurrence; null: the width")]
        | None
    ) = None
    cells: Annotated[
        int, Meta(ge=2, multiple_of=2, description="blocks of the gates' matrices; even")
    ] = 8

    @property
    def channels(self) -> int:
        return self.recurrence_width or self.width

    @property
    def before(self) -> int:
        return TAPS - 1

    @property
    def mixer_type(self) -> "type[LinearRecurrenceMixer]":
        return LinearRecurrenceMixer

    @property
    def width_multiple(self) -> int:
        return self.cells if self.recurrence_width is None else 1

    def check(self) -> str | None:
        if self.channels % self.cells:
            near = sorted(n for n in divisors(self.channels) if n % 2 == 0)
            field = "width" if self.recurrence_width is None else "recurrence_width"
            return f"cells={self.cells} do not divide {field} {self.channels}; one of {near}"
        return None

    def splits(self) -> dict[str, tuple[str, int]]:
        field = "width" if self.recurrence_width is None else "recurrence_width"
        return super().splits() | {
            "channels": (field, self.channels),
            "cells": ("cells", self.cells),
        }

    def tiny(self, depth: int) -> Self:
        wide = None if self.recurrence_width is None else 24
        return msgspec.structs.replace(
            super().tiny(depth), recurrence_width=wide, cells=min(self.cells, 4)
        )

    def at_depth(self, depth: int) -> Self:
        """The model of a depth, with gates in blocks of 32."""
        return msgspec.structs.replace(
            super().at_depth(depth), recurrence_width=None, cells=WIDTH_A_LAYER * depth // 32
        )

    def empty_state(self, rows: int) -> dict[str, jax.Array]:
        return {
            "inputs": jnp.zeros((rows, self.before, self.channels)),
            "state": jnp.zeros((rows, self.channels)),
        }


class LinearRecurrenceMixer(Mixer):
    """One recurrent block: what it adds to the stream."""

    config: LinearRecurrence

    @nn.compact
    def __call__(
        self,
        x_BLD: jax.Array,
        rows: Reading,
        state: dict[str, jax.Array] | None,
        number: jax.Array,
    ) -> tuple[jax.Array, dict[str, jax.Array] | None]:
        width, channels = self.config.width, self.config.channels
        in_DR, gate_DR = (
            self.matrix(name, ("embed", "channels"), (width, channels), inputs=width)
            for name in ("in", "gate")
        )
        out_RD = self.matrix("out", ("channels", "embed"), (channels, width), inputs=channels)
        gate_BLR = activate(self.einsum("BLD,DR->BLR", x_BLD, gate_DR), "gelu")
        x_BLR = rows.turned(self.einsum("BLD,DR->BLR", x_BLD, in_DR))
        x_BLR = constrain(x_BLR, self.mesh, ("batch", "steps", "act_channels"))
        x_BER = rows.joined(None if state is None else state["inputs"], x_BLR)
        x_BLR = self._convolved(x_BER, rows)
        log_decay_BLR, input_BLR = self._gates(x_BLR)
        # By the first position of a segment nothing is kept of what was, as if a were 0, and by
        # padding all of it.
        starts_BLR, real_BLR = ~rows.goes_on(1, channels), rows.real(channels)
        decay_BLR = jnp.where(starts_BLR, 0.0, jnp.exp(log_decay_BLR))
        decay_BLR = jnp.where(real_BLR, decay_BLR, 1.0)
        # Its derivative is bounded where a is nearly 1.
        scale_BLR = jnp.sqrt(jnp.maximum(-jnp.expm1(2 * log_decay_BLR), 1e-6))
        scale_BLR = jnp.where(starts_BLR, 1.0, scale_BLR)
        added_BLR = jnp.where(real_BLR, scale_BLR * input_BLR * x_BLR, 0.0)
        if state is not None:
            carried_BR = decay_BLR[:, 0] * state["state"]
            added_BLR = added_BLR.at[:, 0].add(carried_BR)
        state_BLR = linear_scan(decay_BLR, added_BLR)
        if state is not None:
            state = {"inputs": rows.last(x_BER), "state": state_BLR[:, -1]}
        return self.einsum("BLR,RD->BLD", rows.turned(state_BLR) * gate_BLR, out_RD), state

    def _convolved(self, x_BER: jax.Array, rows: Reading) -> jax.Array:
        """Each channel over its own last positions, float32[B, L, R]."""
        channels = self.config.channels
        init = nn.initializers.truncated_normal(TAPS**-0.5)
        weight_KR = self.parameter("taps", ("taps", "channels"), (TAPS, channels), init)
        bias_R = self.parameter("taps_bias", ("channels",), (channels,))
        x_BLR = x_BER[:, self.config.before :] * weight_KR[None, None, 0] + bias_R[None, None]
        for tap in range(1, TAPS):
            x_BLR += rows.past(x_BER, tap) * weight_KR[None, None, tap]
        return x_BLR

    def _gates(self, x_BLR: jax.Array) -> tuple[jax.Array, jax.Array]:
        """By channel and token: log a (equations 1 and 3), and how much comes in (2)."""
        c, channels = self.config, self.config.channels
        size = channels // c.cells
        x_BLHA = x_BLR.reshape(*x_BLR.shape[:2], c.cells, size)
        found = []
        for name in ("decay_gate", "input_gate"):
            axes, shape = ("cells", "cell", "cell"), (c.cells, size, size)
            weight_HAA = self.matrix(name, axes, shape, inputs=size)
            bias_R = self.parameter(f"{name}_bias", ("channels",), (channels,))
            gate_BLHA = self.einsum("BLHA,HAE->BLHE", x_BLHA, weight_HAA)
            found.append(nn.sigmoid(gate_BLHA.reshape(x_BLR.shape) + bias_R[None, None]))
        decay_R = self.parameter("decay", ("channels",), (channels,), _slow)
        return -SHARPNESS * jax.nn.softplus(decay_R)[None, None] * found[0], found[1]


@jax.custom_vjp
def linear_scan(decay_BLR: jax.Array, added_BLR: jax.Array) -> jax.Array:
    """States h[t] = a[t] h[t-1] + b[t] with h[-1] = 0, float32[B, L, R], in log2(L) steps.

    Blelloch 1990 (prefix sums); its gradient is the same recurrence from the other end.

    >>> linear_scan(jnp.full((1, 3, 1), 0.5), jnp.ones((1, 3, 1)))[0, :, 0].tolist()
    [1.0, 1.5, 1.75]
    """

    def joined(left: Any, right: Any) -> Any:
        (a, b), (c, d) = left, right
        return a * c, b * c + d

    return jax.lax.associative_scan(joined, (decay_BLR, added_BLR), axis=1)[1]


def _scan_forward(decay_BLR: jax.Array, added_BLR: jax.Array) -> Any:
    state_BLR = linear_scan(decay_BLR, added_BLR)
    return state_BLR, (decay_BLR, state_BLR)


def _scan_backward(kept: Any, cotangent_BLR: jax.Array) -> Any:
    decay_BLR, state_BLR = kept
    length = decay_BLR.shape[1]

    def moved(x_BLR: jax.Array, before: int, after: int) -> jax.Array:
        return jnp.pad(x_BLR, ((0, 0), (before, after), (0, 0)))

    next_BLR = moved(decay_BLR[:, 1:], 0, 1)
    added_BLR = linear_scan(next_BLR[:, ::-1], cotangent_BLR[:, ::-1])[:, ::-1]
    return added_BLR * moved(state_BLR[:, : length - 1], 1, 0), added_BLR


linear_scan.defvjp(_scan_forward, _scan_backward)


def _slow(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Values with a between 0.9 and 0.999 where its gate is open, uniformly (section 2.4)."""
    decay_R = jax.random.uniform(key, shape, minval=0.9, maxval=0.999)
    return jnp.log(jnp.expm1(-jnp.log(decay_R) / SHARPNESS))
