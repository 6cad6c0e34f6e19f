"""A tokenizer in a folder of its own, without the corpus that it was learnt from."""

from pathlib import Path

from lm.config import Config, UserError, dump, parse
from lm.data.tokenizers.base import Tokenizer
from lm.data.tokenizers.bytes import Bytes
from lm.data.tokenizers.sentencepiece import SentencePiece

# A new kind: its file beside these, and its name in the union.
TokenizerConfig = Bytes | SentencePiece


class Saved(Config, frozen=True):
    """What tokenizer.json holds: the facts that the tokenizer's own file does not."""

    kind: TokenizerConfig
    digest: str


def save(tokenizer: Tokenizer, kind: TokenizerConfig, folder: Path) -> None:
    """Writes `vocabulary.json` and, if the tokenizer has a file, `tokenizer.model`."""
    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer.model is not None:
        (folder / MODEL).write_bytes(tokenizer.model)
    (folder / FACTS).write_text(dump(Saved(kind=kind, digest=tokenizer.digest)))


def load(folder: Path) -> Tokenizer:
    """The tokenizer that `save` wrote; raises UserError where it is not there, or another."""
