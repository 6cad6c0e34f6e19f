"""The validation loss: the objective's own, on fixed rows under fixed masks."""

from typing import Any

import jax
import numpy as np

from lm.config import UserError
from lm.data import Rows, Tokens, most_content, n_rows, rows
from lm.run import Run
from lm.train.step import Program


def validation_loss(run: Run, tokens: Tokens, program: Program, params: Any) -> float:
    """The objective's loss on fixed rows with fixed masks, in nats per predicted piece."""
    data, split = run.data, tokens.validation
    available = n_rows(split, data.length)
    chosen = np.linspace(0, available - 1, min(run.evaluation_rows, available)).astype(int)
    total = count = 0.0
    for number, at in enumerate(range(0, len(chosen), data.batch)):
        indices = chosen[at : at + data.batch]
        here = indices[program.rows[program.rows < len(indices)]]
        part = rows(split, here, data.length, tokens.tokenizer.vocabulary)
        key = jax.random.fold_in(jax.random.key(0), number)
        both = program.validate(params, *program.place(_fill(part, len(program.rows))), key)
        total, count = total + float(both.total), count + float(both.count)
    if not count:
        raise UserError(
            f"data.validation: none of the {len(chosen)} validation rows has a target, so that"
            " there is no validation loss; hold out more text, or raise the objective's rate"
        )
    return total / count


def check_targets(run: Run, tokens: Tokens) -> None:
    """Raises UserError where no row of a split has enough content for the objective."""
    for name, split, objective in (
        ("training", tokens.train, run.objective),
        ("validation", tokens.validation, run.objective.last),
    ):
        most = most_content(split, run.data.length)
        if why := objective.check(length=1 + most, sentinels=run.data.tokenizer.sentinels):
            raise UserError(f"objective.{why} (the {name} text has no longer rows)")


def _fill(part: Rows, batch: int) -> Rows:
    """Adds rows of padding up to so many."""
    padding = ((0, batch - len(part.tokens_BL)), (0, 0))
    return Rows(np.pad(part.tokens_BL, padding), np.pad(part.segments_BL, padding))
