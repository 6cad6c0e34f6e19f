"""Rows of whole documents: none is cut or lost, and the table is the same every time."""

import logging
from dataclasses import replace
from pathlib import Path

import jax
import msgspec
import numpy as np
import pytest
import tensorstore as ts
from hypothesis import given
from hypothesis import strategies as st

from lm.config import UserError
from lm.data import (
    Batches,
    Bytes,
    Channel,
    Data,
    Split,
    most_content,
    n_rows,
    open_tokenizer,
    open_tokens,
    row_tokens,
    rows,
    unique_rows,
)
from lm.data.packing import pack, table_of

TOKENIZER = open_tokenizer(Bytes())
VOCABULARY = TOKENIZER.vocabulary
LABEL = Channel("label", "int32", fill=-1)


def numbered(sizes: list[int]) -> Split:
    """A stream of documents of these lengths whose token at index i is 100 + i."""
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    tokens = ts.array(np.arange(100, 100 + offsets[-1], dtype=np.int32))
    labels = ts.array(np.repeat(np.arange(len(sizes), dtype=np.int32), sizes))
    ids = [str(size) for size in sizes]
    return Split(tokens, offsets, np.array(sizes), ids, TOKENIZER, {LABEL: labels})


@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=30), length=st.integers(12, 20))
def test_each_document_stands_once_and_whole_in_a_row(sizes: list[int], length: int) -> None:
    """Fails if one is cut, lost or doubled, or its tokens, segment or channel are another's."""
    split = numbered(sizes)
    count = n_rows(split, length, "whole")
    found = rows(split, np.arange(count), length, VOCABULARY, "whole")
    assert found.tokens_BL.shape == found.segments_BL.shape == (count, length)
    seen = []
    for tokens, segments, labels in zip(*jax.tree.leaves(replace_order(found)), strict=True):
        assert (tokens[segments == 0] == VOCABULARY.pad).all()
        assert (labels[segments == 0] == -1).all()
        assert (np.diff(segments[segments > 0]) >= 0).all()  # then padding alone
        assert not segments[np.count_nonzero(segments) :].any()
        for segment in range(1, segments.max() + 1):
            (number,) = set(labels[segments == segment].tolist())
            start, stop = split.offsets[number : number + 2]
            assert tokens[segments == segment].tolist() == list(range(100 + start, 100 + stop))
            seen.append(number)
    assert sorted(seen) == list(range(len(sizes)))
    assert row_tokens(split, length, "whole") * count == pytest.approx(sum(sizes))
    assert most_content(split, length, "whole") == max(
        int((segments > 0).sum() - segments.max()) for segments in found.segments_BL
    )


def test_a_row_may_hold_one_document_alone() -> None:
    """Fails if two share a row, one is lost or cut, or their order is that of their sizes."""
    split = numbered([4, 7, 2, 5])
    assert n_rows(split, 9, "single") == 4 and row_tokens(split, 9, "single") == 18 / 4
    found = rows(split, np.array([2, 0, 1, 3]), 9, VOCABULARY, "single")
    assert found.segments_BL.sum(axis=1).tolist() == [2, 4, 7, 5]
    assert found.segments_BL.max() == 1
    assert found.channels["label"][:, 0].tolist() == [2, 0, 1, 3]
    assert found.tokens_BL[0].tolist() == [111, 112] + [VOCABULARY.pad] * 7
    assert most_content(split, 9, "single") == 6
    with pytest.raises(UserError, match="longer than a row"):
        n_rows(split, 6, "single")


def test_copies_of_a_row_stand_one_behind_the_other(corpus) -> None:
    """Fails if an epoch has fewer rows for it, or the copies are of other rows on a host."""
    data = Data(
        corpus=corpus, tokenizer=Bytes(), validation=0.2, length=800, batch=6, packing="single"
    )
    tokens = open_tokens(data)
    once = tokens.batches(msgspec.structs.replace(data, batch=2), 7)
    thrice = tokens.batches(data, 7, copies=3)
    for step in (0, 5):
        expected = np.repeat(once(step).tokens_BL, 3, axis=0)
        assert np.array_equal(thrice(step).tokens_BL, expected)
        assert np.array_equal(thrice(step, slice(2, 5)).tokens_BL, expected[2:5])


def replace_order(batch):
    return [batch.tokens_BL, batch.segments_BL, batch.channels["label"]]


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=60), length=st.integers(9, 30))
def test_rows_are_full_where_they_can_be(sizes: list[int], length: int) -> None:
    """Fails if documents go to rows in which they do not fit, or into more than are needed."""
    table = pack(np.array(sizes), length)
    held = np.add.reduceat(np.array(sizes)[table.documents], table.rows[:-1]).tolist()
    assert max(held) <= length
    assert len(held) <= 11 / 9 * -(-sum(sizes) // length) + 1 or half_of(held, length)


def half_of(held, length):
    """Best fit leaves no two rows that would go into one."""
    two = sorted(held)[:2]
    return len(held) == 1 or sum(two) > length


def test_the_table_is_pinned_and_kept(tmp_path: Path, caplog, cache: Path) -> None:
    """Fails if the order of rows changes (runs could not go on), or a damaged table is used."""
    sizes = [5, 3, 8, 2, 7, 4, 4, 6, 1, 9]
    first = table_of(numbered(sizes), 10)
    assert first.rows.tolist() == [0, 1, 3, 5, 7, 10]
    assert first.documents.tolist() == [9, 2, 3, 1, 4, 5, 7, 0, 6, 8]
    (kept,) = (cache / "rows").iterdir()
    again = table_of(numbered(sizes), 10)
    assert [each.tolist() for each in again] == [each.tolist() for each in first]
    kept.write_bytes(kept.read_bytes()[:-8] + bytes(8))
    with caplog.at_level(logging.WARNING):
        assert table_of(numbered(sizes), 10).documents.tolist() == first.documents.tolist()
    assert "damaged" in caplog.text


def test_oneline_a_document_longer_than_a_row_is_refused_or_cut() -> None:
    """Fails if it is left out, or cut where its source does not say so."""
    split = numbered([4, 11, 25, 3])
    with pytest.raises(
        UserError, match=r"^data\.length=10: 25 has 25 tokens, the most of 2 [^\n]*$"
    ):
        n_rows(split, 10, "whole")
    cut = replace(split, too_long="cut")
    found = rows(cut, np.arange(n_rows(cut, 10, "whole")), 10, VOCABULARY, "whole")
    tokens = np.sort(found.tokens_BL[found.segments_BL > 0])
    kept = [range(100, 104), range(104, 114), range(115, 125), range(140, 143)]
    assert tokens.tolist() == [token for part in kept for token in part]


def test_batches_of_whole_documents_are_shuffled_and_resumed(corpus) -> None:
    """Fails if an epoch leaves a row out, or a batch depends on where one starts."""
    data = Data(corpus=corpus, tokenizer=Bytes(), validation=0.2, length=800, batch=4)
    tokens = open_tokens(data)
    split = tokens.train
    n = n_rows(split, 800, "whole")
    batches = Batches(split, tokens.tokenizer.vocabulary, 800, n, 7, packing="whole")
    epochs = [batches(epoch).tokens_BL for epoch in (0, 1)]
    assert not np.array_equal(*epochs)
    assert sorted(epochs[0].tolist()) == sorted(epochs[1].tolist())
    found = next(batches.iterate(1, 2, slice(2, 4)))
    assert np.array_equal(found.tokens_BL, epochs[1][2:4])
    texts = {split.text(number) for number in range(len(split.ids))}
    whole = {
        TOKENIZER.decode(row[at == segment])
        for row, at in zip(epochs[0], batches(0).segments_BL, strict=True)
        for segment in range(1, at.max() + 1)
    }
    assert whole == texts


def test_tokens_of_whole_documents_are_those_that_are_no_padding() -> None:
    """Fails if padding counts as text that is read."""
    split = numbered([6, 6, 6])
    assert n_rows(split, 10, "whole") == 3
    assert unique_rows(split, 10, 12, "whole") == 2
    with pytest.raises(UserError, match="has 18 tokens in 3 rows"):
        unique_rows(split, 10, 19, "whole")
