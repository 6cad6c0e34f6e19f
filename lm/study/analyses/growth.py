"""What more tokens gain a model of one size: laws in tokens, and the gain of each doubling."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator

from lm.output.numbers import count, decimals, with_error
from lm.scaling.fit import Fit
from lm.scaling.joint import Joint, fit_joint
from lm.scaling.parametric import Parametric
from lm.scaling.table import DataError
from lm.study.figures import ticks
from lm.study.grid import Variant
from lm.study.groups import BITS, Gap, Group, Measure, all_results, gaps, of_variant
from lm.study.laws import ONE_SIZE, attempt, draw_law, least_of, runs_of
from lm.study.report.figures import MARKERS, PAPER, panels, reference_lines, styled
from lm.study.report.values import Column, Table
from lm.study.tables import FitsByName

OWN = Measure("validation_loss", lambda result: None, -1, decimals)
"""Its sums by document are not kept: errors are those over seeds."""
UNITS = {BITS: "bits per byte", OWN: "nats per predicted token"}


class Growth(NamedTuple):
    """What the runs say of one loss, L = E + B / D^beta, by the label of a variant."""

    loss: Measure
    variants: tuple[Variant, ...]
    free: FitsByName
    held: FitsByName
    """With E held at what the source needs; in bits per byte, where that is known."""
    joint: Joint | DataError
    """The first variant and the last with one beta."""

    @staticmethod
    def of(groups: Sequence[Group], loss: Measure, variants: Sequence[Variant]) -> "Growth":
        """The laws of all variants, or why there is none yet."""

        def law(variant: Variant, fixed: dict[str, float]) -> Fit:
            found = runs_of(all_results(of_variant(groups, variant)), loss=loss.key)
            return Parametric(fixed=ONE_SIZE | fixed).fit(found)

        truth = least_of(all_results(groups))
        held = {"E": truth} if truth and loss == BITS else {}
        return Growth(
            loss,
            tuple(variants),
            {variant.label: attempt(law, variant, {}) for variant in variants},
            {variant.label: attempt(law, variant, held) for variant in variants if held},
            attempt(_joint, groups, loss, variants[0], variants[-1]),
        )


def _joint(groups: Sequence[Group], loss: Measure, first: Variant, last: Variant) -> Joint:
    ours, theirs = (all_results(of_variant(groups, variant)) for variant in (first, last))
    if not (ours and theirs):
        raise DataError("one of the variants is not finished")
    rows = {"first": np.arange(len(ours)), "last": len(ours) + np.arange(len(theirs))}
    found = runs_of([*ours, *theirs], loss=loss.key)
    return fit_joint(found, rows, ("beta",), fixed=ONE_SIZE, bootstrap=0)


class Gain(NamedTuple):
    """What twice the tokens gained a variant."""

    tokens: int
    """Before they were doubled."""
    gap: Gap


def gains_of(groups: Sequence[Group], variant: Variant, loss: Measure) -> list[Gain]:
    """What every doubling of the tokens gained."""
    ours = [group for group in of_variant(groups, variant) if group.values(loss.key)]
    by_tokens = {group.tokens: group for group in ours}
    return [
        Gain(tokens, gap)
        for tokens, group in sorted(by_tokens.items())
        for twice in [by_tokens.get(2 * tokens)]
        if twice and (gap := gaps(ours, twice, loss).get(group.name))
    ]


def gains_table(groups: Sequence[Group], growth: Growth) -> Table:
    """What each doubling gained, a column a variant."""
    loss, unit = growth.loss, UNITS[growth.loss]
    rows: dict[int, dict[str, str]] = {}
    for variant in growth.variants:
        for tokens, gap in gains_of(groups, variant, loss):
            row = rows.setdefault(tokens, {"tokens": f"{count(tokens)} → {count(2 * tokens)}"})
            row[variant.label] = with_error(gap.value, gap.error) + ("*" if gap.beyond else "")
    return Table(
        (
            Column("tokens", "tokens"),
            *(Column(variant.label, variant.label) for variant in growth.variants),
        ),
        [rows[tokens] for tokens in sorted(rows)],
        f"What each doubling gained, in {unit}: means over seeds with one standard error,"
        " paired by seed and, where that is known, by document; the spread of seeds is pooled"
        " over a variant’s budgets. An asterisk where the 95% interval leaves out 0.",
    )


@styled()
def growth_figure(groups: Sequence[Group], growth: Growth) -> Figure:
    """Loss by tokens with the laws, and the gain of every doubling."""
    figure, (left, right) = panels(2, height=3.3)
    places = sorted({group.tokens for group in groups})
    grid = np.geomspace(places[0] / 1.15, places[-1] * 1.15, 80)
    loss, unit = growth.loss, UNITS[growth.loss]
    above: list[float] = []
    for order, variant in enumerate(growth.variants):
        law, results = growth.free[variant.label], all_results(of_variant(groups, variant))
        gains = [gain for gain in gains_of(groups, variant, loss) if gain.gap.value > 0]
        above += [gain.gap.value for gain in gains]
        hollow = any(result["kind"] != "exact" for result in results) and loss == BITS
        look: dict[str, Any] = {
            "color": variant.colour, "marker": MARKERS[order], "linestyle": "none",
            "markerfacecolor": PAPER if hollow else variant.colour,
        }  # fmt: skip
        left.plot([r["tokens"] for r in results], [r[loss.key] for r in results], **look)
        right.errorbar(
            [gain.tokens for gain in gains],
            [gain.gap.value for gain in gains],
            [min(gain.gap.error or 0.0, 0.95 * gain.gap.value) for gain in gains],
            elinewidth=1,
            **look,
        )
        left.plot([], [], label=variant.label, **look | {"linestyle": "-"})
        if isinstance(law, Fit):
            known = {"params": np.full_like(grid, 1e6), "tokens": grid}
            draw_law(left, law, known, variant.colour)
            before = np.geomspace(places[0] / 1.15, places[-1] / 2 * 1.15, 2)
            B, beta = law.parameters["B"], law.parameters["beta"]
            right.plot(before, B * before**-beta * (1 - 2**-beta), color=variant.colour)
    for axes, title, when in (
        (left, "Loss by tokens", "tokens, each read once"),
        (right, "Gain of a doubling", "tokens, before it"),
    ):
        axes.set(title=title, xscale="log", xlabel=when, ylabel=unit)
        ticks(axes.xaxis, FixedLocator(places if axes is left else places[:-1]), count)
    if above:
        right.set(yscale="log", ylim=(0.4 * min(above), 2 * max(above)))
        ticks(right.yaxis, LogLocator(subs=(1, 2, 5)), "{:g}".format)
    truth = least_of(all_results(groups))
    if truth and loss == BITS:
        left.set_ylim(min(truth - 0.03, left.get_ylim()[0]))
        reference_lines(left, {"source": truth})
    figure.legend(loc="outside upper left", ncols=3)
    return figure
