"""What stands for the tokenizer of a folder that has none: ids, and no text."""

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from lm.config import UserError, read_json
from lm.data.tokenizers import HuggingFace, Tokenizer
from lm.data.tokenizers.foreign import files_of
from lm.example import Vocabulary

_FILES = ("tokenizer.json", "vocab.json", "vocab.txt")


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has a file that tells text from ids."""
    there = files_of(folder)
    return any(name in _FILES or name.endswith((".model", ".tiktoken")) for name in there)


class WithoutTokenizer(Tokenizer):
    """Knows the special ids, and refuses text."""

    def __init__(self, folder: Path, config: HuggingFace) -> None:
        self.folder = folder
        never = tuple(sorted({config.bos, config.eos, config.pad}))
        vocabulary = Vocabulary(
            size=config.size,
            pad=config.pad,
            mask=None,
            bos=config.bos,
            eos=config.eos,
            first_ordinary=0,
            begins_word=(True,) * config.size,
            special=never,
            eos_counts=False,
        )
        tokens = (b"",) * config.size
        super().__init__(tokens, f"none {config.size}", self._refuse, vocabulary=vocabulary)

    def _refuse(self, texts: Sequence[str]) -> NoReturn:
        raise UserError(f"{self.folder}: has no tokenizer: the model takes ids, and no text")

    def encode_with_bytes(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        self._refuse([text])

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        self._refuse([])

    @property
    def files(self) -> dict[str, bytes]:
        self._refuse([])


def without_tokenizer(folder: Path, *, size: int) -> tuple[WithoutTokenizer, HuggingFace]:
    """A tokenizer that has the special ids of a folder's config.json alone."""
    options = read_json(folder / "config.json")

    def of(*roles: str) -> int:
        for role in roles:
            found = options.get(f"{role}_token_id")
            found = found[0] if isinstance(found, list) and found else found
            if isinstance(found, int) and 0 <= found < size:
                return found
        return 0

    config = HuggingFace(
        size=size,
        bos=of("bos", "cls", "decoder_start", "eos"),
        eos=of("sep", "eos", "bos"),
        pad=of("pad", "eos"),
    )
    return WithoutTokenizer(folder, config), config
