"""From hidden states and targets to (sum, count), never holding all logits at once."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lm.numerics import Einsum


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sum:
    """A weighted sum of nats and the weight behind it: add first, divide once.

    Masked examples have unequal counts, so a mean of means would weigh them wrongly.
    """

    total: jax.Array
    count: jax.Array

    @property
    def mean(self) -> jax.Array:
        """Nats per predicted piece; 0 where nothing was predicted."""
        return self.total / jnp.maximum(self.count, 1e-9)


def cross_entropy(
    hidden_BPD: jax.Array,
    unembedding_VD: jax.Array,
    targets_BP: jax.Array,
    weights_BP: jax.Array,
    *,
    einsum: Einsum,
    shards: int = 1,
) -> Sum:
    """Weighted cross-entropy in nats over all prediction slots.

    `shards` is the number of devices that share the rows; it only sets the size of a chunk.
    """
    total = _total(einsum, shards, hidden_BPD, unembedding_VD, targets_BP, weights_BP)
    return Sum(total, weights_BP.sum())


def token_nats(
    hidden_BPD: jax.Array,
    unembedding_VD: jax.Array,
    targets_BP: jax.Array,
    *,
    einsum: Einsum,
    shards: int = 1,
) -> jax.Array:
    """-log p(target) at each prediction slot, float32[B, P]."""

    def one(hidden_BpD: jax.Array, targets_Bp: jax.Array) -> jax.Array:
        logits_BpV = logits(hidden_BpD, unembedding_VD, einsum=einsum)
        return jax.nn.logsumexp(logits_BpV, axis=-1) - _pick(logits_BpV, targets_Bp)

    chunks = _chunks(targets_BP, unembedding_VD, shards)
    nats_BP: jax.Array = _by_chunks(one, hidden_BPD, targets_BP, chunks=chunks)
    return nats_BP


def token_and_least_nats(
    hidden_BPD: jax.Array,
    unembedding_VD: jax.Array,
    targets_BP: jax.Array,
    *,
    einsum: Einsum,
    shards: int = 1,
) -> tuple[jax.Array, jax.Array]:
    """-log p(target) and -log p of the likeliest piece at each slot, both float32[B, P]."""

    def one(hidden_BpD: jax.Array, targets_Bp: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits_BpV = logits(hidden_BpD, unembedding_VD, einsum=einsum)
        normalizer_Bp = jax.nn.logsumexp(logits_BpV, axis=-1)
        return normalizer_Bp - _pick(logits_BpV, targets_Bp), normalizer_Bp - logits_BpV.max(-1)

    chunks = _chunks(targets_BP, unembedding_VD, shards)
    nats: tuple[jax.Array, jax.Array] = _by_chunks(one, hidden_BPD, targets_BP, chunks=chunks)
    return nats


def logits(hidden_BPD: jax.Array, unembedding_VD: jax.Array, *, einsum: Einsum) -> jax.Array:
    """Unnormalized log-probabilities, float32[B, P, V]: for few positions only."""
    return einsum("BPD,VD->BPV", hidden_BPD, unembedding_VD)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _total(
    einsum: Einsum,
    shards: int,
    hidden_BPD: jax.Array,
    unembedding_VD: jax.Array,
    targets_BP: jax.Array,
    weights_BP: jax.Array,
) -> jax.Array:
    nats_BP = token_nats(hidden_BPD, unembedding_VD, targets_BP, einsum=einsum, shards=shards)
    return jnp.sum(weights_BP * nats_BP)


def _total_forward(
    einsum: Einsum,
    shards: int,
    hidden_BPD: jax.Array,
    unembedding_VD: jax.Array,
    targets_BP: jax.Array,
    weights_BP: jax.Array,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Takes the gradient of a chunk while its logits are there.

    The loss is a scalar, so its cotangent only scales what is found here; nothing is computed
    twice and no logits are kept (Wijmans et al. 2024, "Cut your losses", section 4).
    """

    def one(
        carry: tuple[jax.Array, jax.Array], chunk: tuple[jax.Array, jax.Array, jax.Array]
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        total, d_unembedding_VD = carry
        hidden_BpD, targets_Bp, weights_Bp = chunk
        logits_BpV = logits(hidden_BpD, unembedding_VD, einsum=einsum)
        normalizer_Bp = jax.nn.logsumexp(logits_BpV, axis=-1)
        total += jnp.sum(weights_Bp * (normalizer_Bp - _pick(logits_BpV, targets_Bp)))
        pieces_V = jnp.arange(unembedding_VD.shape[0])[None, None, :]
        d_logits_BpV = weights_Bp[..., None] * (
            jnp.exp(logits_BpV - normalizer_Bp[..., None]) - (pieces_V == targets_Bp[..., None])
        )
        d_unembedding_VD += einsum("BPV,BPD->VD", d_logits_BpV, hidden_BpD)
        return (total, d_unembedding_VD), einsum("BPV,VD->BPD", d_logits_BpV, unembedding_VD)

    batch, slots, width = hidden_BPD.shape
    split = partial(_split, chunks=_chunks(targets_BP, unembedding_VD, shards))
    (total, d_unembedding_VD), d_hidden_cBpD = jax.lax.scan(
        one,
        (jnp.float32(0), jnp.zeros_like(unembedding_VD)),
        (split(hidden_BPD), split(targets_BP), split(weights_BP)),
    )
    d_hidden_BPD = jnp.swapaxes(d_hidden_cBpD, 0, 1).reshape(batch, -1, width)[:, :slots]
    return total, (d_hidden_BPD, d_unembedding_VD)


def _total_backward(
    einsum: Einsum,
    shards: int,
    gradients: tuple[jax.Array, jax.Array],
    cotangent: jax.Array,
) -> tuple[jax.Array, jax.Array, None, None]:
    d_hidden_BPD, d_unembedding_VD = gradients
    return cotangent * d_hidden_BPD, cotangent * d_unembedding_VD, None, None


_total.defvjp(_total_forward, _total_backward)


LOGITS_AT_ONCE = 1 << 23
"""Elements of the largest array of logits on one device: 32 MiB in float32."""


def _chunks(targets_BP: jax.Array, unembedding_VD: jax.Array, shards: int) -> int:
    batch, slots = targets_BP.shape
    elements = math.ceil(batch / shards) * slots * unembedding_VD.shape[0]
    return min(slots, math.ceil(elements / LOGITS_AT_ONCE))


def _by_chunks(
    one: Callable[[jax.Array, jax.Array], Any],
    hidden_BPD: jax.Array,
    targets_BP: jax.Array,
    *,
    chunks: int,
) -> Any:
    """What `one` makes of a chunk of the slots, [B, p] or several of them, for all slots."""
    batch, slots = targets_BP.shape
    parts = _split(hidden_BPD, chunks=chunks), _split(targets_BP, chunks=chunks)
    found = jax.lax.map(lambda chunk: one(*chunk), parts)
    return jax.tree.map(
        lambda x_cBp: jnp.swapaxes(x_cBp, 0, 1).reshape(batch, -1)[:, :slots], found
    )


def _split(x_BP: jax.Array, *, chunks: int) -> jax.Array:
    """[B, P, ...] -> [chunks, B, p, ...], so that rows stay where they are; zeros fill up."""
    batch, slots = x_BP.shape[:2]
    size = math.ceil(slots / chunks)
    padding = [(0, 0), (0, size * chunks - slots)] + [(0, 0)] * (x_BP.ndim - 2)
    return jnp.swapaxes(
        jnp.pad(x_BP, padding).reshape(batch, chunks, size, *x_BP.shape[2:]), 0, 1
    )


def _pick(logits_BPV: jax.Array, targets_BP: jax.Array) -> jax.Array:
    return jnp.take_along_axis(logits_BPV, targets_BP[..., None], axis=-1)[..., 0]
