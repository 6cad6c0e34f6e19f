"""Any text scored by a model, whatever it was trained on: each file is a document."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorstore as ts
from msgspec.structs import replace

from lm.config import UserError
from lm.data import LengthModel, Split, Tokenizer, Tokens
from lm.evaluate.effort import USUAL, Effort
from lm.evaluate.scoring import score_by, valid
from lm.results import Score
from lm.train.load import LoadedModel, ModelWithText


@dataclass(frozen=True, eq=False)
class GivenText(Tokens):
    """Text that a model is scored on, in place of a corpus."""

    model_lengths: LengthModel | None

    @property
    def lengths(self) -> LengthModel | None:  # type: ignore[override] # of a foreign model
        """How long the documents were that the model was trained on, if that is known."""
        return self.model_lengths


def with_text(model: LoadedModel, paths: Sequence[Path]) -> ModelWithText:
    """A model with the text of files in place of its corpus, for all that scores.

    Raises UserError for a file that cannot be read, is empty, or is not UTF-8.
    """
    names, texts = [str(path) for path in paths], [_read(path) for path in paths]
    split = _in_memory(names, texts, model.tokenizer)
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    text = GivenText(
        tokenizer=model.tokenizer,
        train=split,
        validation=split,
        corpus_digest=digest,
        tokenizer_digest=model.tokenizer.digest,
        model_lengths=model.lengths,
    )
    # Rows of a stream, whatever the model was trained on.
    run = replace(model.run, data=replace(model.run.data, packing="stream"))
    return ModelWithText(run, text, model.program, model.params)


def score_text(
    model: LoadedModel, paths: Sequence[Path], effort: Effort = USUAL
) -> dict[str, Score]:
    """The bits per byte of files by every scorer that is valid for a model, by its name.

    Each file is one document, and what is scored are windows of all of them as long as the
    model's rows. A model whose documents' lengths are not known pays nothing for the layout
    that it is told: its `layout_bits` are None.
    """
    there = with_text(model, paths)
    scorers = {
        name: scorer
        for name, scorer in valid(there.run, effort).items()
        if not scorer.only_by_name
    }
    if not scorers:
        raise UserError("the model predicts no tokens, and has no score")
    return {name: score_by(there, scorer, effort) for name, scorer in scorers.items()}


def _read(path: Path) -> str:
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise UserError(f"--text {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"--text {path}: not UTF-8: {error}") from None
    if not text:
        raise UserError(f"--text {path}: it is empty")
    return text


def _in_memory(names: list[str], texts: list[str], tokenizer: Tokenizer) -> Split:
    """A split of these documents that is on no disk."""
    special = tokenizer.vocabulary
    streams = [
        np.concatenate([[special.bos], ids, [special.eos]]).astype(np.int32)
        for ids in tokenizer.encode_all(texts)
    ]
    return Split(
        tokens=ts.array(np.concatenate(streams)),
        offsets=np.cumsum([0, *map(len, streams)]),
        bytes=np.array([len(text.encode()) for text in texts]),
        ids=names,
        tokenizer=tokenizer,
    )
