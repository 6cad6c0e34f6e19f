"""Tokenizers lose nothing, whatever the text, and learn from the training documents alone."""

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from lm.config import UserError
from lm.data import (
    Bytes,
    Data,
    SentencePiece,
    Text,
    Tokenizer,
    load_tokenizer,
    open_tokenizer,
    open_tokens,
    save_tokenizer,
)
from lm.data.corpora import fraction_of

CONFIGS = (
    Bytes(),
    SentencePiece(kind="bpe", size=400),
    SentencePiece(kind="unigram", size=360),
)

LEARNT = [
    f"def area_{n}(self, width):\n    return width * {n}\n\n\tnaïve = 'ß 한글'\r\n"
    for n in range(200)
]


@pytest.fixture(scope="module", params=CONFIGS, ids=["bytes", "bpe", "unigram"])
def tokenizer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tokenizer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield open_tokenizer(request.param, "corpus", 0.1, 20_000, lambda: iter(LEARNT))


@settings(max_examples=300)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
@example(text="")
@example(text="\0")
@example(text="a\0b\0\0")
@example(text="\r\n\n\r\t\x0b\x0c\x1b[0m")
@example(text="한국어 조합형")
@example(text="👩‍👩‍👧 🏳️‍🌈\ufeff")
@example(text="▁self ▁▁ a▁b ▁\n▁")
@example(text="a▁b c\n▁")
@example(text="  leading, trailing  ")
@example(text="ﬁ Å ①")
@example(text="<unk><s></s><pad><0x0A>\u2047\u2585\ufffd")
@example(text="x" * 5000 + "\n" + " " * 9000 + "é")
def test_decode_undoes_encode(tokenizer: Tokenizer, text: str) -> None:
    """Fails if U+2581 goes to sentencepiece, text is normalized, or a chunk is lost."""
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32 and np.all(ids >= tokenizer.vocabulary.first_ordinary)
    assert tokenizer.decode(ids) == text
    assert b"".join(tokenizer.tokens[id] for id in ids) == text.encode()
    same, sizes = tokenizer.encode_with_bytes(text)
    assert same.tolist() == ids.tolist() and sizes.dtype == np.int32
    assert sizes.tolist() == [len(tokenizer.tokens[id]) for id in ids]


def test_ids_are_called_by_what_they_stand_for(tokenizer: Tokenizer) -> None:
    """Fails if a special token is shown as nothing, or a token by its number."""
    assert [tokenizer.id_to_token(id) for id in range(4)] == [
        "<pad>",
        "<mask>",
        "<bos>",
        "<eos>",
    ]
    (letter,) = tokenizer.encode("q")
    assert tokenizer.id_to_token(int(letter)) == "q"


def test_oneline_a_tokenizer_of_ours_has_no_chat_template(tokenizer: Tokenizer) -> None:
    """Fails if a conversation is made up."""
    with pytest.raises(UserError, match=r"^the tokenizer has no chat template: [^\n]*$"):
        tokenizer.chat([{"role": "user", "content": "Hi"}])


@pytest.mark.parametrize("text", ["\n" * 9, "\r\n" * 9, "\0" * 99, "▁" * 9])
def test_oneline_text_without_a_character_to_learn_from_is_one_line(tmp_path, text) -> None:
    """Fails if sentencepiece's own complaint gets through."""
    for number in range(20):
        (tmp_path / f"{number}.txt").write_bytes(text.encode() * (number + 1))
    data = Data(corpus=Text(paths=(f"{tmp_path}/*.txt",)), validation=0.3)
    with pytest.raises(UserError, match=r"^data\.tokenizer: [^\n]*type=bytes$"):
        open_tokens(data)


@settings(max_examples=50)
@given(texts=st.lists(st.text("ab é\n▁", max_size=6), max_size=5))
def test_a_text_is_encoded_the_same_alone_and_among_others(
    tokenizer: Tokenizer, texts: list[str]
) -> None:
    """Fails if the chunks of one text go to the next."""
    together = tokenizer.encode_all(texts)
    assert [ids.tolist() for ids in together] == [tokenizer.encode(t).tolist() for t in texts]


def test_special_tokens_are_four_and_stand_for_no_text(tokenizer: Tokenizer) -> None:
    """Fails if ids are off by sentencepiece's unknown token, or specials decode to text."""
    special = tokenizer.vocabulary
    assert (
        special.pad,
        special.mask,
        special.bos,
        special.eos,
        special.first_ordinary,
    ) == tuple(range(5))
    assert special.size == len(tokenizer.tokens) == len(special.begins_word)
    assert tokenizer.tokens[:4] == (b"",) * 4 and all(tokenizer.tokens[4:])
    assert {bytes([byte]) for byte in range(256)} <= set(tokenizer.tokens)
    assert tokenizer.decode([2, *tokenizer.encode("hé"), 1, 0, 3]) == "hé"


def test_bytes_that_are_no_text_decode_to_replacement_characters() -> None:
    """Fails if decoding is strict: a model may sample anything."""
    tokenizer = open_tokenizer(Bytes())
    assert tokenizer.decode(tokenizer.encode("é")[:1]) == "\ufffd"


def test_a_word_begins_with_a_space_or_punctuation(tokenizer: Tokenizer) -> None:
    """Fails if the flag is read off the last character, or set for the bytes of a letter."""
    begins = dict(zip(tokenizer.tokens, tokenizer.vocabulary.begins_word, strict=True))
    assert all(tokenizer.vocabulary.begins_word[: tokenizer.vocabulary.first_ordinary])
    assert all(begins[token] for token in (b" ", b"(", b"\n", b"\0", b"'"))
    assert not any(begins[token] for token in (b"a", b"Z", b"7", b"_", b"\xed", b"\x80"))
    for token, flag in begins.items():
        assert flag or not token.startswith(b" ")


def test_sentencepiece_shortens_what_it_learnt(tokenizer: Tokenizer) -> None:
    """Fails if tokens are not learnt, or all are bytes."""
    if tokenizer.vocabulary.size > 260:
        text = "".join(LEARNT[:5])
        assert len(text.encode()) / len(tokenizer.encode(text)) > 1.4


MEMORY = """
import re
from lm.data import SentencePiece, open_tokenizer

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])

texts = ["a b cd\\n" * 999]
tokenizer = open_tokenizer(SentencePiece(size=268), "", 0.1, 9000, lambda: iter(texts))
line = "a line without an end, " * 200_000
before = peak()
assert tokenizer.decode(tokenizer.encode(line)) == line
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_line_of_megabytes_takes_little_memory() -> None:
    """Fails if a line is encoded or decoded whole: either takes 100 bytes for each of its."""
    child = [sys.executable, "-W", "ignore", "-c", MEMORY]
    kilobytes = int(subprocess.run(child, check=True, capture_output=True, text=True).stdout)
    assert kilobytes < 160_000


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_tokens_come_from_training_documents_only(folder: Path, kind: str) -> None:
    """Fails if validation documents are learnt from."""
    held_out = 0
    for path in folder.iterdir():
        secret = f"qqzzxx {path.name} " * 400
        if fraction_of(secret.encode()) < 0.3:
            path.write_text(secret)
            held_out += 1
        elif fraction_of(path.read_bytes()) < 0.3:
            path.unlink()
    assert held_out > 5
    config = SentencePiece(kind=kind, size=330)  # type: ignore[arg-type]
    corpus = Text(paths=(f"{folder}/*",))
    tokens = open_tokens(Data(corpus=corpus, validation=0.3, tokenizer=config))
    assert len(tokens.validation.ids) == held_out
    assert not any(b"zz" in token or b"qq" in token for token in tokens.tokenizer.tokens)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_sizes_that_the_text_cannot_give_name_one_that_it_can(kind: str) -> None:
    """Fails if sentencepiece's own error comes through, or the bound is off by our tokens."""

    def sized(size: int) -> Tokenizer:
        config = SentencePiece(kind=kind, size=size)  # type: ignore[arg-type]
        return open_tokenizer(config, str(size), 0.1, 20_000, lambda: iter(LEARNT))

    for size, bound in [(60_000, "at most"), (263, "at least")]:
        with pytest.raises(UserError, match=rf"data\.tokenizer\.size: .*{bound} \d+") as caught:
            sized(size)
        named = int(str(caught.value).split(bound)[1].split()[0])
        assert sized(named).vocabulary.size == named


def test_a_learnt_tokenizer_is_kept_and_checked(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Fails if it is learnt anew each time, or a damaged one is used."""
    config = SentencePiece(size=400)
    first = open_tokenizer(config, "corpus", 0.1, 20_000, lambda: iter(LEARNT))
    again = open_tokenizer(config, "corpus", 0.1, 20_000, lambda: pytest.fail("learnt again"))
    assert (again.digest, again.tokens) == (first.digest, first.tokens)
    other = open_tokenizer(config, "another", 0.1, 20_000, lambda: iter(LEARNT[:100]))
    assert other.digest != first.digest

    for path in (cache / "tokenizers").iterdir():
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        mended = open_tokenizer(config, "corpus", 0.1, 20_000, lambda: iter(LEARNT))
    assert mended.digest == first.digest and "damaged" in caplog.text


SAVED = (Bytes(sentinels=3), SentencePiece(size=400, sentinels=5))


@pytest.mark.parametrize("config", SAVED, ids=["bytes", "sentencepiece"])
def test_a_tokenizer_is_read_from_its_folder_alone(config, tmp_path, monkeypatch) -> None:
    """Fails if a fact is lost (sentinels), or if the cache or a corpus is needed."""
    first = open_tokenizer(config, "corpus", 0.1, 20_000, lambda: iter(LEARNT))
    save_tokenizer(first, config, tmp_path / "model")
    monkeypatch.setenv("LM_CACHE", str(tmp_path / "empty"))
    again = load_tokenizer((tmp_path / "model").rename(tmp_path / "moved"))
    assert (again.digest, again.tokens, again.vocabulary) == (
        first.digest,
        first.tokens,
        first.vocabulary,
    )
    assert again.encode(LEARNT[0]).tolist() == first.encode(LEARNT[0]).tolist()


def test_oneline_a_damaged_folder_of_a_tokenizer_is_one_line(tmp_path) -> None:
    """Fails if another tokenizer's file is read: its ids mean other tokens."""
    config = SentencePiece(size=400)
    tokenizer = open_tokenizer(config, "corpus", 0.1, 20_000, lambda: iter(LEARNT))
    other = open_tokenizer(config, "other", 0.1, 20_000, lambda: iter(LEARNT[:100]))
    for name in ("one", "two", "three"):
        save_tokenizer(tokenizer, config, tmp_path / name)
    assert other.model is not None
    (tmp_path / "one" / "tokenizer.model").write_bytes(other.model)
    (tmp_path / "two" / "tokenizer.model").write_bytes(b"no model")
    (tmp_path / "three" / "tokenizer.model").unlink()
    for name, why in {
        "one": "of another tokenizer",
        "two": "no SentencePiece model",
        "three": "no SentencePiece model",
        "none": "holds no tokenizer",
    }.items():
        with pytest.raises(UserError, match=rf"^[^\n]*{why}[^\n]*$"):
            load_tokenizer(tmp_path / name)


@pytest.mark.parametrize("config", CONFIGS, ids=["bytes", "bpe", "unigram"])
def test_added_tokens_have_the_last_ids_and_no_text_is_one(config, tmp_path) -> None:
    """Fails if an old id moves, a name is parsed in a text, or a digest leaves names out."""
    named = replace(config, added=("<user>", "def"))
    plain, more = (
        open_tokenizer(each, "corpus", 0.1, 20_000, lambda: iter(LEARNT))
        for each in (config, named)
    )
    size = plain.vocabulary.size
    assert more.added == {"<user>": size, "def": size + 1}
    assert more.vocabulary.size == named.vocabulary_size == size + 2
    assert more.vocabulary.special == (size, size + 1) and plain.vocabulary.special == ()
    text = "<user> def area"
    assert more.encode(text).tolist() == plain.encode(text).tolist()
    assert more.decode([size, *more.encode(text), size + 1]) == text
    others = replace(config, added=("<user>",)), replace(config, added=("def", "<user>"))
    digests = {each.read(plain.model).digest for each in (config, named, *others)}
    assert len(digests) == 4
    save_tokenizer(more, named, tmp_path / "more")
    assert load_tokenizer(tmp_path / "more").added == more.added
