"""Does the gain from more data flatten earlier for a BERT than for a GPT?

Answers to: nobody's table. Hoffmann et al. 2022 (arXiv:2203.15556), equation 2, has the loss
fall as E + B / D^beta in the tokens D, for causal models; Nie et al. 2024 (arXiv:2410.18514)
and Ni et al. 2025 (arXiv:2510.03280) fit masked diffusion by compute. This study asks for beta
of each objective on the same text, and whether they differ.

    python -m experiments.data_growth --scale laptop

    smoke   a minute             toys, to see that everything works
    laptop  16 minutes, 2 cores  0.1M parameters, 26k to 0.8M tokens of a known source
    v5e-16  3 hours, 16 chips    85M parameters, 52M to 1.7B tokens of Wikipedia, 1.3e19 FLOPs

The laptop's time is that of cores which other programs used as well.
The accelerator's line is what this prints, a plan by FLOPs that has not been run:

    python -m experiments.data_growth --scale v5e-16 --cost v5e-16

Every run reads new text once, with a schedule of its own length. What a size cannot learn is in
E, as there is one size: it is not the entropy of the text, though no E can be below that. The
GPT's bits per byte are exact and those of the BERT at all rates a bound; the BERT at 15% has
hardly learnt what a bound asks, and is compared in its own loss.

Expect the BERT to need more tokens to begin, to gain more at each doubling once it has, and a
beta that is not known to differ.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator

from lm.data import Data
from lm.evaluate.scoring import Effort
from lm.objectives import AnyOrder, Causal, Masked
from lm.output.numbers import count, decimals, with_error
from lm.run import Run
from lm.scaling.fit import Fit, band, evaluate
from lm.scaling.joint import Joint, fit_joint
from lm.scaling.parametric import fit_parametric
from lm.scaling.table import DataError
from lm.study import runner
from lm.study.common import (
    Arm,
    Result,
    equal_table,
    size_text,
    study_report,
    ticks,
    violations,
)
from lm.study.fits import (
    NO_ANSWER,
    ONE_SIZE,
    arms_rows,
    attempt,
    cells_table,
    difference_of,
    doubts_table,
    number_text,
    parameters_table,
    runs_of,
    section,
    signed_text,
    truth_of,
)
from lm.study.plans import FEW_ROWS, SMOKE_SOURCE, V5E_16, Plan, Size
from lm.study.report.figures import (
    BLUE,
    GREEN,
    MARKERS,
    PAPER,
    VERMILLION,
    panels,
    reference_lines,
    styled,
)
from lm.study.report.values import Column, Plot, Report, Section, Table
from lm.study.runner import Cell
from lm.study.sections import limits
from lm.study.seeds import BITS, Gap, Group, Measure, gaps, groups_of, together

ARMS = {
    "causal": Arm("GPT", "the GPT", Causal(), BLUE),
    "masked15": Arm("BERT, 15%", "the BERT trained at 15%", Masked(), VERMILLION),
    "any_order": Arm("BERT, all rates", "the BERT trained at all rates", AnyOrder(), GREEN),
}


class Scale(NamedTuple):
    """One size, and on how many tokens it is trained: each number twice the one before."""

    data: Data
    size: Size
    budgets: tuple[int, ...]
    seeds: int
    settings: dict[str, Any]


PLANS = {
    "smoke": Scale(
        SMOKE_SOURCE,
        Size(1, 16, 1, 1e-2),
        budgets=(1024, 2048, 4096, 8192),
        seeds=1,
        settings={"evaluations": 1, "evaluation_rows": 32},
    ),
    "laptop": Scale(
        FEW_ROWS,
        Size(2, 64, 2, 1e-2),
        budgets=tuple(25_600 * 2**k for k in range(6)),
        seeds=2,
        settings={"evaluations": 1, "evaluation_rows": 1024},
    ),
    "v5e-16": Scale(
        msgspec.structs.replace(V5E_16, batch=512),
        Size(12, 768, 12, 3e-3),
        budgets=tuple(50 * 2**20 * 2**k for k in range(6)),
        seeds=2,
        settings={"evaluations": 4, "evaluation_rows": 4096, "remat": "block"},
    ),
}
SCALES = tuple(PLANS)
EFFORT = {
    "smoke": Effort(rows=32, samples=2, replicates=2, share_rows=8, probe_tokens=1),
    "laptop": Effort(rows=1024, samples=2, replicates=2, share_rows=16, probe_tokens=1),
    "v5e-16": Effort(rows=4096, share_rows=256, probe_tokens=1),
}


def runs(scale: str) -> dict[str, Run]:
    """The runs by cell name: each number of tokens in each arm, for every seed."""
    plan, found = PLANS[scale], dict[str, Run]()
    for tokens in plan.budgets:
        grid = Plan(plan.data, tokens, (plan.size,), plan.seeds, plan.settings)
        found |= grid.once().runs(ARMS)
    return found


def report(cells: list[Cell]) -> Report:
    """What the finished cells say; what is missing is named."""
    groups = list(groups_of(cells, ARMS).values())
    laws = {loss: _laws(groups, loss) for loss in LOSSES}
    held = _laws_at_truth(groups)
    joints = {loss: attempt(_joint, groups, loss) for loss in LOSSES}
    sections = [
        _growth(groups, laws[loss], held if loss == BITS else {}, joints[loss], loss)
        for loss in LOSSES
        if groups
    ]
    if groups:
        most = max(group.cells[0].run.tokens for group in groups)
        rows = arms_rows([cell for cell in cells if cell.run.tokens == most])
        sections += [
            section(
                "What was held equal, and what was not",
                equal_table(rows, "at the most tokens, between the arms of a seed"),
                "At each number of tokens the arms read the same new text in the same order,"
                " from the same initial values, with one learning rate. How many targets they"
                " predict follows from the objective, and is in the table of all cells.",
            ),
            limits(cells, groups, *_limits(cells)),
        ]
    return study_report(
        sys.modules[__name__],
        cells,
        title="What more data gains",
        answer=_answer(groups, laws[BITS], joints[BITS]),
        details=_details(groups, laws[BITS], held, joints[BITS]),
        table=cells_table(
            cells,
            "All finished cells. D is read once; own loss is the objective’s, in nats per"
            " predicted piece; ± is the standard error over held-out documents, which all"
            " cells share.",
        ),
        sections=sections,
        warnings=violations(arms_rows(cells)),
    )


OWN = Measure("validation_loss", lambda result: None, -1, decimals)
"""Its sums by document are not kept: errors are those over seeds."""
LOSSES = {
    BITS: ("Bits per byte", "bits per byte", ("causal", "any_order")),
    OWN: ("Each objective’s own loss", "nats per predicted piece", tuple(ARMS)),
}
"""The heading, the unit and the arms that are fit, by loss."""


def _laws(groups: Sequence[Group], loss: Measure) -> dict[str, Fit | DataError]:
    """The law of each arm in tokens."""
    return {arm: attempt(_law, _results(groups, arm), loss) for arm in LOSSES[loss][2]}


def _laws_at_truth(groups: Sequence[Group]) -> dict[str, Fit | DataError]:
    """The same in bits per byte with E held at what the source needs, where that is known."""
    found = {}
    for arm in LOSSES[BITS][2]:
        results = _results(groups, arm)
        if truth := truth_of(results):
            found[arm] = attempt(_law, results, BITS, {"E": truth})
    return found


def _law(
    results: Sequence[Result], loss: Measure, fixed: Mapping[str, float] | None = None
) -> Fit:
    return fit_parametric(runs_of(results, loss=loss.key), fixed=ONE_SIZE | dict(fixed or {}))


def _joint(groups: Sequence[Group], loss: Measure) -> Joint:
    """The law of the GPT and the BERT at all rates with one beta; DataError without runs."""
    ours, theirs = (_results(groups, arm) for arm in ("causal", "any_order"))
    if not (ours and theirs):
        raise DataError("one of the arms is not finished")
    rows = {"causal": np.arange(len(ours)), "any_order": len(ours) + np.arange(len(theirs))}
    return fit_joint(
        runs_of([*ours, *theirs], loss=loss.key), rows, ("beta",), fixed=ONE_SIZE, bootstrap=0
    )


def _results(groups: Sequence[Group], arm: str) -> list[Result]:
    return [
        result
        for group in groups
        if group.arm == ARMS[arm]
        for result in group.results.values()
    ]


# Sentences


def _answer(
    groups: Sequence[Group], laws: Mapping[str, Fit | DataError], joint: Joint | DataError
) -> str:
    if not (betas := _betas_text(laws)):
        return NO_ANSWER
    text = (
        f"At {size_text(groups[0].size)} parameters the loss falls toward a floor as D^−β, with"
        f" {betas}."
    )
    last = [_gains(groups, arm, BITS)[-1:] for arm in ("causal", "any_order")]
    if all(last):
        (one,), (other,) = last
        text += (
            f" The last doubling, from {count(one.tokens)} tokens, still gained the GPT"
            f" {with_error(one.gap.value, one.gap.error)} bits per byte and the BERT"
            f" {with_error(other.gap.value, other.gap.error)}."
        )
    return text


def _betas_text(laws: Mapping[str, Fit | DataError]) -> str:
    """Both betas, their difference, and what it says; "" where one is not known."""
    ours, theirs = laws.get("causal"), laws.get("any_order")
    if not (isinstance(ours, Fit) and isinstance(theirs, Fit)):
        return ""
    apart, ends = difference_of(ours, theirs, "beta")
    said = (
        "which does not tell them apart"
        if ends is None or ends[0] <= 0 <= ends[1]
        else f"so the BERT’s gain flattens {'earlier' if apart > 0 else 'later'}"
    )
    one, other = (number_text(f.parameters["beta"], f.ci95.get("beta")) for f in (ours, theirs))
    return (
        f"β {one} for {ARMS['causal'].name} and {other} for {ARMS['any_order'].name}, a"
        f" difference of {signed_text(apart, ends)}, {said}"
    )


def _details(
    groups: Sequence[Group],
    laws: Mapping[str, Fit | DataError],
    held: Mapping[str, Fit | DataError],
    joint: Joint | DataError,
) -> tuple[str, ...]:
    found = []
    if isinstance(joint, Joint) and joint.p is not None:
        beta = joint.fits["causal"].parameters["beta"]
        found.append(
            f"One β for both arms, {beta:.2f}, "
            + ("fits worse than" if joint.p < 0.05 else "is not shown to fit worse than")
            + " one for each: groups that share it differ as much with a probability of"
            f" {joint.p:.2g} (likelihood ratio, its distribution simulated)."
        )
    truth = truth_of(_results(groups, "causal"))
    if truth and (betas := _betas_text(held)):
        floors = [
            f"{number_text(fit.parameters['E'], fit.ci95.get('E'))} of {ARMS[arm].name}"
            for arm, fit in laws.items()
            if isinstance(fit, Fit)
        ]
        found.append(
            f"The source itself needs {decimals(truth)} bits per byte for the same documents,"
            f" and no model can need less; the laws find floors of {together(floors)}. With"
            f" the floor held at the source’s, which says that this size could learn all"
            f" of it, {betas}."
        )
    return tuple(found)


def _limits(cells: Sequence[Cell]) -> tuple[str, ...]:
    budgets = sorted({cell.run.tokens for cell in cells})
    return (
        f"Exponents come from {len(budgets)} numbers of tokens that span a factor of"
        f" {budgets[-1] / budgets[0]:.0f}. E, B and β make up for each other over such a span:"
        " their intervals, from resampled runs, hold if the law does, and that the loss goes on"
        " as a power of D beyond the last number is not shown. A model that has not begun to"
        " learn from context at the fewest tokens does not follow a power there, and bends β.",
        "A β says how the gain shrinks, not who is ahead: the arm with the larger β may gain"
        " more at every doubling shown. A bound may fall faster than an exact number as the"
        " orders it averages come to agree.",
    )


# The sections


class Gain(NamedTuple):
    """What twice the tokens gained an arm."""

    tokens: int
    """Before they were doubled."""
    gap: Gap


def _gains(groups: Sequence[Group], arm: str, loss: Measure) -> list[Gain]:
    ours = [group for group in groups if group.arm == ARMS[arm] and group.values(loss.key)]
    by_tokens = {group.cells[0].run.tokens: group for group in ours}
    found = []
    for tokens, group in sorted(by_tokens.items()):
        if twice := by_tokens.get(2 * tokens):
            gap = gaps(ours, twice, loss).get(group.name)
            if gap is not None:
                found.append(Gain(tokens, gap))
    return found


def _growth(
    groups: Sequence[Group],
    laws: Mapping[str, Fit | DataError],
    held: Mapping[str, Fit | DataError],
    joint: Joint | DataError,
    loss: Measure,
) -> Section | None:
    heading, unit, _ = LOSSES[loss]
    fits = {ARMS[arm].label: fit for arm, fit in laws.items()}
    fits |= {f"{ARMS[arm].label}, E held": fit for arm, fit in held.items()}
    said = (
        f"For {ARMS['causal'].name} and {ARMS['any_order'].name} one β has p = {joint.p:.2g}."
        if isinstance(joint, Joint)
        else None
    )
    return section(
        heading,
        Plot(
            f"growth_{loss.key}",
            growth_figure(groups, laws, loss),
            f"Left: {unit} by tokens, a mark a run, and the law of each arm with its 95%"
            " band; a dashed line is what the source itself needs. Right: what each doubling"
            " gained, means over seeds with one standard error, and what the law says it gains,"
            " which no longer knows E: a straight line of slope −β.",
        ),
        parameters_table(
            fits,
            ("E", "B", "beta"),
            f"L = E + B / D^beta, with L in {unit}: 95% intervals of 1,000 resamples of the"
            " runs. B is at one token, far from all runs.",
            "trained as",
        ),
        said if loss == OWN else None,
        _gains_table(groups, loss),
        doubts_table(fits, "What these runs cannot tell, in the words of the fits."),
    )


def _gains_table(groups: Sequence[Group], loss: Measure) -> Table:
    _, unit, arms = LOSSES[loss]
    gains = {arm: {g.tokens: g.gap for g in _gains(groups, arm, loss)} for arm in arms}
    places = sorted({tokens for found in gains.values() for tokens in found})
    rows = [
        {"tokens": f"{count(tokens)} → {count(2 * tokens)}"}
        | {
            arm: with_error(found[tokens].value, found[tokens].error)
            + ("*" if found[tokens].beyond else "")
            for arm, found in gains.items()
            if tokens in found
        }
        for tokens in places
    ]
    return Table(
        (Column("tokens", "tokens"), *(Column(arm, ARMS[arm].label) for arm in arms)),
        rows,
        f"What each doubling gained, in {unit}: means over seeds with one standard error,"
        " paired by seed and, where that is known, by document; the spread of seeds is pooled"
        " over an arm’s budgets. An asterisk where the 95% interval leaves out 0.",
    )


@styled()
def growth_figure(
    groups: Sequence[Group], laws: Mapping[str, Fit | DataError], loss: Measure
) -> Figure:
    """Loss by tokens with the laws, and the gain of every doubling."""
    figure, (left, right) = panels(2, height=3.3)
    places = sorted({group.cells[0].run.tokens for group in groups})
    grid = np.geomspace(places[0] / 1.15, places[-1] * 1.15, 80)
    for order, (arm, law) in enumerate(laws.items()):
        colour, label = ARMS[arm].colour, ARMS[arm].label
        results = _results(groups, arm)
        gains = [gain for gain in _gains(groups, arm, loss) if gain.gap.value > 0]
        hollow = any(result["kind"] != "exact" for result in results) and loss == BITS
        look: dict[str, Any] = {
            "color": colour, "marker": MARKERS[order], "linestyle": "none",
            "markerfacecolor": PAPER if hollow else colour,
        }  # fmt: skip
        left.plot([r["tokens"] for r in results], [r[loss.key] for r in results], **look)
        right.errorbar(
            [gain.tokens for gain in gains],
            [gain.gap.value for gain in gains],
            [min(gain.gap.error or 0.0, 0.95 * gain.gap.value) for gain in gains],
            elinewidth=1,
            **look,
        )
        left.plot([], [], label=label, **look | {"linestyle": "-"})
        if not isinstance(law, Fit):
            continue
        known = {"params": np.full_like(grid, 1e6), "tokens": grid}
        left.plot(grid, evaluate(law, law.parameters, known)["loss"], color=colour)
        if law.draws:
            low, high = band(law, known)["loss"]
            left.fill_between(grid, low, high, color=colour, alpha=0.15, linewidth=0)
        before = np.geomspace(places[0] / 1.15, places[-1] / 2 * 1.15, 2)
        B, beta = law.parameters["B"], law.parameters["beta"]
        right.plot(before, B * before**-beta * (1 - 2**-beta), color=colour)
    for axes in (left, right):
        axes.set_xscale("log")
    right.set_yscale("log")
    gained = [g.gap.value for arm in laws for g in _gains(groups, arm, loss)]
    if above := [value for value in gained if value > 0]:
        right.set_ylim(0.4 * min(above), 2 * max(above))
    ticks(left.xaxis, FixedLocator(places), count)
    ticks(right.xaxis, FixedLocator(places[:-1]), count)
    ticks(right.yaxis, LogLocator(subs=(1, 2, 5)), lambda value: f"{value:g}")
    unit = LOSSES[loss][1]
    left.set(title="Loss by tokens", xlabel="tokens, each read once", ylabel=unit)
    right.set(title="Gain of a doubling", xlabel="tokens, before it", ylabel=unit)
    truth = truth_of(_results(groups, "causal"))
    if truth and loss == BITS:
        left.set_ylim(min(truth - 0.03, left.get_ylim()[0]))
        reference_lines(left, {"source": truth})
    figure.legend(loc="outside upper left", ncols=3)
    return figure


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
