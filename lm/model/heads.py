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
    module = HeadTable(head, name=f"head_{head.name}")
    outputs: tuple[jax.Array, jax.Array] = module(
        states_BLD, example.segments, example.targets.shape[1]
    )
    return outputs


def parameters_of(head: Head, width: int) -> dict[str, tuple[tuple[int, ...], tuple[str, ...]]]:
    """The shape of each parameter of a head and the names of its axes, by path."""
    if not head.outputs:
        return {}
    found: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = {
        f"head_{head.name}/table": ((head.outputs, width), ("classes", "embed")),
        f"head_{head.name}/bias": ((head.outputs,), ("classes",)),
    }
    if head.pool == "attention":
        found[f"head_{head.name}/query"] = (width,), ("embed",)
    return found


class HeadTable(nn.Module):
    """The table of a head, float32[C, D + 1]: its last column is the bias of each output.

    A head without outputs has none: its pooled states, [B, P, D], are what is asked for.
    """

    head: Head

    @nn.compact
    def __call__(
        self, states_BLD: jax.Array, segments_BL: jax.Array, targets: int
    ) -> tuple[jax.Array, jax.Array]:
        """Pooled states with a 1 behind them, [B, P, D + 1], and the table of logits.

        The query of pooling by attention begins at 0, where it is the mean.
        """
        outputs, width = self.head.outputs, states_BLD.shape[-1]
        if not outputs:
            states_BPD = pooled(states_BLD, segments_BL, targets, self.head)
            return states_BPD, jnp.zeros((0, width))
        normal, zeros = nn.initializers.normal(0.02), nn.initializers.zeros
        tables = nn.with_logical_partitioning(normal, ("classes", "embed"))
        biases = nn.with_logical_partitioning(zeros, ("classes",))
        table_CD: Any = self.param("table", tables, (outputs, width))
        bias_C: Any = self.param("bias", biases, (outputs,))
        query_D: Any = None
        if self.head.pool == "attention":
            queries = nn.with_logical_partitioning(zeros, ("embed",))
            query_D = self.param("query", queries, (width,))
        states_BPD = pooled(states_BLD, segments_BL, targets, self.head, query_D)
        ones_BP1 = jnp.ones((*states_BPD.shape[:2], 1), states_BPD.dtype)
        return (
            jnp.concatenate([states_BPD, ones_BP1], axis=2),
            jnp.concatenate([table_CD, bias_C[:, None]], axis=1),
        )


def pooled(
    states_BLD: jax.Array,
    segments_BL: jax.Array,
    targets: int,
    head: Head,
    query_D: jax.Array | None = None,
) -> jax.Array:
    """The states of a head's documents, [B, P, D]: target position p has that of segment p + 1.

    A head of tokens has the states as they are. What a target position beyond the row's
    documents has is 0, and nobody's. Pooling by attention weighs each state of a segment by the
    softmax over the segment of its product with the query (Lin et al. 2017, "A structured
    self-attentive sentence embedding", with one row and no layer before it), divided by
    sqrt(D).

    >>> states, segments = jnp.arange(5.0).reshape(1, 5, 1), jnp.array([[1, 1, 1, 2, 0]])
    >>> for pool in ("first", "last", "mean", "attention"):
    ...     head = Head("label", 2, pool)
    ...     pooled(states, segments, 3, head, jnp.zeros(1))[0, :, 0].tolist()
    [0.0, 3.0, 0.0]
    [2.0, 3.0, 0.0]
    [1.0, 3.0, 0.0]
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
    elif head.pool == "mean":
        weight_BPL = inside_BPL / jnp.maximum(size_BP1, 1)
    else:
        assert query_D is not None
        score_BL = _exact("BLD,D->BL", states_BLD, query_D) * query_D.shape[0] ** -0.5
        # Of no states at all, the softmax of minus infinity would not be a number.
        score_BPL = jnp.where(inside_BPL, score_BL[:, None, :], -1e30)
        weight_BPL = jnp.where(inside_BPL, jax.nn.softmax(score_BPL, axis=2), 0)
    return _exact("BPL,BLD->BPD", weight_BPL.astype(states_BLD.dtype), states_BLD)


def _exact(equation: str, *operands: jax.Array) -> jax.Array:
    # At the highest precision, as a mean in half precision would round each state.
    return jnp.einsum(equation, *operands, precision=jax.lax.Precision.HIGHEST)
