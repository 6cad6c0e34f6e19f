"""The validation loss: the objective's own, on fixed rows under fixed masks."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from lm.config import UserError
from lm.data import Split, Tokens, most_content, n_rows, rows
from lm.example import Batch
from lm.loss import Sum, recorded
from lm.run import Run
from lm.train.step import Program

Totals = dict[str, tuple[Any, Any]]
"""By name, a total and what it is divided by."""


def validation(run: Run, tokens: Tokens, program: Program, params: Any) -> dict[str, float]:
    """What the objective's loss finds on fixed rows with fixed masks.

    `validation_loss` is in nats per target; the objective's further terms are named likewise.
    """
    return means_of(validation_sums(run, tokens, program, partial(program.validate, params)))


def validation_sums(
    run: Run,
    tokens: Tokens,
    program: Program,
    validate: Callable[[Batch, jax.Array], Mapping[str, Sum]],
) -> Totals:
    """What `validate` finds in the fixed rows, added up; of several models it is arrays."""
    data, split = run.data, tokens.validation
    available = n_rows(split, data.length, data.packing)
    chosen = np.linspace(0, available - 1, min(run.evaluation_rows, available)).astype(int)
    sums: Totals = {}
    for number, at in enumerate(range(0, len(chosen), data.batch)):
        indices = chosen[at : at + data.batch]
        key = jax.random.fold_in(jax.random.key(0), number)
        found = validate(placed_rows(run, split, program, indices), key)
        for name, term in found.items():
            total, count = sums.get(name, (0.0, 0.0))
            total += np.asarray(term.total, np.float64)
            sums[name] = total, count + np.asarray(term.count, np.float64)
    if not np.all(sums["loss"][1]):
        raise UserError(
            f"data.validation: none of the {len(chosen)} validation rows has a target, so that"
            " there is no validation loss; hold out more text, or raise the objective's rate"
        )
    return sums


def means_of(sums: Totals) -> dict[str, float]:
    """What one model's sums come to."""
    means = {name: total / count for name, (total, count) in sums.items() if np.all(count)}
    return {f"validation_{name}": float(value) for name, value in recorded(means).items()}


def check_targets(run: Run, tokens: Tokens) -> None:
    """Raises UserError where no row of a split has enough content for the objective."""
    for name, split, objective in (
        ("training", tokens.train, run.objective),
        ("validation", tokens.validation, run.objective.last),
    ):
        most = most_content(split, run.data.length, run.data.packing)
        if why := objective.check(length=1 + most, sentinels=run.data.tokenizer.sentinels):
            raise UserError(f"objective.{why} (the {name} text has no longer rows)")


def placed_rows(run: Run, split: Split, program: Program, indices: np.ndarray) -> Batch:
    """Rows of a split by index, at most a batch, on the devices; padding fills them up."""
    here = indices[program.rows[program.rows < len(indices)]]
    vocabulary, data = split.tokenizer.vocabulary, run.data
    part = rows(split, here, data.length, vocabulary, data.packing)
    return program.place(fill_rows(part, len(program.rows)))


def fill_rows(part: Batch, rows: int) -> Batch:
    """Adds rows of padding up to so many."""

    def filled(array: np.ndarray) -> np.ndarray:
        return np.pad(array, [(0, rows - len(array)), *[(0, 0)] * (array.ndim - 1)])

    return jax.tree.map(filled, part)
