"""A trained model's score by a scorer, with what is spent on it."""

import math

import numpy as np

from lm.config import UserError
from lm.evaluate.bits import measure
from lm.evaluate.effort import USUAL, Effort
from lm.evaluate.scorers import SCORERS
from lm.evaluate.scorers.base import Scorer, refuses, score
from lm.evaluate.scorers.curve import MaskFractions
from lm.evaluate.windows import Windows, place_of
from lm.example import AttentionMask
from lm.objectives.base import MaskPrediction
from lm.results import Score
from lm.run import Run
from lm.train.load import ModelWithText

FRACTIONS = (0.05, 0.15, 0.3, 0.5, 0.7, 0.85, 1.0)
"""Shares of a row that are masked for the curve of a masked model's error."""


MOST_REPLICATES = 128
"""How many independent estimates are drawn at most to reach an `mc_se`."""


def scorers(run: Run, effort: Effort = USUAL) -> dict[str, Scorer]:
    """Every scorer, valid for the model or not, as it would be asked; exact ones come first.

    The first that is valid gives the headline.

    >>> list(scorers(Run()))[:4], list(valid(Run()))
    (['chain_rule', 'spans', 'any_order', 'pseudo'], ['chain_rule'])
    """
    return {
        name: scorer.fitted(run.objective, length=run.data.length, effort=effort)
        for name, scorer in SCORERS.items()
    }


def valid(run: Run, effort: Effort = USUAL) -> dict[str, Scorer]:
    """The scorers that ask what the model was trained to answer."""
    predictions = run.objective.predictions
    return {
        name: scorer
        for name, scorer in scorers(run, effort).items()
        if refuses(scorer, predictions) is None
    }


def sees(trained: ModelWithText) -> AttentionMask:
    """What the model's positions see where nothing is masked."""
    return trained.run.objective.last.attention_mask


def score_by(trained: ModelWithText, scorer: Scorer, effort: Effort) -> Score:
    """Bits per byte by a scorer, with what is spent on it."""
    windows = windows_for(trained, scorer, effort)
    replicates, mc_se = effort.replicates, effort.mc_se
    return score_of(trained, scorer, windows, replicates=replicates, mc_se=mc_se)


def windows_for(trained: ModelWithText, scorer: Scorer, effort: Effort) -> Windows:
    """The held-out windows that are scored by a scorer: fewer by those that take longer."""
    return Windows.of(trained, trained.tokens.validation, scorer.rows(effort))


def score_of(
    trained: ModelWithText,
    scorer: Scorer,
    windows: Windows,
    *,
    replicates: int = 1,
    mc_se: float | None = None,
) -> Score:
    """A scorer's bits per byte of the windows: the mean over independent estimates.

    With `mc_se`, estimates are added until theirs is not above it; raises UserError where that
    would take too many. How many are missing is predicted from those there are.
    """
    number = replicates if mc_se is None else max(2, replicates)
    number = number if scorer.draws else 1
    layout_RL = windows.layout(scorer.layout_given)
    nats_KRL = windows.scored(nats_by(trained, scorer, windows, number).mean(axis=1))
    while True:
        found = measure(
            nats_KRL,
            windows.text,
            kind=scorer.kind,
            layout_RL=layout_RL,
            block=scorer.block,
        )
        if mc_se is None or found.mc_se is None or found.mc_se <= mc_se:
            return found
        needed = math.ceil(len(nats_KRL) * (found.mc_se / mc_se) ** 2)
        if needed > MOST_REPLICATES:
            raise UserError(
                f"mc_se {mc_se:g}: the {scorer.name} would take some {needed:,} replicates,"
                f" and {MOST_REPLICATES} are the most; after {len(nats_KRL)} it is"
                f" {found.mc_se:.2g}"
            )
        # A tenth more than predicted, as the prediction has an error too.
        needed = min(MOST_REPLICATES, max(len(nats_KRL) + 1, math.ceil(1.1 * needed)))
        more_KSRL = nats_by(
            trained, scorer, windows, needed - len(nats_KRL), first=len(nats_KRL)
        )
        nats_KRL = np.concatenate([nats_KRL, more_KSRL.mean(axis=1)])


def error_curve(
    trained: ModelWithText, effort: Effort, blank: MaskPrediction
) -> dict[str, Score]:
    """Bits per byte of what is masked by the fraction masked, without the layout's."""
    windows = Windows.of(trained, trained.tokens.validation, effort.curve_rows)
    scorer = MaskFractions(FRACTIONS, blank)
    nats_KSRL = nats_by(trained, scorer, windows, effort.replicates)
    return {
        str(fraction): measure(nats_KSRL[:, i], windows.text, kind=scorer.kind).brief()
        for i, fraction in enumerate(FRACTIONS)
    }


def nats_by(
    trained: ModelWithText, scorer: Scorer, windows: Windows, replicates: int, *, first: int = 0
) -> np.ndarray:
    """Nats of each token of the windows by a scorer's samples, float32[K, S, R, L]."""
    return score(
        scorer,
        trained.program.module,
        trained.params,
        windows,
        vocabulary=trained.tokens.tokenizer.vocabulary,
        replicates=replicates,
        first=first,
        place=place_of(trained),
    )
