"""Text that several arms read again: where their curves cross, and what a control closes."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from lm.output.numbers import count
from lm.study.analyses.repeats import repeated_parts
from lm.study.figures import ticks
from lm.study.grid import Variant
from lm.study.groups import BITS, Gap, Group, all_results, gaps, of_variant
from lm.study.laws import least_of
from lm.study.report.figures import INK, MARKERS, MUTED, panels, styled
from lm.study.report.values import Column, Table
from lm.study.sections import ppm_of
from lm.study.sentences import signed_text

ByVariant = Mapping[Variant, Group]
Arms = Sequence[Variant]
"""A GPT, its controls of which the last has the BERT's noise, and the BERT."""


class Crossing(NamedTuple):
    """After how many epochs one curve falls below another; 0: from the first, inf: never."""

    epochs: float
    low: float
    high: float
    """Ends of the 95% interval: all that the band of the difference does not rule out."""
    most: int
    """Epochs that were read, at most."""

    @property
    def text(self) -> str:
        """The same in a sentence.

        >>> Crossing(20.4, 9.6, math.inf, 64).text, Crossing(math.inf, 30.0, math.inf, 64).text
        ('after 20 epochs (95%: 10 to beyond 64)', 'not within 64 epochs (95%: not before 30)')
        >>> Crossing(0.0, 0.0, 3.0, 64).text, Crossing(math.inf, math.inf, math.inf, 64).text
        ('from the first epoch (95%: until 3)', 'not within 64 epochs')
        """
        low = "the first" if self.low == 0 else f"{self.low:.0f}"
        high = f"beyond {self.most}" if math.isinf(self.high) else f"{self.high:.0f}"
        if self.epochs == 0:
            return (
                f"from the first epoch (95%: until {high})" if self.high else "from the first"
            )
        if math.isinf(self.epochs):
            text = f"not within {self.most} epochs"
            return text if math.isinf(self.low) else f"{text} (95%: not before {low})"
        return f"after {self.epochs:.0f} epochs (95%: {low} to {high})"


def zero_of(epochs: Sequence[int], values: Sequence[float]) -> float:
    """Where values first reach 0 from above, on straight lines over the logarithm of epochs.

    0.0 where the first is not above 0, infinity where all are.

    >>> zero_of([1, 4, 16], [1.0, 1.0, -1.0]), zero_of([1, 4], [-1.0, 1.0]), zero_of([1], [1.0])
    (8.0, 0.0, inf)
    """
    if values[0] <= 0:
        return 0.0
    for (left, above), (right, below) in pairwise(zip(epochs, values, strict=True)):
        if below <= 0:
            way = above / (above - below)
            return float(f"{left ** (1 - way) * right**way:.9g}")
    return math.inf


def crossing_of(apart: Mapping[int, Gap]) -> Crossing:
    """Where a difference, by epochs, falls to 0, and where the ends of its 95% intervals do."""
    epochs = sorted(apart)
    found = [apart[each] for each in epochs]
    return Crossing(
        zero_of(epochs, [gap.value for gap in found]),
        zero_of(epochs, [gap.value - gap.limit for gap in found]),
        zero_of(epochs, [gap.value + gap.limit for gap in found]),
        epochs[-1],
    )


def read_again(groups: Sequence[Group], unique: int, arms: Arms) -> dict[int, ByVariant]:
    """The groups of so much text by epochs and arm, where all arms are finished."""
    found: dict[int, dict[Variant, Group]] = {}
    for arm in arms:
        for group in of_variant(groups, arm):
            if group.unique == unique:
                found.setdefault(group.epochs, {})[arm] = group
    return {
        epochs: found[epochs] for epochs in sorted(found) if len(found[epochs]) == len(arms)
    }


def stopped(series: Mapping[int, ByVariant]) -> dict[int, ByVariant]:
    """By epochs, each arm's best group until then: what stopping in time would have given."""
    found: dict[int, ByVariant] = {}
    best: dict[Variant, Group] = {}
    for epochs, by_arm in series.items():
        for arm, group in by_arm.items():
            before = best.setdefault(arm, group)
            best[arm] = min(before, group, key=lambda each: each.mean(BITS.key) or math.inf)
        found[epochs] = dict(best)
    return found


def above(by_arm: ByVariant, first: Variant, second: Variant) -> Gap:
    """How far the first arm lies above the second; all arms say how much seeds differ."""
    return gaps(by_arm.values(), by_arm[second], BITS)[by_arm[first].name]


def crossings_table(groups: Sequence[Group], arms: Arms) -> Table:
    """When the last arm passes each other one, by how much text there is."""
    *others, last = arms
    rows = []
    for unique in repeated_parts(groups):
        series = read_again(groups, unique, arms)
        for name, by_epochs in (
            ("as trained", series),
            ("stopped at the best", stopped(series)),
        ):
            if len(series) < 2:
                continue
            row: dict[str, str] = {"unique": count(unique), "how": name}
            for arm in others:
                apart = {e: above(by_arm, last, arm) for e, by_arm in by_epochs.items()}
                row[arm.label] = crossing_of(apart).text
            rows.append(row)
    columns = (
        Column("unique", "different tokens"),
        Column("how", "runs"),
        *(Column(arm.label, f"passes {arm.label}") for arm in others),
    )
    return Table(
        columns,
        rows,
        f"After how many epochs the curve of {last.label} falls below another, on straight"
        " lines between those that were trained, over the logarithm of epochs. In brackets is"
        " where the ends of the difference's 95% intervals do, of seeds and documents both.",
    )


Does = Literal["no gap", "more", "part", "nothing", "all", "unclear"]
_VERDICTS: dict[Does, str] = {
    "no gap": "no gap to close",
    "more": "more than all of it",
    "part": "a part of it",
    "nothing": "no part of it",
    "all": "all, within the error",
    "unclear": "not told",
}
_NOISE: dict[Does, str] = {
    "no gap": "there is nothing that noise or objective would have to explain",
    "more": "the noise does more for a GPT than noise and objective do for a BERT",
    "part": "the noise is a part of what the BERT gains, and its objective the rest",
    "nothing": "it is the objective that the BERT gains by, and not the noise",
    "all": "the noise is enough, as far as the error tells",
    "unclear": "these runs do not tell noise and objective apart",
}


class Division(NamedTuple):
    """What lies between an arm and the last one, and how much of it a control closes."""

    control: Variant
    whole: Gap
    """The first arm above the last."""
    closed: Gap
    """The first arm above the control."""
    rest: Gap
    """The control above the last arm."""

    @property
    def does(self) -> Does:
        """What the control does of what the last arm does, as far as the errors tell."""
        if not (self.whole.beyond and self.whole.value > 0):
            return "no gap"
        if self.rest.beyond and self.rest.value < 0:
            return "more"
        helps = self.closed.beyond and self.closed.value > 0
        if self.rest.beyond:
            return "part" if helps else "nothing"
        return "all" if helps else "unclear"


def divided(by_arm: ByVariant, arms: Arms) -> list[Division]:
    """The gap between the first and the last arm, divided at each control between them."""
    first, *controls, last = arms
    return [
        Division(
            control,
            above(by_arm, first, last),
            above(by_arm, first, control),
            above(by_arm, control, last),
        )
        for control in controls
    ]


def gap_text(gap: Gap) -> str:
    """A difference in bits per byte with its 95% interval."""
    ends = (gap.value - gap.limit, gap.value + gap.limit)
    return signed_text(gap.value, ends if math.isfinite(gap.limit) else None, 3)


def divisions_table(groups: Sequence[Group], arms: Arms) -> Table:
    """What each control closes of each part's gap, read most often and each arm at its best."""
    rows = []
    for unique in repeated_parts(groups):
        series = read_again(groups, unique, arms)
        if len(series) < 2:
            continue
        for name, by_epochs in (
            ("as trained", series),
            ("stopped at the best", stopped(series)),
        ):
            rows += [
                {
                    "unique": count(unique),
                    "how": name,
                    "whole": gap_text(each.whole),
                    "control": each.control.label,
                    "closed": gap_text(each.closed),
                    "rest": gap_text(each.rest),
                    "does": _VERDICTS[each.does],
                }
                for each in divided(by_epochs[max(by_epochs)], arms)
            ]
    first, *_, last = arms
    columns = (
        Column("unique", "different tokens"),
        Column("how", "runs"),
        Column("whole", f"{first.label} above {last.label}"),
        Column("control", "control"),
        Column("closed", "closes"),
        Column("rest", "leaves"),
        Column("does", "which is"),
    )
    return Table(
        columns,
        rows,
        f"Bits per byte after the most epochs: how far the {first.label} lies above"
        f" {last.label}, what each control closes of that, and what it leaves. Stopped at the"
        " best, each arm has the number of epochs that is best for it.",
    )


def question_text(groups: Sequence[Group], arms: Arms) -> str:
    """What the least text, read most often, says of the noise; "" where that is missing."""
    least = repeated_parts(groups)[:1]
    series = read_again(groups, least[0], arms) if least else {}
    if len(series) < 2:
        return ""
    most, (first, *_, last) = max(series), arms
    ends, bests = (_noise(each[most], arms) for each in (series, stopped(series)))
    told = (
        f"{count(least[0])} tokens read {most} times: {first.name} stands at"
        f" {gap_text(ends.whole)} bits per byte against {last.name}"
    )
    if ends.does != "no gap":
        told += f", of which {ends.control.name} takes {gap_text(ends.closed)}"
    told += f": {_NOISE[ends.does]}. Each at its best number of epochs, "
    if bests.does == ends.does:
        return f"{told}it stands at {gap_text(bests.whole)}, and the same is true."
    return f"{told}it stands at {gap_text(bests.whole)}: {_NOISE[bests.does]}."


def _noise(by_arm: ByVariant, arms: Arms) -> Division:
    """The gap divided at the last control, which has the last arm's noise."""
    return divided(by_arm, arms)[-1]


@styled()
def epochs_figure(groups: Sequence[Group], arms: Arms) -> Figure | None:
    """Bits per byte of each arm, of new text by tokens and of each part again by epochs."""
    parts = [u for u in repeated_parts(groups) if len(read_again(groups, u, arms)) > 1]
    if not parts:
        return None
    figure, all_axes = panels(1 + len(parts), height=3.3, sharey=True)
    new = [group for group in groups if group.epochs == 1]
    begun = [group.mean(BITS.key) or 0.0 for group in new]
    bits = [group.mean(BITS.key) or math.inf for group in groups]
    truth = least_of(all_results(groups))
    low, high = min([*bits, truth or math.inf]), max(begun)
    all_axes[0].set_ylim(low - 0.05 * (high - low), high + 0.2 * (high - low))
    all_axes[0].set(title="New text", xlabel="tokens", ylabel="bits per byte")
    _draw(all_axes[0], new, arms, [group.tokens for group in new])
    ticks(all_axes[0].xaxis, FixedLocator(sorted({group.tokens for group in new})), count)
    for axes, unique in zip(all_axes[1:], parts, strict=True):
        ours = [group for group in groups if group.unique == unique]
        axes.set(title=f"{count(unique)} tokens again", xlabel="epochs")
        _draw(axes, ours, arms, [group.epochs for group in ours])
        ticks(axes.xaxis, FixedLocator(sorted({g.epochs for g in ours})), "{:g}".format)
        found = [ppm for group in ours if (ppm := ppm_of(group)) is not None]
        if found:
            axes.axhline(float(np.mean(found)), color=INK, linestyle=":", label="PPM")
        if truth:
            axes.axhline(truth, color=MUTED, linestyle=(0, (4, 2.5)), label="source")
    handles, labels = all_axes[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=len(arms) + 2)
    return figure


def _draw(axes: Axes, groups: Sequence[Group], arms: Arms, places: Sequence[int]) -> None:
    """A line an arm; what is beyond the frame is named at its top."""
    axes.set_xscale("log")
    _, high = axes.get_ylim()
    beyond: list[tuple[int, float, str]] = []
    for marker, arm in zip(MARKERS, arms, strict=False):
        found = sorted(
            (place, group.mean(BITS.key) or 0.0, group.seeds_se(BITS.key) or 0.0)
            for place, group in zip(places, groups, strict=True)
            if group.variant == arm
        )
        if found:
            x, y, error = zip(*found, strict=True)
            axes.errorbar(
                x, y, error, color=arm.colour, marker=marker, label=arm.label, elinewidth=1
            )
            beyond += [(place, bits, arm.colour) for place, bits, _ in found if bits > high]
    for at, (place, bits, colour) in enumerate(sorted(beyond)):
        axes.annotate(
            f"↑ {bits:.2f}", (place, 1), (0, -4 - 9 * (at % 4)), color=colour, ha="right",
            va="center", xycoords=("data", "axes fraction"), textcoords="offset points",
        )  # fmt: skip
