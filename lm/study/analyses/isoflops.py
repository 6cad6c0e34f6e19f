"""Loss by size at equal compute: minima of budgets, their laws, and how these are shown."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from lm.output.numbers import count, decimals, power
from lm.scaling.compare import Comparison, compare
from lm.scaling.fit import Fit
from lm.scaling.isoflop import METHODS, Budget, Isoflop, IsoflopMethod
from lm.scaling.parametric import Parametric
from lm.scaling.table import DataError, Runs
from lm.study import laws, tables
from lm.study.grid import StudyRun, Variant, variant_of
from lm.study.report.values import Column, Row, Section, Table
from lm.study.sections import section
from lm.study.sentences import NO_LAW, fit_text, times_number, times_text

SURFACE, VALLEYS = Parametric.name, Isoflop.name
SHOWN: IsoflopMethod = METHODS[0]
"""How minima are found, a parabola through the runs about the best: nearest to the truth in the
benchmark `isoflop_methods`."""


INTERVALS = (
    "After a number stands the 95% interval of 1,000 resamples of how minima scatter about"
    " their line, widened by Student's t where they are few."
)


def minima_of(fit: Fit) -> list[Budget]:
    """The budgets whose best size lies inside the sizes."""
    found: list[Budget] = fit.details["budgets"]
    return found


def compare_minima(first: Fit, second: Fit) -> Comparison:
    """The laws through the minima of two variants' budgets."""
    return compare(
        *(
            Runs(
                np.array([budget.loss for budget in minima_of(fit)]),
                params_R=np.array([budget.params for budget in minima_of(fit)]),
                flops_R=np.array([budget.flops for budget in minima_of(fit)]),
            )
            for fit in (first, second)
        )
    )


class Valleys(NamedTuple):
    """The laws of two variants, by their names, and how the first compares with the last."""

    variants: Mapping[str, Variant]
    cells: Mapping[str, Sequence[StudyRun]]
    """The finished runs that laws stand on."""
    fits: Mapping[str, Mapping[str, Fit | DataError]]
    """By variant, then by way of finding minima, and the law of size and data last."""
    compared: Comparison | DataError

    @staticmethod
    def of(cells: Sequence[StudyRun], variants: Mapping[str, Variant]) -> "Valleys":
        """All laws through these runs, or why there is none yet."""
        done = {v: [c for c in cells if variant_of(c) == v and c.result] for v in variants}
        fits = {
            name: {
                law: laws.attempt(partial(_fit, _results(found), law))
                for law in (*METHODS, SURFACE)
            }
            for name, found in done.items()
        }
        first, *_, last = (found[SHOWN] for found in fits.values())
        known = isinstance(first, Fit) and isinstance(last, Fit)
        return Valleys(
            variants,
            done,
            fits,
            laws.attempt(compare_minima, first, last)
            if known
            else DataError("a variant has too few minima"),
        )

    def known(self, law: str) -> dict[str, Fit]:
        """The fits of one law, of the variants that have one."""
        found = {name: fits[law] for name, fits in self.fits.items()}
        return {name: fit for name, fit in found.items() if isinstance(fit, Fit)}

    @property
    def named(self) -> tables.FitsByName:
        """All fits by the label of their variant and their law."""
        return {
            f"{self.variants[name].label}, {law}": fit
            for name, fits in self.fits.items()
            for law, fit in fits.items()
        }


def _results(cells: Sequence[StudyRun]) -> list[Row]:
    return [cell.result for cell in cells if cell.result]


def _fit(results: Sequence[Row], law: Any) -> Fit:
    runs = laws.runs_of(results)
    return Parametric().fit(runs) if law == SURFACE else Isoflop(method=law).fit(runs)


def valleys_answer(valleys: Valleys) -> str:
    """How each variant's best size grows, and what compute lies between them."""
    if not (shown := valleys.known(SHOWN)):
        return NO_LAW
    flops = [budget.flops for fit in shown.values() for budget in minima_of(fit)]
    parts = [
        f"{valleys.variants[name].name} as C^{fit_text(fit, 'a')}, its data as"
        f" C^{fit_text(fit, 'b')}"
        for name, fit in shown.items()
    ]
    text = (
        f"From {power(min(flops))} to {power(max(flops))} FLOPs the best size grows, for"
        f" {'; for '.join(parts)}."
    )
    return " ".join(filter(None, (text, apart_text(valleys), multiplier_text(valleys))))


def _apart(fits: Mapping[str, Fit]) -> bool | None:
    """Whether the intervals of two variants' a leave each other out, if both have one."""
    ends = [fit.ci95.get("a") for fit in fits.values()]
    if len(ends) < 2 or not (ends[0] and ends[1]):
        return None
    return ends[0][1] < ends[1][0] or ends[1][1] < ends[0][0]


def apart_text(valleys: Valleys) -> str:
    """Whether exponents differ, by all ways to find minima; "" if the one shown cannot say."""
    by_method = {method: _apart(valleys.known(method)) for method in METHODS}
    if by_method[SHOWN] is None:
        return ""
    if not by_method[SHOWN]:
        return "The intervals overlap, so that no difference of the exponents is shown."
    others = [method for method, apart in by_method.items() if apart is False]
    if not others:
        return "The intervals do not overlap."
    return (
        f"The intervals do not overlap, but those by {' and '.join(others)} minima do, so that"
        " whether the exponents differ depends on how minima are found."
    )


def multiplier_text(valleys: Valleys) -> str:
    """The compute between the variants at the ends of what was measured; "" if not known."""
    compared, (first, *_, last) = valleys.compared, valleys.variants.values()
    if not isinstance(compared, Comparison):
        return ""
    said = [
        f"{times_number(point.multiplier)} times ({times_text(point.ci95)}) at"
        f" {power(point.flops)} FLOPs"
        for point in (compared.points[0], compared.points[-1])
    ]
    text = f"For {first.name}'s loss {last.name} needs {' and '.join(said)}"
    if beyond := sum(point.extrapolated for point in compared.points):
        text += (
            ", all of it by drawing its law on: it has measured no such loss"
            if beyond == len(compared.points)
            else f", by drawing its law on at {beyond} of {len(compared.points)} budgets"
        )
    return text + "."


def valley_sections(valleys: Valleys, published: float) -> list[Section | None]:
    """Minima, exponents beside a published a, the law of size and data, the compute between."""
    return [
        _law_section(
            "Loss by size at equal compute",
            VALLEYS,
            valleys,
            SHOWN,
            ". Left: bits per byte of each budget by size, with a parabola in logarithms"
            " through the runs about the best, and its minimum. Right: the minima's sizes"
            " and data by compute, with power laws and their 95% bands.",
        ),
        _growth_section(valleys, published),
        _law_section(
            "One law of size and data",
            "surface",
            valleys,
            SURFACE,
            ": L = E + A/N^α + B/D^β, fit to all runs. Left: the runs, with the loss of the"
            " best split, and where they lie in size and data, coloured by how far they are"
            " above the law. Right: the best size and data by compute, with 95% bands, and"
            " the residuals. The law splits compute by 6 N D, which the exact count exceeds"
            " by the attention scores.",
        ),
        _gap_section(valleys),
    ]


def _law_section(
    heading: str, name: str, valleys: Valleys, law: str, caption: str
) -> Section | None:
    """A figure a variant of one law."""
    plots = []
    for variant, fit in valleys.known(law).items():
        label = valleys.variants[variant].label
        runs = laws.runs_of(_results(valleys.cells[variant]))
        plots.append(
            laws.law_plot(f"{name}_{variant}", {label: fit}, {label: runs}, label + caption)
        )
    return section(heading, *plots)


def _growth_section(valleys: Valleys, published: float) -> Section | None:
    """The exponents by all ways, and whether the interval of each variant holds a known one."""
    told = []
    for name, fit in valleys.known(SHOWN).items():
        who, ends = valleys.variants[name].name, fit.ci95.get("a")
        if ends is None:
            told.append(f"For {who} there are too few minima for an interval.")
            continue
        verb = "holds" if ends[0] <= published <= ends[1] else "does not hold"
        told.append(
            f"The interval of {who} {verb} the a of about {published:g} that was published."
        )
    return section(
        "How the best size and data grow",
        " ".join(told) or None,
        tables.laws_table(
            valleys.named,
            "Exponents by three ways to find the minimum of a budget (a parabola through the"
            " runs about the best, one through five sizes, a curve through all after Akima) and"
            " by a law of size and data fit to all runs. In brackets 95% intervals. The number"
            " of doubts is that of the warnings below.",
            "variant and method",
        ),
    )


def _gap_section(valleys: Valleys) -> Section | None:
    """The minima side by side, and the compute between the variants."""
    heading, minima = "The compute between the objectives", _minima_table(valleys)
    compared, (first, *_, last) = valleys.compared, valleys.variants.values()
    if not isinstance(compared, Comparison):
        return section(heading, f"It is not known: {compared}.", minima)
    return section(
        heading,
        minima,
        laws.comparison_plot(
            "compute_multiplier",
            compared,
            [first.label, last.label],
            "Left: the minima of each variant's budgets, with power laws through them and their"
            f" 95% bands. Right: how many times the compute {last.label} needs for the loss of"
            f" {first.label}, with its 95% interval; hollow where the law is drawn on.",
        ),
        multiplier_text(valleys),
        _equal_text(valleys),
    )


def _minima_table(valleys: Valleys) -> Table | None:
    """The minima of each budget, the variants side by side, and how far the last lies above."""
    rows: dict[str, dict[str, Any]] = {}
    for name, fit in valleys.known(SHOWN).items():
        for budget in minima_of(fit):
            row = rows.setdefault(power(budget.flops), {"flops": budget.flops})
            row |= {f"{name}_params": budget.params, f"{name}_tokens": budget.tokens}
            row |= {f"{name}_ratio": budget.tokens / budget.params, f"{name}_loss": budget.loss}
    first, *_, last = (f"{name}_loss" for name in valleys.variants)
    for row in rows.values():
        if first in row and last in row:
            row["gap"] = row[last] - row[first]
    columns = [Column("flops", "C", power)]
    for name, variant in valleys.variants.items():
        columns += [
            Column(f"{name}_params", f"{variant.label}: N*", count),
            Column(f"{name}_tokens", "D*", count),
            Column(f"{name}_ratio", "D*/N*", "{:.0f}".format),
            Column(f"{name}_loss", "bits per byte", decimals),
        ]
    found = sorted(rows.values(), key=lambda row: float(row["flops"]))
    caption = (
        "The minima of the parabolas: best size and data, and bits per byte there, which are"
        " exact for the GPT and an upper bound for the BERT. A dash stands where the minimum is"
        " at an edge of the sizes. Above: how far the BERT's lies above the GPT's."
    )
    return Table((*columns, Column("gap", "above", decimals)), found, caption) if rows else None


def _equal_text(valleys: Valleys) -> str:
    """What the variants had in common at each budget and size."""
    first, *_, last = (
        {cell.name.partition("-")[2]: dict(cell.result) for cell in cells if cell.result}
        for cells in valleys.cells.values()
    )
    both = [(first[name], last[name]) for name in first if name in last]
    if not both:
        return ""
    flops = [(ours.pop("flops"), theirs.pop("flops")) for ours, theirs in both]
    apart = max(abs(math.log(ours / theirs)) for ours, theirs in flops)
    return (
        f"At each budget and size the FLOPs of the variants differ by {apart:.1%} at most, as"
        f" runs have whole steps. {laws.equal_text(*zip(*both, strict=True))}"
    )
