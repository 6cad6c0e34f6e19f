"""Nats of every token of every window, by the scorers that are valid for a model.

A scorer is a frozen value that asks one question (`lm.objectives.Answer`), so it is valid for
the models that were taught to answer it. What it attributes to a token stays at that token, so
that bits per byte, by document or by window, are sums over one array.
"""

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from lm.example import Causal, Example, Full, Vocabulary, content_of, positions_of
from lm.hosts import fetch
from lm.loss import token_and_least_nats, token_nats
from lm.objectives import Answer
from lm.objectives.spans import lay_out
from lm.score.bits import Kind
from lm.score.layout import Told


class Body(Protocol):
    """Hashable; `apply({"params": params}, example)` gives (hidden_BPD, unembedding_VD).

    A body that generates goes on from what it has read: `nothing(rows, capacity)` is an empty
    past, and `apply({"params": params}, example, past)` gives the output and the next past.
    """

    @property
    def einsum(self) -> Any: ...
    @property
    def mesh(self) -> jax.sharding.Mesh | None: ...
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
    def answer(self) -> Answer:
        """The question that it asks: what a model must have been taught to answer."""
        ...

    @property
    def told(self) -> Told:
        """What a model is given to know of where documents end, which is not in its nats."""
        ...

    @property
    def samples(self) -> int: ...
    def nats(
        self,
        body: Body,
        params: Any,
        tokens_BL: jax.Array,
        segments_BL: jax.Array,
        *,
        vocabulary: Vocabulary,
        key_B: jax.Array,
        sample: jax.Array | int,
    ) -> jax.Array:
        """What a sample attributes to each token, float32[B, L]; 0 where there is no content.

        `key_B` are the rows' keys: others in every replicate, unless the scorer is exact.
        """
        ...


Blank = Literal["hidden", "hidden before"]
"""Where a model says what stands at a mask piece: there, or at the position before."""


def refuses(scorer: Scorer, answers: Collection[Answer]) -> str | None:
    """Why a scorer is not valid for a model that was taught `answers`; None if it is.

    >>> refuses(ChainRule(), {"hidden"})
    'the chain rule needs a model that was taught which piece is next'
    >>> refuses(ChainRule(), {"hidden", "next"})
    """
    if scorer.answer in answers:
        return None
    return f"the {scorer.name} needs a model that was taught {_TAUGHT[scorer.answer]}"


_TAUGHT: dict[Answer, str] = {
    "next": "which piece is next",
    "hidden": "which pieces are hidden",
    "hidden before": "which pieces are hidden, at the place before",
    "spans": "which pieces stand behind a sentinel",
}


def score(
    scorer: Scorer,
    body: Body,
    params: Any,
    windows: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    vocabulary: Vocabulary,
    replicates: int = 1,
    first: int = 0,
    seed: int = 0,
    place: Callable[[np.ndarray], jax.Array] = jnp.asarray,
) -> np.ndarray:
    """Nats of each token of R windows by each sample of K independent replicates.

    Returns float32[K, S, R, L]; a scorer's estimate is the mean over its S samples. `windows`
    are batches of (tokens, segments), all of one size but the last, which is filled up with
    padding; `place` puts an array of a batch's rows on the devices. A position without content
    gets 0. Row r has the same masks for every model and every batch size. `first` is the number
    of the first replicate: those from `first` on are independent of those before it.
    """
    nats: list[np.ndarray] = []
    start = batch = 0
    for tokens_BL, segments_BL in windows:
        rows, batch = len(tokens_BL), batch or len(tokens_BL)
        fill = ((0, batch - rows), (0, 0))
        arrays = [place(np.pad(array, fill)) for array in (tokens_BL, segments_BL)]
        number_B = place(np.arange(start, start + batch, dtype=np.uint32))
        numbers = range(first, first + replicates)
        drawn = [0 if scorer.kind == "exact" else number for number in numbers]
        keys = [jax.random.fold_in(jax.random.key(seed), number) for number in drawn]
        answers = [
            [
                nats_of(scorer, body, vocabulary, params, *arrays, number_B, key, sample)
                for sample in range(scorer.samples)
            ]
            for key in keys
        ]
        fetched = [[fetch(nats_BL) for nats_BL in of] for of in answers]
        nats.append(np.array(fetched)[:, :, :rows])
        start += rows
    return np.concatenate(nats, axis=2)


class Asking:
    """A scorer of which each sample is one example: what the model says, weighted."""

    def ask(
        self,
        tokens_BL: jax.Array,
        segments_BL: jax.Array,
        *,
        vocabulary: Vocabulary,
        key_B: jax.Array,
        sample: jax.Array | int,
    ) -> tuple[Example, jax.Array]:
        """What to ask of the model, and the row position of each target, int32[B, P].

        What is said of a target whose position is L belongs to no token of the row.
        """
        raise NotImplementedError

    def nats(
        self,
        body: Body,
        params: Any,
        tokens_BL: jax.Array,
        segments_BL: jax.Array,
        *,
        vocabulary: Vocabulary,
        key_B: jax.Array,
        sample: jax.Array | int,
    ) -> jax.Array:
        example, at_BP = self.ask(
            tokens_BL, segments_BL, vocabulary=vocabulary, key_B=key_B, sample=sample
        )
        hidden_BPD, unembedding_VD = body.apply({"params": params}, example)
        nats_BP = token_nats(
            hidden_BPD, unembedding_VD, example.targets, einsum=body.einsum, mesh=body.mesh
        )
        # Not a product: what a model says of padding may be anything, NaN too.
        nats_BP = jnp.where(example.weights > 0, example.weights * nats_BP, 0.0)
        return _at(jnp.zeros(tokens_BL.shape), at_BP).add(nats_BP, mode="drop")


@dataclass(frozen=True)
class ChainRule(Asking):
    """-log p(token | all before it) of a model that says what is next: the exact code length.

    A prefix model is asked with an empty prefix: only the begin piece is given.
    """

    name: ClassVar[str] = "chain rule"
    kind: ClassVar[Kind] = "exact"
    answer: ClassVar[Answer] = "next"
    told: ClassVar[Told] = "nothing"
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
class BehindSentinel(Asking):
    """The chain rule where all content of a document stands behind one sentinel: exact.

    A span model is given how many documents a row has, for which the length model pays, and
    says each in one span, from left to right. Sentinels are given, as they are no text: only
    pieces of the row count.
    """

    stack: Literal["single", "encoder_decoder"] = "single"
    name: ClassVar[str] = "chain rule behind a sentinel"
    kind: ClassVar[Kind] = "exact"
    answer: ClassVar[Answer] = "spans"
    told: ClassVar[Told] = "number of documents"
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
        """Shows a begin piece and a sentinel for each document, and asks for all the rest.

        >>> vocabulary = Vocabulary(
        ...     size=12, pad=0, mask=1, begin=2, end=3, ordinary=6, begins_word=(True,) * 12,
        ...     sentinels=(4, 5),
        ... )
        >>> example, at = BehindSentinel().ask(
        ...     jnp.array([[2, 7, 8, 3]]), jnp.ones((1, 4), int), vocabulary=vocabulary,
        ...     key_B=jax.random.key(0)[None], sample=0,
        ... )
        >>> example.inputs.tolist(), example.targets.tolist(), at.tolist()
        ([[2, 4, 0, 0, 2, 4, 7, 8, 3, 5]], [[4, 7, 8, 3, 5, 0]], [[4, 1, 2, 3, 4, 4]])
        """
        length = tokens_BL.shape[1]
        layout = lay_out(
            tokens_BL,
            segments_BL,
            content_of(tokens_BL, segments_BL, vocabulary),
            vocabulary,
            text=length,
            # A document of two positions or more takes one more: at most half as many again.
            spans=length + -(-length // 2),
        )
        return layout.example(self.stack), layout.origin_BP


@dataclass(frozen=True)
class Hiding(Asking):
    """Hides a uniform set of m of a row's n content pieces and counts each of them n/m times.

    The samples' sets are successive stretches of one random circle of the content positions:
    each is uniform by itself, and together they cover all positions equally often, within one.
    """

    samples: int
    answer: Blank
    told: ClassVar[Told] = "ends of documents"

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
            predict=_speaks(at_BP, self.answer),
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
    length model pays for these places (`lm.score.layout`).
    """

    samples: int = 8
    answer: Blank = "hidden"
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
    answer: Blank = "hidden"
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

    def __init__(self, shares: tuple[float, ...], answer: Blank = "hidden"):
        object.__setattr__(self, "shares", shares)
        object.__setattr__(self, "samples", len(shares))
        object.__setattr__(self, "answer", answer)

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


Order = Literal["left to right", "random", "most confident first"]


@dataclass(frozen=True)
class FixedOrder:
    """-log p of a row that is written in one order, some pieces at a time: exact.

    At first all content is hidden. In each turn the model says what the next `block` pieces of
    the order are, given those uncovered before, and they are uncovered. A block's pieces are
    taken as independent of each other, which is how such a model writes several at once; with
    one piece a turn this is the likelihood of an order (Uria et al. 2014). As each turn's
    places are chosen without a look at what is hidden, it sums to one over all strings.

    random: an order for each row, that the seed and the row's number fix for all models. most
    confident first: next are the places whose likeliest piece has the highest probability, as
    they are in Chang et al. 2022, section 3.2 (Shih et al. 2022 on what the order does); what
    is true there is not looked at. As in the other scorers, a row's documents share its turns,
    and the model sees where they begin and end, for which the length model pays.
    """

    order: Order = "left to right"
    block: int = 1
    answer: Blank = "hidden"
    kind: ClassVar[Kind] = "exact"
    told: ClassVar[Told] = "ends of documents"
    samples: ClassVar[int] = 1

    @property
    def name(self) -> str:
        """The order and the block, if it is not one piece.

        >>> FixedOrder(block=4).name, FixedOrder("random").name
        ('order from left to right, 4 at once', 'random order')
        """
        names: dict[Order, str] = {
            "left to right": "order from left to right",
            "random": "random order",
            "most confident first": "order of confidence",
        }
        return names[self.order] + (f", {self.block} at once" if self.block > 1 else "")

    def nats(
        self,
        body: Body,
        params: Any,
        tokens_BL: jax.Array,
        segments_BL: jax.Array,
        *,
        vocabulary: Vocabulary,
        key_B: jax.Array,
        sample: jax.Array | int,
    ) -> jax.Array:
        return self.uncover(
            body, params, tokens_BL, segments_BL, vocabulary=vocabulary, key_B=key_B
        )[1]

    def uncover(
        self,
        body: Body,
        params: Any,
        tokens_BL: jax.Array,
        segments_BL: jax.Array,
        *,
        vocabulary: Vocabulary,
        key_B: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        """The turn in which each piece is uncovered, from 1, and its nats; 0: no content."""
        length = tokens_BL.shape[1]
        index_BL = jnp.broadcast_to(jnp.arange(length), tokens_BL.shape)
        block = min(self.block, length)

        def ask(hidden_BL: jax.Array, at_BP: jax.Array) -> Example:
            return Example(
                inputs=jnp.where(hidden_BL, vocabulary.mask, tokens_BL),
                predict=_speaks(at_BP, self.answer),
                targets=jnp.take_along_axis(tokens_BL, at_BP, axis=1),
                weights=jnp.ones(at_BP.shape),
                segments=segments_BL,
                positions=positions_of(segments_BL),
                visible=Full(),
            )

        def first(rank_BL: jax.Array, hidden_BL: jax.Array) -> jax.Array:
            """The hidden places of the lowest rank, the leftmost of those that are equal."""
            return jax.lax.top_k(-jnp.where(hidden_BL, rank_BL, jnp.inf), block)[1]

        def known(rank_BL: jax.Array, hidden_BL: jax.Array) -> tuple[jax.Array, jax.Array]:
            at_BP = first(rank_BL, hidden_BL)
            example = ask(hidden_BL, at_BP)
            states_BPD, table_VD = body.apply({"params": params}, example)
            return at_BP, token_nats(
                states_BPD, table_VD, example.targets, einsum=body.einsum, mesh=body.mesh
            )

        def confident(hidden_BL: jax.Array) -> tuple[jax.Array, jax.Array]:
            example = ask(hidden_BL, index_BL)
            states_BLD, table_VD = body.apply({"params": params}, example)
            nats_BL, least_BL = token_and_least_nats(
                states_BLD, table_VD, example.targets, einsum=body.einsum, mesh=body.mesh
            )
            at_BP = first(least_BL, hidden_BL)
            return at_BP, jnp.take_along_axis(nats_BL, at_BP, axis=1)

        choose: Callable[[jax.Array], tuple[jax.Array, jax.Array]]
        match self.order:
            case "left to right":
                choose = partial(known, index_BL.astype(jnp.float32))
            case "random":
                draw = partial(jax.random.uniform, shape=(length,))
                choose = partial(known, jax.vmap(draw)(key_B))
            case _:
                choose = confident

        def turn(carry: _Uncovered) -> _Uncovered:
            number, hidden_BL, turn_BL, nats_BL = carry
            at_BP, nats_BP = choose(hidden_BL)
            # A row that has fewer left than a block leaves slots unused.
            used_BP = jnp.take_along_axis(hidden_BL, at_BP, axis=1)
            at_BP = jnp.where(used_BP, at_BP, length)
            hidden_BL = _at(hidden_BL, at_BP).set(False, mode="drop")
            turn_BL = _at(turn_BL, at_BP).set(number, mode="drop")
            return number + 1, hidden_BL, turn_BL, _at(nats_BL, at_BP).set(nats_BP, mode="drop")

        content_BL = content_of(tokens_BL, segments_BL, vocabulary)
        never_BL, no_BL = jnp.zeros(tokens_BL.shape, jnp.int32), jnp.zeros(tokens_BL.shape)
        carry = jnp.int32(1), content_BL, never_BL, no_BL
        _, _, turn_BL, nats_BL = jax.lax.while_loop(lambda carry: carry[1].any(), turn, carry)
        return turn_BL, nats_BL


@partial(jax.jit, static_argnums=(0, 1, 2))
def nats_of(
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
    """What one sample attributes to each token, float32[B, L]: the compiled part of `score`."""
    key_B = jax.vmap(partial(jax.random.fold_in, key))(number_B)
    return scorer.nats(
        body,
        params,
        tokens_BL,
        segments_BL,
        vocabulary=vocabulary,
        key_B=key_B,
        sample=sample,
    )


_Uncovered = tuple[jax.Array, jax.Array, jax.Array, jax.Array]
"""The next turn, what is hidden, and of each piece its turn and its nats."""


def _number(share: float, content: int) -> int:
    return max(1, math.floor(share * content + 0.5))


def _shift(x_BL: jax.Array) -> jax.Array:
    return jnp.pad(x_BL[:, 1:], ((0, 0), (0, 1)))


def _at(x_BL: jax.Array, at_BP: jax.Array) -> Any:
    """`x_BL.at[...]` the given position of each row; one past the row is ignored by `drop`."""
    return x_BL.at[jnp.arange(len(x_BL))[:, None], at_BP]


def _speaks(at_BP: jax.Array, answer: Blank) -> jax.Array:
    """Where a model says what stands at these places; an unused slot may stand at 0."""
    return at_BP if answer == "hidden" else (at_BP - 1).clip(0)
