"""How much held-out pages gain from near-copies of them in the training text."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.stats
from matplotlib.figure import Figure

from lm.evaluate.bits import ratio_se
from lm.output.numbers import decimals
from lm.study.analyses.parts import asked, starred
from lm.study.dirt import EVERY
from lm.study.grid import Variant
from lm.study.groups import Gap, Group
from lm.study.report.figures import INK, MARKERS, PAPER, panels, styled
from lm.study.report.values import Column, Table
from lm.study.sentences import NO_ANSWER, capital, together


class Planted(NamedTuple):
    """Held-out pages of which so many near-copies each are planted in the training text."""

    copies: int
    pages: int
    every: int = EVERY
    """Of so many words of a copy one is another."""

    @property
    def part(self) -> str:
        """What results call these pages."""
        return f"{self.copies}x{self.every}"

    @property
    def near(self) -> bool:
        """Whether copies are as near as those that cleaning is to find."""
        return self.every == EVERY


class Leak(NamedTuple):
    """How much lower a model with copies is on the pages that they are of."""

    planted: Planted
    gap: Gap
    """Positive where it is lower, in bits per byte."""


class Leakage(NamedTuple):
    """What one objective, after so many epochs, has of each text's copies."""

    variant: Variant
    epochs: int
    without: Group
    """Whose text has other pages in the copies' place."""
    found: Mapping[str, Sequence[Leak]]
    """By text: that with the copies, and that which was cleaned of them."""

    def of(self, text: str, planted: Planted) -> Gap | None:
        """One of them."""
        found = {leak.planted: leak.gap for leak in self.found.get(text, ())}
        return found.get(planted)


def leaks_into(
    other: Group, without: Group, untouched: Planted, planted: Iterable[Planted]
) -> list[Leak]:
    """The leakage of each group of pages into one model, from another without copies.

    It is how much less than the model without copies one with copies needs for pages that have
    some, less how much less it needs for those that have none: what else the texts do to it is
    in both. Each page is paired with itself, and each seed; errors over pages of both groups
    and over seeds, whose spread is pooled over the groups of pages, make the interval.
    """
    base = _gains(without, other, untouched)
    gains = {each: _gains(without, other, each) for each in planted}
    known = {each: of for each, of in gains.items() if of is not None}
    if base is None or not known:
        return []
    by_seed = {
        each: np.array([gain - base.seeds[seed] for seed, gain in of.seeds.items()])
        for each, of in known.items()
    }
    freedom = sum(len(values) - 1 for values in by_seed.values())
    squares = sum(float(np.square(v - v.mean()).sum()) for v in by_seed.values())
    leaked = []
    for each, values in by_seed.items():
        seeds = math.sqrt(squares / freedom / len(values)) if freedom else None
        both = [se for se in (known[each].text_se, base.text_se) if se is not None]
        text = math.hypot(*both) if both else None
        parts = [] if seeds is None else [float(scipy.stats.t.ppf(0.975, freedom)) * seeds]
        parts += [] if text is None else [1.96 * text]
        limit = math.hypot(*parts) if parts else math.inf
        leaked.append(Leak(each, Gap(float(values.mean()), seeds, text, limit)))
    return leaked


class _Gains(NamedTuple):
    seeds: dict[int, float]
    """How many bits per byte less the other model needs for these pages, by seed."""
    text_se: float | None
    """Over pages, of the mean over seeds."""


def _gains(without: Group, other: Group, planted: Planted) -> _Gains | None:
    """None where a page's scores are not there."""
    measure = asked(f"bits_{planted.part}")
    ours, theirs = other.results, without.results
    by_seed, sums, sizes = dict[int, float](), [], np.empty(0)
    for seed in sorted(ours.keys() & theirs.keys()):
        mine, their = measure.by_document(ours[seed]), measure.by_document(theirs[seed])
        if mine is None or their is None:
            return None
        sizes = np.array(mine[1])
        sums.append(np.array(their[0]) - np.array(mine[0]))
        by_seed[seed] = float(sums[-1].sum() / sizes.sum())
    if not sums:
        return None
    return _Gains(by_seed, ratio_se(np.mean(sums, axis=0), sizes))


def planted_text(planted: Planted) -> str:
    """What a group of pages has.

    >>> planted_text(Planted(4, 12)), planted_text(Planted(1, 12, every=10))
    ('4 near-copies', '1 far copy')
    """
    kind = "near-cop" if planted.near else "far cop"
    return f"{planted.copies} {kind}{'y' if planted.copies == 1 else 'ies'}"


def leaks_answer(
    found: Sequence[Leakage], most: Planted, one: Planted, texts: tuple[str, str]
) -> str:
    """What the most copies and one are worth, at the most epochs, and what cleaning leaves."""
    told = []
    planted, cleaned = texts
    for each in _longest(found):
        many, single = each.of(planted, most), each.of(planted, one)
        if many is None or single is None:
            continue
        text = (
            f"{capital(each.variant.name)} that read it {times(each.epochs)} needs"
            f" {_less(many)} for pages with {planted_text(most)} in its training text than for"
            f" others, and {_less(single)} with {planted_text(one)}"
        )
        left = each.of(cleaned, most)
        if left is not None:
            text += f"; after cleaning {_less(left)} with what was {planted_text(most)}"
        told.append(f"{text}.")
    return " ".join(told) or NO_ANSWER


def _less(gap: Gap) -> str:
    """How much less is needed, with its interval.

    >>> _less(Gap(0.5, 0.1, None, 0.25)), _less(Gap(-0.1, 0.1, None, 0.25))
    ('0.500 bits per byte less (95%: 0.250 to 0.750)', 'not less (95%: −0.350 to 0.150)')
    """
    both = (f"{gap.value + end:.3f}" for end in (-gap.limit, gap.limit))
    low, high = (end.replace("-", "−") for end in both)
    ends = f"95%: {low} to {high}" if math.isfinite(gap.limit) else "no interval"
    said = f"{gap.value:.3f} bits per byte less" if gap.value > 0 else "not less"
    return f"{said} ({ends})"


def taken_text(found: Sequence[Leakage], most: Planted, texts: tuple[str, str]) -> str | None:
    """Which part of the leakage cleaning takes away, where there is one beyond the error."""
    told = []
    for each in _longest(found):
        gap, left = (each.of(text, most) for text in texts)
        if gap is None or left is None:
            continue
        if gap.beyond and gap.value > 0:
            told.append(f"{1 - left.value / gap.value:.0%} for {each.variant.name}")
        else:
            told.append(f"nothing that is beyond the error for {each.variant.name}")
    if not told:
        return None
    return f"Of the leakage of {planted_text(most)} cleaning takes away {together(told)}."


def times(epochs: int) -> str:
    """How often something is read.

    >>> times(1), times(3)
    ('once', '3 times')
    """
    return "once" if epochs == 1 else f"{epochs} times"


def _longest(found: Sequence[Leakage]) -> list[Leakage]:
    most = max((each.epochs for each in found), default=0)
    return [each for each in found if each.epochs == most]


def leaks_table(
    found: Sequence[Leakage],
    planted: Sequence[Planted],
    texts: Mapping[str, str],
) -> Table:
    """A row an objective, number of epochs and group of pages."""
    rows = []
    for each in found:
        for pages in planted:
            row: dict[str, Any] = {
                "what": each.variant.label,
                "epochs": times(each.epochs),
                "pages": planted_text(pages),
                "without": each.without.mean(f"bits_{pages.part}"),
            }
            gaps = {text: each.of(text, pages) for text in texts}
            rows.append(row | {text: gap and starred(gap) for text, gap in gaps.items()})
    columns = (
        Column("what", "trained as"),
        Column("epochs", "read"),
        Column("pages", "each page has"),
        Column("without", "bits per byte without", decimals),
        *(Column(text, f"less, {title.lower()} (95%)") for text, title in texts.items()),
    )
    return Table(
        columns,
        rows,
        "“Less” is by how many bits per byte a model that read the copies needs less for the"
        " held-out pages that they are of than one that read other pages instead, beyond what"
        " it needs less for pages without copies; paired by page and seed, with its 95%"
        " interval, and an asterisk where that leaves out 0.",
    )


@styled()
def leaks_figure(
    found: Sequence[Leakage], planted: Sequence[Planted], texts: Mapping[str, str]
) -> Figure | None:
    """The leakage by the number of near-copies, a panel a text; far copies stand beside."""
    if not found:
        return None
    figure, axes = panels(len(texts), height=3.4, sharey=True)
    near = [pages for pages in planted if pages.near]
    variants = list(dict.fromkeys(each.variant for each in found))
    most = max(each.epochs for each in found)
    for panel, (text, title) in zip(axes, texts.items(), strict=True):
        panel.axhline(0, color=INK, linewidth=0.8)
        for number, each in enumerate(found):
            colour = each.variant.colour
            look: dict[str, Any] = {
                "color": colour,
                "marker": MARKERS[variants.index(each.variant)],
                "markerfacecolor": colour if each.epochs == most else PAPER,
            }
            line = "-" if each.epochs == most else "--"
            nudge = 0.1 * (number - (len(found) - 1) / 2)
            for shown in (near, [pages for pages in planted if not pages.near]):
                gaps = [(planted.index(p), gap) for p in shown if (gap := each.of(text, p))]
                panel.errorbar(
                    [place + nudge for place, _ in gaps],
                    [gap.value for _, gap in gaps],
                    [gap.limit if math.isfinite(gap.limit) else 0.0 for _, gap in gaps],
                    linestyle=line if shown is near else "none",
                    elinewidth=1,
                    **look,
                )
            label = f"{each.variant.label}, read {times(each.epochs)}"
            panel.plot([], [], label=label, linestyle=line, **look)
        names = [f"{pages.copies}" + ("" if pages.near else "\nfar") for pages in planted]
        panel.set_xticks(range(len(planted)), names)
        panel.set_xlim(-0.5, len(planted) - 0.5)
        panel.grid(axis="x", visible=False)
        panel.set(title=title, xlabel="copies of each held-out page in the training text")
    axes[0].set(ylabel="bits per byte less than without copies")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=4)
    return figure
