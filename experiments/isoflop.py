"""How are size and data best split as compute grows, for a GPT and for a BERT?

Answers to: Hoffmann et al. 2022 (arXiv:2203.15556), section 3.2, figure 3 and table 2, where
approach 2 (isoFLOP curves) gives N* ~ C^0.49 and D* ~ C^0.51 for causal models. For masked ones
there is Nie et al. 2024 (arXiv:2410.18514), figure 2: a masked diffusion model has the same
exponents and needs 16 times the compute. Here both are trained at the same budgets of exact
FLOPs on the same text, and scored in the same unit.

    python -m experiments.isoflop --scale laptop

    smoke   a minute             toys on bytes, to see that everything works
    laptop  15 minutes, 2 cores  four budgets of 2e10 to 4e11 FLOPs, five sizes or six, 2.4k to
                                 0.11M parameters with the head, on bytes of Python's library
    v5e-16  33 hours, 16 chips   five budgets of 1e17 to 1e19 FLOPs, five sizes each, 12M to
                                 1.1B parameters with the head, on C4 (c4/en, which TFDS
                                 prepares)

The last line is a plan by FLOPs, at 40% of the chips' peak and without scoring, as printed by
`python -m experiments.isoflop --scale v5e-16 --cost v5e-16`.

What is fitted is bits per byte of held-out text, which for the BERT is the bound over all
orders of writing: the objectives' own losses do not compare. The BERT's masking rate is drawn
for each row, as the bound asks for all rates. Learning rates are tuned by the same number of
trials for each arm, at one budget and size; other sizes have the rate of that one times (N / N
tuned)^(-1/3) (Porian et al. 2024). The trials are cells of the study, so its report can say
whether they bear out what this file has.

Expect parabolas whose minima move to larger models with compute, for the GPT about as C^0.5,
and wide intervals, as they stand on four minima and one seed. At the laptop's scale the BERT
has hardly begun to use what it sees, so that its minima say how many steps that takes rather
than how size and data trade.
"""

import math
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import msgspec
import numpy as np

from lm.cost import ledger
from lm.data import Bytes, Data, SentencePiece, Stdlib, Tfds, vocabulary_size
from lm.evaluate.scoring import Effort
from lm.model import Transformer
from lm.objectives import Causal, Masked
from lm.objectives.masked import Drawn
from lm.optimizer import Cosine, Muon
from lm.output.numbers import count, decimals, power
from lm.run import Run
from lm.scaling.compare import Comparison, compare
from lm.scaling.fit import Fit
from lm.scaling.isoflop import METHODS, Budget, fit_isoflop
from lm.scaling.parametric import fit_parametric
from lm.scaling.table import DataError, Runs
from lm.study import runner
from lm.study.common import Arm, Result, arm_of, study_report
from lm.study.fits import (
    BITS,
    NO_ANSWER,
    Trials,
    attempt,
    cells_table,
    comparison_plot,
    doubts_table,
    equal_text,
    exponent_text,
    holds,
    law_plot,
    laws_table,
    rate_at,
    results_of,
    runs_of,
    section,
    times_number,
    times_text,
    trials_of,
    trials_table,
)
from lm.study.report.figures import BLUE, GREEN
from lm.study.report.values import Column, Report, Section, Table
from lm.study.runner import Cell

ARMS = {
    "causal": Arm("GPT", "the GPT", Causal(), BLUE),
    "masked": Arm(
        "BERT, all rates",
        "the BERT",
        Masked(rate=Drawn(low=0.1, high=1.0), mask=1.0, random=0.0),
        GREEN,
    ),
}
SHOWN = METHODS[0]
"""The method of the figures and the answer: a parabola through the runs about the best."""
PUBLISHED = 0.5
"""About what Hoffmann et al. find for a."""


class Plan(NamedTuple):
    """What a scale trains: sizes for each budget in each arm, and trials of a rate."""

    data: Data
    budgets: Mapping[float, tuple[Transformer, ...]]
    """Model sizes by FLOPs."""
    trial: tuple[float, Transformer]
    """Budget and size at which learning rates are tried; one of those above."""
    rates: tuple[float, ...]
    """What is tried, the same for each arm."""
    used: Mapping[str, float]
    """What each arm has there, one of those."""
    settings: dict[str, Any]
    """Further fields of the runs."""

    def runs(self) -> dict[str, Run]:
        """The runs by cell name, each arm's smallest budget first."""
        found = {}
        for arm in ARMS:
            for flops, sizes in self.budgets.items():
                for size in sizes:
                    found[self._name(arm, flops, size)] = self._run(arm, flops, size)
            for rate in self.rates:
                if rate != self.used[arm]:
                    name = self._name(arm, *self.trial, f"lr{rate:g}-")
                    found[name] = self._run(arm, *self.trial, rate)
        return found

    def trials(self, arm: str) -> list[str]:
        """The names of the cells that try learning rates, the grid's own among them."""
        more = [f"lr{rate:g}-" if rate != self.used[arm] else "" for rate in self.rates]
        return [self._name(arm, *self.trial, each) for each in more]

    def _name(self, arm: str, flops: float, size: Transformer, more: str = "") -> str:
        budget = f"f{flops:.1e}".replace("+", "").replace(".0e", "e")
        return f"{arm}-{count(self._params(size))}-{budget}-{more}seed0"

    def _params(self, size: Transformer) -> int:
        return sum(size.matrices(vocabulary_size(self.data.tokenizer)).values())

    def _run(self, arm: str, flops: float, size: Transformer, rate: float | None = None) -> Run:
        if rate is None:
            rate = rate_at(self._params(size), self.used[arm], self._params(self.trial[1]))
        run = Run(
            data=self.data,
            objective=ARMS[arm].objective,
            model=size,
            optimizer=Muon(learning_rate=rate),
            schedule=Cosine(warmup=0.1),
            **self.settings,
        )
        tokens = ledger.tokens_for(run, vocabulary_size(self.data.tokenizer), flops)
        return msgspec.structs.replace(run, tokens=tokens)


def _wide(*widths: int) -> tuple[Transformer, ...]:
    """Two layers of these widths, with heads of 64 where that is possible: few shapes."""
    return tuple(Transformer(depth=2, width=w, heads=max(1, w // 64)) for w in widths)


def _deep(*depths: int) -> tuple[Transformer, ...]:
    """The shapes of `lm budget`: 64 times as wide as deep."""
    return tuple(Transformer(depth=d, width=64 * d, heads=d) for d in depths)


PLANS = {
    "smoke": Plan(
        Data(tokenizer=Bytes(), length=64, batch=4),
        {2e8: _wide(8, 12, 16), 4e8: _wide(8, 12, 16)},
        trial=(4e8, _wide(12)[0]),
        rates=(1e-2, 2e-2),
        used={"causal": 1e-2, "masked": 1e-2},
        settings={"evaluations": 1, "evaluation_rows": 16},
    ),
    "laptop": Plan(
        Data(corpus=Stdlib(), tokenizer=Bytes(), length=128, batch=4, validation=0.05),
        {
            2e10: _wide(6, 8, 12, 16, 24, 32),
            5e10: _wide(8, 12, 16, 24, 32),
            1.4e11: _wide(12, 16, 24, 32, 48),
            4e11: _wide(16, 24, 32, 48, 64),
        },
        trial=(5e10, _wide(16)[0]),
        rates=(1e-2, 2e-2, 4e-2, 8e-2),
        used={"causal": 4e-2, "masked": 1e-2},
        settings={"evaluations": 1, "evaluation_rows": 32},
    ),
    "v5e-16": Plan(
        Data(
            # A seventh of C4, so that nothing is read twice.
            corpus=Tfds(name="c4/en", split="train[:15%]"),
            tokenizer=SentencePiece(kind="unigram", size=32_768),
            length=1024,
            batch=256,
            validation=0.0002,
        ),
        {
            1e17: _deep(4, 6, 8, 10, 12),
            3e17: _deep(6, 8, 10, 12, 14),
            1e18: _deep(8, 10, 12, 16, 20),
            3e18: _deep(10, 12, 16, 20, 24),
            1e19: _deep(12, 16, 20, 24, 28),
        },
        trial=(1e18, _deep(12)[0]),
        rates=(1e-3, 2e-3, 4e-3, 8e-3),
        used={"causal": 2e-3, "masked": 2e-3},
        settings={
            "evaluations": 8,
            "evaluation_rows": 1024,
            "remat": "block",
            "microbatches": 4,
        },
    ),
}
SCALES = tuple(PLANS)
EFFORT = {
    "smoke": Effort(rows=16, samples=2, share_rows=4, probe_tokens=1),
    "laptop": Effort(rows=256, samples=4, share_rows=8, probe_tokens=1),
    "v5e-16": Effort(rows=4096, share_rows=256, probe_tokens=1),
}


def runs(scale: str) -> dict[str, Run]:
    """The runs by cell name: every budget and size in each arm, and the trials."""
    return PLANS[scale].runs()


def report(cells: list[Cell]) -> Report:
    """What the finished cells say; what is missing is named."""
    results = {
        arm: results_of([c for c in cells if arm_of(c) == arm and not _is_trial(c)])
        for arm in ARMS
    }
    fits = {
        (arm, law): attempt(partial(_fit, found, law))
        for arm, found in results.items()
        for law in (*METHODS, "parametric")
    }
    shown = {arm: fits[arm, SHOWN] for arm in ARMS if isinstance(fits[arm, SHOWN], Fit)}
    compared = attempt(partial(_compare, shown))
    trials = [each for arm in ARMS if (each := _trials(cells, arm))]
    named = {f"{ARMS[arm].label}, {law}": fit for (arm, law), fit in fits.items()}
    return study_report(
        sys.modules[__name__],
        cells,
        title="Size and data at equal compute, for a GPT and a BERT",
        answer=_answer(shown, compared) or NO_ANSWER,
        details=(
            "N counts the parameters in matrix products, the head's among them, D the tokens"
            " read, and C the exact FLOPs of training. After a number stands the 95% interval"
            " of 1,000 resamples, widened by Student's t where minima are few.",
        ),
        table=cells_table(
            cells,
            "All finished cells, those that try a learning rate among them. N counts the"
            " parameters in matrix products; ± is the standard error over documents, which are"
            " the same for all; own loss is the objective's, in nats per predicted piece, and"
            " does not compare between arms.",
        ),
        sections=(
            _curves_section(shown, results),
            _exponents_section(named, fits),
            _surface_section(fits, results),
            _gap_section(shown, compared, _equal_text(cells)),
            _trials_section(trials),
            _limits_section(cells, named),
        ),
        warnings=tuple(each.verdict for each in trials if each.best not in (None, each.used)),
    )


def _fit(found: list[Result], law: str) -> Fit:
    runs = runs_of(found)
    return fit_parametric(runs) if law == "parametric" else fit_isoflop(runs, method=law)  # type: ignore[arg-type]


def _compare(shown: Mapping[str, Fit]) -> Comparison:
    """The arms' laws through the minima of their budgets."""
    if len(shown) < len(ARMS):
        raise DataError("an arm has too few minima")
    first, second = (
        Runs(
            np.array([budget.loss for budget in _minima(shown[arm])]),
            params_R=np.array([budget.params for budget in _minima(shown[arm])]),
            flops_R=np.array([budget.flops for budget in _minima(shown[arm])]),
        )
        for arm in ARMS
    )
    return compare(first, second)


def _equal_text(cells: list[Cell]) -> str:
    """What the arms had in common at each budget and size."""
    by_arm = [
        {cell.name.partition("-")[2]: cell.result for cell in cells
         if arm_of(cell) == arm and cell.result and not _is_trial(cell)}
        for arm in ARMS
    ]  # fmt: skip
    both = [(by_arm[0][name], by_arm[1][name]) for name in by_arm[0] if name in by_arm[1]]
    if not both:
        return ""
    apart = max(abs(math.log(ours["flops"] / theirs["flops"])) for ours, theirs in both)
    first, second = (
        [{name: value for name, value in pair[i].items() if name != "flops"} for pair in both]
        for i in (0, 1)
    )
    return (
        f"At each budget and size the FLOPs of the arms differ by {apart:.1%} at most, as runs"
        f" have whole steps. {equal_text(first, second)}"
    )


def _is_trial(cell: Cell) -> bool:
    return "-lr" in cell.name


def _trials(cells: list[Cell], arm: str) -> Trials | None:
    """An arm's trials: those cells that are none but that, and the grid's own of their"
    " place.
    """
    tried = [cell for cell in cells if arm_of(cell) == arm and _is_trial(cell)]
    own = [
        cell
        for cell in cells
        for trial in tried[:1]
        if arm_of(cell) == arm and not _is_trial(cell)
        if (cell.run.model, cell.run.tokens) == (trial.run.model, trial.run.tokens)
    ]
    if not own:
        return None
    return trials_of([*tried, *own], ARMS[arm].name, own[0].run.optimizer.learning_rate)


# Sentences


def _answer(shown: Mapping[str, Fit], compared: Comparison | DataError) -> str:
    """How each arm's best size grows, and what compute lies between them."""
    if not shown:
        return ""
    flops = [budget.flops for fit in shown.values() for budget in _minima(fit)]
    parts = [
        f"{ARMS[arm].name} as C^{exponent_text(fit, 'a')}, its data as"
        f" C^{exponent_text(fit, 'b')}"
        for arm, fit in shown.items()
    ]
    text = (
        f"From {power(min(flops))} to {power(max(flops))} FLOPs the best size grows, for"
        f" {'; for '.join(parts)}."
    )
    ends = [fit.ci95.get("a") for fit in shown.values()]
    if len(ends) > 1 and ends[0] and ends[1]:
        apart = ends[0][1] < ends[1][0] or ends[1][1] < ends[0][0]
        text += (
            " The intervals do not overlap."
            if apart
            else " The intervals overlap, so that no difference of the exponents is shown."
        )
    if isinstance(compared, Comparison):
        text += f" {_multiplier_text(compared)}"
    return text


def _multiplier_text(compared: Comparison) -> str:
    """The compute between the arms at the ends of what was measured."""
    names = [arm.name for arm in ARMS.values()]
    first, last = compared.points[0], compared.points[-1]
    said = []
    for point in (first, last):
        between = f" ({times_text(point.ci95)})"
        said.append(
            f"{times_number(point.multiplier)} times{between} at {power(point.flops)} FLOPs"
        )
    beyond = sum(point.extrapolated for point in compared.points)
    text = f"For {names[0]}'s loss {names[1]} needs {' and '.join(said)}"
    if beyond:
        text += (
            ", all of it by drawing its law on: it has measured no such loss"
            if beyond == len(compared.points)
            else f", by drawing its law on at {beyond} of {len(compared.points)} budgets"
        )
    return text + "."


def _agreement(fit: Fit, name: str) -> str:
    """Whether an interval holds what was published."""
    found = holds(fit.ci95.get("a"), PUBLISHED)
    if found is None:
        return f"For {name} there are too few minima for an interval."
    verb = "holds" if found else "does not hold"
    return f"The interval of {name} {verb} the a of about {PUBLISHED:g} that was published."


def _minima(fit: Fit) -> list[Budget]:
    found: list[Budget] = fit.details["budgets"]
    return found


# Sections


def _curves_section(
    shown: Mapping[str, Fit], results: Mapping[str, list[Result]]
) -> Section | None:
    return section(
        "Loss by size at equal compute",
        *(
            law_plot(
                f"isoflop_{arm}",
                {ARMS[arm].label: fit},
                {ARMS[arm].label: runs_of(results[arm])},
                f"{ARMS[arm].label}. Left: bits per byte of each budget by size, with a"
                " parabola in logarithms through the runs about the best, and its"
                " minimum."
                " Right: the minima's sizes and data by compute, with power laws and their 95%"
                " bands.",
            )
            for arm, fit in shown.items()
        ),
    )


def _exponents_section(
    named: Mapping[str, Fit | DataError], fits: Mapping[tuple[str, str], Fit | DataError]
) -> Section | None:
    said = [
        _agreement(fit, ARMS[arm].name)
        for (arm, law), fit in fits.items()
        if law == SHOWN and isinstance(fit, Fit)
    ]
    table = laws_table(
        named,
        "Exponents by three ways to find the minimum of a budget (a parabola through the runs"
        " about the best, one through five sizes, a curve through all after Akima) and by"
        " a law of size and data fit to all runs. In brackets 95% intervals. The number of"
        " doubts is that of the warnings below.",
        "arm and method",
    )
    return section("How the best size and data grow", " ".join(said) or None, table)


def _surface_section(
    fits: Mapping[tuple[str, str], Fit | DataError], results: Mapping[str, list[Result]]
) -> Section | None:
    return section(
        "One law of size and data",
        *(
            law_plot(
                f"surface_{arm}",
                {ARMS[arm].label: fit},
                {ARMS[arm].label: runs_of(results[arm])},
                f"{ARMS[arm].label}: L = E + A/N^α + B/D^β, fit to all runs. Left: the runs,"
                " with the loss of the best split, and where they lie in size and data,"
                " coloured by how far they are above the law. Right: the best size and data by"
                " compute, with 95% bands, and the residuals. The law splits compute by 6 N D,"
                " which the exact count exceeds by the attention scores.",
            )
            for (arm, law), fit in fits.items()
            if law == "parametric" and isinstance(fit, Fit)
        ),
    )


def _gap_section(
    shown: Mapping[str, Fit],
    compared: Comparison | DataError,
    equal: str,
) -> Section | None:
    labels = [arm.label for arm in ARMS.values()]
    if isinstance(compared, DataError):
        return section(
            "The compute between the objectives", f"It is not known: {compared}.", _best(shown)
        )
    return section(
        "The compute between the objectives",
        _best(shown),
        comparison_plot(
            "compute_multiplier",
            compared,
            labels,
            "Left: the minima of each arm's budgets, with power laws through them"
            f" and their 95% bands. Right: how many times the compute {labels[1]} needs for"
            f" the loss of {labels[0]}, with its 95% interval; hollow where the law is drawn"
            " on.",
        ),
        _multiplier_text(compared),
        equal,
    )


def _best(shown: Mapping[str, Fit]) -> Table | None:
    """The minima of each budget, the arms side by side."""
    rows: dict[str, dict[str, Any]] = {}
    for arm, fit in shown.items():
        for budget in _minima(fit):
            row = rows.setdefault(power(budget.flops), {"flops": budget.flops})
            row |= {
                f"{arm}_params": budget.params,
                f"{arm}_tokens": budget.tokens,
                f"{arm}_ratio": budget.tokens / budget.params,
                f"{arm}_loss": budget.loss,
            }
    for row in rows.values():
        losses = [row.get(f"{arm}_loss") for arm in ARMS]
        if losses[0] is not None and losses[1] is not None:
            row["gap"] = losses[1] - losses[0]
    columns = [Column("flops", "C", power)]
    for name, labelled in ARMS.items():
        columns += [
            Column(f"{name}_params", f"{labelled.label}: N*", count),
            Column(f"{name}_tokens", "D*", count),
            Column(f"{name}_ratio", "D*/N*", lambda ratio: f"{ratio:.0f}"),
            Column(f"{name}_loss", BITS, decimals),
        ]
    columns.append(Column("gap", "above", decimals))
    caption = (
        "The minima of the parabolas: best size and data, and bits per byte there, which are"
        " exact for the GPT and an upper bound for the BERT. A dash stands where the minimum is"
        " at an edge of the sizes. Above: how far the BERT's lies above the GPT's."
    )
    return Table(tuple(columns), sorted(rows.values(), key=_flops), caption) if rows else None


def _flops(row: Mapping[str, Any]) -> float:
    return float(row["flops"])


def _trials_section(trials: list[Trials]) -> Section | None:
    if not trials:
        return None
    table = trials_table(
        trials,
        "Bits per byte of the learning rates tried, at one budget and size. “Used” is what the"
        " grid has there; other sizes have it times (N / N tuned)^(−1/3).",
    )
    return section("Learning rates", " ".join(each.verdict for each in trials), table)


def _limits_section(cells: list[Cell], named: Mapping[str, Fit | DataError]) -> Section | None:
    done = results_of(cells)
    if not done:
        return None
    sizes = sorted({result["params_matmul"] for result in done})
    flops = sorted(result["flops"] for result in done)
    decades = f"{flops[-1] / flops[0]:.0f}-fold"
    return section(
        "What this does and does not show",
        f"It shows where the loss of models of {count(sizes[0])} to {count(sizes[-1])}"
        f" parameters is least over a {decades} range of compute, on one text, with one seed"
        " and a learning rate tuned at one place. Exponents of so short a range are no"
        " forecast for a thousand times the compute: published ones stand on ranges of a"
        " hundred to ten thousand. The intervals hold what minima scatter about their line."
        " What another seed, another rule for the rate or another batch size would move all of"
        " them by is in none.",
        "At these budgets runs have a few hundred to a few thousand steps, so that best sizes"
        " say as much about how many steps an optimizer needs as about what data is worth;"
        " that is so above all for the BERT, whose loss stays near that of a model without"
        " context until it has found out how to use what it sees. Its bits per byte are an"
        " upper bound, and how far that lies above the text's code length by the best order is"
        " not known here, so that the multiplier counts the bound's slack as compute.",
        doubts_table(
            named, "What the fits themselves warn of. Each is a reason to read on with care."
        ),
    )


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
