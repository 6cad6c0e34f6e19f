"""Tokenizers of Hugging Face folders, both ways."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lm.config import UserError
from lm.data.tokenizers.base import Tokenizer
from lm.data.tokenizers.converted import ranks_in, tokenizer_json
from lm.data.tokenizers.exported import TIES, exported, is_unigram, own_files
from lm.data.tokenizers.foreign import (
    ForeignTokenizer,
    files_of,
    settings_in,
    special_names,
)
from lm.data.tokenizers.huggingface import HuggingFace, names_in, special_in
from lm.data.tokenizers.sentencepiece_model import SentencePieceModel, model_of, names_of

_USUAL = {
    "bos_token": ("<s>",),
    "cls_token": ("[CLS]",),
    "eos_token": ("</s>", "<|endoftext|>"),
    "sep_token": ("[SEP]",),
    "pad_token": ("[PAD]", "<pad>"),
    "mask_token": ("[MASK]", "<mask>"),
    "unk_token": ("[UNK]", "<unk>"),
}
"""How special tokens are spelled where no file says it (GPT-2, BERT, RoBERTa, T5)."""


def from_hf_folder(
    folder: Path, *, size: int
) -> tuple[Tokenizer, HuggingFace | SentencePieceModel]:
    """The tokenizer of a Hugging Face folder whose model has a table of `size` rows.

    Before the first token stands the tokenizer's bos or cls token; where there is neither,
    what the decoder begins with (T5) or the eos token (GPT-2). After the last one stands its
    sep or eos token. Raises UserError where there is no tokenizer, or none that is understood.
    """
    files = files_of(folder)
    try:
        if {"tokenizer.json", "vocab.json", "vocab.txt"} & files.keys() or ranks_in(files):
            kind: type[HuggingFace | SentencePieceModel] = HuggingFace
            whole = tokenizer_json(files)
            names, special = names_in(whole), special_in(whole)
        else:
            kind = SentencePieceModel
            names, special = names_of(model_of(files), files), set[int]()
        config_file = folder / "config.json"
        model = {config_file.name: config_file.read_bytes()} if config_file.exists() else {}
        roles = _roles(settings_in(model, config_file.name), files, names, special, size)
        config = kind(size=size, **roles)
        return config.read_files(files), config
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None


def to_hf_folder(tokenizer: Tokenizer, folder: Path) -> str | None:
    """Writes a tokenizer to a folder as transformers reads it; returns what is not the same.

    A foreign one's files are its own again. One of ours becomes a tokenizer.json that gives the
    same ids, but for ties of a unigram model, which are returned in words. Raises UserError
    where that cannot be had.
    """
    if isinstance(tokenizer, ForeignTokenizer):
        files = own_files(tokenizer)
    else:
        files = exported(tokenizer)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return TIES if is_unigram(tokenizer) else None


def _roles(
    model: Mapping[str, Any],
    files: Mapping[str, bytes],
    names: Mapping[int, str],
    special: set[int],
    size: int,
) -> dict[str, Any]:
    """The fields of a foreign tokenizer's config, but for its size; `model` is config.json."""
    ids = {name: id for id, name in names.items()}
    said, whole = special_names(files), "tokenizer.json" in files

    def of(role: str) -> int | None:
        if said.get(role) in ids:
            return ids[said[role]]
        number = model.get(f"{role}_id")
        number = number[0] if isinstance(number, list) and number else number
        if isinstance(number, int) and number in names:
            return number
        usual = [ids[name] for name in _USUAL[role] if name in ids]
        # A tokenizer.json says which are special: what is so spelled may be text's own.
        return next((id for id in usual if id in special or not whole), None)

    eos = next(filter(_there, map(of, ("sep_token", "eos_token"))), None)
    begins = model.get("decoder_start_token_id")
    bos = next(filter(_there, (of("bos_token"), of("cls_token"), begins, eos)), None)
    if eos is None or bos is None:
        raise UserError("the tokenizer's files name no eos or sep token to end a text with")
    pad = of("pad_token")
    spans = list(_spans(ids))
    roles = {of(role) for role in _USUAL} | _further(files, ids) | special
    return {
        "bos": bos,
        "eos": eos,
        # One that was added after the table was made has no row, and is in no text.
        "pad": eos if pad is None or pad >= size else pad,
        "mask": of("mask_token"),
        "special": tuple(sorted(id for id in {*roles, *spans} if id is not None and id < size)),
        "removed_spans": tuple(spans),
    }


def _there(id: int | None) -> bool:
    return id is not None


def _spans(ids: Mapping[str, int]) -> Iterator[int]:
    """The ids that stand for removed spans, in T5's spelling."""
    number = 0
    while (name := f"<extra_id_{number}>") in ids:
        yield ids[name]
        number += 1


def _further(files: Mapping[str, bytes], ids: Mapping[str, int]) -> set[int]:
    """The ids of further special tokens that the settings name."""
    found = set()
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        said = settings_in(files, file)
        for role in ("additional_special_tokens", "extra_special_tokens"):
            names = said.get(role) or []
            for each in names.values() if isinstance(names, dict) else names:
                name = str(each["content"] if isinstance(each, dict) else each)
                found |= {ids[name]} if name in ids else set()
    return found
