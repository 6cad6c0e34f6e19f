"""Loss on each of two sources by its fraction of what is read: a law, and the best mixture."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lm.output.numbers import decimals
from lm.scaling.bootstrap import interval
from lm.scaling.fit import Interval
from lm.scaling.parametric import linear_terms
from lm.scaling.solve import Problem, minimize
from lm.scaling.table import DataError
from lm.study.analyses.parts import asked
from lm.study.grid import Variant
from lm.study.groups import Group, Measure, best_of, of_variant
from lm.study.laws import attempt
from lm.study.report.figures import INK, MARKERS, PAPER, panels, styled
from lm.study.report.values import Column, Row, Table
from lm.study.sentences import NO_LAW, number_text, short_text, together

DRAWS = 1000
BOTH = Measure("bits_equally", lambda result: None, -1, decimals)
"""The mean of both sources' bits per byte; its errors are those over seeds."""
_DELTA = 1e-3
_FRACTIONS = np.linspace(0, 1, 1001)
FractionOf = Callable[[Group], float]
"""The fraction of the first source in what a group reads."""


@dataclass(frozen=True)
class MixingLaw:
    """L = c + k exp(t r), the loss on a source by its fraction r (Ye et al. 2024).

    Their law for two sources: as their fractions sum to 1, one of them is enough.
    """

    parameters: Mapping[str, float]
    draws: Mapping[str, np.ndarray]
    """Each parameter in each draw of the bootstrap."""
    degrees: int

    def at(self, fractions_F: np.ndarray) -> np.ndarray:
        """The loss at these fractions."""
        c, k, t = self.parameters.values()
        result: np.ndarray = c + k * np.exp(t * fractions_F)
        return result

    def draws_at(self, fractions_F: np.ndarray) -> np.ndarray:
        """The same in each draw, [B, F]."""
        c_B, k_B, t_B = self.draws.values()
        result: np.ndarray = c_B[:, None] + k_B[:, None] * np.exp(t_B[:, None] * fractions_F)
        return result

    def interval_of(self, name: str) -> Interval | None:
        """The 95% interval of a parameter."""
        return interval(self.parameters[name], self.draws[name], self.degrees)


def fit_mixing(fraction_R: np.ndarray, loss_R: np.ndarray, *, draws: int = DRAWS) -> MixingLaw:
    """Minimizes the summed Huber loss of ln L from many starts, as other laws are fit here.

    Draws add residuals, drawn anew, to the law: rows drawn with replacement would now and then
    leave out an end of the grid. So what the law itself misses is in the intervals, too. All
    tables of as many rows draw the same rows. Raises DataError for fewer than four fractions.

    >>> r = np.array([0.0, 0.1, 0.25, 0.5, 0.75, 1.0])
    >>> law = fit_mixing(r, 2.0 + 1.5 * np.exp(-4.0 * r), draws=0)
    >>> {name: round(value, 3) for name, value in law.parameters.items()}
    {'c': 2.0, 'k': 1.5, 't': -4.0}
    """
    from scipy.optimize import nnls

    if len(np.unique(fraction_R)) < 4:
        raise DataError("fewer than four fractions are finished")
    design_KRP = np.zeros((2, len(loss_R), 3))
    design_KRP[0, :, 0] = design_KRP[1, :, 1] = 1
    design_KRP[1, :, 2] = fraction_R
    starts = []
    for t in -np.geomspace(0.1, 40, 16):
        sizes_RK = np.stack([np.ones_like(loss_R), np.exp(t * fraction_R)], axis=1)
        found_K, _ = nnls(sizes_RK / loss_R[:, None], np.ones_like(loss_R))
        starts.append([*np.log(np.maximum(found_K, 1e-3 * loss_R.min())), t])
    log_R = np.log(loss_R)
    low, high = float(log_R.min()), float(log_R.max())
    ends = np.array([low - 9, low - 9, -60.0]), np.array([high, high + 5, 5.0])
    terms = linear_terms(design_KRP)
    ends_SP, objective_S = minimize(Problem(terms, log_R, _DELTA, *ends), np.array(starts))
    best_P = ends_SP[objective_S.argmin()]
    degrees = len(loss_R) - len(best_P)
    draws_BP = np.empty((0, len(best_P)))
    if draws and degrees:
        terms_KR = terms(best_P[None])[0][0]
        fitted_R = np.logaddexp(*terms_KR)
        residual_R = (log_R - fitted_R) * np.sqrt(len(log_R) / degrees)
        rows_BR = np.random.default_rng(0).integers(len(log_R), size=(draws, len(log_R)))
        drawn_BR = fitted_R + (residual_R - residual_R.mean())[rows_BR]
        problem = Problem(terms, drawn_BR, _DELTA, *ends)
        draws_BP, _ = minimize(problem, np.repeat(best_P[None], draws, axis=0))

    def natural(theta_SP: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip("ckt", (*np.exp(theta_SP[:, :2]).T, theta_SP[:, 2]), strict=True))

    values = {name: float(value[0]) for name, value in natural(best_P[None]).items()}
    return MixingLaw(values, natural(draws_BP), degrees)


@dataclass(frozen=True)
class Tradeoff:
    """What the runs of one objective say of two sources, by the fraction of the first."""

    variant: Variant
    sources: tuple[str, str]
    groups: Mapping[float, Group]
    laws: tuple[MixingLaw, MixingLaw]
    missed: tuple[float, float]
    """How far the law lies from the means of a fraction that it is fit without: the mean of
    both sources and all fractions, and the most."""

    @staticmethod
    def of(
        groups: Sequence[Group], variant: Variant, sources: tuple[str, str], place: FractionOf
    ) -> "Tradeoff":
        """The laws; raises DataError where too few runs are finished."""
        ours = {place(g): g for g in sorted(of_variant(groups, variant), key=place)}
        tables = [_table(ours, source, at) for at, source in enumerate(sources)]
        first, last = (fit_mixing(*table) for table in tables)
        missed = [miss for table in tables for miss in _missed(*table)]
        both = float(np.mean(missed)), max(missed)
        return Tradeoff(variant, sources, ours, (first, last), both)

    @property
    def total_F(self) -> np.ndarray:
        """The mean of both losses by the law, at fractions of the first from 0 to 1."""
        first, last = self.laws
        return (first.at(_FRACTIONS) + last.at(1 - _FRACTIONS)) / 2

    @property
    def chosen(self) -> tuple[float, Interval | None]:
        """The fraction of the first source that is best for both equally, by the law."""
        first, last = self.laws
        value = float(_FRACTIONS[self.total_F.argmin()])
        total_BF = first.draws_at(_FRACTIONS) + last.draws_at(1 - _FRACTIONS)
        if not len(total_BF):
            return value, None
        ends = interval(value, _FRACTIONS[total_BF.argmin(axis=1)], first.degrees)
        return value, ends and (max(ends[0], 0.0), min(ends[1], 1.0))

    @property
    def best(self) -> tuple[float, list[float]]:
        """The best fraction of the grid, and those that seeds' errors do not tell from it."""
        ranked = best_of([*self.groups.values()], BOTH)
        assert ranked is not None
        places = {group.name: fraction for fraction, group in self.groups.items()}
        best, close = ranked
        return places[best.name], [places[group.name] for group in close]

    def measured(self, fraction: float) -> float:
        """The mean of both losses at a fraction of the grid, over seeds."""
        return self.groups[fraction].mean(BOTH.key) or 0.0


def with_both(result: Row, sources: tuple[str, str]) -> Row:
    """A result with the mean of both sources' bits per byte."""
    return {**result, BOTH.key: sum(result[f"bits_{source}"] for source in sources) / 2}


def _table(
    groups: Mapping[float, Group], source: str, at: int
) -> tuple[np.ndarray, np.ndarray]:
    """(the source's fraction, the loss on it) of every finished run."""
    rows = [
        (fraction if at == 0 else 1 - fraction, value)
        for fraction, group in groups.items()
        for value in group.values(f"bits_{source}").values()
    ]
    fraction_R, loss_R = np.array(rows).reshape(-1, 2).T
    return fraction_R, loss_R


def _missed(fraction_R: np.ndarray, loss_R: np.ndarray) -> list[float]:
    """How far the law lies from the mean at each fraction within, if it is fit without."""
    found = []
    for left_out in np.unique(fraction_R)[1:-1]:
        out_R = fraction_R == left_out
        law = attempt(_fit_alone, fraction_R[~out_R], loss_R[~out_R])
        if isinstance(law, MixingLaw):
            found.append(abs(float(law.at(np.array(left_out))) - float(loss_R[out_R].mean())))
    return found or [float("nan")]


def _fit_alone(fraction_R: np.ndarray, loss_R: np.ndarray) -> MixingLaw:
    return fit_mixing(fraction_R, loss_R, draws=0)


# What is said and shown


def mixing_answer(found: Sequence[Tradeoff]) -> str:
    """Which fraction the law chooses for each objective, and what that gains over the ends."""
    told = []
    for each in found:
        value, ends = each.chosen
        first, last = each.sources
        told.append(
            f"for {each.variant.name} the law puts the least mean of both at"
            f" {number_text(value, ends)} of {first}, where it has"
            f" {decimals(float(each.total_F.min()))} bits per byte, and all {first} and all"
            f" {last} have {decimals(each.measured(1.0))} and {decimals(each.measured(0.0))}"
            if {0.0, 1.0} <= {*each.groups}
            else f"for {each.variant.name} an end of the grid is not finished"
        )
    return f"If both count equally, {'; '.join(told)}." if told else NO_LAW


def chosen_text(found: Sequence[Tradeoff]) -> str:
    """How far the law's choice is from the best of the grid, as a paragraph."""
    told = []
    for each in found:
        value, ends = each.chosen
        best, close = each.best
        said = (
            f"not told from {together([f'{place:g}' for place in close])} by the seeds"
            if close
            else "beyond the seeds' error ahead of the others"
        )
        gap = float(each.total_F.min()) - each.measured(best)
        told.append(
            f"{each.variant.label}: for an equal-weighted target the law chooses a weight of"
            f" {number_text(value, ends)} for {each.sources[0]}; the best of the grid is"
            f" {best:g} ({said}), {abs(value - best):.2f} away, and the law's mean of both at"
            f" its choice is {abs(gap):.3f} bits per byte"
            f" {'below' if gap < 0 else 'above'} what was measured there."
        )
    return " ".join(told) or NO_LAW


def laws_text(found: Sequence[Tradeoff]) -> str | None:
    """How well the law predicts a fraction that it has not seen."""
    told = [
        f"{each.missed[0]:.3f} bits per byte for {each.variant.name} (at most"
        f" {each.missed[1]:.3f})"
        for each in found
        if np.isfinite(each.missed).all()
    ]
    if not told:
        return None
    return (
        "Fit without one of the weights within the grid, the law is off there by"
        f" {together(told)}, as a mean over weights and sources."
    )


def mixing_laws_table(found: Sequence[Tradeoff]) -> Table:
    """The law's parameters by objective and source."""
    rows = [
        {"what": each.variant.label, "source": source, "rows": law.degrees + 3}
        | {
            name: short_text(value, law.interval_of(name))
            for name, value in law.parameters.items()
        }
        for each in found
        for source, law in zip(each.sources, each.laws, strict=True)
    ]
    columns = (
        Column("what", "trained as"),
        Column("source", "loss on"),
        *(Column(name, name) for name in "ckt"),
        Column("rows", "runs"),
    )
    caption = (
        "L = c + k exp(t r) in bits per byte, where r is the source's fraction of the tokens;"
        f" in brackets 95% intervals of {DRAWS:,} draws of residuals, which hold what the law"
        " misses, too. c is where the curve would end if r could grow on, and no floor that was"
        " measured."
    )
    return Table(columns, rows, caption)


def mixtures_table(
    groups: Sequence[Group], sources: tuple[str, str], place: FractionOf
) -> Table:
    """A row a mixture and objective: the loss on each source, and the mean of both."""
    rows = []
    for group in sorted(groups, key=lambda group: (group.variant.label, place(group))):
        row: dict[str, Any] = {"what": group.variant.label, "weight": place(group)}
        for source in sources:
            measure = asked(f"bits_{source}")
            row |= {source: group.mean(measure.key), f"{source}_se": group.error(measure)}
        row |= {"both": group.mean(BOTH.key), "both_se": group.seeds_se(BOTH.key)}
        rows.append(row | {"seeds": len(group.results), "kind": group.kind})
    columns = (
        Column("what", "trained as"),
        Column("weight", f"weight of {sources[0]}", "{:g}".format),
        *(
            Column(source, f"bits per byte of {source}", decimals, error=f"{source}_se")
            for source in sources
        ),
        Column("both", "mean of both", decimals, error="both_se"),
        Column("kind", "which is"),
        Column("seeds", "seeds"),
    )
    caption = (
        "Means over seeds; after ± one standard error over seeds and held-out documents, of the"
        " mean of both over seeds alone. The documents are the same for all, so that mixtures"
        " are told apart better than the errors over documents say."
    )
    return Table(columns, rows, caption)


@styled()
def tradeoff_figure(found: Sequence[Tradeoff]) -> Figure | None:
    """The loss on one source against that on the other, a panel an objective."""
    if not found:
        return None
    figure, axes = panels(len(found), height=3.5)
    for panel, each in zip(axes, found, strict=True):
        first, last = each.laws
        curve = first.at(_FRACTIONS), last.at(1 - _FRACTIONS)
        colour = each.variant.colour
        panel.plot(*curve, color=colour, zorder=1)
        measures = [asked(f"bits_{source}") for source in each.sources]
        for fraction, group in each.groups.items():
            x, y = (group.mean(measure.key) or 0.0 for measure in measures)
            bars = [group.seeds_se(measure.key) or 0.0 for measure in measures]
            panel.errorbar(
                [x], [y], [bars[1]], [bars[0]], color=colour, marker="o", elinewidth=1,
                markerfacecolor=colour if group.kind == "exact" else PAPER,
            )  # fmt: skip
            panel.annotate(
                f"{fraction:.0%}", (x, y), (5, 4), textcoords="offset points", fontsize=7
            )
        at = int(each.total_F.argmin())
        panel.plot(curve[0][at], curve[1][at], marker="*", markersize=11, color=INK, zorder=4)
        panel.set(title=each.variant.label, xlabel=f"bits per byte of {each.sources[0]}")
        panel.margins(0.12)
    axes[0].set(ylabel=f"bits per byte of {found[0].sources[1]}")
    return figure


@styled()
def laws_figure(found: Sequence[Tradeoff]) -> Figure | None:
    """The loss on each source by its fraction, a panel a source."""
    if not found:
        return None
    figure, axes = panels(2, height=3.1)
    for at, panel in enumerate(axes):
        for order, each in enumerate(found):
            law, source = each.laws[at], each.sources[at]
            colour = each.variant.colour
            fraction_R, loss_R = _table(each.groups, source, at)
            hollow = any(group.kind != "exact" for group in each.groups.values())
            panel.plot(_FRACTIONS, law.at(_FRACTIONS), color=colour)
            places = _FRACTIONS[::20]
            draws_BF = law.draws_at(places)
            ends = [
                interval(float(value), draws_B, law.degrees) or (np.nan, np.nan)
                for value, draws_B in zip(law.at(places), draws_BF.T, strict=True)
            ]
            low, high = np.array(ends).T
            panel.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
            panel.plot(
                fraction_R, loss_R, color=colour, marker=MARKERS[order], linestyle="none",
                markerfacecolor=PAPER if hollow else colour,
            )  # fmt: skip
            panel.plot([], [], color=colour, marker=MARKERS[order], label=each.variant.label,
                       markerfacecolor=PAPER if hollow else colour)  # fmt: skip
        source = found[0].sources[at]
        panel.set(title=f"Loss on {source}", xlabel=f"fraction of {source} in training")
    axes[0].set(ylabel="bits per byte")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3)
    return figure
