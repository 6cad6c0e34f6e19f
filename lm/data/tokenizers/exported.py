"""Tokenizers that were learnt here, as tokenizer.json files that give the same ids."""

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from lm.config import UserError
from lm.data.tokenizers.base import BOS, EOS, MASK, PAD, Tokenizer
from lm.data.tokenizers.converted import PLAIN, byte_alphabet
from lm.data.tokenizers.foreign import ForeignTokenizer
from lm.data.tokenizers.sentencepiece import CHUNK
from lm.data.tokenizers.sentencepiece_model import proto_of

TIES = (
    "where two ways to cut a word are equally likely, to about a thousandth of a nat,"
    " tokenizer.json may take the other one: the library adds up in float64, and SentencePiece"
    " in float32"
)
"""What is not the same in a tokenizer.json of a unigram model."""


def is_unigram(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer is a unigram model that was learnt here."""
    if isinstance(tokenizer, ForeignTokenizer) or tokenizer.model is None:
        return False
    trained = proto_of(tokenizer.model).trainer_spec
    return bool(trained.model_type == trained.UNIGRAM)


def exported(tokenizer: Tokenizer) -> dict[str, bytes]:
    """The files, by name, that make a tokenizer of ours for transformers.

    They give the same ids, but for `TIES`. Raises UserError where that cannot be had.
    """
    whole = _of_bytes(tokenizer) if tokenizer.model is None else _of_sentencepiece(tokenizer)
    _refuse_others(tokenizer, whole)
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        # Text that spells a special token is text, unless a chat template has to spell some.
        "split_special_tokens": tokenizer.chat_template is None,
    }
    for role, id in (("bos", BOS), ("eos", EOS), ("pad", PAD), ("mask", MASK)):
        settings[f"{role}_token"] = tokenizer.id_to_token(id)
    spans = [tokenizer.id_to_token(id) for id in tokenizer.vocabulary.sentinels]
    if further := [*spans, *tokenizer.added]:
        settings["additional_special_tokens"] = further
    return {
        "tokenizer.json": json.dumps(whole, ensure_ascii=False).encode(),
        "tokenizer_config.json": json.dumps(settings, indent=2).encode(),
        **_template_file(tokenizer),
    }


def own_files(tokenizer: ForeignTokenizer) -> dict[str, bytes]:
    """The files, by name, of a foreign tokenizer, with what it has beyond them.

    Raises UserError where tokens were added that no file of it can tell.
    """
    files, names = tokenizer.files, ", ".join(tokenizer.added)
    if tokenizer.config.chat_template is not None:
        files |= _template_file(tokenizer)
    if not tokenizer.added:
        return files
    if "tokenizer.json" not in files:
        raise UserError(f"the added tokens {names} have no place: there is no tokenizer.json")
    import tokenizers

    whole = json.loads(files["tokenizer.json"])
    whole["added_tokens"] += [
        PLAIN | {"id": id, "content": name, "special": True}
        for name, id in tokenizer.added.items()
    ]
    text = json.dumps(whole, ensure_ascii=False)
    library = tokenizers.Tokenizer.from_str(text)
    if any(library.token_to_id(name) != id for name, id in tokenizer.added.items()):
        raise UserError(
            f"the added tokens {names} have other ids in a tokenizer.json, as the model's table"
            " has rows without a token before them"
        )
    return files | {"tokenizer.json": text.encode()}


def _template_file(tokenizer: Tokenizer) -> dict[str, bytes]:
    """The chat template's file, which counts before one that another file holds."""
    template = tokenizer.chat_template
    return {} if template is None else {"chat_template.jinja": template.encode()}


def _whole(**parts: Any) -> dict[str, Any]:
    """A tokenizer.json of these parts.

    Special tokens are in the model's vocabulary, where no text reaches them; as added tokens
    they would be looked for in every text.
    """
    nothing = ("truncation", "padding", "normalizer", "post_processor")
    return {"version": "1.0", **dict.fromkeys(nothing), "added_tokens": [], **parts}


def _of_bytes(tokenizer: Tokenizer) -> dict[str, Any]:
    """Byte-level BPE without merges."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    byte_level |= {"use_regex": False}
    first = tokenizer.vocabulary.first_ordinary
    vocab = {tokenizer.id_to_token(id): id for id in range(first)}
    written = {byte: character for character, byte in byte_alphabet().items()}
    for id in range(first, len(tokenizer.tokens) - len(tokenizer.added)):
        if len(tokenizer.tokens[id]) != 1:
            raise UserError(
                f"no tokenizer.json gives the ids of a tokenizer of this kind: its token"
                f" {tokenizer.tokens[id]!r} is no byte"
            )
        vocab[written[tokenizer.tokens[id][0]]] = id
    vocab |= tokenizer.added
    return _whole(
        pre_tokenizer=byte_level,
        decoder=byte_level,
        model={"type": "BPE", "vocab": vocab, "merges": [], "byte_fallback": False},
    )


def _of_sentencepiece(tokenizer: Tokenizer) -> dict[str, Any]:
    """The pieces of a SentencePiece file with spaces in place of U+2581.

    So U+2581 itself is in no piece and goes by its bytes, as it does here.
    """
    assert tokenizer.model is not None
    proto = proto_of(tokenizer.model)
    first = tokenizer.vocabulary.first_ordinary
    special = [tokenizer.id_to_token(id) for id in range(first)]
    # SentencePiece's id 0 is its unknown token, which is never met.
    pieces = [(each.piece.replace("\u2581", " "), each.score) for each in proto.pieces[1:]]
    model: dict[str, Any]
    cuts = [CHUNK]
    if not is_unigram(tokenizer):
        names = [*special, *(name for name, _ in pieces), *tokenizer.added]
        model = {
            "type": "BPE",
            "vocab": {name: id for id, name in enumerate(names)},
            "merges": _merges(dict(pieces)),
            "byte_fallback": True,
            "fuse_unk": False,
        }
    else:
        # Else the library would read them from text that spells them.
        never = [(name, _NEVER) for name in special]
        pieces = [(name, _NEVER if _BYTE.fullmatch(name) else score) for name, score in pieces]
        added = [(name, _NEVER) for name in tokenizer.added]
        model = {"type": "Unigram", "vocab": [*never, *pieces, *added], "unk_id": PAD}
        model |= {"byte_fallback": True}
        # A character that no piece has costs more yet, so names with one are cut there.
        known = {name for name, _ in pieces}
        spelled = {*"".join([*special, *tokenizer.added]), *"<0xABCDEF123456789>"}
        if missing := "".join(sorted(spelled - known)):
            cuts.append(f"[{re.escape(missing)}]")
    return _whole(
        pre_tokenizer={"type": "Sequence", "pretokenizers": [_cut(regex) for regex in cuts]},
        decoder={
            "type": "Sequence",
            "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}],
        },
        model=model,
    )


def _cut(regex: str) -> dict[str, Any]:
    """Cuts a text before and after what a pattern matches."""
    pattern = {"Regex": regex}
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


_NEVER = -1e6
"""Score of a piece that is worse than any other way to spell its name."""
_BYTE = re.compile("<0x[0-9A-F]{2}>")


def _merges(scores: Mapping[str, float]) -> list[list[str]]:
    """The pairs that make a piece, in the order in which SentencePiece would merge them."""
    made = []
    for piece, score in scores.items():
        for at in range(1, len(piece)):
            left, right = piece[:at], piece[at:]
            if left in scores and right in scores:
                made.append((-score, at, left, right))
    return [[left, right] for _, _, left, right in sorted(made)]


def _refuse_others(tokenizer: Tokenizer, whole: Mapping[str, Any]) -> None:
    """Raises UserError where a tokenizer.json gives other ids than the tokenizer."""
    import tokenizers

    library, ties = tokenizers.Tokenizer.from_str(json.dumps(whole)), is_unigram(tokenizer)
    for text in _NASTY:
        found, wanted = (
            library.encode(text, add_special_tokens=False).ids,
            tokenizer.encode(text),
        )
        same = len(found) == len(wanted) if ties else np.array_equal(found, wanted)
        if not same or library.decode(found, skip_special_tokens=False) != text:
            raise UserError(
                "no tokenizer.json gives the ids that the tokenizer does: they differ for"
                f" {text[:60]!r}"
            )


_NASTY = (
    "",
    " ",
    "Hello, world! 12345 naïve café\n\tdef f(x):\r\n        return x  # ▁▁ a▁b\n",
    "한국어 조합형 👩‍👩‍👧 🏳️‍🌈\ufeff \x00\x7f\x1b[0m ﬁ Å ① \u2047\ufffd",
    "<unk><s></s><0x0A> " + "x" * 5000 + "\n" + " " * 9000 + "é",
)
