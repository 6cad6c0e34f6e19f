"""Heads beside the vocabulary: outputs for a document, or for each token."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm.example import Example, Head


def head_outputs(states_BLD: jax.Array, example: Example) -> tuple[jax.Array, jax.Array]:
    """What a model whose states these are answers by the head of an example, in its module.

    States of the head's documents or tokens and the table that gives logits, as in `HeadTable`.
    """
    head = example.head
    assert head is not None
    if head.pool is not None:
        states_BLD = pooled(states_BLD, example.segments, example.targets.shape[1], head)
    outputs: tuple[jax.Array, jax.Array] = HeadTable(head, name=f"head_{head.name}")(states_BLD)
    return outputs


class HeadTable(nn.Module):
    """The table of a head, float32[C, D + 1]: its last column is the bias of each output."""

    head: Head

    @nn.compact
    def __call__(self, states_BPD: jax.Array) -> tuple[jax.Array, jax.Array]:
        """States with a 1 behind them, [B, P, D + 1], and the table that gives logits."""
        outputs, width = self.head.outputs, states_BPD.shape[-1]
        normal, zeros = nn.initializers.normal(0.02), nn.initializers.zeros
        tables = nn.with_logical_partitioning(normal, ("classes", "embed"))
        biases = nn.with_logical_partitioning(zeros, ("classes",))
        table_CD: Any = self.param("table", tables, (outputs, width))
        bias_C: Any = self.param("bias", biases, (outputs,))
        ones_BP1 = jnp.ones((*states_BPD.shape[:2], 1), states_BPD.dtype)
        return (
            jnp.concatenate([states_BPD, ones_BP1], axis=2),
            jnp.concatenate([table_CD, bias_C[:, None]], axis=1),
        )


def pooled(
    states_BLD: jax.Array, segments_BL: jax.Array, targets: int, head: Head
) -> jax.Array:
    """The states of a head's documents, [B, P, D]: target position p has that of segment p + 1.

    A head of tokens has the states as they are. What a target position beyond the row's
    documents has is 0, and nobody's.

    >>> states, segments = jnp.arange(5.0).reshape(1, 5, 1), jnp.array([[1, 1, 1, 2, 0]])
    >>> for pool in ("first", "last", "mean"):
    ...     pooled(states, segments, 3, Head("label", 2, pool))[0, :, 0].tolist()
    [0.0, 3.0, 0.0]
    [2.0, 3.0, 0.0]
    [1.0, 3.0, 0.0]
    """
    if head.pool is None:
        return states_BLD
    number_P = 1 + jnp.arange(targets)
    inside_BPL = segments_BL[:, None, :] == number_P[None, :, None]
    ahead_BPL = jnp.cumsum(inside_BPL, axis=2)  # how many of the segment so far, with this one
    size_BP1 = ahead_BPL[:, :, -1:]
    if head.pool == "first":
        weight_BPL = inside_BPL & (ahead_BPL == 1)
    elif head.pool == "last":
        weight_BPL = inside_BPL & (ahead_BPL == size_BP1)
    else:
        weight_BPL = inside_BPL / jnp.maximum(size_BP1, 1)
    # At the highest precision, as a mean in half precision would round each state.
    return jnp.einsum(
        "BPL,BLD->BPD",
        weight_BPL.astype(states_BLD.dtype),
        states_BLD,
        precision=jax.lax.Precision.HIGHEST,
    )
