"""Tokenizers that Hugging Face's library `tokenizers` reads: tokenizer.json and older files."""

import itertools
import json
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lm.config import UserError
from lm.data.tokenizers.converted import PLAIN, byte_alphabet, tokenizer_json
from lm.data.tokenizers.foreign import Foreign, ForeignTokenizer, losing


class HuggingFace(Foreign, frozen=True, tag="huggingface"):
    """A tokenizer.json (BPE, WordPiece, unigram), or the older files that say the same."""

    def read(self, model: bytes | None) -> ForeignTokenizer:
        return self.read_files({} if model is None else {"tokenizer.json": model})

    def read_files(self, files: Mapping[str, bytes]) -> ForeignTokenizer:
        return _Fast(self, files)


class _Fast(ForeignTokenizer):
    def __init__(self, config: HuggingFace, files: Mapping[str, bytes]) -> None:
        # Half a second, of which a run with a tokenizer of ours has no need.
        import tokenizers

        whole = tokenizer_json(files)
        names = names_in(whole)
        special = special_in(whole) | {config.bos, config.eos, config.pad, *config.special}
        special |= {*config.removed_spans} | (set() if config.mask is None else {config.mask})
        self._private, mine = _unspellable(
            whole, {id: names[id] for id in special & set(names)}
        )
        try:
            self._library = tokenizers.Tokenizer.from_str(json.dumps(mine))
        except Exception as error:  # the library raises no narrower one
            raise UserError(f"tokenizer.json: the library cannot read it: {error}") from None
        for id, name in names.items():
            if (found := self._library.token_to_id(self._private.get(id, name))) != id:
                raise UserError(
                    f"tokenizer.json: token {name!r} is id {id}, and read as {found}"
                )
        tokens = _token_bytes(whole, names)
        prefix = whole["model"].get("continuing_subword_prefix")
        super().__init__(
            config,
            files,
            names=names,
            tokens=tokens,
            continues=[id for id, n in names.items() if n.startswith(prefix)] if prefix else [],
            special=special,
            lossy=_lossy(whole),
        )
        self._added_ids = frozenset(self.added.values())
        if self.lossy is None and (lost := self._loses()):
            self.lossy = losing([f"{lost!r} is given back as another text"])

    def encode_texts(self, texts: Sequence[str]) -> list[np.ndarray]:
        found = self._library.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(each.ids, np.int32) for each in found]

    def ends_of(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        found = self._library.encode(text, add_special_tokens=False)
        ends = np.array(found.offsets, np.int64).reshape(-1, 2)[:, 1]
        return np.array(found.ids, np.int32), ends

    def encode_parts(self, parts: Sequence[str | int]) -> np.ndarray:
        """The library knows no added token: what is between them are texts of their own."""
        found = []
        for added, run in itertools.groupby(parts, lambda part: part in self._added_ids):
            if added:
                found.append(np.array(list(run), np.int32))
            else:
                text = "".join(p if isinstance(p, str) else self._private[p] for p in run)
                found.append(self.encode(text))
        return np.concatenate([np.zeros(0, np.int32), *found])

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return str(self._library.decode(np.asarray(ids).tolist(), skip_special_tokens=True))

    def _loses(self) -> str | None:
        """A text that is not given back."""
        return next((text for text in _PROBES if self.decode(self.encode(text)) != text), None)


_PROBES = (
    "a b",
    " a  b \n\n\tc ",
    "Ab Éa ß ﬁ 語",
    "\x00\x1f\u2581\u200d\ufeff👩‍👩‍👧 12.5 %",
    "a .",
)


def names_in(whole: Mapping[str, Any]) -> dict[int, str]:
    """The name of each id of a tokenizer.json."""
    vocab = whole["model"]["vocab"]
    if isinstance(vocab, Mapping):
        names = {id: name for name, id in vocab.items()}
    else:
        names = {id: name for id, (name, _) in enumerate(vocab)}
    return names | {added["id"]: added["content"] for added in whole["added_tokens"]}


def special_in(whole: Mapping[str, Any]) -> set[int]:
    """The ids that a tokenizer.json calls special, or that are written like `<|im_end|>`."""
    added = {
        each["id"]
        for each in whole["added_tokens"]
        if each.get("special") or re.fullmatch(r"<[|｜].*[|｜]>", each["content"])
    }
    model, names = whole["model"], names_in(whole)
    unknown = {id for id, name in names.items() if name == model.get("unk_token")}
    return added | unknown | ({model["unk_id"]} if model.get("unk_id") is not None else set())


def _unspellable(
    whole: Mapping[str, Any], special: Mapping[int, str]
) -> tuple[dict[int, str], dict[str, Any]]:
    """New names for special tokens that nobody can know, and the tokenizer.json with these.

    So no text spells one, in whatever way the library looks for them: as added tokens, or
    as tokens of the model's own (`</s>` of a unigram model).
    """
    secret = secrets.token_hex(16)
    private = {id: f"{secret}{id}x" for id in special}
    renamed = {name: private[id] for id, name in special.items()}
    model = dict(whole["model"])
    if isinstance(model["vocab"], Mapping):
        model["vocab"] = {renamed.get(name, name): id for name, id in model["vocab"].items()}
    else:
        model["vocab"] = [[renamed.get(name, name), score] for name, score in model["vocab"]]
    if model.get("unk_token") in renamed:
        model["unk_token"] = renamed[model["unk_token"]]
    if "merges" in model:
        pairs = [m.split(" ", 1) if isinstance(m, str) else m for m in model["merges"]]
        model["merges"] = [
            pair for pair in pairs if not renamed.keys() & {*pair, "".join(pair)}
        ]
        model["dropout"] = None
    added = {each["id"]: each for each in whole["added_tokens"]}
    for id, name in private.items():
        added[id] = PLAIN | added.get(id, {}) | {"id": id, "content": name, "special": True}
    # Nothing is cut, filled up or put around a text; nor are offsets trimmed.
    off = {"truncation": None, "padding": None, "post_processor": None}
    return private, {
        **whole,
        "model": model,
        "added_tokens": [added[id] for id in sorted(added)],
        **off,
    }


def _parts(whole: Mapping[str, Any], *kinds: str) -> Iterator[Mapping[str, Any]]:
    """The normalizers, pre-tokenizers or decoders, those of sequences one by one."""
    waiting = [whole.get(kind) for kind in kinds]
    while waiting:
        part = waiting.pop(0)
        if not isinstance(part, Mapping):
            continue
        yield part
        for name in ("normalizers", "pretokenizers", "decoders"):
            waiting += part.get(name, [])


def _is_byte_level(whole: Mapping[str, Any]) -> bool:
    parts = _parts(whole, "normalizer", "pre_tokenizer", "decoder")
    return any(part.get("type") == "ByteLevel" for part in parts)


def _token_bytes(whole: Mapping[str, Any], names: Mapping[int, str]) -> dict[int, bytes]:
    """The bytes that each id stands for, as well as its name tells."""
    model, alphabet = whole["model"], byte_alphabet()
    added = {each["id"] for each in whole["added_tokens"]}
    byte_level = _is_byte_level(whole)
    prefix = model.get("continuing_subword_prefix") or ""
    suffix = model.get("end_of_word_suffix") or ""
    found = {}
    for id, name in names.items():
        if id in added:
            found[id] = name.encode()
        elif byte_level and all(character in alphabet for character in name):
            found[id] = bytes(alphabet[character] for character in name)
        elif model.get("byte_fallback") and re.fullmatch("<0x[0-9A-F]{2}>", name):
            found[id] = bytes([int(name[3:5], 16)])
        else:
            text = name.removeprefix(prefix).removesuffix(suffix)
            found[id] = text.replace("\u2581", " ").encode()
    return found


_CHANGES = {
    "Lowercase": "letters are lower-cased",
    "StripAccents": "accents are stripped",
    "NFC": "characters are normalized (NFC)",
    "NFD": "characters are normalized (NFD)",
    "NFKC": "characters are normalized (NFKC)",
    "NFKD": "characters are normalized (NFKD)",
    "Nmt": "control characters are normalized",
    "Precompiled": "characters are normalized (as sentencepiece does)",
    "Strip": "whitespace around the text is dropped",
    "BertPreTokenizer": "whitespace is merged",
    "Whitespace": "whitespace is merged",
    "WhitespaceSplit": "whitespace is merged",
}
"""What normalizers and pre-tokenizers do to a text that cannot be undone."""


def _lossy(whole: Mapping[str, Any]) -> str | None:
    """What of a text is lost, in words; None: nothing that a tokenizer.json tells."""
    found: list[str] = []
    for part in _parts(whole, "normalizer", "pre_tokenizer"):
        kind = part.get("type", "")
        match kind:
            case "BertNormalizer":
                lower = part.get("lowercase", True)
                strip = part.get("strip_accents")
                strip = lower if strip is None else strip
                found += [_CHANGES["Lowercase"]] if lower else []
                found += [_CHANGES["StripAccents"]] if strip else []
                found += ["control characters are dropped"] if part.get("clean_text") else []
            case "Metaspace":
                if part.get("prepend_scheme", "always") != "never":
                    found.append("a space at the start is taken for none")
                found.append("U+2581 is taken for a space")
            case "ByteLevel" if part.get("add_prefix_space"):
                found.append("a space is put before the text")
            case "Replace" if part.get("content") == "\u2581":
                found.append("U+2581 is taken for a space")
            case "Replace" | "Split" | "CharDelimiterSplit" if part.get(
                "behavior", "Removed"
            ) == "Removed" and not (kind == "Split" and part.get("invert")):
                found.append("some characters are replaced or dropped")
            case _:
                found += [_CHANGES[kind]] if kind in _CHANGES else []
    return losing([*found, *_unspelled(whole)])


def _unspelled(whole: Mapping[str, Any]) -> list[str]:
    """What becomes of text that no token spells."""
    model = whole["model"]
    unknown = model.get("unk_token") if "unk_id" not in model else model["unk_id"]
    if _is_byte_level(whole):
        vocab = set(names_in(whole).values())
        missing = sum(character not in vocab for character in byte_alphabet())
        verb = "vanish" if unknown is None else "become an unknown token"
        return [f"{missing} bytes have no token and {verb}"] if missing else []
    if model.get("byte_fallback"):
        vocab = set(names_in(whole).values())
        if all(f"<0x{byte:02X}>" in vocab for byte in range(256)):
            spelled = isinstance(model["vocab"], list)
            return ["the spelling of a byte (<0x0A>) is taken for the byte"] if spelled else []
    if unknown is None:
        return ["text that no token spells vanishes"]
    return ["an unknown token stands for text that no token spells"]
