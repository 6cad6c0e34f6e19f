"""Labelled text: what a line says comes out at each of its tokens."""

import json
from pathlib import Path

import numpy as np
import pytest

from lm.config import Config, UserError, parse
from lm.data import Bytes, Corpus, Data, Jsonl, SentencePiece, corpus_digest, open_tokens, rows


@pytest.fixture
def lines(tmp_path: Path):
    """Writes lines to a file of its own, and gives the source's paths."""

    def write(*lines: object, name: str = "a.jsonl") -> tuple[str, ...]:
        texts = [each if isinstance(each, str) else json.dumps(each) for each in lines]
        (tmp_path / name).write_text("\n".join(texts) + "\n")
        return (str(tmp_path / name),)

    return write


def pairs(number: int) -> list[dict]:
    return [
        {"a": f"first {n}", "b": "x" * (1 + n % 5), "same": ["no", "yes", None][n % 3]}
        for n in range(number)
    ]


SETTINGS = {"text": ("a", "b"), "label": "same", "classes": ("no", "yes")}
NUMBER = {"no": 0, "yes": 1, None: -1}


def test_every_token_has_its_documents_label_and_part(lines) -> None:
    """Fails if channels are shifted against tokens, or an end is of the next part."""
    corpus = Jsonl(paths=lines(*pairs(60)), **SETTINGS)
    data = Data(corpus=corpus, tokenizer=SentencePiece(size=300), validation=0.3)
    tokens = open_tokens(data)
    special, seen = tokens.tokenizer.vocabulary, 0
    for split in (tokens.train, tokens.validation):
        for number, id in enumerate(split.ids):
            line = pairs(60)[int(id.removeprefix("a.jsonl:")) - 1]
            start, stop = split.offsets[number : number + 2]
            ids = split.read([start], stop - start)[0]
            channels = {k: v[0] for k, v in split.read_channels([start], stop - start).items()}
            assert channels["label"].tolist() == [NUMBER[line["same"]]] * len(ids)
            (first, last) = np.flatnonzero(ids == special.eos)
            assert last == len(ids) - 1 and ids[0] == special.bos
            assert channels["part"].tolist() == [0] * (first + 1) + [1] * (last - first)
            for part, name in enumerate(("a", "b")):
                assert tokens.tokenizer.decode(ids[channels["part"] == part]) == line[name]
            seen += 1
    assert seen == 60


def test_channels_go_with_the_rows(lines) -> None:
    """Fails if rows have channels of other windows, or padding has no fill value."""
    corpus = Jsonl(paths=lines(*pairs(60)), **SETTINGS)
    tokens = open_tokens(Data(corpus=corpus, tokenizer=Bytes(), validation=0.3))
    split = tokens.train
    whole = split.read_channels([0], split.size)["label"][0]
    found = rows(split, [2, 0], 50, tokens.tokenizer.vocabulary)
    assert found.channels["label"].dtype == np.int32
    np.testing.assert_array_equal(found.channels["label"], [whole[98:148], whole[:50]])
    last = rows(split, [split.size // 49], 50, tokens.tokenizer.vocabulary)
    assert (last.channels["label"][last.segments_BL == 0] == -1).all()


def test_the_digest_is_of_labels_and_parts_too(lines) -> None:
    """Fails if another label, or text that moves between the parts, is the same corpus."""
    change = {"a": {"a": "first 0x"}, "b": {"b": "xx"}, "label": {"same": "yes"}, "none": {}}
    digests = {}
    for name, changed in change.items():
        first, *others = pairs(40)
        paths = lines(first | changed, *others)
        corpus = Jsonl(paths=paths, **SETTINGS)
        digests[name] = corpus_digest(Data(corpus=corpus, validation=0.3))
        Path(paths[0]).unlink()
    assert len(set(digests.values())) == 4


def test_one_text_on_both_sides_of_the_split_is_impossible(lines) -> None:
    """Fails if the split goes by the line or its label: a text would be seen in training."""
    found = [{"text": f"text {n % 30}", "label": str(n % 2)} for n in range(90)]
    corpus = Jsonl(paths=lines(*found), label="label", classes=("0", "1"))
    tokens = open_tokens(Data(corpus=corpus, tokenizer=Bytes(), validation=0.3))
    train, held_out = (
        {split.text(number) for number in range(len(split.ids))}
        for split in (tokens.train, tokens.validation)
    )
    assert train and held_out and not train & held_out


@pytest.mark.parametrize(
    ("line", "settings", "why"),
    [
        ("{", {}, r"a\.jsonl:2: not JSON"),
        ("[1]", {}, r"a\.jsonl:2: expected an object"),
        ({"txt": "x"}, {}, r"a\.jsonl:2: no field text; one of txt; did you mean txt"),
        ({"text": 3}, {}, r"a\.jsonl:2: text is no text: 3"),
        (
            {"text": "x", "y": 2},
            {"label": "y"},
            r"classes: a\.jsonl:2: y=2, which",
        ),
        ({"text": "x"}, {"label": "y"}, r"a\.jsonl:2: no field y"),
        ({"text": "x", "b": ""}, {"text": ("text", "b")}, r"a\.jsonl:2: b is empty"),
    ],
)
def test_oneline_a_line_that_is_no_document_is_named(lines, line, settings, why) -> None:
    """Fails if a bad line is skipped, or Python's own error gets through."""
    good = {"text": "fine", "b": "good", "y": 1}
    settings |= {"classes": ("0", "1")} if "label" in settings else {}
    corpus = Jsonl(paths=lines(good, line), **settings)
    with pytest.raises(UserError, match=rf"^data\.corpus[^\n]*{why}[^\n]*$"):
        list(corpus.read())


class Holds(Config):
    corpus: Corpus


def test_oneline_a_label_without_classes_is_refused() -> None:
    """Fails if a label's number depends on the order in which its class is met."""
    text = '{"corpus": {"type": "jsonl", "paths": ["a"], "label": "y", "classes": ["one"]}}'
    with pytest.raises(UserError, match=r"^here: corpus: classes: name those of y in order"):
        parse(Holds, text, "here")


def test_text_without_labels_has_no_channels(lines) -> None:
    """Fails if unlabelled lines carry channels, which would change every batch's digest."""
    corpus = Jsonl(paths=lines(*({"text": f"text {n}"} for n in range(30))))
    tokens = open_tokens(Data(corpus=corpus, tokenizer=Bytes(), validation=0.3))
    assert corpus.channels == () and not tokens.train.channels
    assert next(corpus.read()).content == b"text 0"
