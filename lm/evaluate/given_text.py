"""Any text scored by a model, whatever it was trained on: each file is a document."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorstore as ts
from msgspec.structs import asdict, replace

from lm.config import UserError
from lm.data import Split, Tokenizer
from lm.evaluate.effort import USUAL, Effort
from lm.evaluate.scorers.base import Scorer
from lm.evaluate.scoring import score_by, valid
from lm.evaluate.windows import Cut, GivenText
from lm.results import Score
from lm.results.record import Record
from lm.run import Run
from lm.train.load import LoadedModel, ModelWithText


class RowPrefix(Record):
    """The token that stands before the first one of a row."""

    id: int
    token: str


class TextScore(Score, kw_only=True):
    """How well given text is predicted, and in which windows."""

    prefix: RowPrefix
    """What stands before the first token of a document, or of each row where `length` was
    given."""
    length: int
    """Tokens of a window, at most, without the prefix."""
    stride: int | None
    """Tokens from where one window begins to where the next does; None: they are disjoint."""
    lossy: str | None
    """Why the tokens do not give the text back; None: they do."""


def with_text(
    model: LoadedModel,
    paths: Sequence[Path],
    *,
    length: int | None = None,
    stride: int | None = None,
) -> ModelWithText:
    """A model with the text of files in place of its corpus, for all that scores.

    With a `length`, rows are of so many tokens of one document at most, after a bos token;
    `stride` is how far apart they begin, if they are not disjoint. Without, they are windows of
    the documents' stream as long as in training, but for a foreign model, which was trained on
    no such stream: its rows are as long as it allows.

    Raises UserError for a file that cannot be read, is empty, or is not UTF-8, and for a length
    that the model has no places for.
    """
    cut = cut_of(model.run, model.tokenizer, length=length, stride=stride)
    names, texts = [str(path) for path in paths], [_read(path) for path in paths]
    split, sizes, lossy = _in_memory(names, texts, model.tokenizer)
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    text = GivenText(
        tokenizer=model.tokenizer,
        train=split,
        validation=split,
        corpus_digest=digest,
        tokenizer_digest=model.tokenizer.digest,
        model_lengths=model.lengths,
        sizes=sizes,
        cut=cut,
        lossy=lossy,
    )
    # Rows of a stream, whatever the model was trained on.
    run = replace(model.run, data=replace(model.run.data, packing="stream"))
    return ModelWithText(run, text, model.program, model.params)


def score_text(
    model: LoadedModel,
    paths: Sequence[Path],
    effort: Effort = USUAL,
    *,
    length: int | None = None,
    stride: int | None = None,
) -> dict[str, TextScore]:
    """The bits per byte of files by every scorer that is valid for a model, by its name.

    Each file is one document, cut into rows as `with_text` says. A model whose documents'
    lengths are not known pays nothing for the layout that it is told: its `layout_bits` are
    None, as they are of rows of a given length. With a stride, the chain rule alone is asked.
    """
    scorers = usual(valid(model.run, effort), stride)
    if not scorers:
        raise UserError(no_scorer(model.run, stride))
    there = with_text(model, paths, length=length, stride=stride)
    return {name: score_given(there, scorer, effort) for name, scorer in scorers.items()}


def usual(scorers: dict[str, Scorer], stride: int | None) -> dict[str, Scorer]:
    """Those that are asked where none is named."""
    return {
        name: scorer
        for name, scorer in scorers.items()
        if not scorer.only_by_name and (stride is None or scorer.prediction == "next")
    }


def no_scorer(run: Run, stride: int | None) -> str:
    """Why there is no usual scorer for a model."""
    if run.objective.predictions and stride is not None:
        return (
            f"--stride {stride}: strided windows are for the chain rule, and the model was not"
            " trained to predict the next token"
        )
    return "it predicts no tokens, as it has no masked or causal head"


def score_given(there: ModelWithText, scorer: Scorer, effort: Effort) -> TextScore:
    """The score of a model that was given text, with its windows."""
    score, text = score_by(there, scorer, effort), there.tokens
    assert isinstance(text, GivenText)
    cut, bos = text.cut, text.tokenizer.vocabulary.bos
    return TextScore(
        **asdict(score),
        prefix=RowPrefix(id=bos, token=text.tokenizer.id_to_token(bos)),
        length=cut.length if cut else there.run.data.length - 1,
        stride=cut.stride if cut else None,
        lossy=text.lossy,
    )


def cut_of(
    run: Run, tokenizer: Tokenizer, *, length: int | None, stride: int | None
) -> Cut | None:
    """How documents are cut into rows for a model; None: they are not, but stand in a stream.

    Raises UserError where the model cannot read rows of this length, or a stride has none.
    """
    check_windows(length, stride)
    foreign = not tokenizer.vocabulary.eos_counts
    if length is None and not foreign:
        return None
    # An encoder of others has always seen where its text ends.
    cut = Cut(length=1, stride=stride, end=foreign and "next" not in run.objective.predictions)
    most = run.model.longest
    if length is not None and most is not None and length > most - cut.around:
        raise UserError(
            f"--length {length}: the model has places for {most} positions, and {cut.around} of"
            f" them are put around the text; at most {most - cut.around}"
        )
    return dataclasses.replace(cut, length=length or run.data.length - cut.around)


def check_windows(length: int | None, stride: int | None) -> None:
    """Raises UserError for a length and a stride that make no windows of any text."""
    for option, value in (("length", length), ("stride", stride)):
        if value is not None and value < 1:
            raise UserError(f"--{option} {value}: must be > 0")
    if stride is not None and length is None:
        raise UserError(f"--stride {stride}: of windows of which length? Give --length too")
    if stride is not None and length is not None and stride > length:
        raise UserError(
            f"--stride {stride}: must be at most the length, {length}, or tokens are left out"
        )


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


def _in_memory(
    names: list[str], texts: list[str], tokenizer: Tokenizer
) -> tuple[Split, np.ndarray, str | None]:
    """A split of these documents that is on no disk, each token's bytes of the text, and what
    of them the tokens do not tell.
    """
    special = tokenizer.vocabulary
    streams, sizes, lossy = [], [], None
    for name, text in zip(names, texts, strict=True):
        ids, sizes_n = tokenizer.encode_with_bytes(text)
        if not len(ids):
            raise UserError(f"--text {name}: the model's tokenizer makes no token of it")
        streams.append(np.concatenate([[special.bos], ids, [special.eos]]).astype(np.int32))
        sizes.append(np.pad(sizes_n, 1))
        if tokenizer.lossy and tokenizer.decode(ids) != text:
            lossy = tokenizer.lossy
    split = Split(
        tokens=ts.array(np.concatenate(streams)),
        offsets=np.cumsum([0, *map(len, streams)]),
        bytes=np.array([len(text.encode()) for text in texts]),
        ids=names,
        tokenizer=tokenizer,
    )
    return split, np.concatenate(sizes), lossy
