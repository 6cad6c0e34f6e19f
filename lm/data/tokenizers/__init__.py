"""Text to ids and back. A new kind: its file beside these, and its name in the union."""

from collections.abc import Callable, Iterator
from pathlib import Path

from lm.config import Config, UserError, dump, parse
from lm.data.tokenizers.base import THREADS, Base, Tokenizer, usable_threads
from lm.data.tokenizers.bytes import Bytes
from lm.data.tokenizers.foreign import Foreign
from lm.data.tokenizers.hf_folder import from_hf_folder, to_hf_folder
from lm.data.tokenizers.huggingface import HuggingFace
from lm.data.tokenizers.sentencepiece import SentencePiece
from lm.data.tokenizers.sentencepiece_model import SentencePieceModel

TokenizerConfig = Bytes | SentencePiece | HuggingFace | SentencePieceModel

__all__ = [
    "THREADS",
    "Base",
    "Bytes",
    "Foreign",
    "HuggingFace",
    "SentencePiece",
    "SentencePieceModel",
    "Tokenizer",
    "TokenizerConfig",
    "from_hf_folder",
    "load_tokenizer",
    "open_tokenizer",
    "save_tokenizer",
    "to_hf_folder",
    "usable_threads",
    "vocabulary_size",
]


def vocabulary_size(config: TokenizerConfig) -> int:
    """How many tokens a tokenizer will have, known before it has learnt them.

    >>> vocabulary_size(Bytes()), vocabulary_size(SentencePiece(size=2048, sentinels=8))
    (260, 2056)
    """
    return config.vocabulary_size


def open_tokenizer(
    config: TokenizerConfig,
    corpus_digest: str = "",
    validation: float = 0.0,
    train_bytes: int = 0,
    train_texts: Callable[[], Iterator[str]] = lambda: iter(()),
) -> Tokenizer:
    """The tokenizer of `config`; see `Base.open`."""
    return config.open(corpus_digest, validation, train_bytes, train_texts)


class TokenizerFacts(Config, frozen=True):
    """What `FACTS` holds: how to read the tokenizer's own file, and which one it must be."""

    kind: TokenizerConfig
    digest: str


FACTS = "tokenizer.facts.json"


def save_tokenizer(tokenizer: Tokenizer, config: TokenizerConfig, folder: Path) -> None:
    """Writes the tokenizer to a folder: its own files byte for byte, and facts beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in tokenizer.files.items():
        (folder / name).write_bytes(content)
    (folder / FACTS).write_text(dump(TokenizerFacts(kind=config, digest=tokenizer.digest)))


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer that `save_tokenizer` wrote to a folder; no corpus and no cache is read.

    Raises UserError where a file is missing, damaged, or of another tokenizer.
    """
    facts = folder / FACTS
    try:
        saved = parse(TokenizerFacts, facts.read_bytes(), str(facts))
        tokenizer = saved.kind.read_folder(folder)
    except FileNotFoundError:
        raise UserError(f"{folder}: holds no tokenizer, it has no {FACTS}") from None
    if tokenizer.digest != saved.digest:
        raise UserError(
            f"{folder}: damaged, or of another tokenizer: its digest is"
            f" {tokenizer.digest[:12]}, and must be {saved.digest[:12]}"
        )
    return tokenizer
