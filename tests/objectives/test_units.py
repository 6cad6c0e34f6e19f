"""Words, spans and n-grams of text in any script: hidden whole, and at the rate."""

import base64
import itertools
import random
import re

import jax.numpy as jnp
import numpy as np
import pytest

from lm.data import Bytes, SentencePiece, open_tokenizer
from lm.objectives import Masked
from lm.objectives.units import LONGEST_WORD, word_starts

DRAW = random.Random(0)
LETTERS = {
    "Chinese": [chr(point) for point in range(0x4E00, 0x9FA5)] + ["，", "。"],
    "Japanese": list("のはをにがとでもカタナーッ日本語々。"),
    "Thai": list("กขคงจฉะาิีึืุูเแโใไ่้"),
    "Lao": list("ກຂຄງຈຊຍດຕຖທະາິີ"),
    "Khmer": list("កខគឃងចឆជឈញ្ាិីុូ"),
    "Burmese": list("ကခဂဃငစဆဇဈညာိီုူ"),
    "emoji": ["😀", "🎉", "👍🏽", "👩\u200d👩\u200d👧", "❤\ufe0f", "🇫🇷"],
    "DNA": list("ACGT"),
    "accents": [*"אבגדה", "ב\u05b8", "ש\u05c1\u05b8", " ", "e\u0301"],
    "newlines": ["\n"],
}
TEXTS = {name: "".join(DRAW.choices(letters, k=26_000)) for name, letters in LETTERS.items()}
TEXTS["hex"] = DRAW.randbytes(13_000).hex()
TEXTS["base64"] = base64.b64encode(DRAW.randbytes(20_000)).decode()
TEXTS["Russian"] = " ".join("".join(DRAW.choices("абвгдеж", k=5)) for _ in range(3000))
TEXTS["one word"] = "pneumono" * 4000


@pytest.fixture(scope="module")
def tokenizer():
    return open_tokenizer(Bytes())


def rows_of(tokenizer, text: str, length: int = 129, rows: int = 200):
    ids = tokenizer.encode(text)[: rows * (length - 1)].reshape(rows, length - 1)
    tokens = np.pad(ids, ((0, 0), (1, 0)), constant_values=tokenizer.vocabulary.bos)
    return jnp.array(tokens), jnp.ones(tokens.shape, int)


def masked_of(example, shape) -> np.ndarray:
    hidden = np.zeros(shape, bool)
    row, slot = np.nonzero(np.asarray(example.weights) > 0)
    hidden[row, np.asarray(example.target_positions)[row, slot]] = True
    return hidden


@pytest.mark.parametrize("name", TEXTS)
def test_m3_the_rate_is_reached_whatever_the_text(name, ask, tokenizer):
    """Fails if a text without spaces is one word that finds no room, or a long word is: then
    next to nothing is masked of it, and rows have no target."""
    given = tokens, _ = rows_of(tokenizer, TEXTS[name])
    example = ask(Masked(select="word"), given, vocabulary=tokenizer.vocabulary)
    hidden = masked_of(example, tokens.shape)
    # The last unit of a row is taken by chance: a row is at most half of one from the rate.
    error = 4 * (LONGEST_WORD + 3) / 2 / 128 / 200**0.5
    assert hidden[:, 1:].mean() == pytest.approx(0.15, abs=error)
    assert (hidden.sum(1) == 0).mean() < 0.05
    # Bytes of a character are masked together.
    inside = (np.asarray(tokens) - 4 & 0xC0) == 0x80
    inside[:, :2] = False  # the row's first may have lost its beginning
    before = np.pad(hidden[:, :-1], ((0, 0), (1, 0)))
    assert (hidden == before)[inside].all()


def test_m3_short_rows_have_targets_too(ask, tokenizer):
    """Fails if what is no word is cut longer than what a row is to mask: most mask nothing."""
    given = tokens, _ = rows_of(tokenizer, TEXTS["hex"], 33)
    example = ask(Masked(select="word"), given, vocabulary=tokenizer.vocabulary)
    hidden = masked_of(example, tokens.shape)[:, 1:]
    assert hidden.any(1).all()
    assert hidden.mean() == pytest.approx(0.15, abs=0.02)


@pytest.mark.parametrize(("select", "span"), [("ngram", 3), ("ngram", 20), ("span", 12)])
def test_m3_every_unit_finds_room(select, span, ask, whole_rows):
    """Fails if the slots hold a whole unit beyond the rounded rate only: 0.143 for 0.15."""
    given = whole_rows(4096, 64)
    hidden = masked_of(ask(Masked(select=select, span=span), given), given[0].shape)[:, 1:]
    assert hidden.mean() == pytest.approx(0.15, abs=4 * span / 63 / 4096**0.5)


def words_of(text: str, tokenizer, wanted: float = 99.0) -> list[str]:
    ids = tokenizer.encode(text)
    row = jnp.array(np.pad(ids, (0, -len(ids) % 4096)))[
        None
    ]  # of few lengths, as each compiles
    starts = np.asarray(word_starts(row, jnp.array([wanted]), tokenizer.vocabulary))
    cuts = [0, *(np.flatnonzero(starts[0, 1 : len(ids)]) + 1), len(ids)]
    return [tokenizer.decode(ids[start:end]) for start, end in itertools.pairwise(cuts)]


WORDS = {
    "我们用Python，好": ["我", "们", "用Python", "，", "好"],
    "カタカナー の語々": ["カ", "タ", "カ", "ナー", " ", "の", "語々"],
    "ไทยที่": ["ไ", "ท", "ย", "ที่"],
    "ភាសា": ["ភា", "សា"],
    "한국어 조합": ["한국어", " 조합"],
    "naïve “Größe”—так": ["naïve", " ", "“Größe", "”", "—так"],
    "שָׁלוֹם עולם": ["שָׁלוֹם", " עולם"],
    "हिन्दी में": ["हिन्दी", " में"],
    "👍🏽🎉 x": ["👍🏽", "🎉", " x"],
    "x²_1 nbsp\u00a0y": ["x²_1", " nbsp", "\u00a0y"],
}


@pytest.mark.parametrize("text", WORDS)
def test_m3_words_begin_by_unicode(text, tokenizer):
    """Fails if a letter of a script without spaces continues a word, or an accent begins one,
    or a character that is spelled in bytes is taken for another."""
    assert words_of(text, tokenizer) == WORDS[text]


def test_m3_ordinary_words_are_as_they_were(tokenizer):
    """Fails if English or Python is cut at another place than where a word begins."""
    with open(__file__) as file:
        text = "".join(line for line in file if line.isascii())[:4000]
    words = [found[0] for found in re.finditer(r"\W?\w*", text) if found[0]]
    short = [word for word in words if len(word) <= LONGEST_WORD]
    assert len(short) > 0.95 * len(words) > 500
    assert words_of("".join(short), tokenizer) == short


def test_m3_what_is_too_long_for_a_word_is_cut(tokenizer):
    """Fails if it is cut at another length than is said, within a character, or if a word is
    that has just that length."""
    assert words_of("f" * 24 + " " + "f" * 23, tokenizer) == ["f" * 24, " " + "f" * 23]
    assert list(map(len, words_of("f" * 60, tokenizer))) == [24, 24, 12]
    assert list(map(len, words_of("f" * 25, tokenizer, wanted=10.5))) == [10, 10, 5]
    assert list(map(len, words_of("a" + "ж" * 24, tokenizer))) == [13, 12]


def test_m3_learnt_tokens_and_their_bytes_are_words_alike(tmp_path, monkeypatch):
    """Fails if a token goes by its last character, or bytes of characters never learnt are
    one word."""
    monkeypatch.setenv("LM_CACHE", str(tmp_path))
    learnt = ["中国人说中国话，这是 the language of the 中国人。\n"] * 400
    tokenizer = open_tokenizer(SentencePiece(size=320), "m3", 0.1, 40_000, lambda: iter(learnt))
    found = words_of("中国人 the languages ไทย 龘龘 café", tokenizer)
    assert "".join(found) == "中国人 the languages ไทย 龘龘 café"
    assert found[-1] == " café" and {" the", " languages", "龘"} <= set(found)
    assert {"ไ", "ท", "ย"} <= {word.strip() for word in found}
    begins = dict(zip(tokenizer.tokens, tokenizer.vocabulary.begins_word, strict=True))
    many = [token for token in begins if len(token.decode(errors="ignore")) > 1]
    assert begins["中国".encode()] and len(many) > 5
