"""Nats of every token of every window, by the scorers that are valid for a model.

A scorer is a frozen value. Like an objective it turns rows into an `Example`, whose weights are
those of the estimate. What it attributes to a token stays at that token, so that bits per byte,
by document or by window, are sums over one array.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from lm.example import Causal, Example, Full, Vocabulary, content_of, positions_of
from lm.loss import token_nats
from lm.score.bits import Kind


class Body(Protocol):
    """Hashable; `apply({"params": params}, example)` gives (hidden_BPD, unembedding_VD).

    A body that generates goes on from what it has read: `nothing(rows, capacity)` is an empty
    past, and `apply({"params": params}, example, past)` gives the output and the next past.
    """

    @property
    def einsum(self) -> Any: ...
    @property
    def apply(self) -> Callable[..., Any]: ...
    @property
    def nothing(self) -> Callable[[int, int], Any]: ...


class Scorer(Protocol):
    """Hashable; each sample attributes nats to a row's tokens, their mean is the estimate."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> Kind: ...
    @property
    def samples(self) -> int: ...
    def ask(
        self,
        tokens_BL: jax.Array,
        segments_BL: jax.Array,
        *,
        vocabulary: Vocabulary,
        key_B: jax.Array,
        sample: jax.Array | int,
    ) -> tuple[Example, jax.Array]:
        """What to ask of the model, and the row position of each target, int32[B, P]."""
        ...


def score(
    scorer: Scorer,
    body: Body,
    params: Any,
    windows: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    vocabulary: Vocabulary,
    replicates: int = 1,
    seed: int = 0,
    place: Callable[[np.ndarray], jax.Array] = jnp.asarray,
) -> np.ndarray:
    """Nats of each token of R windows by each sample of K independent replicates.

    Returns float32[K, S, R, L]; a scorer's estimate is the mean over its S samples. `windows`
    are batches of (tokens, segments), all of one size but the last, which is filled up with
    padding; `place` puts an array of a batch's rows on the devices. A position without content
    gets 0. Row r has the same masks for every model and every batch size.
    """
    nats: list[np.ndarray] = []
    start = batch = 0
    for tokens_BL, segments_BL in windows:
        rows, batch = len(tokens_BL), batch or len(tokens_BL)
        fill = ((0, batch - rows), (0, 0))
        arrays = [place(np.pad(array, fill)) for array in (tokens_BL, segments_BL)]
        number_B = place(np.arange(start, start + batch, dtype=np.uint32))
        keys = [jax.random.fold_in(jax.random.key(seed), k) for k in range(replicates)]
        answers = [
            [
                _nats(scorer, body, vocabulary, params, *arrays, number_B, key, sample)
                for sample in range(scorer.samples)
            ]
            for key in keys
        ]
        nats.append(np.array(jax.device_get(answers))[:, :, :rows])
        start += rows
    return np.concatenate(nats, axis=2)


@dataclass(frozen=True)
class ChainRule:
    """-log p(token | all before it) of a causal model: its sum is the exact code length."""

    name: ClassVar[str] = "chain rule"
    kind: ClassVar[Kind] = "exact"
    samples: ClassVar[int] = 1

    def ask(
        self,
        tokens_BL: jax.Array,
        segments_BL: jax.Array,
        *,
        vocabulary: Vocabulary,
        key_B: jax.Array,
        sample: jax.Array | int,
    ) -> tuple[Example, jax.Array]:
        """Every position speaks of the next one, where that is content."""
        content_BL = content_of(tokens_BL, segments_BL, vocabulary)
        example = Example(
            inputs=tokens_BL,
            predict=None,
            targets=_shift(tokens_BL),
            weights=_shift(content_BL).astype(jnp.float32),
            segments=segments_BL,
            positions=positions_of(segments_BL),
            visible=Causal(),
        )
        return example, jnp.broadcast_to(1 + jnp.arange(tokens_BL.shape[1]), tokens_BL.shape)


@dataclass(frozen=True)
class Hiding:
    """Hides a uniform set of m of a row's n content pieces and counts each of them n/m times.

    The samples' sets are successive stretches of one random circle of the content positions:
    each is uniform by itself, and together they cover all positions equally often.
    """

    samples: int

    def hidden(self, content_B: jax.Array, uniform_B: jax.Array, length: int) -> jax.Array:
        """The m of each sample, int32[K, B], given n and a number from [0, 1) for each row."""
        raise NotImplementedError

    def slots(self, length: int) -> int:
        """The largest m."""
        raise NotImplementedError

    def ask(
        self,
        tokens_BL: jax.Array,
        segments_BL: jax.Array,
        *,
        vocabulary: Vocabulary,
        key_B: jax.Array,
        sample: jax.Array | int,
    ) -> tuple[Example, jax.Array]:
        """Shows the mask piece at the set's positions and asks for what stood there.

        >>> vocabulary = Vocabulary(
        ...     size=9, pad=0, mask=1, begin=2, end=3, ordinary=4, begins_word=(True,) * 9
        ... )
        >>> tokens, segments = jnp.array([[2, 5, 6, 7, 3, 0]]), jnp.array([[1, 1, 1, 1, 1, 0]])
        >>> example, at = SharesHidden((0.5,)).ask(
        ...     tokens, segments, vocabulary=vocabulary, key_B=jax.random.key(0)[None], sample=0
        ... )
        >>> int((example.inputs == 1).sum()), example.weights.tolist()  # 2 of 4, n/m = 2
        (2, [[2.0, 2.0, 0.0]])
        """
        length = tokens_BL.shape[1]
        content_BL = content_of(tokens_BL, segments_BL, vocabulary)
        content_B = content_BL.sum(1)
        draws_BL = jax.vmap(lambda key: jax.random.uniform(key, (length + 1,)))(key_B)
        # content first, in random order
        circle_BL = jnp.argsort(jnp.where(content_BL, draws_BL[:, 1:], 2.0), axis=1)
        hidden_KB = self.hidden(content_B, draws_BL[:, 0], length)
        hidden_KB = jnp.minimum(hidden_KB, content_B[None, :])  # a row of padding has none
        hidden_B, start_B = hidden_KB[sample], (hidden_KB.cumsum(0) - hidden_KB)[sample]

        slot_1P = jnp.arange(self.slots(length))[None, :]
        used_BP = slot_1P < hidden_B[:, None]
        turn_BP = (start_B[:, None] + slot_1P) % jnp.maximum(content_B, 1)[:, None]
        at_BP = jnp.take_along_axis(circle_BL, turn_BP, axis=1)
        example = Example(
            inputs=_at(tokens_BL, jnp.where(used_BP, at_BP, length)).set(
                vocabulary.mask, mode="drop"
            ),
            predict=at_BP,
            targets=jnp.take_along_axis(tokens_BL, at_BP, axis=1),
            weights=used_BP * (content_B / jnp.maximum(hidden_B, 1))[:, None],
            segments=segments_BL,
            positions=positions_of(segments_BL),
            visible=Full(),
        )
        return example, at_BP


@dataclass(frozen=True)
class AnyOrder(Hiding):
    """The mean code length over uniformly random orders, estimated: an upper bound.

    It bounds -log of the mixture of all orders, not of a single one; m is uniform on 1..n (Uria
    et al. 2014, equation 7). The samples of an estimate take m from equal parts of 1..n. The
    model sees where documents begin and end in the row, which a causal one has to predict: the
    bound is given these places.
    """

    samples: int = 8
    name: ClassVar[str] = "any-order bound"
    kind: ClassVar[Kind] = "bound"

    def hidden(self, content_B: jax.Array, uniform_B: jax.Array, length: int) -> jax.Array:
        """In sample k of K, m = ceil(n (k + u) / K).

        >>> AnyOrder(samples=2).hidden(jnp.array([4, 0]), jnp.array([0.3, 0.3]), 5).tolist()
        [[1, 1], [3, 1]]
        """
        part_KB = (jnp.arange(self.samples)[:, None] + uniform_B[None, :]) / self.samples
        hidden_KB = jnp.ceil(content_B[None, :] * part_KB).astype(jnp.int32)
        return jnp.maximum(hidden_KB, 1)  # u may be 0

    def slots(self, length: int) -> int:
        return length - 1


@dataclass(frozen=True)
class Pseudo(Hiding):
    """-log p(piece | all others), summed over pieces: no likelihood, as its terms do not chain.

    Each sample hides another piece of the row, so with n samples nothing is left to chance.
    """

    samples: int = 16
    name: ClassVar[str] = "pseudo-likelihood"
    kind: ClassVar[Kind] = "no likelihood"

    def hidden(self, content_B: jax.Array, uniform_B: jax.Array, length: int) -> jax.Array:
        return jnp.ones((self.samples, len(content_B)), jnp.int32)

    def slots(self, length: int) -> int:
        return 1


@dataclass(frozen=True, init=False)
class SharesHidden(Hiding):
    """-log p of hidden pieces when a given share of the row is hidden: no likelihood.

    Each share is one sample, so that one compiled function draws the whole curve.
    """

    shares: tuple[float, ...]
    name: ClassVar[str] = "shares hidden"
    kind: ClassVar[Kind] = "no likelihood"

    def __init__(self, shares: tuple[float, ...]):
        object.__setattr__(self, "shares", shares)
        object.__setattr__(self, "samples", len(shares))

    def hidden(self, content_B: jax.Array, uniform_B: jax.Array, length: int) -> jax.Array:
        """M = round(share x n), at least one; half goes up, as in `lm.objectives`.

        >>> SharesHidden((0.5,)).hidden(jnp.array([1, 2, 3, 4]), jnp.zeros(4), 5).tolist()
        [[1, 1, 2, 2]]
        """
        # Tabulated in Python: in float32, share x n may fall on the other side of a half.
        table = [[_number(share, n) for n in range(length)] for share in self.shares]
        return jnp.array(table)[:, content_B]

    def slots(self, length: int) -> int:
        return _number(max(self.shares), length - 1)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _nats(
    scorer: Scorer,
    body: Body,
    vocabulary: Vocabulary,
    params: Any,
    tokens_BL: jax.Array,
    segments_BL: jax.Array,
    number_B: jax.Array,
    key: jax.Array,
    sample: jax.Array,
) -> jax.Array:
    """What one sample attributes to each token, float32[B, L]."""
    key_B = jax.vmap(partial(jax.random.fold_in, key))(number_B)
    example, at_BP = scorer.ask(
        tokens_BL, segments_BL, vocabulary=vocabulary, key_B=key_B, sample=sample
    )
    hidden_BPD, unembedding_VD = body.apply({"params": params}, example)
    nats_BP = token_nats(hidden_BPD, unembedding_VD, example.targets, einsum=body.einsum)
    # Not a product: what a model says of padding may be anything, NaN too.
    nats_BP = jnp.where(example.weights > 0, example.weights * nats_BP, 0.0)
    return _at(jnp.zeros(tokens_BL.shape), at_BP).add(nats_BP, mode="drop")


def _number(share: float, content: int) -> int:
    return max(1, math.floor(share * content + 0.5))


def _shift(x_BL: jax.Array) -> jax.Array:
    return jnp.pad(x_BL[:, 1:], ((0, 0), (0, 1)))


def _at(x_BL: jax.Array, at_BP: jax.Array) -> Any:
    """`x_BL.at[...]` the given position of each row; one past the row is ignored by `drop`."""
    return x_BL.at[jnp.arange(len(x_BL))[:, None], at_BP]
