"""The tables of reports."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from lm.output.numbers import count, decimals, duration, percent, power
from lm.scaling.fit import Fit
from lm.scaling.table import DataError
from lm.study.checks import RunsByGroup, checks_of
from lm.study.grid import StudyRun, size_text
from lm.study.groups import BITS, PROBE, Gap, Group, gaps
from lm.study.laws import Trials
from lm.study.report.values import Column, Table, column_of
from lm.study.sentences import fit_text, short_text, signed

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
        means = ("tokens", "bits_per_byte", "layout_bits", "probe_accuracy", "validation_loss")
        rows.append(
            {
                "size": group.size,
                "variant": group.variant.label,
                "budget": group.budget,
                "seeds": len(group.results),
                "kind": group.kind,
                "mc_se": group.mean("mc_se") if group.kind != "exact" else None,
                "above": gap and signed(gap, BITS) + ("*" if gap.beyond else ""),
            }
            | {key: group.mean(key) for key in means}
            | {f"{each.key}_seeds": group.seeds_se(each.key) for each in (BITS, PROBE)}
            | {f"{each.key}_text": group.text_se(each) for each in (BITS, PROBE)}
        )
    columns = (
        *_size_column(groups),
        Column("variant", "trained as"),
        *([Column("tokens", "tokens", count)] if len({g.budget for g in groups}) > 1 else []),
        Column("seeds", "seeds"),
        Column(BITS.key, "bits per byte ± seeds", decimals, error="bits_per_byte_seeds"),
        Column("bits_per_byte_text", "± text", decimals),
        Column("mc_se", "± masks", decimals),
        Column("kind", "which is"),
        Column("layout_bits", "of it layout", decimals),
        Column("above", "above"),
        Column(PROBE.key, "probe ± seeds", percent, error="probe_accuracy_seeds"),
        Column("probe_accuracy_text", "± text", percent),
        Column("validation_loss", "own loss", decimals),
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


def _size_column(groups: Sequence[Group]) -> list[Column]:
    """That of the size, where there are several."""
    return [Column("size", "size", size_text)] if len({g.size for g in groups}) > 1 else []


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
        *_size_column(groups),
        Column("variant", "trained as"),
        *(Column(key, title) for key, title, _ in shown),
    )
    caption = (
        f"What a run of each variant used, and its fraction of what {reference.variant.name}"
        " used. Target positions are those that the head computes, used or not."
    )
    return Table(columns, rows, caption)


def pairs_table(groups: Sequence[Group]) -> Table:
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
    caption = (
        "How far each row lies above each column, paired by seed and document; an asterisk"
        " where that is beyond the error. Read it with the kinds: a bound above an exact number"
        " does not show that its model predicts worse."
    )
    return Table((Column("variant", "bits per byte more than"), *columns), rows, caption)


def scores_table(groups: Sequence[Group]) -> Table:
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
    caption = (
        "Every scorer that is valid for a model: means over seeds, with the errors over"
        " documents and masks of one. A masked model's exact likelihoods are those of a"
        " decoding order, some tokens at a time, which are taken as independent."
        " Pseudo-likelihood is of fewer windows."
    )
    return Table(columns, rows, caption)


def equal_table(
    rows: RunsByGroup,
    between: str = "between the variants of a size",
    varied: Collection[str] = (),
) -> Table:
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
    return Table(columns, checks_of(rows, varied), caption)


def components_table(cells: Sequence[StudyRun]) -> Table:
    """What each finished run read of each component of a mixture, and how it predicts that."""
    rows = []
    for cell in cells:
        found = cell.result or {}
        scores = found.get("by_component") or {}
        for name, read in (found.get("components") or {}).items():
            row = {"run": cell.name, "component": name, "tokens": read.tokens}
            row |= {"fraction": read.tokens / found["tokens"], "epochs": read.epochs}
            if score := scores.get(name):
                row |= {"bits": score.bits_per_byte, "text": score.text_se}
            rows.append(row)
    columns = (
        Column("run", "run"),
        Column("component", "component"),
        Column("tokens", "tokens", count),
        Column("fraction", "of all", percent),
        Column("epochs", "epochs", decimals),
        Column("bits", "bits per byte", decimals),
        Column("text", "± text", decimals),
    )
    caption = (
        "What training read of each component of the mixture, how often all of it was read, and"
        " the headline’s bits per byte of the component’s held-out documents."
    )
    return Table(columns, rows, caption)


def runs_table(cells: Sequence[StudyRun], about: str = "", *columns: Column) -> Table:
    """All finished runs, a row each; `about` says what, `columns` stand before the usual."""
    rows = [{"run": cell.name, **cell.result} for cell in cells if cell.result is not None]
    usual = (
        Column("params_matmul", "N", count),
        Column("tokens", "D", count),
        *map(column_of, ("steps", "flops", "bits_per_byte", "kind", "validation_loss")),
    )
    caption = (
        f"All finished runs{about}. N counts the parameters in matrix products, the head’s"
        " among them; ± is the standard error over held-out documents, which all runs share;"
        " own loss is the objective’s, in nats per predicted token, and does not compare"
        " between objectives."
    )
    return Table((Column("run", "run"), *columns, *usual), rows, caption)


def laws_table(fits: FitsByName, caption: str, what: str = "law") -> Table:
    """A row a fit: its exponents with their 95% intervals, and how many rows it stands on."""
    titles = {"a": "a (N* ~ C^a)", "b": "b (D* ~ C^b)", "x": "x (L* ~ C^−x)"}
    known = [fit.exponents for fit in fits.values() if isinstance(fit, Fit)]
    names = {n: titles[n] for n in titles if any(n in exponents for exponents in known)}

    def show(fit: Fit, name: str) -> str | None:
        return fit_text(fit, name) if name in fit.exponents else None

    return _fits_table(fits, names, show, "runs used", caption, what)


def parameters_table(fits: FitsByName, names: Sequence[str], caption: str) -> Table:
    """A row a variant's fit: these parameters, with 95% intervals of resampled runs."""

    def show(fit: Fit, name: str) -> str:
        return short_text(fit.parameters[name], fit.ci95.get(name))

    caption += " In brackets 95% intervals of 1,000 resamples of the runs."
    return _fits_table(fits, {n: n for n in names}, show, "runs", caption, "trained as")


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


def doubts_table(fits: FitsByName) -> Table | None:
    """Everything that the fits warn of, in their own words; None if nothing."""
    rows = [
        {"what": title, "doubt": doubt}
        for title, fit in fits.items()
        for doubt in (fit.warnings if isinstance(fit, Fit) else (f"not fit: {fit}",))
    ]
    caption = "What the fits warn of, in their own words: each a reason to read on with care."
    return (
        Table((Column("what", "law"), Column("doubt", "doubt")), rows, caption)
        if rows
        else None
    )


def trials_table(trials: Sequence[Trials], caption: str) -> Table:
    """The loss of all trials, a row each; what is used and what is best is marked."""
    rows = []
    for each in trials:
        found = [(each.before[1], each.before[2], each.before[0])] if each.before else []
        for value, loss in each.found.items():
            notes = {"used": each.used, "best": each.best}
            note = "; ".join(name for name, which in notes.items() if value == which)
            found.append((value, loss, note))
        rows += [
            {"what": each.what, "value": each.show(value), "loss": loss, "note": note}
            for value, loss, note in found
        ]
    columns = (
        Column("what", "of"),
        Column("value", trials[0].setting),
        Column("loss", trials[0].unit, decimals),
        Column("note", ""),
    )
    return Table(columns, rows, caption)
