"""The LSTM: a state that is carried from position to position through gates."""

from typing import Annotated, Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import msgspec
from msgspec import Meta

from lm.distributed.mesh import constrain
from lm.example import AttentionMask, CausalMask
from lm.model.reading import Reading
from lm.model.residual import Mixer, Residual


class Lstm(Residual, tag="lstm"):
    """LSTM layers, each followed by an MLP (Hochreiter & Schmidhuber 1997, Gers et al. 2000).

    A layer is one or several cells side by side that do not see each other's states, as in
    Kuchaiev & Ginsburg 2017 (arXiv:1703.10722). Of an even number, half read from the right
    where the objective is bidirectional (Graves & Schmidhuber 2005); one cell reads from the
    left alone.
    """

    cells: Annotated[
        int,
        Meta(ge=1, description="cells a layer; an even number, of which half may turn, or 1"),
    ] = 2

    @property
    def masks(self) -> frozenset[type[AttentionMask]]:  # type: ignore[override]
        """The kinds of attention mask that it can serve: of one cell there is no half."""
        return frozenset({CausalMask}) if self.cells == 1 else Residual.masks

    @property
    def mixer_type(self) -> "type[LstmMixer]":
        return LstmMixer

    @property
    def width_multiple(self) -> int:
        return self.cells

    def check(self) -> str | None:
        if self.cells > 1 and self.cells % 2:
            return (
                f"cells={self.cells}: of an odd number no half reads from the right; nearest:"
                f" {self.cells - 1} or {self.cells + 1}"
            )
        if self.width % self.cells:
            below = self.width // self.cells * self.cells
            near = " or ".join(str(n) for n in (below, below + self.cells) if n)
            return f"width={self.width}: cells={self.cells} do not divide it; nearest: {near}"
        return None

    def splits(self) -> dict[str, tuple[str, int]]:
        return super().splits() | {"cells": ("cells", self.cells)}

    def tiny(self, depth: int) -> Self:
        return msgspec.structs.replace(super().tiny(depth), cells=min(self.cells, 2))

    def empty_state(self, rows: int) -> dict[str, jax.Array]:
        zeros_BHA = jnp.zeros((rows, self.cells, self.width // self.cells))
        return {"output": zeros_BHA, "cell": zeros_BHA}


class LstmMixer(Mixer):
    """One layer of LSTM cells: gates input, forget, candidate, output (in this order).

    The products with the inputs are taken of all positions at once, those with the state one
    position after the other, in float32 but for the operands.
    """

    config: Lstm

    @nn.compact
    def __call__(
        self,
        x_BLD: jax.Array,
        rows: Reading,
        state: dict[str, jax.Array] | None,
        number: jax.Array,
    ) -> tuple[jax.Array, dict[str, jax.Array] | None]:
        c, width = self.config, self.config.width
        size = width // c.cells
        weight_D4C = self.matrix(
            "input", ("embed", "gates", "channels"), (width, 4, width), inputs=width
        )
        weight_HA4A = self.parameter(
            "recurrent",
            ("cells", "cell", "gates", "cell"),
            (c.cells, size, 4, size),
            _orthogonal,
        )
        bias_4C = self.parameter("bias", ("gates", "channels"), (4, width), _remember)
        gates_BL4C = self.einsum("BLD,DGC->BLGC", x_BLD, weight_D4C) + bias_4C[None, None]
        whole = "batch", "steps", "gates", "act_channels"
        gates_BL4C = constrain(rows.turned(gates_BL4C), self.mesh, whole)
        gates_BL4HA = gates_BL4C.reshape(*gates_BL4C.shape[:3], c.cells, size)
        flags = rows.goes_on(1, c.cells), rows.real(c.cells)
        carry = c.empty_state(len(x_BLD)) if state is None else state
        # Or every device would go through all rows, as it could not know that zeros are split.
        carry = {
            name: constrain(x, self.mesh, ("batch", "cells", "cell"))
            for name, x in carry.items()
        }

        def step(carry: dict[str, jax.Array], given: Any) -> Any:
            gates_B4HA, goes_on_BH, real_BH = given
            old = jax.tree.map(lambda x: jnp.where(goes_on_BH[:, :, None], x, 0), carry)
            gates_B4HA += self.einsum("BHA,HAGE->BGHE", old["output"], weight_HA4A)
            output_BHA, cell_BHA = lstm_step(gates_B4HA, old["cell"])
            new = {"output": output_BHA, "cell": cell_BHA}
            # Padding leaves the state as it is.
            carry = jax.tree.map(lambda a, b: jnp.where(real_BH[:, :, None], a, b), new, carry)
            return carry, carry["output"]

        by_position = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), (gates_BL4HA, *flags))
        carry, output_LBHA = jax.lax.scan(step, carry, by_position)
        output_BLC = jnp.moveaxis(output_LBHA, 0, 1).reshape(*x_BLD.shape[:2], width)
        return rows.turned(output_BLC), None if state is None else carry


def lstm_step(gates_B4HA: jax.Array, cell_BHA: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Output and cell after one position: Gers et al. 2000, equations 3 to 8, with tanh.

    `gates` is what goes into input gate, forget gate, candidate and output gate.

    >>> gates = jnp.array([[0.0, -1e9, 1e9, 1e9]]).reshape(1, 4, 1, 1)
    >>> lstm_step(gates, jnp.ones((1, 1, 1)))[1].tolist()  # all is forgotten, half comes in
    [[[0.5]]]
    """
    input_BHA, forget_BHA, candidate_BHA, output_BHA = (gates_B4HA[:, i] for i in range(4))
    kept_BHA = nn.sigmoid(forget_BHA) * cell_BHA
    cell_BHA = kept_BHA + nn.sigmoid(input_BHA) * jnp.tanh(candidate_BHA)
    return nn.sigmoid(output_BHA) * jnp.tanh(cell_BHA), cell_BHA


def _orthogonal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """An orthogonal matrix for each cell and gate (Saxe et al. 2013), as flax's cells have."""
    cells, size, gates, _ = shape
    draw = jax.vmap(lambda key: nn.initializers.orthogonal()(key, (size, size)))
    drawn = draw(jax.random.split(key, cells * gates))
    return jnp.moveaxis(drawn.reshape(cells, gates, size, size), 1, 2)


def _remember(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Forget gates begin open, with a bias of 1 (Gers et al. 2000; Jozefowicz et al. 2015)."""
    del key
    return jnp.zeros(shape).at[1].set(1.0)
