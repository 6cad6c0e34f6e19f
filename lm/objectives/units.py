"""What is masked as a whole: words, spans and n-grams, and a draw of such units."""

import jax
import jax.numpy as jnp

from lm.data import words
from lm.example import Vocabulary

LONGEST_WORD = 24
"""Tokens of a word; what is longer is none (hex, DNA, base64) and is cut."""
CHARACTER = 4
"""Tokens that a character has at most: its bytes."""


def word_starts(tokens_BL: jax.Array, wanted_B: jax.Array, vocabulary: Vocabulary) -> jax.Array:
    """Where a word begins, bool[B, L]: see `lm.data.words`.

    A longer one than `LONGEST_WORD` is cut into parts of so many tokens, or of those that are
    wanted of the row, if they are fewer, and at most three more, which complete a character
    that is spelled in bytes. Here a byte's id is the byte: é continues a word, 語 is one.

    >>> vocabulary = Vocabulary(
    ...     size=256, pad=0, mask=1, bos=2, eos=3, first_ordinary=4,
    ...     begins_word=tuple(map(words.begins_word, map(chr, range(128)))) + (False,) * 128,
    ...     character_bytes=(0,) * 128 + tuple(range(128, 256)),
    ... )
    >>> tokens = jnp.array([list("été 語語".encode())])
    >>> word_starts(tokens, jnp.ones(1), vocabulary)[0].astype(int).tolist()
    [0, 0, 0, 0, 0, 1, 1, 0, 0, 1, 0, 0]
    """
    starts_BL = jnp.array(vocabulary.begins_word)[tokens_BL]
    inside_BL = jnp.zeros_like(starts_BL)
    if any(vocabulary.character_bytes):
        byte_BL = jnp.array(vocabulary.character_bytes)[tokens_BL]
        inside_BL = (byte_BL >= 0x80) & (byte_BL < 0xC0)
        changes = jnp.array(words.changes())
        after_BL = jnp.searchsorted(changes, _code_points(byte_BL), side="right")
        starts_BL |= (byte_BL >= 0xC0) & (after_BL % 2 == 1)
    part_B = jnp.clip(wanted_B.astype(jnp.int32), 1, LONGEST_WORD)
    return cut(starts_BL, inside_BL, LONGEST_WORD, part_B[:, None])


def _code_points(byte_BL: jax.Array) -> jax.Array:
    """The character whose UTF-8 begins at each position, int32[B, L], where one does."""
    length = byte_BL.shape[1]
    # What a row's end cuts off of a character counts as zeros.
    next_BL, third_BL, fourth_BL = (
        jnp.pad(byte_BL, ((0, 0), (0, ahead)))[:, ahead : ahead + length] & 0x3F
        for ahead in (1, 2, 3)
    )
    two_BL = (byte_BL & 0x1F) << 6 | next_BL
    three_BL = (byte_BL & 0x0F) << 12 | next_BL << 6 | third_BL
    four_BL = (byte_BL & 0x07) << 18 | next_BL << 12 | third_BL << 6 | fourth_BL
    return jnp.where(byte_BL < 0xE0, two_BL, jnp.where(byte_BL < 0xF0, three_BL, four_BL))


def cut(
    starts_BL: jax.Array, inside_BL: jax.Array, longest: int, part: int | jax.Array
) -> jax.Array:
    """Starts of units, with further ones after each `part` tokens of a unit above `longest`.

    None is added at a token that is `inside` a character: it stays with the one before.

    >>> starts = jnp.array([[True, False, False, True, False, False, False, False]])
    >>> inside = jnp.array([[False, False, False, False, False, True, False, False]])
    >>> cut(starts, inside, 3, 2)[0].astype(int).tolist()
    [1, 0, 0, 1, 0, 0, 1, 1]
    """
    length = starts_BL.shape[1]
    index_BL = jnp.broadcast_to(jnp.arange(length), starts_BL.shape)
    start_BL = jax.lax.cummax(jnp.where(starts_BL, index_BL, 0), axis=1)
    ends_BL = jnp.pad(starts_BL[:, 1:], ((0, 0), (0, 1)), constant_values=True)
    last_BL = jax.lax.cummin(jnp.where(ends_BL, index_BL, length), axis=1, reverse=True)
    character_BL = jax.lax.cummax(jnp.where(inside_BL, 0, index_BL), axis=1)
    number_BL = (character_BL - start_BL) // part
    further_BL = number_BL != jnp.pad(number_BL[:, :-1], ((0, 0), (1, 0)))
    return starts_BL | (further_BL & (last_BL - start_BL >= longest))


def choose_units(
    key: jax.Array,
    content_BL: jax.Array,
    starts_BL: jax.Array,
    wanted_B: jax.Array,
    targets: int,
) -> tuple[jax.Array, jax.Array]:
    """Whole units of content, in random order, until `wanted_B` positions are reached.

    A unit begins where `starts_BL` says so and after what is no content. The one that would go
    beyond is taken with the probability that makes the expected number `wanted_B`, unless it
    does not fit into the slots: they must hold a longest one beyond. Returns positions
    int32[B, P] and which slots are used, bool[B, P].

    >>> content = jnp.array([[False, True, True, True, True]])
    >>> starts = jnp.array([[True, True, False, True, False]])
    >>> predict, used = choose_units(jax.random.key(0), content, starts, jnp.array([2.0]), 3)
    >>> sorted(predict[used].tolist()) in ([1, 2], [3, 4])
    True
    """
    batch, length = content_BL.shape
    index_BL = jnp.broadcast_to(jnp.arange(length), content_BL.shape)
    before_BL = jnp.pad(content_BL[:, :-1], ((0, 0), (1, 0)))
    first_BL = content_BL & (starts_BL | ~before_BL)
    start_BL = jax.lax.cummax(jnp.where(first_BL, index_BL, 0), axis=1)
    draw_BL = jax.random.uniform(key, content_BL.shape)
    # Content first, unit by unit in random order; a stable sort keeps units together.
    score_BL = jnp.where(content_BL, jnp.take_along_axis(draw_BL, start_BL, axis=1), 2.0)
    order_BL = jnp.argsort(score_BL, axis=1, stable=True)
    at = jnp.arange(batch)[:, None]
    size_BL = jnp.zeros_like(index_BL).at[at, start_BL].add(content_BL.astype(jnp.int32))
    size_BL = size_BL[at, start_BL[at, order_BL]]
    taken_BL = jax.lax.cummax(jnp.where(first_BL[at, order_BL], index_BL, 0), axis=1)

    missing_BL = wanted_B[:, None] - taken_BL
    crossing_B1 = jax.random.uniform(jax.random.fold_in(key, 3), (batch, 1))
    used_BL = (missing_BL > crossing_B1 * size_BL) & (taken_BL + size_BL <= targets)
    used_BL &= content_BL[at, order_BL]
    return order_BL[:, :targets], used_BL[:, :targets]
