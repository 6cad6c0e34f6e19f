"""Put a sentinel in place of each span of tokens and say the spans after it (T5)."""

import math
from typing import Annotated, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from msgspec import Meta

from lm.example import (
    AttentionMask,
    Batch,
    BidirectionalMask,
    CausalMask,
    Example,
    Source,
    UntilMask,
    Vocabulary,
    content_of,
    positions_of,
)
from lm.objectives.base import Base, Prediction


class Spans(Base, tag="spans"):
    """Say the spans that were replaced by sentinels, one after the other (T5)."""

    attention_mask: ClassVar[AttentionMask] = BidirectionalMask()
    predictions: ClassVar[frozenset[Prediction]] = frozenset({"spans"})
    rate: Annotated[
        float, Meta(gt=0, lt=1, description="fraction of content tokens removed")
    ] = 0.15
    span: Annotated[float, Meta(ge=1, description="tokens of a span, on average")] = 3.0
    stack: Annotated[
        Literal["single", "encoder_decoder"],
        Meta(description="both parts in one row, or the text as the source of an encoder"),
    ] = "single"

    def removed(self, content: int) -> tuple[int, int]:
        """Tokens removed of a row's content and the spans they make up.

        >>> Spans().removed(568)
        (85, 28)
        """
        noise = min(max(1, math.floor(self.rate * content + 0.5)), max(1, content - 1))
        spans = min(max(1, math.floor(noise / self.span + 0.5)), noise, max(1, content - noise))
        return noise, spans

    def sizes(self, length: int) -> tuple[int, int]:
        """Positions of the text with sentinels, and of the spans, of a row of one document.

        T5's arithmetic: a text of 512 positions takes in 568 tokens, and asks for 114.

        >>> Spans().sizes(1 + 568)
        (512, 114)
        """
        noise, spans = self.removed(length - 1)
        return length - noise + spans, noise + spans + 1

    def target_count(self, length: int) -> int:
        """Target positions: the tokens and sentinels of the spans, and the one that ends them.

        There is room for the further ends of three documents; what finds none in a row of more
        is left out.
        """
        return self._room(length)[1]

    def positions(self, length: int) -> int:
        text, spans = self._room(length)
        return text + spans if self.stack == "single" else spans

    def source_positions(self, length: int) -> int:
        return self._room(length)[0] if self.source else 0

    @property
    def masks(self) -> frozenset[type[AttentionMask]]:
        return frozenset({UntilMask if self.stack == "single" else CausalMask})

    @property
    def source(self) -> bool:
        return self.stack == "encoder_decoder"

    def check(self, *, length: int, sentinels: int) -> str | None:
        needed = self.removed(length - 1)[1] + 1
        if sentinels < needed:
            return (
                f"span={self.span:g} makes {needed - 1} spans of a row, so that"
                f" data.tokenizer.sentinels must be at least {needed}, and is {sentinels}"
            )
        return None

    def __call__(
        self,
        batch: Batch,
        vocabulary: Vocabulary,
        key: jax.Array,
        progress: jax.Array | float = 1.0,
    ) -> Example:
        """Removes round(rate x content) tokens of each row in round(that / span) spans.

        What finds no room (see `target_count`) is not asked for.

        Spans and what lies between them are random divisions into parts that are not empty,
        text first (Raffel et al. 2020, section 3.1.4, and the reference code's
        `random_spans_noise_mask`).

        >>> vocabulary = Vocabulary(
        ...     size=12, pad=0, mask=1, bos=2, eos=3, first_ordinary=6,
        ...     begins_word=(True,) * 12, sentinels=(4, 5),
        ... )
        >>> batch = Batch(jnp.array([[2, 6, 7, 8, 3]]), jnp.ones((1, 5), int))
        >>> spans = Spans(rate=0.5, span=2)
        >>> example = spans(batch, vocabulary, jax.random.key(0))
        >>> example.inputs[0, :4].tolist(), example.targets[0, :4].tolist()
        ([2, 6, 7, 4], [4, 8, 3, 5])
        """
        tokens_BL, segments_BL = batch.tokens_BL, batch.segments_BL
        content_BL = content_of(tokens_BL, segments_BL, vocabulary)
        masked_BL = self._masked(content_BL, key)
        text, spans = self._room(tokens_BL.shape[1])
        return lay_out(
            tokens_BL, segments_BL, masked_BL, vocabulary, text=text, spans=spans
        ).example(self.stack)

    def _room(self, length: int) -> tuple[int, int]:
        """A second document may cut a span in two, and its spans have an end of their own."""
        text, spans = self.sizes(length)
        return text + 3, spans + 4

    def _masked(self, content_BL: jax.Array, key: jax.Array) -> jax.Array:
        """Which content is removed, bool[B, L]."""
        length = content_BL.shape[1]
        # Tabulated in Python: in float32, a product may fall on the other side of a half.
        table = jnp.array([self.removed(n) for n in range(length)])
        content_B = content_BL.sum(1)
        noise_B, spans_B = table[content_B].T
        most = max(self.removed(n)[1] for n in range(length))
        keys = jax.random.split(key)
        kept_BS = _parts(keys[0], content_B - noise_B, spans_B, length, most)
        gone_BS = _parts(keys[1], noise_B, spans_B, length, most)
        start_BS = jnp.cumsum(kept_BS, 1) + jnp.cumsum(gone_BS, 1) - gone_BS
        rows_B1 = jnp.arange(len(content_BL))[:, None]
        # An empty part beyond the last adds and takes away one at the same place.
        edge_BL = jnp.zeros((len(content_BL), length + 1), jnp.int32)
        edge_BL = edge_BL.at[rows_B1, start_BS].add(1).at[rows_B1, start_BS + gone_BS].add(-1)
        inside_BL = jnp.cumsum(edge_BL, 1)[:, :length] > 0
        rank_BL = jnp.cumsum(content_BL, 1) - 1
        return content_BL & jnp.take_along_axis(inside_BL, rank_BL.clip(0), axis=1)


class Layout(NamedTuple):
    """A text with sentinels and the spans that stand behind them."""

    text_BM: jax.Array
    text_segments_BM: jax.Array
    text_positions_BM: jax.Array
    shown_BP: jax.Array
    """The spans as a decoder reads them: a bos token, then all targets but the last."""
    targets_BP: jax.Array
    segments_BP: jax.Array
    positions_BP: jax.Array
    origin_BP: jax.Array
    """The row position of each target; L for a sentinel and an unused target position."""

    def example(self, stack: Literal["single", "encoder_decoder"] = "single") -> Example:
        """As one row (text, then spans, which see the text and what was said), or as two."""
        used_BP = self.segments_BP > 0
        if stack == "encoder_decoder":
            return Example(
                inputs=self.shown_BP,
                target_positions=None,
                targets=self.targets_BP,
                weights=used_BP.astype(jnp.float32),
                segments=self.segments_BP,
                positions=self.positions_BP,
                attention_mask=CausalMask(),
                source=Source(self.text_BM, self.text_segments_BM, self.text_positions_BM),
            )
        batch, text = self.text_BM.shape
        # How many text positions the document has, before those of its spans.
        same_BPM = self.segments_BP[:, :, None] == self.text_segments_BM[:, None, :]
        after_BP = same_BPM.sum(2)
        index_L = jnp.arange(text + used_BP.shape[1])
        until_BL = jnp.broadcast_to(jnp.maximum(index_L, text - 1)[None], (batch, len(index_L)))
        return Example(
            inputs=jnp.concatenate([self.text_BM, self.shown_BP], axis=1),
            target_positions=jnp.broadcast_to(index_L[None, text:], used_BP.shape),
            targets=self.targets_BP,
            weights=used_BP.astype(jnp.float32),
            segments=jnp.concatenate([self.text_segments_BM, self.segments_BP], axis=1),
            positions=jnp.concatenate(
                [self.text_positions_BM, jnp.where(used_BP, after_BP + self.positions_BP, 0)], 1
            ),
            attention_mask=UntilMask(until_BL),
        )


def lay_out(
    tokens_BL: jax.Array,
    segments_BL: jax.Array,
    masked_BL: jax.Array,
    vocabulary: Vocabulary,
    *,
    text: int,
    spans: int,
) -> Layout:
    """Puts hidden runs behind sentinels, in `text` and `spans` static positions.

    Sentinels are counted in each document by itself, so that no document's place in the row
    matters. What finds no room is left out: the end of the text or of the spans.
    """
    batch, length = tokens_BL.shape
    rows_B1 = jnp.arange(batch)[:, None]
    follows_BL = _before(segments_BL, 0) == segments_BL
    first_BL = masked_BL & ~(_before(masked_BL, False) & follows_BL)
    begins_BL = (segments_BL > 0) & ~follows_BL
    number_BL = jnp.cumsum(first_BL, 1)
    number_BL -= _from_start(number_BL - first_BL, begins_BL)  # in its document, from 1
    sentinels_S = jnp.array(vocabulary.sentinels)

    def sentinel(number: jax.Array) -> jax.Array:
        return sentinels_S[number.clip(0, len(sentinels_S) - 1)]

    kept_BL = (segments_BL > 0) & (~masked_BL | first_BL)
    to_BL = jnp.where(kept_BL, jnp.cumsum(kept_BL, 1) - 1, text)
    shown_BL = jnp.where(first_BL, sentinel(number_BL - 1), tokens_BL)
    empty_BM = jnp.zeros((batch, text), jnp.int32)
    text_BM = (empty_BM + vocabulary.pad).at[rows_B1, to_BL].set(shown_BL, mode="drop")
    text_segments_BM = empty_BM.at[rows_B1, to_BL].set(segments_BL, mode="drop")

    # A document's spans end with one more sentinel, where it has any.
    last_BL = (segments_BL > 0) & jnp.pad(
        segments_BL[:, 1:] != segments_BL[:, :-1], ((0, 0), (0, 1)), constant_values=True
    )
    closes_BL = last_BL & (number_BL > 0)
    count_BL = masked_BL.astype(jnp.int32) + first_BL + closes_BL
    start_BL = jnp.cumsum(count_BL, 1) - count_BL

    def put(
        into_BP: jax.Array, where_BL: jax.Array, at_BL: jax.Array, value_BL: jax.Array
    ) -> jax.Array:
        at_BL = jnp.where(where_BL, at_BL, spans)
        return into_BP.at[rows_B1, at_BL].set(value_BL, mode="drop")

    index_BL = jnp.broadcast_to(jnp.arange(length)[None], tokens_BL.shape)
    targets_BP = jnp.full((batch, spans), vocabulary.pad)
    segments_BP = jnp.zeros((batch, spans), jnp.int32)
    origin_BP = jnp.full((batch, spans), length)
    token_BL, end_BL = start_BL + first_BL, start_BL + masked_BL + first_BL
    targets_BP = put(targets_BP, first_BL, start_BL, sentinel(number_BL - 1))
    targets_BP = put(targets_BP, masked_BL, token_BL, tokens_BL)
    targets_BP = put(targets_BP, closes_BL, end_BL, sentinel(number_BL))
    origin_BP = put(origin_BP, masked_BL, token_BL, index_BL)
    for where_BL, at_BL in (
        (first_BL, start_BL), (masked_BL, token_BL), (closes_BL, end_BL)
    ):  # fmt: skip
        segments_BP = put(segments_BP, where_BL, at_BL, segments_BL)
    begins_BP = (segments_BP > 0) & (_before(segments_BP, 0) != segments_BP)
    return Layout(
        text_BM=text_BM,
        text_segments_BM=text_segments_BM,
        text_positions_BM=_places(text_segments_BM),
        shown_BP=jnp.where(begins_BP, vocabulary.bos, _before(targets_BP, vocabulary.pad)),
        targets_BP=targets_BP,
        segments_BP=segments_BP,
        positions_BP=_places(segments_BP),
        origin_BP=origin_BP,
    )


def _parts(
    key: jax.Array, items_B: jax.Array, parts_B: jax.Array, length: int, most: int
) -> jax.Array:
    """Random sizes of non-empty parts of `items`, int32[B, most]; 0 beyond `parts`."""
    batch = len(items_B)
    index_1L = jnp.arange(length)[None, :]
    draws_BL = jax.random.uniform(key, (batch, length))
    # The first parts - 1 of the gaps between items, in random order, are where it is cut.
    draws_BL = jnp.where(index_1L < items_B[:, None] - 1, draws_BL, 2.0)
    order_BL = jnp.argsort(jnp.argsort(draws_BL, 1), 1)
    cut_BL = order_BL < parts_B[:, None] - 1
    part_BL = jnp.cumsum(cut_BL, 1) - cut_BL
    part_BL = jnp.where(index_1L < items_B[:, None], part_BL, most)
    rows_B1 = jnp.arange(batch)[:, None]
    return jnp.zeros((batch, most), jnp.int32).at[rows_B1, part_BL].add(1, mode="drop")


def _before(x_BL: jax.Array, first: int | bool) -> jax.Array:
    return jnp.pad(x_BL[:, :-1], ((0, 0), (1, 0)), constant_values=first)


def _from_start(x_BL: jax.Array, begins_BL: jax.Array) -> jax.Array:
    """The value at the start of each position's document."""
    index_BL = jnp.broadcast_to(jnp.arange(x_BL.shape[1])[None], x_BL.shape)
    start_BL = jax.lax.cummax(jnp.where(begins_BL, index_BL, 0), axis=1)
    return jnp.take_along_axis(x_BL, start_BL, axis=1)


def _places(segments_BL: jax.Array) -> jax.Array:
    """Positions within each document; padding has 0."""
    return jnp.where(segments_BL > 0, positions_of(segments_BL), 0)
