"""Tokenizers of published models: their ids, the bytes of each, and what is never read."""

import base64
import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.config import UserError
from lm.data import load_tokenizer, save_tokenizer
from lm.data.tokenizers import (
    Bytes,
    SentencePiece,
    from_hf_folder,
    open_tokenizer,
    to_hf_folder,
)
from lm.data.tokenizers.base import Tokenizer as Ours
from lm.data.tokenizers.converted import byte_alphabet

NASTY = (
    "",
    " ",
    "a",
    "Hello  world, the 12 naïve cafés!\n\n\tthe end. ",
    "語 한국어 👩‍👩‍👧 🏳️‍🌈\ufeff ﬁ Å ① İstanbul",
    "\x00\x04\x1b[0m\x7f \u2581the\u2581 \u200d",
    "<|end|><s></s>[MASK] [CLS]<pad><unk><0x0A><extra_id_0><tool>",
)
WRITTEN = {byte: character for character, byte in byte_alphabet().items()}


def added(id: int, name: str, special: bool = True) -> dict[str, object]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": id, "content": name, **plain, "special": special}


def whole(model, added_tokens, **parts) -> str:
    """A tokenizer.json that cuts and fills up texts, as some published ones do."""
    return json.dumps(
        {
            "version": "1.0",
            "truncation": {
                "max_length": 5,
                "strategy": "LongestFirst",
                "stride": 0,
                "direction": "Right",
            },
            "padding": {
                "strategy": {"Fixed": 5},
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "x",
            },
            "added_tokens": added_tokens,
            "normalizer": None,
            "pre_tokenizer": None,
            "post_processor": None,
            "decoder": None,
            "model": model,
            **parts,
        }
    )


def byte_level(missing: bytes = b"", merges=("t h", "th e", "Ġ the", "l l")) -> str:
    """Byte-level BPE as GPT-2 has it, and one with a token that is added and no special one."""
    names = [WRITTEN[byte] for byte in range(256) if byte not in missing]
    names += [merge.replace(" ", "") for merge in merges]
    vocab = {name: id for id, name in enumerate(["<|end|>", *names])}
    part = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return whole(
        {"type": "BPE", "vocab": vocab, "merges": list(merges), "unk_token": None},
        [added(0, "<|end|>"), added(len(vocab), "<tool>", special=False)],
        pre_tokenizer=part | {"use_regex": True},
        decoder=part | {"use_regex": True},
        post_processor=part | {"use_regex": True},
    )


PIECES = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "hello", "##s", "cafe", "naive"),
    *("end", "[", "]", "mask", "cl", "a", "##a", ".", ",", "!"),
)


def word_pieces() -> str:
    return whole(
        {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {name: id for id, name in enumerate(PIECES)},
        },
        [added(id, PIECES[id]) for id in range(5)],
        normalizer={
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        pre_tokenizer={"type": "BertPreTokenizer"},
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
    )


def unigram() -> str:
    """A unigram model as T5 has it, whose special tokens are in the model's own vocabulary."""
    pieces = [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["▁", -2.0], ["▁the", -3.0]]
    pieces += [[letter, -4.0 - n / 9] for n, letter in enumerate("abcdefghilnorstuvw</>_0123")]
    pieces += [["<extra_id_1>", 0.0], ["<extra_id_0>", 0.0]]
    size = len(pieces)
    return whole(
        {"type": "Unigram", "vocab": pieces, "unk_id": 2},
        [added(id, pieces[id][0]) for id in (0, 1, 2, size - 2, size - 1)],
        normalizer={"type": "NFKC"},
        pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"},
        decoder={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"},
    )


def ranks() -> bytes:
    tokens = [bytes([byte]) for byte in range(256)] + [
        b"th",
        b" t",
        b"the",
        b" the",
        b"aa",
        b"aaa",
    ]
    return b"".join(base64.b64encode(t) + b" %d\n" % n for n, t in enumerate(tokens))


def piece_file(**settings) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the naïve cat sat on the mat, the end"] * 20),
        model_writer=model,
        minloglevel=2,
        num_threads=1,
        **{"vocab_size": 300, "byte_fallback": True, "model_type": "bpe"} | settings,
    )
    return model.getvalue()


GPT = {"eos_token": "<|end|>", "bos_token": "<|end|>"}
BERT = {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}
FOLDERS = {
    "byte-level": (lambda: {"tokenizer.json": byte_level().encode()}, GPT, 264),
    "lossy bytes": (lambda: {"tokenizer.json": byte_level(b"\x04\x00").encode()}, GPT, 264),
    "word pieces": (lambda: {"tokenizer.json": word_pieces().encode()}, BERT, 21),
    "vocab.txt": (lambda: {"vocab.txt": "\n".join(PIECES).encode() + b"\n"}, {}, 21),
    "unigram": (lambda: {"tokenizer.json": unigram().encode()}, {}, 40),
    "merges": (
        lambda: {
            "vocab.json": json.dumps(json.loads(byte_level())["model"]["vocab"]).encode(),
            "merges.txt": b"#version: 0.2\nt h\nth e\n\xc4\xa0 the\nl l\n",
        },
        GPT,
        264,
    ),
    "ranks": (
        lambda: {"tokenizer.model": ranks()},
        GPT | {"added_tokens_decoder": {"262": {"content": "<|end|>", "special": True}}},
        263,
    ),
    "sentencepiece": (lambda: {"tokenizer.model": piece_file()}, {}, 320),
    "spiece": (
        lambda: {
            "spiece.model": piece_file(
                pad_id=0, eos_id=1, unk_id=2, bos_id=-1, byte_fallback=False, vocab_size=40,
                model_type="unigram", user_defined_symbols=["<extra_id_0>"],
                hard_vocab_limit=False,
            )
        },
        {},
        60,
    ),
}  # fmt: skip


def write(folder: Path, name: str, **more: object) -> Path:
    files, said, _ = FOLDERS[name]
    folder.mkdir(exist_ok=True)
    for file, content in files().items():
        (folder / file).write_bytes(content)
    (folder / "tokenizer_config.json").write_text(json.dumps(said | more))
    return folder


@pytest.fixture(scope="module", params=FOLDERS)
def foreign(request, tmp_path_factory) -> Ours:
    folder = write(tmp_path_factory.mktemp("model"), request.param)
    return from_hf_folder(folder, size=FOLDERS[request.param][2])[0]


@settings(max_examples=25, deadline=None)
@given(
    text=st.one_of(
        st.sampled_from(NASTY), st.text("the a<|end>[MSK]▁é語\0\x04 \n👩s/", max_size=30)
    )
)
def test_bytes_of_tokens_sum_to_the_texts_and_no_special_token_is_read(foreign, text) -> None:
    """Fails if offsets are taken for bytes, or a special token's spelling is taken for it."""
    ids, sizes = foreign.encode_with_bytes(text)
    assert ids.dtype == sizes.dtype == np.int32 and len(ids) == len(sizes)
    assert ids.tolist() == foreign.encode(text).tolist()
    if len(ids):
        assert sizes.sum() == len(text.encode()) and (sizes >= 0).all()
    unknown = {id for id, name in foreign.names.items() if name in ("<unk>", "[UNK]")}
    special = set(foreign.vocabulary.special) - unknown
    assert not special & set(ids.tolist())
    if foreign.lossy is None:
        assert foreign.decode(ids) == text


def test_a_vocabulary_says_which_ids_are_ordinary(foreign) -> None:
    """Fails if an id that no token has, or a special one amid others, may be drawn."""
    there = foreign.vocabulary
    assert there.size == len(there.begins_word) == len(foreign.tokens) == len(there.is_ordinary)
    assert not there.is_ordinary[[there.bos, there.eos, there.pad, there.size - 1]].any()
    assert there.first_ordinary == 0 and not there.eos_counts
    assert all(foreign.tokens[id] for id in np.flatnonzero(there.is_ordinary).tolist())


ROLES = {
    "byte-level": (0, 0, 0, None),
    "word pieces": (2, 3, 0, 4),
    "vocab.txt": (2, 3, 0, 4),
    "unigram": (1, 1, 0, None),
    "ranks": (262, 262, 262, None),
    "sentencepiece": (1, 2, 2, None),
    "spiece": (1, 1, 0, None),
}


@pytest.mark.parametrize("name", ROLES)
def test_roles_are_those_that_the_files_or_the_family_name(tmp_path, name) -> None:
    """Fails if BERT's cls and sep, GPT-2's only special token or T5's eos are not found."""
    there = from_hf_folder(write(tmp_path, name), size=FOLDERS[name][2])[0].vocabulary
    assert (there.bos, there.eos, there.pad, there.mask) == ROLES[name]


def test_what_the_decoder_begins_with_stands_before_the_first_token(tmp_path) -> None:
    """Fails if T5's texts begin with the eos token, or its spans are not in order."""
    folder = write(tmp_path, "unigram")
    (folder / "config.json").write_text('{"decoder_start_token_id": 0, "eos_token_id": 1}')
    tokenizer, config = from_hf_folder(folder, size=40)
    there = tokenizer.vocabulary
    assert (there.bos, there.eos) == (0, 1)
    names = [tokenizer.id_to_token(id) for id in there.sentinels]
    assert names == ["<extra_id_0>", "<extra_id_1>"] and config.sentinels == 2


def test_ids_are_the_librarys_where_no_special_token_is_spelled(tmp_path) -> None:
    """Fails if the renamed tokenizer cuts text otherwise, or texts are cut at five tokens."""
    for name in ("byte-level", "word pieces", "unigram"):
        folder = write(tmp_path / name.replace(" ", ""), name)
        library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        library.no_truncation()
        library.no_padding()
        tokenizer, _ = from_hf_folder(folder, size=FOLDERS[name][2])
        for text in NASTY[:-1]:
            wanted = library.encode(text, add_special_tokens=False)
            assert tokenizer.encode(text).tolist() == wanted.ids, (name, text)


def test_an_added_token_that_is_no_special_one_is_read_from_text(tmp_path) -> None:
    """Fails if tokens that the file adds for text (runs of spaces, say) are split."""
    tokenizer, _ = from_hf_folder(write(tmp_path, "byte-level"), size=264)
    ids, sizes = tokenizer.encode_with_bytes("a<tool>")
    assert ids[-1] == 261 and sizes.tolist() == [1, 6] and tokenizer.decode(ids) == "a<tool>"


def test_ranks_merge_as_tiktoken_does(tmp_path) -> None:
    """Fails if merges are in another order than their ranks, or a word is not taken whole."""
    tokenizer, _ = from_hf_folder(write(tmp_path, "ranks"), size=263)
    spelled = [tokenizer.tokens[id] for id in tokenizer.encode("the the aaaaa")]
    assert spelled == [b"the", b" the", b" ", b"aa", b"aaa"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("byte-level", None),
        ("lossy bytes", "2 bytes have no token and vanish"),
        (
            "word pieces",
            "lower-cased; accents are stripped; .*whitespace is merged; an unknown",
        ),
        ("unigram", "NFKC.*; a space at the start .*; U\\+2581 .*; an unknown token stands"),
        ("sentencepiece", "normalized \\(nmt_nfkc\\); whitespace is merged; U\\+2581"),
    ],
)
def test_what_is_lost_is_said(tmp_path, name, words) -> None:
    """Fails if a lossy tokenizer's bits pass for a code length, or a lossless one's do not."""
    lossy = from_hf_folder(write(tmp_path, name), size=FOLDERS[name][2])[0].lossy
    if words is None:
        assert lossy is None
    else:
        assert lossy and re.search(words, lossy) and lossy.endswith("of the text as given")


def test_a_foreign_tokenizer_is_saved_byte_for_byte(foreign, tmp_path) -> None:
    """Fails if a file is lost or written anew, or another one is read for it."""
    config = foreign.config
    save_tokenizer(foreign, config, tmp_path / "model")
    again = load_tokenizer((tmp_path / "model").rename(tmp_path / "moved"))
    assert (again.digest, again.vocabulary, again.files) == (
        foreign.digest,
        foreign.vocabulary,
        foreign.files,
    )
    assert [again.encode(t).tolist() for t in NASTY] == [
        foreign.encode(t).tolist() for t in NASTY
    ]
    assert to_hf_folder(again, tmp_path / "out") is None
    there = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert there == foreign.files
    back, config_again = from_hf_folder(tmp_path / "out", size=config.size)
    assert config_again == config and back.digest == foreign.digest
    settings_ = tmp_path / "moved" / "tokenizer_config.json"
    settings_.write_text(settings_.read_text() + " ")
    with pytest.raises(UserError, match=r"^[^\n]*of another tokenizer[^\n]*$"):
        load_tokenizer(tmp_path / "moved")


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({}, "no tokenizer: there is no tokenizer.json and no SentencePiece model"),
        ({"tokenizer.json": b"{"}, "tokenizer.json: not JSON"),
        ({"tokenizer.json": b"{}"}, "tokenizer.json: it has no model with a vocab"),
        ({"tokenizer.model": b"xyz"}, "no SentencePiece model"),
        ({"tokenizer.json": byte_level().encode()}, "is id 100, and the model's table has 100"),
    ],
)
def test_oneline_a_folder_without_a_tokenizer_that_is_understood(tmp_path, files, why) -> None:
    """Fails if the library's own complaint gets through, or ids beyond the table do."""
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": "<|end|>"}')
    with pytest.raises(UserError, match=rf"^[^\n]*{why}[^\n]*$"):
        from_hf_folder(tmp_path, size=100)


def test_oneline_families_with_ids_of_their_own_are_refused(tmp_path) -> None:
    """Fails if XLM-R's ids, which are off by one, are taken for the file's."""
    folder = write(tmp_path, "sentencepiece", tokenizer_class="XLMRobertaTokenizer")
    with pytest.raises(UserError, match=r"^[^\n]*XLMRobertaTokenizer: its ids are not[^\n]*$"):
        from_hf_folder(folder, size=320)


def test_a_symbol_that_a_model_defines_for_itself_is_not_read_from_text(tmp_path) -> None:
    """Fails if sentencepiece's user-defined symbols are matched though they are special."""
    tokenizer, _ = from_hf_folder(write(tmp_path, "spiece"), size=60)
    (span,) = tokenizer.vocabulary.sentinels
    assert tokenizer.id_to_token(span) == "<extra_id_0>"
    assert span not in tokenizer.encode("the <extra_id_0> end")


def test_time_and_bytes_of_a_long_text_are_linear(tmp_path) -> None:
    """Fails if the bytes of a token are counted from the text's start each time."""
    tokenizer, _ = from_hf_folder(write(tmp_path, "lossy bytes"), size=264)

    def seconds(times: int) -> float:
        text = "the naïve end \x04\n" * times
        begun = time.process_time()
        _, sizes = tokenizer.encode_with_bytes(text)
        assert sizes.sum() == len(text.encode())
        return time.process_time() - begun

    seconds(1)
    assert seconds(16_000) < 40 * max(seconds(1_000), 0.004)


OURS = (
    Bytes(sentinels=2),
    SentencePiece(kind="bpe", size=380),
    SentencePiece(kind="unigram", size=330),
)


@pytest.mark.parametrize("config", OURS, ids=["bytes", "bpe", "unigram"])
def test_a_tokenizer_of_ours_gives_the_same_ids_in_the_library(config, cache, tmp_path) -> None:
    """Fails if ids are off by the special tokens, or chunks, spaces or bytes are others."""
    learnt = [f"def area_{n}(self):\n    return '<{n}>' * 0x0A  # naïve\n" for n in range(200)]
    tokenizer = open_tokenizer(config, "exported", 0.1, 20_000, lambda: iter(learnt))
    note = to_hf_folder(tokenizer, tmp_path / "out")
    assert (note is not None) == (getattr(config, "kind", "") == "unigram")
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    for text in (*NASTY, *learnt[:20], "<bos><mask> <eos>", "x" * 4200):
        found = library.encode(text)
        assert found.ids == tokenizer.encode(text).tolist(), text
        assert library.decode(found.ids, skip_special_tokens=False) == text
    said = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    for role in ("pad", "mask", "bos", "eos"):
        id = getattr(tokenizer.vocabulary, role)
        assert library.token_to_id(said[f"{role}_token"]) == id
    assert library.get_vocab_size() == tokenizer.vocabulary.size
    again, there = from_hf_folder(tmp_path / "out", size=tokenizer.vocabulary.size)
    assert (there.bos, there.eos, there.pad, there.mask) == (2, 3, 0, 1)
    assert again.vocabulary.sentinels == tokenizer.vocabulary.sentinels
    assert again.encode(NASTY[3]).tolist() == tokenizer.encode(NASTY[3]).tolist()


def test_oneline_a_tokenizer_that_the_library_cannot_be_is_refused(tmp_path) -> None:
    """Fails if a token of four spaces is written as if it were a byte."""
    odd = Ours([*(bytes([byte]) for byte in range(256)), b"    "], "odd", lambda texts: [])
    with pytest.raises(UserError, match=r"^no tokenizer.json [^\n]*b'    ' is no byte$"):
        to_hf_folder(odd, tmp_path)


def test_our_own_tokenizers_start_without_the_library() -> None:
    """Fails if a quick command waits for the library or for Jinja."""
    code = (
        "import sys, lm.cli; from lm.data import Bytes; Bytes().open().encode('a');"
        "print(*{'tokenizers', 'jinja2', 'google.protobuf'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == ""


ASSETS = Path(os.environ.get("YARDSTICK_ASSETS", "nowhere"))
real = pytest.mark.skipif(not ASSETS.is_dir(), reason="YARDSTICK_ASSETS names no folder")


@real
def test_the_real_smollm2_has_its_known_tokens() -> None:
    """Fails if digits are not split, a special token is read, or the chat is another."""
    tokenizer, _ = from_hf_folder(ASSETS / "smollm2-135m-instruct", size=49152)
    known = {
        "The capital of France is": "504 3575 282 4649 314",
        "Hello world! 12345\n": "19556 905 17 216 33 34 35 36 37 198",
        " naïve café": "15486 46494 37366",
        "  two spaces": "216 827 5600",
        "It's 3.14": "1589 506 216 35 30 33 36",
    }
    for text, ids in known.items():
        assert tokenizer.encode(text).tolist() == list(map(int, ids.split()))
    assert {1, 2}.isdisjoint(tokenizer.encode("<|im_start|>user\nHi<|im_end|>"))
    assert tokenizer.lossy and tokenizer.lossy.startswith("21 bytes have no token and vanish")
    chat = tokenizer.chat(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
    )
    wanted = (
        "1 9690 198 2683 359 253 5356 5646 11173 3365 3511 308 34519 28 7018 411 407 19712 8182"
        " 2 198 1 4093 198 1780 314 260 3575 282 4649 47 2 198 1 520 9531 198"
    )
    assert chat.tolist() == list(map(int, wanted.split()))


@real
def test_the_real_minilm_has_its_known_tokens() -> None:
    """Fails if texts are cut at 128 tokens or filled up to them, as its file says."""
    tokenizer, config = from_hf_folder(ASSETS / "minilm", size=30522)
    wanted = "1996 4633 2003 8403 2651 1012"
    assert tokenizer.encode("The weather is lovely today.").tolist() == list(
        map(int, wanted.split())
    )
    assert len(tokenizer.encode("word " * 300)) == 300
    assert (config.bos, config.eos, config.pad, config.mask) == (101, 102, 0, 103)


GOLDEN = Path(__file__).parents[1] / "golden" / "hub" / "tokenizers"
"""Small tokenizers, with what their own libraries answer."""


def golden(name: str) -> dict:
    return json.loads((GOLDEN / name / "reference.json").read_text())


@pytest.mark.parametrize("name", ["gpt2", "smollm", "bert", "t5", "llama"])
def test_ids_offsets_and_chats_are_those_of_the_libraries(name) -> None:
    """Fails if an id, a token's bytes, a special token's id, or a chat is another."""
    wanted = golden(name)
    tokenizer, config = from_hf_folder(GOLDEN / name, size=wanted["size"])
    for role in ("bos", "eos", "pad", "mask"):
        if wanted[f"{role}_token_id"] is not None:
            assert getattr(config, role) == wanted[f"{role}_token_id"]
    special = set(tokenizer.vocabulary.special) - {wanted["unk_token_id"]}
    for each in wanted["encodings"]:
        text, ids = each["text"], each["ids"]
        if special & set(ids):  # the model itself reads </s> from T5's text: here it is text
            assert name == "t5" and not special & set(tokenizer.encode(text).tolist())
            continue
        found, sizes = tokenizer.encode_with_bytes(text)
        assert found.tolist() == ids, text
        assert sizes.sum() == len(text.encode()) or not ids
        if wanted["unk_token_id"] not in ids:  # which vanishes here, as special tokens do
            assert tokenizer.decode(found) == each["decoded"]
        spelled = b"".join(tokenizer.tokens[id] for id in ids)
        ends = [len(text[:end].encode()) for _, end in each["offsets"][:-1]]
        if spelled not in (text.encode(), b" " + text.encode()):
            np.testing.assert_array_equal(np.cumsum(sizes)[:-1], np.maximum.accumulate(ends))
    for chat in wanted.get("chats", []):
        prompt = chat["add_generation_prompt"]
        found = tokenizer.chat(chat["messages"], add_generation_prompt=prompt)
        if "ids" in chat:
            assert found.tolist() == chat["ids"]
        else:  # a message spells special tokens: the template's alone are read
            few = [m | {"content": "x"} for m in chat["messages"]]
            plain = tokenizer.chat(few, add_generation_prompt=prompt)
            read = [[id for id in ids.tolist() if id in special] for ids in (found, plain)]
            assert read[0] == read[1]
            assert len(found) > len(plain) + 20


def test_older_files_say_the_same_as_a_tokenizer_json(tmp_path) -> None:
    """Fails if GPT-2's merges, BERT's vocab.txt or Llama's SentencePiece file cut otherwise."""
    older = {
        "gpt2": ("vocab.json", "merges.txt"),
        "bert": ("vocab.txt",),
        "llama": ("tokenizer.model", "chat_template.jinja"),
    }
    for name, files in older.items():
        wanted = golden(name)
        more = [f"{name}/{file}" for file in ("tokenizer_config.json", *files)]
        folder = tmp_path / name
        folder.mkdir()
        for file in more:
            (folder / Path(file).name).write_bytes((GOLDEN / file).read_bytes())
        tokenizer, config = from_hf_folder(folder, size=wanted["size"])
        whole, its = from_hf_folder(GOLDEN / name, size=wanted["size"])
        assert (config.bos, config.eos, config.mask) == (its.bos, its.eos, its.mask)
        for each in wanted["encodings"]:
            assert tokenizer.encode(each["text"]).tolist() == each["ids"], (name, each["text"])
            sizes, its_sizes = (
                one.encode_with_bytes(each["text"])[1] for one in (tokenizer, whole)
            )
            # SentencePiece counts a space that stands for U+2581 with the token after it.
            assert sizes.tolist() == its_sizes.tolist() or "\u2581" in each["text"]
            assert sizes.sum() == its_sizes.sum()
        for chat in wanted.get("chats", []) if tokenizer.chat_template else []:
            prompt = chat["add_generation_prompt"]
            ids = tokenizer.chat(chat["messages"], add_generation_prompt=prompt)
            assert ids.tolist() == chat.get("ids", ids.tolist())


def test_tiktokens_ids_and_bytes(tmp_path) -> None:
    """Fails if the pattern, the order of merges or the bytes of tokens are others."""
    wanted = golden("tiktoken")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "ranks.tiktoken").write_bytes((GOLDEN / "tiktoken/ranks.tiktoken").read_bytes())
    names = {
        str(id): {"content": n, "special": True} for n, id in wanted["special_tokens"].items()
    }
    said = {"added_tokens_decoder": names, "eos_token": "<|end_of_text|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    tokenizer, _ = from_hf_folder(folder, size=402)
    for each in wanted["encodings"]:
        ids, sizes = tokenizer.encode_with_bytes(each["text"])
        assert (ids.tolist(), sizes.tolist()) == (each["ids"], each["bytes"]), each["text"]


def test_tokens_may_be_added_behind_the_models_table(tmp_path):
    """Fails if an added token takes the id of another, is read from text, or has no row."""
    folder = write(tmp_path, "byte-level")
    tokenizer, config = from_hf_folder(folder, size=300)
    more = msgspec.structs.replace(config, added=("<user>", "<bot>"))
    found = more.read_folder(folder)
    assert more.vocabulary_size == found.vocabulary.size == 302
    assert found.added == {"<user>": 300, "<bot>": 301}
    assert not found.vocabulary.is_ordinary[300:].any()
    text = "<user> the hall"
    assert found.encode(text).tolist() == tokenizer.encode(text).tolist()
    assert found.decode([300, *found.encode(text), 301]) == text
    assert found.digest != tokenizer.digest
