"""Mask some tokens and predict them from all the others (BERT)."""

import math
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from msgspec import Meta

from lm.config import Config
from lm.example import (
    AttentionMask,
    Batch,
    BidirectionalMask,
    Example,
    Vocabulary,
    content_of,
    positions_of,
)
from lm.objectives.base import Base, Prediction
from lm.objectives.units import CHARACTER, LONGEST_WORD, choose_units, cut, word_starts

Fraction = Annotated[float, Meta(gt=0, le=1)]


class Scheduled(Config, tag="scheduled"):
    """A rate that goes from one value to another in a line over training.

    Training is validated at the rate that it ends with.
    """

    start: Annotated[Fraction, Meta(description="rate at the first step")] = 0.3
    end: Annotated[Fraction, Meta(description="rate that the last step comes to")] = 0.15


class Drawn(Config, tag="drawn"):
    """A rate that every row draws for itself, uniformly between two values."""

    low: Annotated[Fraction, Meta(description="smallest rate")] = 0.15
    high: Annotated[Fraction, Meta(description="largest rate")] = 0.5


class Masked(Base, tag="masked"):
    """Predict a fraction of masked tokens from all the others (BERT)."""

    attention_mask: ClassVar[AttentionMask] = BidirectionalMask()
    predictions: ClassVar[frozenset[Prediction]] = frozenset({"masked"})
    rate: Annotated[
        Fraction | Scheduled | Drawn, Meta(description="fraction of content tokens masked")
    ] = 0.15
    mask: Annotated[
        float, Meta(ge=0, le=1, description="of these, shown as the mask token")
    ] = 0.8
    random: Annotated[
        float, Meta(ge=0, le=1, description="of these, shown as a random token")
    ] = 0.1
    select: Annotated[
        Literal["token", "word", "span", "ngram"],
        Meta(
            description="what is masked as a whole: a token, a word (of which at most"
            f" {LONGEST_WORD}), a stretch of tokens"
        ),
    ] = "token"
    span: Annotated[
        int,
        Meta(ge=1, le=1 << 20, description="tokens of an n-gram; of a span, on average"),
    ] = 3

    def target_count(self, length: int) -> int:
        """Target positions of a row of which all but the bos token is content.

        The largest rate decides, and a whole unit may go beyond it.

        >>> [Masked(rate=0.15, select=s).target_count(257) for s in ("token", "ngram")]
        [38, 41]
        """
        match self.rate:
            case Scheduled(start=start, end=end):
                rate = max(start, end)
            case Drawn(high=high):
                rate = high
            case rate:
                pass
        if self.select == "token":
            return min(max(1, _rounded(rate, length - 1)), length - 1)
        # The last unit begins before the rate is reached, and is of the longest.
        return min(math.ceil(rate * (length - 1)) + self._longest - 1, length - 1)

    @property
    def _longest(self) -> int:
        """Tokens of the longest unit."""
        # Of a geometric length one in fifty is beyond four times its mean: it is cut there.
        most = {"word": LONGEST_WORD + CHARACTER - 1, "span": 4 * self.span, "ngram": self.span}
        return most[self.select]

    def check(self, *, length: int, sentinels: int) -> str | None:
        if self.mask + self.random > 1:
            return (
                f"random={self.random} and mask={self.mask} add up to more than 1; random may"
                f" be at most {1 - self.mask:g}"
            )
        match self.rate:
            case Drawn(low=low, high=high) if low > high:
                return f"rate.low={low} is above its high={high}"
            case Scheduled(start=start, end=end):
                least = min(start, end)
            case Drawn(high=least) | least:
                pass
        if _rounded(least, length - 1) == 0:
            return (
                f"rate={least:g} masks none of the {length - 1} tokens of a row; it must be at"
                f" least {0.5 / (length - 1):.2g}"
            )
        return None

    def __call__(
        self,
        batch: Batch,
        vocabulary: Vocabulary,
        key: jax.Array,
        progress: jax.Array | float = 1.0,
    ) -> Example:
        """Masks round(rate x content) tokens of each row, uniformly chosen, within one unit.

        What is neither masked nor replaced is shown as it is, and predicted all the same
        (Devlin et al. 2019, section 3.1: 80/10/10).

        >>> vocabulary = Vocabulary(
        ...     size=9, pad=0, mask=1, bos=2, eos=3, first_ordinary=4, begins_word=(True,) * 9
        ... )
        >>> key = jax.random.key(0)
        >>> example = Masked(rate=0.5, mask=1, random=0)(
        ...     Batch(jnp.array([[2, 5, 6, 7, 3]]), jnp.ones((1, 5), int)), vocabulary, key
        ... )
        >>> int((example.inputs == 1).sum()), example.weights.tolist()
        (2, [[1.0, 1.0]])
        """
        tokens_BL, segments_BL = batch.tokens_BL, batch.segments_BL
        content_BL = content_of(tokens_BL, segments_BL, vocabulary)
        chosen, corrupted = jax.random.split(key)
        content_B = content_BL.sum(1)
        wanted_B = self._rate(len(tokens_BL), chosen, progress) * content_B
        length = tokens_BL.shape[1]
        targets = self.target_count(length)
        if self.select == "token":
            masked_B = jnp.floor(wanted_B + 0.5).astype(jnp.int32)
            if not isinstance(self.rate, Scheduled | Drawn):
                # Tabulated, as in float32 a product may fall on the other side of a half.
                table = [_rounded(self.rate, content) for content in range(length)]
                masked_B = jnp.array(table)[content_B]
            target_positions_BP, used_BP = choose_masked(chosen, content_BL, masked_B, targets)
        else:
            starts_BL = self._unit_starts(tokens_BL, wanted_B, vocabulary, chosen)
            target_positions_BP, used_BP = choose_units(
                chosen, content_BL, starts_BL, wanted_B, targets
            )
        targets_BP = jnp.take_along_axis(tokens_BL, target_positions_BP, axis=1)
        which, replacement = jax.random.split(corrupted)
        draw_BP = jax.random.uniform(which, target_positions_BP.shape)
        random_BP = random_tokens(replacement, target_positions_BP.shape, vocabulary)
        shown_BP = jnp.where(
            draw_BP < self.mask,
            vocabulary.mask_token,
            jnp.where(draw_BP < self.mask + self.random, random_BP, targets_BP),
        )
        weights_BP = used_BP.astype(jnp.float32)
        return mask_tokens(tokens_BL, segments_BL, target_positions_BP, shown_BP, weights_BP)

    def _rate(self, rows: int, key: jax.Array, progress: jax.Array | float) -> jax.Array:
        match self.rate:
            case Scheduled(start=start, end=end):
                return jnp.full(rows, start + (end - start) * progress)
            case Drawn(low=low, high=high):
                return jax.random.uniform(
                    jax.random.fold_in(key, 1), (rows,), minval=low, maxval=high
                )
            case rate:
                return jnp.full(rows, rate)

    def _unit_starts(
        self,
        tokens_BL: jax.Array,
        wanted_B: jax.Array,
        vocabulary: Vocabulary,
        key: jax.Array,
    ) -> jax.Array:
        """Where a unit may begin, bool[B, L].

        Spans of geometric lengths are what lies between cuts that fall anywhere with equal
        probability, and after four times their mean (Joshi et al. 2020, section 3.1, cut
        theirs off at 10); n-grams are laid out from a random start in each row, so that every
        place of them is equally likely.
        """
        cuts = jax.random.fold_in(key, 2)
        match self.select:
            case "word":
                return word_starts(tokens_BL, wanted_B, vocabulary)
            case "span":
                starts_BL = jax.random.uniform(cuts, tokens_BL.shape) < 1 / self.span
                return cut(starts_BL, jnp.zeros_like(starts_BL), self._longest, self._longest)
            case _:
                start_B = jax.random.randint(cuts, (len(tokens_BL),), 0, self.span)
                index_1L = jnp.arange(tokens_BL.shape[1])[None, :]
                return index_1L % self.span == start_B[:, None]


def _rounded(rate: float, content: int) -> int:
    """round(rate x content), halves up."""
    return math.floor(rate * content + 0.5)


def choose_masked(
    key: jax.Array, content_BL: jax.Array, count_B: jax.Array, targets: int
) -> tuple[jax.Array, jax.Array]:
    """A uniform set of `count_B` content positions a row, in `targets` static positions.

    Returns positions int32[B, P], in random order, and which slots are used, bool[B, P].

    >>> content = jnp.array([[False, True, True, True]])
    >>> predict, used = choose_masked(jax.random.key(0), content, jnp.array([2]), 3)
    >>> used.tolist(), 0 in predict[used]
    ([[True, True, False]], False)
    """
    score_BL = jnp.where(content_BL, jax.random.uniform(key, content_BL.shape), -1.0)
    _, target_positions_BP = jax.lax.top_k(score_BL, targets)
    return target_positions_BP, jnp.arange(targets)[None, :] < count_B[:, None]


def random_tokens(key: jax.Array, shape: tuple[int, ...], vocabulary: Vocabulary) -> jax.Array:
    """Ordinary tokens, each as likely as any other, int32 of this shape.

    >>> vocabulary = Vocabulary(
    ...     size=9, pad=0, mask=1, bos=2, eos=3, first_ordinary=0, begins_word=(True,) * 9,
    ...     special=(0, 1, 2, 3, 8),
    ... )
    >>> sorted(set(random_tokens(jax.random.key(0), (99,), vocabulary).tolist()))
    [4, 5, 6, 7]
    """
    if not vocabulary.special:
        return jax.random.randint(key, shape, vocabulary.first_ordinary, vocabulary.size)
    ordinary = jnp.array(np.flatnonzero(vocabulary.is_ordinary), jnp.int32)
    return ordinary[jax.random.randint(key, shape, 0, len(ordinary))]


def mask_tokens(
    tokens_BL: jax.Array,
    segments_BL: jax.Array,
    target_positions_BP: jax.Array,
    shown_BP: jax.Array | int,
    weights_BP: jax.Array,
) -> Example:
    """Shows something else at the slots that weigh, and asks there for what it was.

    >>> rows = jnp.array([[5, 6, 7]]), jnp.ones((1, 3), int)
    >>> example = mask_tokens(*rows, jnp.array([[2, 0]]), 1, jnp.array([[1.0, 0.0]]))
    >>> example.inputs.tolist(), example.targets.tolist()
    ([[5, 6, 1]], [[7, 5]])
    """
    # An unused slot points past the row, where `drop` ignores it.
    at_BP = jnp.where(weights_BP > 0, target_positions_BP, tokens_BL.shape[1])
    rows_B1 = jnp.arange(tokens_BL.shape[0])[:, None]
    return Example(
        inputs=tokens_BL.at[rows_B1, at_BP].set(shown_BP, mode="drop"),
        target_positions=target_positions_BP,
        targets=jnp.take_along_axis(tokens_BL, target_positions_BP, axis=1),
        weights=weights_BP,
        segments=segments_BL,
        positions=positions_of(segments_BL),
        attention_mask=BidirectionalMask(),
    )
