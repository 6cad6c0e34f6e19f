"""Texts as rows of a model: what is scored in them, and batches of like lengths."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lm.config import UserError
from lm.data import Tokenizer
from lm.evaluate.tasks.base import Query

WIDTHS = sorted({width for power in range(3, 22) for width in (1 << power, 3 << (power - 1))})
"""Positions of the rows of a batch, which are filled up to one of these: a program for each."""


class TokenQuery(NamedTuple):
    """A query in token ids, without what stands before the first and behind the last."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]
    after: tuple[int, ...] = ()
    number: int = 0
    """As a query's."""


class TaskRow(NamedTuple):
    """A row to be scored, and which query it is of."""

    query: int
    tokens: list[int]
    start: int
    """Where what is scored begins, and where it ends."""
    stop: int
    number: int


class Frame(NamedTuple):
    """What stands around the text of a row, and how long a row may be."""

    before: list[int]
    behind: list[int]
    longest: int

    @property
    def room(self) -> int:
        """How many tokens of text a row has room for."""
        return self.longest - len(self.before) - len(self.behind)


def encode_queries(
    queries: Sequence[Query], tokenizer: Tokenizer, *, sees_after: bool
) -> list[TokenQuery]:
    """Queries in token ids. Texts are encoded whole: where context and continuation meet, a
    token that is of both belongs to the continuation.

    Raises UserError where a continuation has no token of its own.
    """
    pairs = [split_spaces(each) for each in queries]
    encode = tokenizer.encode_all
    contexts = encode([context for context, _ in pairs])
    wholes = encode([context + continuation for context, continuation in pairs])
    behind = (
        encode([c + t + each.after for (c, t), each in zip(pairs, queries, strict=True)])
        if sees_after and any(each.after for each in queries)
        else wholes
    )
    found = []
    for query, context, whole, longer in zip(queries, contexts, wholes, behind, strict=True):
        start = common_ids(context, whole)
        stop = len(whole) if longer is whole else common_ids(whole, longer)
        if stop <= start:
            raise UserError(
                f"{query.continuation!r}: no token of it can be scored behind"
                f" {query.context[-40:]!r}"
            )
        ids = tuple(longer.tolist())
        found.append(TokenQuery(ids[:start], ids[start:stop], ids[stop:], query.number))
    return found


def rows_of(queries: Sequence[TokenQuery], frame: Frame) -> tuple[list[TaskRow], list[int]]:
    """The rows of all queries, and how many tokens of what is around each one are cut.

    The context is cut from its left; a continuation that does not fit by itself is scored in
    parts, without context. Raises UserError where the first token, which without a prefix
    nothing predicts, is the only one.
    """
    before, behind, _ = frame
    rows, cut = [], []
    for number, query in enumerate(queries):
        ids = [*query.context, *query.continuation, *query.after]
        start = len(query.context)
        stop = start + len(query.continuation)
        # Without a prefix nothing says what the first token is.
        unscored = int(not before)
        if stop <= max(start, unscored):
            raise UserError(
                f"token {ids[0]}: it cannot be scored, as nothing stands before it; --prefix"
                " bos, say"
            )
        if stop - start > frame.room:
            parts = [(at, min(at + frame.room, stop)) for at in range(start, stop, frame.room)]
            cut.append(start or 1)
        else:
            # What stands behind is given up last: it is what makes a cloze one.
            last = min(len(ids), start + frame.room)
            parts = [(max(0, last - frame.room), last)]
            cut.append(parts[0][0] + len(ids) - last)
        for first, last in parts:
            tokens = [*before, *ids[first:last], *behind]
            shift = len(before) - first
            begin = max(max(start, first) + shift, unscored)
            rows.append(TaskRow(number, tokens, begin, min(stop, last) + shift, query.number))
    return rows, cut


def batches_of(
    rows: Sequence[TaskRow],
    *,
    longest: int,
    pad: int,
    positions: int,
    shards: int = 1,
    along: int = 1,
) -> Iterator[tuple[list[TaskRow], np.ndarray, np.ndarray]]:
    """Rows of like lengths, the longest first: tokens and segments, int32[B, L] each.

    A device computes so many `positions` at once; B is a multiple of the devices that rows are
    spread over (`shards`), L of those that share a row (`along`).
    """
    by_width: dict[int, list[TaskRow]] = {}
    for row in sorted(rows, key=lambda row: -len(row.tokens)):
        width = next(width for width in WIDTHS if width >= len(row.tokens))
        width = min(width, max(longest, len(row.tokens)))
        by_width.setdefault(-(-width // along) * along, []).append(row)
    for width, of in by_width.items():
        most = shards * max(1, positions // width)
        # As many in each: the last one takes as long as any, however few rows it has.
        even = -(-len(of) // -(-len(of) // most))
        size = -(-even // shards) * shards
        for start in range(0, len(of), size):
            batch = of[start : start + size]
            tokens_BL = np.full((size, width), pad, np.int32)
            segments_BL = np.zeros((size, width), np.int32)
            for r, row in enumerate(batch):
                tokens_BL[r, : len(row.tokens)] = row.tokens
                segments_BL[r, : len(row.tokens)] = 1
            yield batch, tokens_BL, segments_BL


def split_spaces(query: Query) -> tuple[str, str]:
    """The context and the continuation, to which spaces at the context's end belong.

    Tokenizers begin words with the space before them.

    >>> split_spaces(Query("Paris is ", "big"))
    ('Paris is', ' big')
    """
    context = query.context.rstrip()
    return context, query.context[len(context) :] + query.continuation


def common_ids(first: np.ndarray, second: np.ndarray) -> int:
    """How many ids both begin with: where texts meet, a token may be of both.

    >>> common_ids(np.array([3, 4, 5]), np.array([3, 4, 9, 6]))
    2
    """
    least = min(len(first), len(second))
    same = first[:least] == second[:least]
    return least if same.all() else int(same.argmin())
