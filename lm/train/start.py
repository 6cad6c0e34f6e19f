"""What a run starts from: another model's parameters, by names and shapes."""

from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from lm.artifact import Artifact, Started, as_tree, by_name
from lm.config import UserError
from lm.data import Data, Tokenizer
from lm.data.templates import missing
from lm.distributed import hosts
from lm.run import Run
from lm.train.load import load_model


class Begun(NamedTuple):
    """A run that starts from a model: its settings completed, and that model."""

    run: Run
    start: Artifact | None
    """None: from scratch."""
    tokenizer: Tokenizer | None
    """The start's, with what is added to it; None: the corpus's."""

    @property
    def started(self) -> Started | None:
        """What the run's directory keeps of it."""
        if self.start is None:
            return None
        origin = self.start.card.origin
        return Started(digest=self.start.digest, origin=origin, consumed=origin.consumed)


def begin(run: Run) -> Begun:
    """Loads what a run starts from, and takes its tokenizer and model unless others are given.

    Raises UserError where there is no model, where it is another than `start.digest` says, or
    where its vocabulary is not the run's.
    """
    if run.start is None:
        return Begun(run, None, None)
    start = load_model(Path(run.start.path)).dequantized().artifact
    if run.start.digest not in (None, start.digest):
        raise UserError(
            f"start.path={run.start.path}: the model there has the digest {start.digest}, and"
            f" start.digest={run.start.digest}"
        )
    model = start.card.model if run.model == Run().model else run.model
    replace = msgspec.structs.replace
    theirs = start.card.tokenizer
    template = run.start.chat_template or theirs.chat_template
    known = (*start.tokenizer.special_ids, *run.start.add_tokens)
    add_tokens = (*run.start.add_tokens, *missing(template, known))
    tokenizer = replace(theirs, added=(*theirs.added, *add_tokens), chat_template=template)
    if why := tokenizer.check():
        raise UserError(f"start.add_tokens: with those of the start, {why}")
    if run.data.tokenizer not in (Data().tokenizer, theirs, tokenizer):
        raise UserError(
            f"data.tokenizer: is not that of start.path={run.start.path}, whose ids mean other"
            " tokens; leave it out, and it is the start's with start.add_tokens and"
            " start.chat_template"
        )
    return Begun(
        replace(
            run,
            start=replace(run.start, digest=start.digest, add_tokens=add_tokens),
            model=model,
            data=replace(run.data, tokenizer=tokenizer),
        ),
        start,
        tokenizer.read_files(start.tokenizer.files),
    )


def started_params(begun: Begun, drawn: Any) -> tuple[Any, list[str], list[str]]:
    """Parameters that training begins with: the start's, and drawn ones where it has none.

    `drawn` is the run's own tree. Tables grow by rows for `start.add_tokens`. Returns the new
    tree, placed as `drawn` is, the names of what is new, and of what was left out of the start.
    Raises UserError where something of the start does not fit and `start.parameters` asks for
    all.
    """
    assert begun.start is not None and begun.run.start is not None
    given, wanted = by_name(begun.start.params), by_name(drawn)
    grown = [
        name
        for name, axes in begun.run.model.axes().items()
        if begun.run.start.add_tokens and axes[0] == "vocab" and name in given
        if given[name].shape[1:] == wanted[name].shape[1:]
    ]
    for name in grown:
        given[name] = with_rows(given[name], hosts.fetch(wanted[name]))
    left_out = sorted(
        name
        for name, array in given.items()
        if name not in wanted or wanted[name].shape != array.shape
    )
    if left_out and begun.run.start.parameters == "all":
        name = left_out[0]
        there = list(wanted[name].shape) if name in wanted else "not there"
        raise UserError(
            f"start.path={begun.run.start.path}: its parameter {name},"
            f" {list(given[name].shape)}, does not fit, in this run it is {there};"
            " start.parameters=fitting takes those that fit"
        )
    new = sorted(name for name in wanted if name not in given or name in left_out)
    names = ", ".join(begun.run.start.add_tokens)
    told = new + [f"rows of {table} for {names}" for table in grown]
    taken = {
        name: array
        if name in new
        else hosts.put(np.asarray(given[name], array.dtype), array.sharding)
        for name, array in wanted.items()
    }
    return as_tree(taken), told, left_out


def with_rows(table_VD: np.ndarray, drawn_VD: np.ndarray) -> np.ndarray:
    """A table with as many rows as the drawn one: the further ones are the mean, with noise.

    At the mean of the rows, new tokens take at most the fraction of the probability that a
    token has on average, and so leave what a model says nearly as it was (Hewitt 2021,
    "Initializing new word embeddings for pretrained language models"). The noise is what the
    rows would be drawn as.

    >>> with_rows(np.array([[1.0], [3.0]]), np.array([[7.0], [7.0], [0.5]])).tolist()
    [[1.0], [3.0], [2.5]]
    """
    mean_D = table_VD.mean(axis=0, dtype=np.float64)
    new_VD = mean_D + drawn_VD[len(table_VD) :]
    return np.concatenate([table_VD, new_VD.astype(table_VD.dtype)])
