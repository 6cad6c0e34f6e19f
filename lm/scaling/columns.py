"""A table's columns as quantities of runs, and what is to be said of its rows."""

from collections.abc import Mapping, Sequence

import numpy as np

from lm.scaling.table import ColumnValues, DataError, Runs, column, numbers, parsed

USUAL = {
    "loss": ("loss", "bits_per_byte", "validation_loss"),
    "params": ("params", "params_total"),
    "tokens": ("tokens",),
    "flops": ("flops",),
    "unique": ("unique_tokens",),
}
"""Which columns are read where none is named: the first that exists."""
_STANDS_IN = {
    "flops": "6 × params × tokens",
    "tokens": "flops / (6 × params)",
    "params": "flops / (6 × tokens)",
}


def named(
    columns: ColumnValues, chosen: Mapping[str, str], needs: Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    """The column of each quantity, and what to say of those that were not chosen by name.

    Raises DataError where a column that is chosen, or that a law needs, is not there.
    """
    names, notes = {}, []
    for what, usual in USUAL.items():
        if what in chosen:
            column(columns, chosen[what])
            names[what] = chosen[what]
        elif found := [name for name in usual if name in columns]:
            names[what] = found[0]
            if found[0] != usual[0] and what in ("loss", "params"):
                notes.append(f"{what} is column {found[0]}")
    three = {"params", "tokens", "flops"}
    for what in needs:
        if what in names:
            continue
        if what not in three or not three - {what} <= set(names):
            try:
                column(columns, USUAL[what][0])
            except DataError as error:
                raise DataError(f"{error}; name it with --{what} COL") from None
    if missing := three - set(names):
        (what, *others) = missing
        if not others:
            notes.append(f"no column of {what}: {_STANDS_IN[what]} stands in for it")
    return names, notes


def _not_doubled(columns: ColumnValues) -> np.ndarray:
    """Whether each row is the first that is so in every column."""
    rows = list(zip(*(map(str, values) for values in columns.values()), strict=True))
    first: dict[tuple[str, ...], int] = {}
    return np.array([first.setdefault(cells, row) == row for row, cells in enumerate(rows)])


def usable_runs(
    columns: ColumnValues,
    names: Mapping[str, str],
    needs: Sequence[str],
    units: Mapping[str, float],
    of: str = "",
) -> tuple[Runs, ColumnValues, list[str]]:
    """The rows that have what a law needs, their columns, and what to say of the others.

    Rows are said by their places in these columns, and of what those are a part.
    Runs that are unfinished or diverged have no loss, and are left out; where most rows hold
    no number the column is another than was meant. Raises DataError then.
    """
    for what in units:
        if what not in names:
            raise DataError(f"--unit {what}: there is no column of {what}")
    values = {what: parsed(columns, name, units.get(what, 1)) for what, name in names.items()}
    needed = {what for what in needs if what in names}
    if missing := set(needs) - needed:
        needed |= {"params", "tokens", "flops"} - missing
    rows = len(values["loss"])
    good_R = _not_doubled(columns)
    notes = []
    if not good_R.all():
        notes.append(
            f"{rows - good_R.sum()} of {rows} rows stand in the file before, alike in every"
            " column: they count once"
        )
    for what in names:
        wrong = np.flatnonzero(np.isnan(values[what]))
        if what not in needed or not len(wrong):
            continue
        if len(wrong) > rows / 2:
            numbers(columns, names[what])
        listed = ", ".join(str(row + 1) for row in wrong[:5]) + ", ..." * (len(wrong) > 5)
        shown = str(columns[names[what]][wrong[0]]).strip()[:20] or "nothing"
        notes.append(
            f"{len(wrong)} of {rows} rows left out: {names[what]} is no number above 0 in row"
            f"{'s' * (len(wrong) > 1)} {listed}{of} ({shown})"
        )
        good_R[wrong] = False
    kept = {what: values_R[good_R] for what, values_R in values.items()}
    for what in set(names) - needed:
        if np.isnan(kept[what]).any():
            row = int(np.flatnonzero(good_R)[np.isnan(kept[what])][0]) + 1
            notes.append(
                f"column {names[what]} is not used: row {row}{of} holds no number above 0"
            )
            del kept[what]
    left = np.flatnonzero(good_R).tolist()
    columns = {name: [cells[row] for row in left] for name, cells in columns.items()}
    runs = Runs(**{f"{what}_R": values_R for what, values_R in kept.items()}).completed()
    used = np.stack(list(kept.values()), axis=1)
    if alike := len(used) - len(np.unique(used, axis=0)):
        notes.append(
            f"{alike} rows are alike in {', '.join(sorted(kept))}: if they are the same runs,"
            " intervals are too narrow"
        )
    return runs, columns, notes


_KINDS = ("objective", "kind", "scorer", "corpus_digest", "tokenizer_digest")
"""ColumnValues that say what a loss is of: where rows differ in them, one law is of no run."""


def mixed_kinds(columns: ColumnValues, rows_R: np.ndarray) -> list[str]:
    """What to say of rows of several kinds that are fit as one."""
    for name in _KINDS:
        values = columns.get(name)
        kinds = list(dict.fromkeys(str(values[row])[:20] for row in rows_R if values))
        if len(kinds) > 1:
            more = f" and {len(kinds) - 3} more" if len(kinds) > 3 else ""
            return [
                f"rows of {len(kinds)} kinds of {name} ({', '.join(kinds[:3])}{more}) are fit"
                f" as one: --by {name} parts them"
            ]
    return []


_LEAST = {"params": 500.0, "tokens": 1e4, "flops": 1e9}
"""A smallest run below these is in another unit, or of no language model."""


def magnitudes(runs: Runs, names: Mapping[str, str]) -> list[str]:
    """What to say of numbers that are hardly in units of one."""
    said = []
    for what, least in _LEAST.items():
        values_R = getattr(runs, f"{what}_R")
        if what in names and values_R is not None and values_R.min() < least:
            said.append(
                f"{names[what]} is {values_R.min():,.6g} to {values_R.max():,.6g}: in thousands"
                f" or more? Laws and budgets count ones; --unit {what}=M reads millions"
            )
    if np.median(runs.loss_R) > 30:
        said.append(
            f"{names['loss']} is {runs.loss_R.min():.4g} to {runs.loss_R.max():.4g}: a"
            " perplexity? A law is of its logarithm"
        )
    if {"params", "tokens", "flops"} <= set(names) and not said:
        times = float(np.median(_of_6nd(runs)))
        if not 1 / 30 < times < 30:
            said.append(
                f"flops are {times:.2g} of 6 × params × tokens: is one of the three in another"
                " unit? See --unit"
            )
    return said


def flops_notes(runs: Runs) -> list[str]:
    """What to say where exact FLOPs are not 6 N D, to a law that counts by that."""
    low, high = np.quantile(_of_6nd(runs), [0.05, 0.95])
    if low > 0.95 and high < 1.05:
        return []
    return [
        f"flops are {low:.2f} to {high:.2f} of 6 × params × tokens, which best splits go by"
    ]


def _of_6nd(runs: Runs) -> np.ndarray:
    params_R, tokens_R, flops_R = runs.known("params", "tokens", "flops")
    return flops_R / (6 * params_R * tokens_R)


def clusters(columns: ColumnValues, name: str) -> np.ndarray:
    """A number for each row, alike where a column is alike."""
    _, cluster_R = np.unique(list(map(str, column(columns, name))), return_inverse=True)
    return cluster_R.ravel()


def common_loss(variants: Sequence[ColumnValues], labels: Sequence[str]) -> str | None:
    """The loss that both variants have: one's and another's do not compare.

    None, where neither has a usual one; DataError where each has others.
    """
    usual = USUAL["loss"]
    has = [[name for name in usual if name in columns] for columns in variants]
    if all(has) and not set(has[0]) & set(has[1]):
        raise DataError(
            f"{labels[0]} has {' and '.join(has[0])}, {labels[1]} has {' and '.join(has[1])}:"
            " a loss of one kind is needed in both; --loss COL names it"
        )
    return next((name for name in usual if all(name in each for each in has)), None)


def kinds(variants: Sequence[ColumnValues], labels: Sequence[str]) -> list[str]:
    """What to say where a variant's numbers are exact and the other's are bounds."""
    of_variant = [sorted(set(map(str, columns.get("kind", ())))) for columns in variants]
    if of_variant[0] == of_variant[1]:
        return []
    said = ", ".join(
        f"{k[1]}: {' and '.join(k[0])}" for k in zip(of_variant, labels, strict=True)
    )
    return [f"the losses are not of one kind ({said})"]
