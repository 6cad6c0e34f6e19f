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
from lm.study.grid import Variant, size_text
from lm.study.groups import BITS, Gap, Group, Measure, all_results, gaps, of_variant
from lm.study.laws import ONE_SIZE, attempt, difference_of, draw_law, least_of, runs_of
from lm.study.report.figures import MARKERS, PAPER, panels, reference_lines, styled
from lm.study.report.values import Column, Plot, Section, Table
from lm.study.sections import section
from lm.study.sentences import NO_LAW, fit_text, signed_text, together
from lm.study.tables import FitsByName, doubts_table, parameters_table

OWN = Measure("validation_loss", lambda result: None, -1, decimals)
"""Its sums by document are not kept: errors are those over seeds."""
UNITS = {BITS: "bits per byte", OWN: "nats per predicted token"}


class Growth(NamedTuple):
    """What the runs say of one loss, L = E + B / D^beta, by the label of a variant.

    The first variant is compared with the last.
    """

    loss: Measure
    variants: tuple[Variant, ...]
    free: FitsByName
    held: FitsByName
    """With E held at what the source needs; in bits per byte, where that is known."""
    joint: Joint | DataError
    """Both with one beta."""

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


def growth_section(heading: str, groups: Sequence[Group], growth: Growth) -> Section | None:
    """The laws of one loss: figure, parameters, gains, and what the fits doubt."""
    loss, unit, joint = growth.loss, UNITS[growth.loss], growth.joint
    fits = dict(growth.free) | {f"{label}, E held": fit for label, fit in growth.held.items()}
    return section(
        heading,
        Plot(
            f"growth_{loss.key}",
            growth_figure(groups, growth),
            f"Left: {unit} by tokens, a mark a run, and the law of each variant with its 95%"
            " band; a dashed line is what the source itself needs. Right: what each doubling"
            " gained, means over seeds with one standard error, and what the law says it gains,"
            " which no longer knows E: a straight line of slope −β.",
        ),
        parameters_table(
            fits,
            ("E", "B", "beta"),
            f"L = E + B / D^beta, with L in {unit}. B is at one token, far from all runs.",
        ),
        f"For {growth.variants[0].name} and {growth.variants[-1].name} one β has"
        f" p = {joint.p:.2g}."
        if isinstance(joint, Joint) and loss == OWN
        else None,
        gains_table(groups, growth),
        doubts_table(fits),
    )


def growth_answer(groups: Sequence[Group], growth: Growth) -> str:
    """Whose gain flattens earlier, and what the last doubling still gained."""
    if not (betas := _betas_text(growth, growth.free)):
        return NO_LAW
    text = (
        f"At {size_text(groups[0].size)} parameters the loss falls toward a floor as D^−β, with"
        f" {betas}."
    )
    first, last = growth.variants[0], growth.variants[-1]
    ours, theirs = (gains_of(groups, variant, growth.loss) for variant in (first, last))
    if ours and theirs:
        one, other = (with_error(g.gap.value, g.gap.error) for g in (ours[-1], theirs[-1]))
        text += (
            f" The last doubling, from {count(ours[-1].tokens)} tokens, still gained"
            f" {first.name} {one} {UNITS[growth.loss]} and {last.name} {other}."
        )
    return text


def growth_details(groups: Sequence[Group], growth: Growth) -> list[str]:
    """Whether one beta fits both, and what the floor that the source is known to have says."""
    found, joint = [], growth.joint
    if isinstance(joint, Joint) and joint.p is not None:
        found.append(
            f"One β for both variants, {joint.fits['first'].parameters['beta']:.2f}, "
            + ("fits worse than" if joint.p < 0.05 else "is not shown to fit worse than")
            + " one for each: groups that share it differ as much with a probability of"
            f" {joint.p:.2g} (likelihood ratio, its distribution simulated)."
        )
    truth = least_of(all_results(groups))
    if truth and (betas := _betas_text(growth, growth.held)):
        floors = [
            f"{fit_text(fit, 'E')} of {variant.name}"
            for variant in growth.variants
            if isinstance(fit := growth.free[variant.label], Fit)
        ]
        found.append(
            f"The source itself needs {decimals(truth)} bits per byte for the same documents,"
            f" and no model can need less; the laws find floors of {together(floors)}. With"
            " the floor held at the source’s, which says that this size could learn all of"
            f" it, {betas}."
        )
    return found


def _betas_text(growth: Growth, laws: FitsByName) -> str:
    """Both betas, their difference, and what it says; "" where one is not known."""
    first, last = growth.variants[0], growth.variants[-1]
    ours, theirs = laws.get(first.label), laws.get(last.label)
    if not (isinstance(ours, Fit) and isinstance(theirs, Fit)):
        return ""
    apart, ends = difference_of(ours, theirs, "beta")
    said = "which does not tell them apart"
    if ends and not ends[0] <= 0 <= ends[1]:
        said = f"so the gain of {last.name} flattens {'earlier' if apart > 0 else 'later'}"
    return (
        f"β {fit_text(ours, 'beta')} for {first.name} and {fit_text(theirs, 'beta')} for"
        f" {last.name}, a difference of {signed_text(apart, ends)}, {said}"
    )
