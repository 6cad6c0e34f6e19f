"""Pairs of texts that stand beside each other, and collections in SMART's form."""

import tarfile
from pathlib import Path

import numpy as np
import pytest

from lm.config import UserError
from lm.data import Bytes, Data, Jsonl, NeighbourPairs, Tabular, open_tokens, rows
from lm.data.tables import read_columns, read_lines

CRAN = """.I 1
.T
a wing in a
slipstream .
.A
brenckman,m.
.B
j. ae. scs. 25, 1958, 324.
.W
a wing in a slipstream .
  an experimental study of a wing
.I 2
.T
.A
.B
.W
.I 3
.T
simple shear flow
.A
.W
.A
the study of high-speed flow past a body .B
"""
PROSE = """\
The first paragraph of it,
in two lines.

short

The second one follows here.


The third has a neighbour \t
The fourth stands right below it.

The fifth is the third's neighbour.

The sixth has none at all.
"""


def said(source) -> list[tuple]:
    return [
        (document.id, *(part.text for part in document.parts), document.group)
        for document in source.read()
    ]


def test_paragraphs_are_paired_once(tmp_path):
    """Fails if a paragraph is in two pairs, a short one is in any, or one has no neighbour."""
    (tmp_path / "a.txt").write_text(PROSE)
    (tmp_path / "b.txt").write_text("Only one paragraph.")
    (tmp_path / "c.txt").write_text("One paragraph of c.\n\nAnother one of c.\n")
    source = NeighbourPairs(paths=(f"{tmp_path}/*.txt",))
    first = "The first paragraph of it,\nin two lines."
    third = "The third has a neighbour \t\nThe fourth stands right below it."
    assert said(source) == [
        ("a.txt:1", first, "The second one follows here.", "a.txt"),
        ("a.txt:9", third, "The fifth is the third's neighbour.", "a.txt"),
        ("c.txt:1", "One paragraph of c.", "Another one of c.", "c.txt"),
    ]
    numbers = [document.parts[0].values["document"] for document in source.read()]
    assert numbers[0] == numbers[1] != numbers[2] and 0 <= min(numbers) < 2**31
    assert [part.values["side"] for part in next(iter(source.read())).parts] == [0, 1]
    alone = NeighbourPairs(paths=(f"{tmp_path}/a.txt",))  # nobody knows where documents end
    assert {(d.group, "document" in d.parts[0].values) for d in alone.read()} == {("", False)}


def test_long_texts_end_at_a_space(tmp_path):
    """Fails if a word is cut where it need not be, or what is short after all is kept."""
    (tmp_path / "a.txt").write_text(f"{'one two ' * 4}\n\n{'x' * 40}\n")
    source = NeighbourPairs(paths=(f"{tmp_path}/a.txt",), characters=18)
    assert said(source) == []  # of 15 characters
    short = NeighbourPairs(paths=source.paths, characters=18, shortest=15)
    assert said(short) == [("a.txt:1", "one two one two", "x" * 18, "")]


def test_a_title_and_what_follows(tmp_path):
    """Fails if a heading's marks are of the title, or the title is of the text."""
    (tmp_path / "a.md").write_text("\n# On the flow of air\n\nIt flows.\nAround wings.\n")
    (tmp_path / "b.md").write_text("A title and nothing else")
    source = NeighbourPairs(paths=(f"{tmp_path}/*.md",), of="title")
    assert said(source) == [("a.md", "On the flow of air", "It flows.\nAround wings.", "a.md")]


def test_records_have_titles_and_abstracts(tmp_path):
    """Fails if an abstract begins with its title, which is then found by the same words; if a
    record without text is a pair, or a collection in an archive is not read.
    """
    (tmp_path / "cran").mkdir()
    (tmp_path / "cran" / "all.1").write_text(CRAN)
    with tarfile.open(tmp_path / "cran.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "cran", "cran")
    source = NeighbourPairs(paths=(f"{tmp_path}/cran/all.1",), of="title")
    wanted = [
        ("all.1:1", "a wing in a slipstream .", "an experimental study of a wing", ""),
        ("all.1:17", "simple shear flow", "the study of high-speed flow past a body .B", ""),
    ]
    assert said(source) == wanted
    assert said(NeighbourPairs(paths=source.paths, of="title", shortest=20)) == wanted[:1]
    (tmp_path / "cran" / "all.1").unlink()
    assert said(source) == wanted
    with pytest.raises(UserError, match=r"of=paragraphs: all.1 is a collection .*; title$"):
        said(NeighbourPairs(paths=source.paths))
    table = Tabular(paths=source.paths, text=("title",))
    assert [document.text for document in table.read()] == [w[1] for w in wanted]


def test_records_have_their_fields():
    """Fails if a field's lines are lost or run together, a mark within a line, or of a
    field that was there, is one, or a carriage return is of a field.
    """
    (_, one), (_, two), (place, three) = read_lines("x", CRAN.encode(), ())
    assert one["text"] == "a wing in a slipstream . an experimental study of a wing"
    assert (one["id"], one["author"]) == ("1", "brenckman,m.")
    assert two == {**dict.fromkeys((*one,), ""), "id": "2"}
    again = read_lines("x", CRAN.replace("\n", "\r\n").encode(), ())
    assert [fields for _, fields in again] == [one, two, three]
    assert place == "x:17" and three["abstract"] == three["text"] and "bibliography" in three


def test_columns_are_words_between_spaces():
    """Fails if spaces at a line's end are a column, or a line of fewer is taken."""
    found = list(read_columns("q", b"1 184 2 \n\n2\t12  -1", ("query", "document", "grade")))
    assert found == [
        ("q:1", {"query": "1", "document": "184", "grade": "2"}),
        ("q:3", {"query": "2", "document": "12", "grade": "-1"}),
    ]
    with pytest.raises(UserError, match="q:1: 2 columns; must be 3: a, b, c"):
        list(read_columns("q", b"1 2", ("a", "b", "c")))
    with pytest.raises(UserError, match="q: not UTF-8"):
        list(read_columns("q", b"\xff", ("a",)))


def test_each_text_stands_by_itself(tmp_path):
    """Fails if the second text has no bos token, or a side or its document is another's."""
    lines = "".join(f'{{"a": "one", "b": "two {n}"}}\n' for n in range(20))
    (tmp_path / "a.jsonl").write_text(lines)
    source = Jsonl(paths=(f"{tmp_path}/a.jsonl",), text=("a", "b"), pair="apart")
    data = Data(
        corpus=source, tokenizer=Bytes(), length=16, batch=1, validation=0.3, packing="single"
    )
    tokens = open_tokens(data)
    vocabulary = tokens.tokenizer.vocabulary
    batch = rows(tokens.train, np.array([0]), 16, vocabulary, "single")
    one, two = (tokens.tokenizer.encode(text).tolist() for text in ("one", "two "))
    bos, eos = vocabulary.bos, vocabulary.eos
    assert batch.tokens_BL[0, :10].tolist() == [bos, *one, eos, bos, *two]
    assert eos in batch.tokens_BL[0, 11:13]
    assert batch.channels["side"][0, :11].tolist() == [0] * 5 + [1] * 6
    assert "part" not in batch.channels
    for kind in (Jsonl, Tabular):
        with pytest.raises(UserError, match="pair=apart: name two fields of text"):
            kind(paths=source.paths, pair="apart")


def test_what_is_no_text_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"data\.corpus: a\.txt: not UTF-8"):
        said(NeighbourPairs(paths=(f"{tmp_path}/a.txt",)))
    assert Path(NeighbourPairs(paths=(f"{tmp_path}/a.txt",)).files()[0][1]).name == "a.txt"
