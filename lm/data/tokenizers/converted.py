"""A tokenizer.json from what came before it: word pieces, merges, ranks (tiktoken)."""

import base64
from collections.abc import Iterator, Mapping
from typing import Any

from lm.config import UserError
from lm.data.tokenizers.foreign import settings_in, special_names

PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
"""What is odd about an added token: nothing."""
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How text is cut before tiktoken's ranks are used: cl100k_base and Llama 3."""
QWEN_PATTERN = PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")


def tokenizer_json(files: Mapping[str, bytes]) -> dict[str, Any]:
    """What the tokenizer.json among these files says, or would say of older ones.

    Tokens that other files add are added. Raises UserError where there is no tokenizer.
    """
    if "tokenizer.json" in files:
        found = settings_in(files, "tokenizer.json")
    elif "vocab.json" in files and "merges.txt" in files:
        found = _from_merges(files)
    elif "vocab.txt" in files:
        found = _from_word_pieces(files)
    elif ranks := ranks_in(files):
        found = _from_ranks(*ranks)
    else:
        raise UserError(
            "no tokenizer: there is no tokenizer.json, vocab.txt, vocab.json with merges.txt,"
            " or file of tiktoken's ranks"
        )
    model = found.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict | list):
        raise UserError("tokenizer.json: it has no model with a vocab")
    added = {each["id"]: each for each in (*_added(files), *found.get("added_tokens", []))}
    if "tokenizer.json" not in files:
        added |= _beyond(files, model["vocab"], added)
    found["added_tokens"] = [added[id] for id in sorted(added)]
    return found


def ranks_in(files: Mapping[str, bytes]) -> tuple[str, bytes] | None:
    """The file of tiktoken's ranks among these: a token in base64 and its rank, a line each."""
    for name, content in files.items():
        first = content.partition(b"\n")[0].split()
        named = name == "tokenizer.model" or name.endswith(".tiktoken")
        if named and len(first) == 2 and first[1].isdigit():
            return name, content
    return None


def _added(files: Mapping[str, bytes]) -> Iterator[dict[str, Any]]:
    """The tokens that tokenizer_config.json and added_tokens.json add."""
    for name, id in settings_in(files, "added_tokens.json").items():
        # Runs of spaces are text.
        yield {"id": id, "content": name, **PLAIN, "special": bool(name.strip())}
    decoder = settings_in(files, "tokenizer_config.json").get("added_tokens_decoder", {})
    for number, token in decoder.items():
        yield {"special": False, **PLAIN, **_known(token), "id": int(number)}


def _beyond(
    files: Mapping[str, bytes], vocab: Mapping[str, int], added: Mapping[int, dict[str, Any]]
) -> dict[int, dict[str, Any]]:
    """Special tokens that older files name and do not hold: they come after all others."""
    names = {*vocab, *(each["content"] for each in added.values())}
    said, found = special_names(files), dict[int, dict[str, Any]]()
    for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"):
        name = said.get(f"{role}_token")
        if name is not None and name not in names:
            id = max([*vocab.values(), *added, *found], default=-1) + 1
            found[id] = {"id": id, "content": name, **PLAIN, "special": True}
            names.add(name)
    return found


def _known(token: Mapping[str, Any]) -> dict[str, Any]:
    names = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    return {name: token[name] for name in names if name in token}


def byte_alphabet() -> dict[str, int]:
    """The characters that byte-level BPE (GPT-2) writes bytes with.

    >>> byte_alphabet()["Ġ"], len(byte_alphabet())
    (32, 256)
    """
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    unseen = [byte for byte in range(256) if byte not in seen]
    return {chr(b): b for b in seen} | {chr(256 + n): b for n, b in enumerate(unseen)}


def _byte_level(model: Mapping[str, Any], pre_tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    decoder = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
    return {
        "version": "1.0",
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "decoder": decoder | {"use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            **model,
        },
    }


def _from_merges(files: Mapping[str, bytes]) -> dict[str, Any]:
    """Byte-level BPE as GPT-2 and RoBERTa have it."""
    lines = files["merges.txt"].decode().split("\n")
    merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    space = settings_in(files, "tokenizer_config.json").get("add_prefix_space", False)
    pre_tokenizer = {
        "type": "ByteLevel",
        "add_prefix_space": bool(space),
        "trim_offsets": True,
        "use_regex": True,
    }
    return _byte_level(
        {"vocab": settings_in(files, "vocab.json"), "merges": merges}, pre_tokenizer
    )


def _from_word_pieces(files: Mapping[str, bytes]) -> dict[str, Any]:
    """WordPiece as BERT has it."""
    names = files["vocab.txt"].decode().splitlines()
    said = settings_in(files, "tokenizer_config.json")
    return {
        "version": "1.0",
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": said.get("tokenize_chinese_chars", True),
            "strip_accents": said.get("strip_accents"),
            "lowercase": said.get("do_lower_case", True),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {name: id for id, name in enumerate(names)},
        },
    }


def _from_ranks(name: str, content: bytes) -> dict[str, Any]:
    """Byte-level BPE whose merges are by rank of what they make (tiktoken)."""
    written = {byte: character for character, byte in byte_alphabet().items()}
    try:
        lines = (line.split() for line in content.splitlines() if line.strip())
        ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    except ValueError as error:
        raise UserError(f"{name}: no ranks of tokens: {error}") from None

    def spelled(token: bytes) -> str:
        return "".join(map(written.__getitem__, token))

    merges = []
    for token, _ in sorted(ranks.items(), key=lambda each: each[1]):
        pairs = [(token[:at], token[at:]) for at in range(1, len(token))]
        pairs = [(a, b) for a, b in pairs if a in ranks and b in ranks]
        pairs.sort(key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
        merges += [[spelled(a), spelled(b)] for a, b in pairs]
    pattern = QWEN_PATTERN if name.startswith("qwen") else PATTERN
    cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return _byte_level(
        {
            "vocab": {spelled(token): rank for token, rank in ranks.items()},
            "merges": merges,
            "ignore_merges": True,
        },
        {
            "type": "Sequence",
            "pretokenizers": [cut | {"invert": False}, bytes_ | {"use_regex": False}],
        },
    )
