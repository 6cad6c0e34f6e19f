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
        Annotated[int, Meta(ge=2, description="channels C of the recurrence; null: the width")]
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
        in_DC, gate_DC = (
            self.matrix(name, ("embed", "channels"), (width, channels), inputs=width)
            for name in ("in", "gate")
        )
        out_CD = self.matrix("out", ("channels", "embed"), (channels, width), inputs=channels)
        gate_BLC = activate(self.einsum("BLD,DC->BLC", x_BLD, gate_DC), "gelu", self.mesh)
        x_BLC = rows.turned(self.einsum("BLD,DC->BLC", x_BLD, in_DC))
        x_BLC = constrain(x_BLC, self.mesh, ("batch", "steps", "act_channels"))
        x_BEC = rows.joined(None if state is None else state["inputs"], x_BLC)
        x_BLC = self._convolved(x_BEC, rows)
        log_decay_BLC, input_BLC = self._gates(x_BLC)
        # By the first position of a segment nothing is kept of what was, as if a were 0, and by
        # padding all of it.
        starts_BLC, real_BLC = ~rows.goes_on(1, channels), rows.real(channels)
        decay_BLC = jnp.where(starts_BLC, 0.0, jnp.exp(log_decay_BLC))
        decay_BLC = jnp.where(real_BLC, decay_BLC, 1.0)
        # Its derivative is bounded where a is nearly 1.
        scale_BLC = jnp.sqrt(jnp.maximum(-jnp.expm1(2 * log_decay_BLC), 1e-6))
        scale_BLC = jnp.where(starts_BLC, 1.0, scale_BLC)
        added_BLC = jnp.where(real_BLC, scale_BLC * input_BLC * x_BLC, 0.0)
        if state is not None:
            carried_BC = decay_BLC[:, 0] * state["state"]
            added_BLC = added_BLC.at[:, 0].add(carried_BC)
        state_BLC = linear_scan(decay_BLC, added_BLC)
        if state is not None:
            state = {"inputs": rows.last(x_BEC), "state": state_BLC[:, -1]}
        return self.einsum("BLC,CD->BLD", rows.turned(state_BLC) * gate_BLC, out_CD), state

    def _convolved(self, x_BEC: jax.Array, rows: Reading) -> jax.Array:
        """Each channel over its own last positions, float32[B, L, C]."""
        channels = self.config.channels
        init = nn.initializers.truncated_normal(TAPS**-0.5)
        weight_KC = self.parameter("taps", ("taps", "channels"), (TAPS, channels), init)
        bias_C = self.parameter("taps_bias", ("channels",), (channels,))
        x_BLC = x_BEC[:, self.config.before :] * weight_KC[None, None, 0] + bias_C[None, None]
        for tap in range(1, TAPS):
            x_BLC += rows.past(x_BEC, tap) * weight_KC[None, None, tap]
        return x_BLC

    def _gates(self, x_BLC: jax.Array) -> tuple[jax.Array, jax.Array]:
        """By channel and token: log a (equations 1 and 3), and how much comes in (2)."""
        c, channels = self.config, self.config.channels
        size = channels // c.cells
        x_BLHA = x_BLC.reshape(*x_BLC.shape[:2], c.cells, size)
        found = []
        for name in ("decay_gate", "input_gate"):
            axes, shape = ("cells", "cell", "cell"), (c.cells, size, size)
            weight_HAA = self.matrix(name, axes, shape, inputs=size)
            bias_C = self.parameter(f"{name}_bias", ("channels",), (channels,))
            gate_BLHA = self.einsum("BLHA,HAE->BLHE", x_BLHA, weight_HAA)
            found.append(nn.sigmoid(gate_BLHA.reshape(x_BLC.shape) + bias_C[None, None]))
        decay_C = self.parameter("decay", ("channels",), (channels,), _slow)
        return -SHARPNESS * jax.nn.softplus(decay_C)[None, None] * found[0], found[1]


@jax.custom_vjp
def linear_scan(decay_BLC: jax.Array, added_BLC: jax.Array) -> jax.Array:
    """States h[t] = a[t] h[t-1] + b[t] with h[-1] = 0, float32[B, L, C], in log2(L) steps.

    Blelloch 1990 (prefix sums); its gradient is the same recurrence from the other end.

    >>> linear_scan(jnp.full((1, 3, 1), 0.5), jnp.ones((1, 3, 1)))[0, :, 0].tolist()
    [1.0, 1.5, 1.75]
    """

    def joined(left: Any, right: Any) -> Any:
        (a, b), (c, d) = left, right
        return a * c, b * c + d

    return jax.lax.associative_scan(joined, (decay_BLC, added_BLC), axis=1)[1]


def _scan_forward(decay_BLC: jax.Array, added_BLC: jax.Array) -> Any:
    state_BLC = linear_scan(decay_BLC, added_BLC)
    return state_BLC, (decay_BLC, state_BLC)


def _scan_backward(kept: Any, cotangent_BLC: jax.Array) -> Any:
    decay_BLC, state_BLC = kept
    length = decay_BLC.shape[1]

    def moved(x_BLC: jax.Array, before: int, after: int) -> jax.Array:
        return jnp.pad(x_BLC, ((0, 0), (before, after), (0, 0)))

    next_BLC = moved(decay_BLC[:, 1:], 0, 1)
    added_BLC = linear_scan(next_BLC[:, ::-1], cotangent_BLC[:, ::-1])[:, ::-1]
    return added_BLC * moved(state_BLC[:, : length - 1], 1, 0), added_BLC


linear_scan.defvjp(_scan_forward, _scan_backward)


def _slow(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Values with a between 0.9 and 0.999 where its gate is open, uniformly (section 2.4)."""
    decay_C = jax.random.uniform(key, shape, minval=0.9, maxval=0.999)
    return jnp.log(jnp.expm1(-jnp.log(decay_C) / SHARPNESS))
