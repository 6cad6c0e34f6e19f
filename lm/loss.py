"""From hidden states and targets to (sum, count), never holding all logits at once."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from lm.distributed.mesh import constrain, num_shards, platform_of
from lm.example import Output
from lm.numerics import Einsum


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sum:
    """A weighted sum of nats and the weight behind it: add first, divide once.

    Masked examples have unequal counts, so a mean of means would weigh them wrongly.
    """

    total: jax.Array
    count: jax.Array
    coefficient: float = field(default=0.0, metadata={"static": True})
    """How many times its mean is minimized beside the mean of what is called `loss`."""

    @property
    def mean(self) -> jax.Array:
        """Nats per predicted token; not a number where nothing was predicted."""
        return jnp.where(self.count > 0, self.total / jnp.maximum(self.count, 1e-9), jnp.nan)


def cross_entropy(
    output: Output,
    targets_BP: jax.Array,
    weights_BP: jax.Array,
    *,
    einsum: Einsum,
    mesh: Mesh | None = None,
) -> Sum:
    """Weighted cross-entropy in nats over all target positions.

    On a `mesh`, devices that share a row share the target positions of each chunk, and a chunk
    is as large as all devices can hold.
    """
    total = _total(einsum, mesh, output._replace(terms=None), targets_BP, weights_BP)
    return Sum(total, weights_BP.sum())


def minimized(
    terms: Mapping[str, Sum], counts: Mapping[str, jax.Array] | None = None
) -> jax.Array:
    """The sum, over the weight of `loss`, of all that training makes small.

    Each mean by its own weight: `counts` are the weights of the whole batch, where `terms` are
    of a part of it.

    >>> one = jnp.float32(1)
    >>> terms = {"loss": Sum(8 * one, 4 * one), "load_balance": Sum(6 * one, 2 * one, 0.5)}
    >>> float(minimized(terms) / terms["loss"].count)
    3.5
    """
    counts = {name: term.count for name, term in terms.items()} if counts is None else counts
    found = terms["loss"].total
    for name, term in terms.items():
        if term.coefficient:
            weight = counts["loss"] / jnp.maximum(counts[name], 1e-9)
            found += term.coefficient * jax.lax.stop_gradient(weight) * term.total
    return found


def recorded(means: Mapping[str, Any]) -> dict[str, Any]:
    """Means by name; of fractions by layer and part, [N, E], how unevenly they are spread.

    Both are of the layer where they are most uneven: the largest fraction over the mean, and
    the entropy over that of equal fractions; 1 and 1 where all are equal.

    >>> found = recorded({"loss": 2.5, "load": jnp.array([[0.25, 0.75], [0.5, 0.5]])})
    >>> {name: round(float(value), 3) for name, value in found.items()}
    {'loss': 2.5, 'load_max': 1.5, 'load_entropy': 0.811}
    """
    found: dict[str, Any] = {}
    for name, mean in means.items():
        if jnp.ndim(mean) == 0:
            found[name] = mean
            continue
        parts = mean.shape[-1]
        entropy_N = jax.scipy.special.entr(mean).sum(-1) / math.log(parts)
        found |= {f"{name}_max": mean.max() * parts, f"{name}_entropy": entropy_N.min()}
    return found


def token_nats(
    output: Output,
    targets_BP: jax.Array,
    *,
    einsum: Einsum,
    mesh: Mesh | None = None,
) -> jax.Array:
    """-log p(target) at each target position, float32[B, P].

    Its derivative keeps no logits: the backward pass computes those of each chunk again.
    """

    # A loop's own iterations are nothing that a compiler would compute once for both passes.
    @partial(jax.checkpoint, prevent_cse=False)
    def one(hidden_BpD: jax.Array, targets_Bp: jax.Array) -> jax.Array:
        logits_BpV = logits(output._replace(hidden_BPD=hidden_BpD), einsum=einsum)
        return jax.nn.logsumexp(logits_BpV, axis=-1) - _pick(logits_BpV, targets_Bp)

    chunks = _Chunks.of(targets_BP, output.unembedding_VD, mesh)
    nats_BP: jax.Array = _by_chunks(one, output.hidden_BPD, targets_BP, chunks=chunks)
    return nats_BP


def log_p_given(
    output: Output,
    tokens_BL: jax.Array,
    segments_BL: jax.Array,
    *,
    einsum: Einsum,
    mesh: Mesh | None = None,
) -> jax.Array:
    """Log p in nats of each token given those before it in its segment, float32[B, L].

    `output` is that of a causal model at every position. 0 at the first token of a segment, and
    in padding.
    """
    next_BL = jnp.pad(tokens_BL[:, 1:], ((0, 0), (0, 1)))
    nats_BL = token_nats(output, next_BL, einsum=einsum, mesh=mesh)
    nats_BL, before_BL = (jnp.pad(x[:, :-1], ((0, 0), (1, 0))) for x in (nats_BL, segments_BL))
    return jnp.where((segments_BL > 0) & (before_BL == segments_BL), -nats_BL, 0.0)


def token_and_least_nats(
    output: Output,
    targets_BP: jax.Array,
    *,
    einsum: Einsum,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, jax.Array]:
    """-log p(target) and -log p of the likeliest token at each target position, both
    float32[B, P].
    """

    def one(hidden_BpD: jax.Array, targets_Bp: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits_BpV = logits(output._replace(hidden_BPD=hidden_BpD), einsum=einsum)
        normalizer_Bp = jax.nn.logsumexp(logits_BpV, axis=-1)
        return normalizer_Bp - _pick(logits_BpV, targets_Bp), normalizer_Bp - logits_BpV.max(-1)

    chunks = _Chunks.of(targets_BP, output.unembedding_VD, mesh)
    hidden_BPD = output.hidden_BPD
    nats: tuple[jax.Array, jax.Array] = _by_chunks(one, hidden_BPD, targets_BP, chunks=chunks)
    return nats


def logits(output: Output, *, einsum: Einsum) -> jax.Array:
    """Unnormalized log-probabilities, float32[B, P, V]: for few positions only."""
    logits_BPV = einsum("BPD,VD->BPV", output.hidden_BPD, output.unembedding_VD)
    if output.bias_V is not None:
        logits_BPV += output.bias_V[None, None, :]
    if output.softcap is not None:
        logits_BPV = output.softcap * jnp.tanh(logits_BPV / output.softcap)
    return logits_BPV


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _total(
    einsum: Einsum,
    mesh: Mesh | None,
    output: Output,
    targets_BP: jax.Array,
    weights_BP: jax.Array,
) -> jax.Array:
    nats_BP = token_nats(output, targets_BP, einsum=einsum, mesh=mesh)
    return jnp.sum(weights_BP * nats_BP)


def _total_forward(
    einsum: Einsum,
    mesh: Mesh | None,
    output: Output,
    targets_BP: jax.Array,
    weights_BP: jax.Array,
) -> tuple[jax.Array, Output]:
    """Takes the gradient of a chunk while its logits are there.

    The loss is a scalar, so its cotangent only scales what is found here; nothing is computed
    twice and no logits are kept (Wijmans et al. 2024, "Cut your losses", section 4).
    """

    def one(
        logits_BpV: jax.Array, targets_Bp: jax.Array, weights_Bp: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        normalizer_Bp = jax.nn.logsumexp(logits_BpV, axis=-1)
        total = jnp.sum(weights_Bp * (normalizer_Bp - _pick(logits_BpV, targets_Bp)))
        d_logits_BpV = weights_Bp[..., None] * (
            jnp.exp(logits_BpV - normalizer_Bp[..., None]) - _is_target(logits_BpV, targets_Bp)
        )
        return total, d_logits_BpV

    zero = jnp.float32(0)
    return _with_gradient(einsum, mesh, output, (targets_BP, weights_BP), one, zero)


def _with_gradient(
    einsum: Einsum,
    mesh: Mesh | None,
    output: Output,
    parts_BP: tuple[jax.Array, ...],
    one: Callable[..., tuple[Any, jax.Array]],
    zero: Any,
) -> tuple[Any, Output]:
    """Sums over all target positions, and the gradient of one of them by the output.

    `one` gives those of a chunk, and the gradient by its logits, of the logits and the chunk's
    part of each array; `zero` is what sums begin with.
    """
    table_VD, cap = output.unembedding_VD, output.softcap

    def step(carry: tuple[Any, jax.Array, Any], chunk: Any) -> tuple[Any, jax.Array]:
        sums, d_table_VD, d_bias_V = carry
        hidden_BpD, *given = chunk
        logits_BpV = logits(output._replace(hidden_BPD=hidden_BpD), einsum=einsum)
        more, d_logits_BpV = one(logits_BpV, *given)
        sums = jax.tree.map(jnp.add, sums, more)
        if cap is not None:
            d_logits_BpV *= 1 - jnp.square(logits_BpV / cap)
        d_table_VD += einsum("BPV,BPD->VD", d_logits_BpV, hidden_BpD)
        if d_bias_V is not None:
            d_bias_V += d_logits_BpV.sum((0, 1))
        d_hidden_BpD = einsum("BPV,VD->BPD", d_logits_BpV, table_VD)
        return (sums, d_table_VD, d_bias_V), d_hidden_BpD

    chunks = _Chunks.of(parts_BP[0], table_VD, mesh)
    d_bias_V = None if output.bias_V is None else jnp.zeros_like(output.bias_V)
    (sums, d_table_VD, d_bias_V), d_hidden_cBpD = jax.lax.scan(
        step,
        (zero, jnp.zeros_like(table_VD), d_bias_V),
        (chunks.split(output.hidden_BPD), *map(chunks.split, parts_BP)),
    )
    nothing = None if cap is None else jnp.zeros_like(jnp.asarray(cap))
    return sums, Output(chunks.join(d_hidden_cBpD), d_table_VD, d_bias_V, nothing)


def _total_backward(
    einsum: Einsum, mesh: Mesh | None, gradients: Output, cotangent: jax.Array
) -> tuple[Output, None, None]:
    return jax.tree.map(lambda gradient: cotangent * gradient, gradients), None, None


_total.defvjp(_total_forward, _total_backward)


def taught_loss(
    output: Output,
    taught: Output,
    targets_BP: jax.Array,
    weights_BP: jax.Array,
    *,
    temperature: float,
    hard: float,
    einsum: Einsum,
    teacher: Einsum,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Three weighted sums in nats: what `lm.objectives.Distil` makes small, of which alone
    there is a gradient, and the divergence and the cross-entropy that it is made of.

    `taught` is what the teacher answers at the same target positions, and `teacher` makes
    logits of it. Both logits of a chunk are computed once, as in `cross_entropy`.
    """
    how = einsum, teacher, mesh, temperature, hard
    sums: tuple[jax.Array, jax.Array, jax.Array] = _taught(
        how,
        *(output._replace(terms=None), taught._replace(terms=None)),
        *(targets_BP, weights_BP),
    )
    return sums


_How = tuple[Einsum, Einsum, Mesh | None, float, float]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _taught(
    how: _How, output: Output, taught: Output, targets_BP: jax.Array, weights_BP: jax.Array
) -> Any:
    return _taught_forward(how, output, taught, targets_BP, weights_BP)[0]


def _taught_forward(
    how: _How, output: Output, taught: Output, targets_BP: jax.Array, weights_BP: jax.Array
) -> tuple[Any, Output]:
    einsum, teacher, mesh, temperature, hard = how

    def one(
        logits_BpV: jax.Array,
        targets_Bp: jax.Array,
        weights_Bp: jax.Array,
        taught_BpD: jax.Array,
    ) -> tuple[Any, jax.Array]:
        theirs_BpV = logits(taught._replace(hidden_BPD=taught_BpD), einsum=teacher)
        log_p_BpV = jax.nn.log_softmax(logits_BpV / temperature)
        log_q_BpV = jax.nn.log_softmax(theirs_BpV / temperature)
        p_BpV, q_BpV = jnp.exp(log_p_BpV), jnp.exp(log_q_BpV)
        kl = jnp.sum(weights_Bp * jnp.sum(q_BpV * (log_q_BpV - log_p_BpV), axis=-1))
        log_p1_BpV = jax.nn.log_softmax(logits_BpV)
        nats = -jnp.sum(weights_Bp * _pick(log_p1_BpV, targets_Bp))
        loss = (1 - hard) * temperature**2 * kl + hard * nats
        soft_BpV = (1 - hard) * temperature * (p_BpV - q_BpV)
        hard_BpV = hard * (jnp.exp(log_p1_BpV) - _is_target(logits_BpV, targets_Bp))
        return (loss, kl, nats), weights_Bp[..., None] * (soft_BpV + hard_BpV)

    parts_BP, zero = (targets_BP, weights_BP, taught.hidden_BPD), jnp.float32(0)
    return _with_gradient(einsum, mesh, output, parts_BP, one, (zero, zero, zero))


def _taught_backward(
    how: _How, gradient: Output, cotangents: tuple[jax.Array, jax.Array, jax.Array]
) -> tuple[Output, None, None, None]:
    cotangent, _, _ = cotangents
    return jax.tree.map(lambda each: cotangent * each, gradient), None, None, None


_taught.defvjp(_taught_forward, _taught_backward)


LOGITS_AT_ONCE = 1 << 23
"""Elements of the largest array of logits on a CPU: 32 MiB in float32, which caches like."""
TIMES_ON_ACCELERATORS = 8
"""So many times as many on a TPU or GPU. Each chunk reads and writes the whole gradient of the
table, which takes as long as the products of some hundred target positions."""


@dataclass(frozen=True)
class _Chunks:
    """How the target positions of all rows are cut into chunks, taken one after the other.

    Each of the `num_shards` devices that share a row has a part of it, and cuts that: target
    positions stay where they are, and every device has as many of each chunk.
    """

    mesh: Mesh | None
    num_shards: int
    number: int
    targets: int
    size: int  # target positions of a chunk on one device

    @classmethod
    def of(
        cls, targets_BP: jax.Array, unembedding_VD: jax.Array, mesh: Mesh | None
    ) -> "_Chunks":
        rows, targets = targets_BP.shape
        split = 1 if mesh is None else num_shards(mesh, "length")
        part = math.ceil(targets / split)
        rows = math.ceil(rows / (1 if mesh is None else num_shards(mesh, "batch")))
        elements = rows * part * unembedding_VD.shape[0]
        times = 1 if platform_of(mesh) in (None, "cpu") else TIMES_ON_ACCELERATORS
        number = min(part, math.ceil(elements / (LOGITS_AT_ONCE * times)))
        return cls(mesh, split, number, targets, math.ceil(part / number))

    def split(self, x_BP: jax.Array) -> jax.Array:
        """[B, P, ...] -> [chunks, B, p, ...]; zeros fill up."""
        rows, targets, *rest = x_BP.shape
        missing = self.num_shards * self.number * self.size - targets
        x_BP = jnp.pad(x_BP, [(0, 0), (0, missing)] + [(0, 0)] * len(rest))
        x_BwcpD = x_BP.reshape(rows, self.num_shards, self.number, self.size, *rest)
        x_cBpD = jnp.moveaxis(x_BwcpD, 2, 0).reshape(self.number, rows, -1, *rest)
        if self.mesh is None:
            return x_cBpD
        return constrain(
            x_cBpD, self.mesh, ("chunks", "batch", "length", "act_embed")[: x_cBpD.ndim]
        )

    def join(self, x_cBp: jax.Array) -> jax.Array:
        """[chunks, B, p, ...] -> [B, P, ...], without what filled up."""
        _, rows, _, *rest = x_cBp.shape
        x_cBwp = x_cBp.reshape(self.number, rows, self.num_shards, self.size, *rest)
        return jnp.moveaxis(x_cBwp, 0, 2).reshape(rows, -1, *rest)[:, : self.targets]


def _by_chunks(
    one: Callable[[jax.Array, jax.Array], Any],
    hidden_BPD: jax.Array,
    targets_BP: jax.Array,
    *,
    chunks: _Chunks,
) -> Any:
    """What `one` makes of a chunk of target positions, [B, p] or several, for all of them."""
    parts = chunks.split(hidden_BPD), chunks.split(targets_BP)
    return jax.tree.map(chunks.join, jax.lax.map(lambda chunk: one(*chunk), parts))


def _is_target(logits_BPV: jax.Array, targets_BP: jax.Array) -> jax.Array:
    """Whether each logit is that of the target, bool[B, P, V]."""
    return jnp.arange(logits_BPV.shape[-1])[None, None, :] == targets_BP[..., None]


def _pick(logits_BPV: jax.Array, targets_BP: jax.Array) -> jax.Array:
    return jnp.take_along_axis(logits_BPV, targets_BP[..., None], axis=-1)[..., 0]
