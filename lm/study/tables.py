"""The tables of reports."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lm.output.numbers import count, decimals, duration, percent, power
from lm.scaling.fit import Fit
from lm.scaling.table import DataError
from lm.study.checks import RunsByGroup, checks_of
from lm.study.grid import StudyRun, size_text
from lm.study.groups import BITS, PROBE, Gap, Group, gaps
from lm.study.laws import Trials
from lm.study.report.values import Column, Table, column_of
from lm.study.sentences import exponent_text, short_text, signed

FitsByName = Mapping[str, Fit | DataError]
"""Laws by what they are of, or why there is none yet."""


def main_table(groups: Sequence[Group], reference: Sequence[Group], what: str) -> Table:
    """A row a group, and how far each lies above the reference of its size and budget.

    `what` names the reference in the caption.
    """
    found: dict[str, Gap] = {}
    for other in reference:
        for budget in {group.budget for group in groups}:
            peers = [g for g in groups if (g.size, g.budget) == (other.size, budget)]
            found |= gaps(peers, other, BITS)
    rows = []
    for group in groups:
        gap = found.get(group.name)
        rows.append(
            {
                "size": group.size,
                "variant": group.variant.label,
                "budget": group.budget,
                "tokens": group.mean("tokens"),
                "seeds": len(group.results),
                "bits": group.mean("bits_per_byte"),
                "bits_seeds": group.seeds_se("bits_per_byte"),
                "bits_text": group.text_se(BITS),
                "bits_masks": group.mean("mc_se") if group.kind != "exact" else None,
                "kind": group.kind,
                "layout": group.mean("layout_bits"),
                "above": gap and signed(gap, BITS) + ("*" if gap.beyond else ""),
                "probe": group.mean("probe_accuracy"),
                "probe_seeds": group.seeds_se("probe_accuracy"),
                "probe_text": group.text_se(PROBE),
                "loss": group.mean("validation_loss"),
            }
        )
    columns = (
        *([Column("size", "size", size_text)] if len({g.size for g in groups}) > 1 else []),
        Column("variant", "trained as"),
        *([Column("tokens", "tokens", count)] if len({g.budget for g in groups}) > 1 else []),
        Column("seeds", "seeds"),
        Column("bits", "bits per byte ± seeds", decimals, error="bits_seeds"),
        Column("bits_text", "± text", decimals),
        Column("bits_masks", "± masks", decimals),
        Column("kind", "which is"),
        Column("layout", "of it layout", decimals),
        Column("above", "above"),
        Column("probe", "probe ± seeds", percent, error="probe_seeds"),
        Column("probe_text", "± text", percent),
        Column("loss", "own loss", decimals),
    )
    return Table(
        columns,
        rows,
        "Means over seeds. “± seeds” is the standard error over seeds (data order, masks and"
        " initial values), “± text” that over held-out documents, which all seeds share, and"
        " “± masks” that of the masks drawn in scoring one model, which is a part of “± text”."
        " “Of it layout” is what the length model pays for the ends of documents, which a BERT"
        " is shown and a GPT predicts itself."
        f" “Above” is the difference to {what}, paired by seed and by document, with"
        " both errors together and an asterisk where it is beyond the error: where its 95%"
        " interval leaves out 0, with the seeds' spread pooled over the variants. The probe"
        " is the fraction of tokens whose role is found; own loss is the objective's, in nats"
        " per predicted token, and does not compare between variants.",
    )


def spent_table(groups: Sequence[Group], reference: Group) -> Table:
    """What each group used, as a mean over seeds, and its fraction of what the reference
    used.
    """
    shown: tuple[tuple[str, str, Callable[[float], str]], ...] = (
        ("tokens", "tokens", count),
        ("predicted_targets", "predicted targets", count),
        ("target_positions", "target positions", count),
        ("flops", "FLOPs", power),
        ("device_seconds", "device time", duration),
    )
    rows = [
        {"variant": group.variant.label, "size": group.size}
        | {
            key: f"{show(mine)} ({mine / theirs:.0%})"
            for key, _, show in shown
            if (mine := group.mean(key)) is not None and (theirs := reference.mean(key))
        }
        for group in groups
    ]
    columns = (
        *([Column("size", "size", size_text)] if len({g.size for g in groups}) > 1 else []),
        Column("variant", "trained as"),
        *(Column(key, title) for key, title, _ in shown),
    )
    caption = (
        f"What a run of each variant used, and its fraction of what {reference.variant.name}"
        " used. Target positions are those that the head computes, used or not."
    )
    return Table(columns, rows, caption)


def pairs_table(groups: Sequence[Group], caption: str) -> Table:
    """How far each group's code length lies above each other's, paired."""
    known = [group for group in groups if group.likelihood]
    above = {other.name: gaps(known, other, BITS) for other in known}
    rows = []
    for group in known:
        row = {"variant": f"{group.variant.label} ({group.kind})"}
        for other in known:
            if gap := above[other.name].get(group.name):
                row[other.name] = f"{gap.value:+.2f}{'*' if gap.beyond else ''}"
        rows.append(row)
    columns = [Column(group.name, group.variant.label) for group in known]
    return Table((Column("variant", "bits per byte more than"), *columns), rows, caption)


def scores_table(groups: Sequence[Group], caption: str) -> Table:
    """Every scorer that is valid for each group."""
    rows = []
    for group in groups:
        results = list(group.results.values())
        for scorer, first in results[0]["scores"].items():
            rows.append(
                {
                    "variant": group.variant.label,
                    "scorer": scorer.replace("_", " "),
                    "kind": first["kind"],
                    "text": first["text_se"],
                    "masks": first["mc_se"] or None,
                    "bits": group.score(scorer),
                }
            )
    columns = (
        Column("variant", "trained as"),
        Column("scorer", "scorer"),
        Column("bits", "bits per byte", decimals),
        Column("text", "± text", decimals),
        Column("masks", "± masks", decimals),
        Column("kind", "which is"),
    )
    return Table(columns, rows, caption)


def equal_table(rows: RunsByGroup, between: str = "between the variants of a size") -> Table:
    """What was to be equal between the variants, and whether it is."""
    columns = (
        Column("what", between),
        Column("verdict", "equal"),
        Column("detail", "value"),
    )
    caption = (
        "What was to be equal, checked from the results. The batches' digest is computed on"
        " device over every global batch, in order."
    )
    return Table(columns, checks_of(rows), caption)


def runs_table(cells: Sequence[StudyRun], caption: str, *columns: Column) -> Table:
    """All finished runs, a row each; `columns` stand before the usual ones."""
    rows = [{"run": cell.name, **cell.result} for cell in cells if cell.result is not None]
    usual = (
        Column("params_matmul", "N", count),
        Column("tokens", "D", count),
        *map(column_of, ("steps", "flops", "bits_per_byte", "kind", "validation_loss")),
    )
    return Table((Column("run", "run"), *columns, *usual), rows, caption)


def laws_table(fits: FitsByName, caption: str, what: str = "law") -> Table:
    """A row a fit: its exponents with their 95% intervals, and how many rows it stands on."""
    titles = {"a": "a (N* ~ C^a)", "b": "b (D* ~ C^b)", "x": "x (L* ~ C^−x)"}
    known = [fit.exponents for fit in fits.values() if isinstance(fit, Fit)]
    names = {n: titles[n] for n in titles if any(n in exponents for exponents in known)}

    def show(fit: Fit, name: str) -> str | None:
        return exponent_text(fit, name) if name in fit.exponents else None

    return _fits_table(fits, names, show, "runs used", caption, what)


def parameters_table(
    fits: FitsByName, names: Sequence[str], caption: str, what: str = "law"
) -> Table:
    """A row a fit: these parameters with their 95% intervals."""

    def show(fit: Fit, name: str) -> str:
        return short_text(fit.parameters[name], fit.ci95.get(name))

    return _fits_table(fits, {name: name for name in names}, show, "runs", caption, what)


def _fits_table(
    fits: FitsByName,
    names: Mapping[str, str],
    show: Callable[[Fit, str], str | None],
    runs: str,
    caption: str,
    what: str,
) -> Table:
    rows: list[dict[str, Any]] = []
    for title, fit in fits.items():
        if not isinstance(fit, Fit):
            rows.append({"what": title, "doubts": f"not fit: {fit}"})
            continue
        row = {"what": title, "rows": fit.rows_used, "doubts": len(fit.warnings) or "none"}
        row |= {name: show(fit, name) for name in names}
        if budgets := fit.details.get("budgets"):
            row["minima"] = len(budgets)
        rows.append(row)
    columns = (
        Column("what", what),
        *(Column(name, title) for name, title in names.items()),
        Column("rows", runs),
        *([Column("minima", "minima")] if any("minima" in row for row in rows) else []),
        Column("doubts", "doubts"),
    )
    return Table(columns, rows, caption)


def doubts_table(fits: FitsByName, caption: str) -> Table | None:
    """Everything that the fits warn of, in their own words; None if nothing."""
    rows = [
        {"what": title, "doubt": doubt}
        for title, fit in fits.items()
        for doubt in (fit.warnings if isinstance(fit, Fit) else (f"not fit: {fit}",))
    ]
    return (
        Table((Column("what", "law"), Column("doubt", "doubt")), rows, caption)
        if rows
        else None
    )


def trials_table(trials: Sequence[Trials], caption: str) -> Table:
    """The loss of all trials, a row each; what is used and what is best is marked."""
    rows = []
    for each in trials:
        if each.before:
            who, value, loss = each.before
            rows.append(
                {"what": each.what, "value": each.show(value), "loss": loss, "note": who}
            )
        for value, loss in each.found.items():
            notes = {"used": each.used, "best": each.best}
            note = "; ".join(name for name, which in notes.items() if value == which)
            rows.append(
                {"what": each.what, "value": each.show(value), "loss": loss, "note": note}
            )
    columns = (
        Column("what", "of"),
        Column("value", trials[0].setting),
        Column("loss", trials[0].unit, decimals),
        Column("note", ""),
    )
    return Table(columns, rows, caption)
