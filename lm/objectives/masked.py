"""Hide some pieces and predict them from all the others (BERT)."""

import math
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
from msgspec import Meta

from lm.config import Config
from lm.example import Batch, Example, Full, Visible, Vocabulary, content_of, positions_of
from lm.objectives.base import Answer, Base
from lm.objectives.units import CHARACTER, LONGEST_WORD, choose_units, cut, word_starts

Share = Annotated[float, Meta(gt=0, le=1)]


class Scheduled(Config, tag="scheduled"):
    """A rate that goes from one value to another in a line over training.

    Training is validated at the rate that it ends with.
    """

    start: Annotated[Share, Meta(description="rate at the first step")] = 0.3
    end: Annotated[Share, Meta(description="rate that the last step comes to")] = 0.15


class Drawn(Config, tag="drawn"):
    """A rate that every row draws for itself, uniformly between two values."""

    low: Annotated[Share, Meta(description="smallest rate")] = 0.15
    high: Annotated[Share, Meta(description="largest rate")] = 0.5


class Masked(Base, tag="masked"):
    """Predict a share of hidden pieces from all the others (BERT)."""

    visible: ClassVar[Visible] = Full()
    answers: ClassVar[frozenset[Answer]] = frozenset({"hidden"})
    rate: Annotated[
        Share | Scheduled | Drawn, Meta(description="share of content pieces hidden")
    ] = 0.15
    mask: Annotated[
        float, Meta(ge=0, le=1, description="of these, shown as the mask piece")
    ] = 0.8
    random: Annotated[
        float, Meta(ge=0, le=1, description="of these, shown as a random piece")
    ] = 0.1
    select: Annotated[
        Literal["token", "word", "span", "ngram"],
        Meta(
            description="what is hidden as a whole: a piece, a word (of which at most"
            f" {LONGEST_WORD}), a stretch of pieces"
        ),
    ] = "token"
    span: Annotated[
        int,
        Meta(ge=1, le=1 << 20, description="pieces of an n-gram; of a span, on average"),
    ] = 3

    def slots(self, length: int) -> int:
        """Prediction slots of a row of which all but the begin piece is content.

        The largest rate decides, and a whole unit may go beyond it.

        >>> Masked(rate=0.15).slots(257), Masked(rate=0.15, select="ngram").slots(257)
        (38, 41)
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
        """Pieces of the longest unit."""
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
                f"rate={least:g} hides none of the {length - 1} pieces of a row; it must be at"
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
        """Hides round(rate x content) pieces of each row, uniformly chosen, within one unit.

        What is neither masked nor replaced is shown as it is, and predicted all the same
        (Devlin et al. 2019, section 3.1: 80/10/10).

        >>> vocabulary = Vocabulary(
        ...     size=9, pad=0, mask=1, begin=2, end=3, ordinary=4, begins_word=(True,) * 9
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
        slots = self.slots(length)
        if self.select == "token":
            hidden_B = jnp.floor(wanted_B + 0.5).astype(jnp.int32)
            if not isinstance(self.rate, Scheduled | Drawn):
                # Tabulated, as in float32 a product may fall on the other side of a half.
                table = [_rounded(self.rate, content) for content in range(length)]
                hidden_B = jnp.array(table)[content_B]
            predict_BP, used_BP = choose(chosen, content_BL, hidden_B, slots)
        else:
            starts_BL = self._unit_starts(tokens_BL, wanted_B, vocabulary, chosen)
            predict_BP, used_BP = choose_units(chosen, content_BL, starts_BL, wanted_B, slots)
        targets_BP = jnp.take_along_axis(tokens_BL, predict_BP, axis=1)
        which, replacement = jax.random.split(corrupted)
        draw_BP = jax.random.uniform(which, predict_BP.shape)
        random_BP = jax.random.randint(
            replacement, predict_BP.shape, vocabulary.ordinary, vocabulary.size
        )
        shown_BP = jnp.where(
            draw_BP < self.mask,
            vocabulary.mask,
            jnp.where(draw_BP < self.mask + self.random, random_BP, targets_BP),
        )
        weights_BP = used_BP.astype(jnp.float32)
        return hide(tokens_BL, segments_BL, predict_BP, shown_BP, weights_BP)

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


def choose(
    key: jax.Array, content_BL: jax.Array, count_B: jax.Array, slots: int
) -> tuple[jax.Array, jax.Array]:
    """A uniform set of `count_B` content positions a row, in `slots` static slots.

    Returns positions int32[B, P], in random order, and which slots are used, bool[B, P].

    >>> content = jnp.array([[False, True, True, True]])
    >>> predict, used = choose(jax.random.key(0), content, jnp.array([2]), 3)
    >>> used.tolist(), 0 in predict[used]
    ([[True, True, False]], False)
    """
    score_BL = jnp.where(content_BL, jax.random.uniform(key, content_BL.shape), -1.0)
    _, predict_BP = jax.lax.top_k(score_BL, slots)
    return predict_BP, jnp.arange(slots)[None, :] < count_B[:, None]


def hide(
    tokens_BL: jax.Array,
    segments_BL: jax.Array,
    predict_BP: jax.Array,
    shown_BP: jax.Array | int,
    weights_BP: jax.Array,
) -> Example:
    """Shows something else at the slots that weigh, and asks there for what it was.

    >>> rows = jnp.array([[5, 6, 7]]), jnp.ones((1, 3), int)
    >>> example = hide(*rows, jnp.array([[2, 0]]), 1, jnp.array([[1.0, 0.0]]))
    >>> example.inputs.tolist(), example.targets.tolist()
    ([[5, 6, 1]], [[7, 5]])
    """
    # An unused slot points past the row, where `drop` ignores it.
    at_BP = jnp.where(weights_BP > 0, predict_BP, tokens_BL.shape[1])
    rows_B1 = jnp.arange(tokens_BL.shape[0])[:, None]
    return Example(
        inputs=tokens_BL.at[rows_B1, at_BP].set(shown_BP, mode="drop"),
        predict=predict_BP,
        targets=jnp.take_along_axis(tokens_BL, predict_BP, axis=1),
        weights=weights_BP,
        segments=segments_BL,
        positions=positions_of(segments_BL),
        visible=Full(),
    )
