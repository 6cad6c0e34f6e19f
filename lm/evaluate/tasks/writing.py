"""How a model writes: which models do, and where what is written ends."""

import itertools
from collections.abc import Sequence

from lm.config import UserError
from lm.evaluate.scoring import scorers
from lm.run import Run

WRITERS = ("greedy", "greedy_answer")
"""Ways to write: the likeliest token, one after the other. A model of spans writes what stands
at a sentinel behind the prompt, as it was trained to; as an answer, what its decoder says of
the prompt alone: right for one that was fine-tuned on pairs of texts (T5, FLAN)."""


def task_writers(run: Run, names: Sequence[str] = ()) -> list[str]:
    """The ways in which a model writes: those of `WRITERS` among the names, or the usual one.

    Raises UserError for a model that writes nothing, and for a way that is not its own.
    """
    goes_on = "next" in run.objective.predictions
    if not goes_on and not ("spans" in run.objective.predictions and run.model.reads_source):
        raise UserError(
            "the model was trained to predict neither the next token nor spans of a source: it"
            " writes no text"
        )
    there = WRITERS[:1] if goes_on else WRITERS
    for name in names:
        # Scorers are for tasks of likelihoods, which may be asked beside these.
        if name not in there and name not in scorers(run):
            what = "not valid for this model" if name in WRITERS else "no such way to write"
            raise UserError(
                f"--scorer {name.replace('_', '-')}: {what}; one of"
                f" {', '.join(each.replace('_', '-') for each in there)}"
            )
    return [name for name in names if name in there] or [there[0]]


def until_stop(text: str, stop: Sequence[str]) -> str:
    """The text up to the first stop.

    >>> until_stop("Paris. Next", [".", "x"])
    'Paris'
    """
    ends = [at for each in stop if (at := text.find(each)) >= 0]
    return text[: min(ends)] if ends else text


def first_span(ids: Sequence[int], sentinels: Sequence[int]) -> list[int]:
    """What a decoder says of the first sentinel, up to the next one.

    >>> first_span([9, 5, 6, 8, 7], sentinels=(9, 8)), first_span([5, 6], sentinels=(9, 8))
    ([5, 6], [5, 6])
    """
    rest = ids[1:] if ids and ids[0] in sentinels else ids
    return list(itertools.takewhile(lambda token: token not in sentinels, rest))
