"""Tables of labelled text: files of each form, archives of them, and lines that are none."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from lm.config import UserError
from lm.data import (
    Bytes,
    Data,
    SentencePiece,
    Stretch,
    Tabular,
    corpus_digest,
    in_memory,
    open_tokens,
    rows,
)

COLUMNS = ("source", "label", "mark", "sentence")
COLA = 'gj04\t1\t\tShe said "no.\ngj04\t0\t*\té he run.\n\n'
CLASSES = {"label": "label", "classes": ("0", "1"), "text": ("sentence",)}


@pytest.fixture
def file(tmp_path: Path):
    """Writes a file, and gives the source's paths."""

    def write(name: str, content: str) -> tuple[str, ...]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode())
        return (str(path),)

    return write


def said(table: Tabular) -> list[tuple[str, list[str], list[dict]]]:
    """Of each document its id, its stretches, and what is said of them."""
    return [
        (each.id, [part.text for part in each.parts], [dict(p.values) for p in each.parts])
        for each in table.read()
    ]


def test_columns_without_a_first_line_of_names(file) -> None:
    """Fails if the first line is lost, quotation marks quote, or columns are shifted (CoLA)."""
    table = Tabular(paths=file("train.tsv", COLA), names=COLUMNS, **CLASSES)
    assert said(table) == [
        ("train.tsv:1", ['She said "no.'], [{"label": 1}]),
        ("train.tsv:2", ["é he run."], [{"label": 0}]),
    ]


def test_pairs_and_numbers_of_every_form(file) -> None:
    """Fails if a form is read as another, a comma in quotes cuts, or numbers are classes."""
    pair = {"text": ("one", "two"), "label": "score"}
    lines = [{"one": "a, b", "two": "c", "score": 2.5}, {"one": "d", "two": "e", "score": None}]
    last = {
        "a.jsonl": "\n".join(map(json.dumps, lines)),
        "a.json": json.dumps(lines),
        "a.csv": 'two,score,one\nc,2.5,"a, b"\n',
        "a.tsv": "score\tone\ttwo\n2.5\ta, b\tc\n",
    }
    for name, content in last.items():
        table = Tabular(paths=file(name, content), **pair)
        found = said(table)
        values = [{"label": 2.5, "part": part} for part in (0, 1)]
        assert found[0][1:] == (["a, b", "c"], values), name
        assert len(found) == (2 if "json" in name else 1)
        assert np.isnan([part["label"] for part in found[-1][2]]).all() == ("json" in name)
    label, part = table.channels
    assert (label.name, label.dtype, label.classes) == ("label", "float32", None)
    assert np.isnan(label.fill) and part.classes == 2


def test_numbers_go_with_rows_and_none_is_nan(file) -> None:
    """Fails if a number is rounded, or padding or an unlabelled text seems to have one."""
    lines = [{"text": f"text {n}", "y": n / 8 if n % 3 else None} for n in range(40)]
    paths = file("a.jsonl", "\n".join(map(json.dumps, lines)))
    table = Tabular(paths=paths, label="y")
    tokens = open_tokens(Data(corpus=table, tokenizer=Bytes(), validation=0.2))
    split = tokens.train
    batch = rows(split, [0, 1], 40, tokens.tokenizer.vocabulary, "whole")
    label_BL = batch.channels["label"]
    assert label_BL.dtype == np.float32
    found = set()
    for row in range(2):
        text = tokens.tokenizer.decode
        assert np.isnan(label_BL[row][batch.segments_BL[row] == 0]).all()
        for segment in range(1, batch.segments_BL[row].max() + 1):
            own = batch.segments_BL[row] == segment
            number = int(text(batch.tokens_BL[row][own]).removeprefix("text "))
            wanted = number / 8 if number % 3 else np.nan
            np.testing.assert_array_equal(label_BL[row][own], wanted)
            found.add(number % 3 == 0)
    assert found == {True, False}


@pytest.mark.parametrize("tokenizer", [Bytes(), SentencePiece(size=300)])
def test_the_first_token_of_a_word_has_its_label(tokenizer, file) -> None:
    """Fails if every token of a word has its label, the space before it, or bos or eos do."""
    words = ["Wolves", "in", "Łódź", "howl"]
    lines = [{"w": words, "t": ["O", "O", "LOC", None]}]
    lines += [{"w": " ".join(["more"] * (3 + n)), "t": "O " * (3 + n)} for n in range(40)]
    paths = file("a.jsonl", "\n".join(map(json.dumps, lines)))
    table = Tabular(paths=paths, text=("w",), label="t", classes=("O", "LOC"), labelled="word")
    (document, *_) = table.read()
    assert document.text == "Wolves in Łódź howl" and not document.parts
    assert document.words[2] == Stretch(" Łódź", {"label": 1})
    learnt = open_tokens(Data(corpus=table, tokenizer=tokenizer, validation=0.3)).tokenizer
    split = in_memory([document], learnt, table.channels)
    ids = split.read([0], split.size)[0]
    labels = split.read_channels([0], split.size)["label"][0]
    assert learnt.decode(ids) == document.text
    assert ids[0] == learnt.vocabulary.bos and ids[-1] == learnt.vocabulary.eos
    starts = np.cumsum([1] + [len(learnt.encode(word.text)) for word in document.words])[:-1]
    wanted = np.full(len(ids), -1)
    wanted[starts] = [0, 0, 1, -1]
    np.testing.assert_array_equal(labels, wanted)
    assert (labels >= 0).sum() == 3 < len(ids) - 2


def archived(path: Path, files: dict[str, bytes], how: str = "w:xz") -> None:
    with tarfile.open(path, how) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("ending", [".tar.xz", ".tar.gz"])
def test_an_archive_is_the_folder_that_it_is_named_like(ending, tmp_path, file) -> None:
    """Fails if what is packed is another corpus than unpacked, or another member is read."""
    other = COLA.replace("She", "They")
    files = {"glue/CoLA/train.tsv": COLA, "glue/CoLA/dev.tsv": other, "glue/dev.tsv": "x"}
    archived(
        tmp_path / f"glue{ending}",
        {name: content.encode() for name, content in files.items()},
        f"w:{ending[-2:]}",
    )
    for pattern, names in {"dev": ["dev.tsv"], "*": ["dev.tsv", "train.tsv"]}.items():
        paths = (str(tmp_path / f"glue/CoLA/{pattern}.tsv"),)
        table = Tabular(paths=paths, names=COLUMNS, **CLASSES)
        assert table.files() == [(name, tmp_path / f"glue{ending}") for name in names]
        packed = said(table)
        assert packed[0] == ("dev.tsv:1", ['They said "no.'], [{"label": 1}])
        digest = corpus_digest(Data(corpus=table, validation=0.5))
        for name, content in files.items():
            file(name, content)
        assert said(table) == packed and table.files()[0][1].name == "dev.tsv"
        assert corpus_digest(Data(corpus=table, validation=0.5)) == digest
        for name in files:
            (tmp_path / name).unlink()
    # As where it is unpacked, a star is no folder.
    assert [name for name, _ in Tabular(paths=(str(tmp_path / "glue/*.tsv"),)).files()] == [
        "dev.tsv"
    ]


@pytest.mark.parametrize(
    ("name", "content", "settings", "why"),
    [
        ("a.tsv", "x\ty\nb\t0\nc", {}, r"a\.tsv:3: 1 fields; must be 2: x, y"),
        ("a.tsv", "x\ty\nb\t2", {}, r"classes: a\.tsv:2: y=2, which is not one of 0, 1"),
        ("a.csv", 'x,y\n"b,0\n', {}, r"a\.csv: unexpected end of data"),
        ("a.tsv", "x\ty\nb\tbad", {"classes": ()}, r"label: a\.tsv:2: y is no number: 'bad'"),
        ("a.tsv", "x\ty\nb\tinf", {"classes": ()}, r"label: a\.tsv:2: y is no number: 'inf'"),
        ("a.tsv", "x\tz\nb\t1", {}, r"a\.tsv:2: no field y; one of x, z"),
        ("a.jsonl", '{"x": "a", "y": 0}\n{', {}, r"a\.jsonl:2: no JSON"),
        ("a.json", '{"x": "a"}', {}, r"a\.json: must be a list of objects"),
        ("a.jsonl", '{"x": ["a"], "y": 3}', {"labelled": "word"}, r"a\.jsonl:1: y is no list"),
        (
            "a.jsonl",
            '{"x": ["a", "b"], "y": ["0"]}',
            {"labelled": "word"},
            r"a\.jsonl:1: 2 words, and 1 labels in y",
        ),
        (
            "a.jsonl",
            '{"x": ["a", " "], "y": ["0", "1"]}',
            {"labelled": "word"},
            r"a\.jsonl:1: x has ' ', no word",
        ),
    ],
)  # fmt: skip
def test_oneline_a_line_that_is_none_is_named(file, name, content, settings, why) -> None:
    """Fails if a bad line is skipped, or Python's own error gets through."""
    usual = {"text": ("x",), "label": "y", "classes": ("0", "1")}
    table = Tabular(paths=file(name, content), **(usual | settings))
    with pytest.raises(UserError, match=rf"^data\.corpus[^\n]*{why}[^\n]*$"):
        list(table.read())


def test_oneline_settings_that_say_nothing_are_refused(tmp_path) -> None:
    """Fails if words have no label, of two fields one is left out, or no file is no error."""
    for settings, why in [
        ({"labelled": "word"}, "labelled=word: name one field of text, and one of label"),
        ({"label": "y", "classes": ("one",)}, "classes: name those of y in order"),
    ]:
        with pytest.raises(UserError, match=f"^{why}"):
            Tabular(paths=("a",), **settings)
    archived(tmp_path / "glue.tar", {"glue/a.tsv": b"x"}, "w")
    table = Tabular(paths=(str(tmp_path / "glue/b.tsv"),))
    with pytest.raises(UserError, match=r"^data\.corpus\.paths: .*b\.tsv matches no file"):
        list(table.read())
