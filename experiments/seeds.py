"""What studies over several seeds share: plans, groups, errors, sentences, tables, figures."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import msgspec
import numpy as np
import scipy.stats
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.common import (
    Arm,
    Result,
    arm_of,
    equal_table,
    made,
    missing,
    parameters,
    size_text,
    violations,
)
from lm import ledger
from lm.data import Bytes, Data, SentencePiece, Stdlib, Tfds, vocabulary_size
from lm.evaluate import Effort
from lm.model import Transformer
from lm.optimizer import Muon, WarmupStableDecay
from lm.report import (
    MARKERS,
    MUTED,
    PAPER,
    Column,
    Plot,
    Report,
    Section,
    Table,
    count,
    decimals,
    duration,
    panels,
    percent,
    power,
    reference_lines,
    styled,
    with_error,
)
from lm.run import Run
from lm.score.bits import ratio_se
from lm.study import Cell


class Size(NamedTuple):
    """A model, and the learning rate that is used for all of its arms."""

    depth: int
    width: int
    heads: int
    learning_rate: float


class Plan(NamedTuple):
    """What a scale trains: each size in each arm, on as many tokens, for each seed."""

    data: Data
    tokens: int
    sizes: tuple[Size, ...]
    seeds: int
    settings: dict[str, Any]
    """Further fields of the runs."""

    def runs(self, arms: Mapping[str, Arm]) -> dict[str, Run]:
        """The runs by cell name; a seed is finished before the next begins."""
        return {
            f"{name}-{size_text(parameters(run.model))}-d{count(self.tokens)}-seed{seed}": run
            for seed in range(self.seeds)
            for size in self.sizes
            for name, arm in arms.items()
            for run in [self._run(arm, size, seed)]
        }

    def runs_at_flops(self, arms: Mapping[str, Arm]) -> dict[str, Run]:
        """Those of equal FLOPs as well, where they need another number of steps.

        The first arm's FLOPs are what all get, to the nearest step.
        """
        pieces, first = vocabulary_size(self.data.tokenizer), next(iter(arms))
        found = {}
        for name, run in self.runs(arms).items():
            found[name] = run
            spent = msgspec.structs.replace(run, objective=arms[first].objective)
            flops = ledger.cost(spent, pieces).flops
            tokens = ledger.tokens_for(run, pieces, flops)
            if tokens != ledger.cost(run, pieces).tokens:
                arm, size, _, seed = name.split("-")
                budget = f"f{flops:.1e}".replace("+", "")
                found[f"{arm}-{size}-{budget}-{seed}"] = msgspec.structs.replace(
                    run, tokens=tokens
                )
        return found

    def _run(self, arm: Arm, size: Size, seed: int) -> Run:
        return Run(
            data=self.data,
            objective=arm.objective,
            model=Transformer(depth=size.depth, width=size.width, heads=size.heads),
            optimizer=Muon(learning_rate=size.learning_rate),
            schedule=WarmupStableDecay(warmup=0.05),
            tokens=self.tokens,
            seed=seed,
            **self.settings,
        )


SMOKE = Plan(
    Data(tokenizer=Bytes(), length=64, batch=16),
    tokens=8192,
    sizes=(Size(1, 32, 1, 1e-2),),
    seeds=2,
    settings={"evaluations": 1, "evaluation_rows": 16},
)
LAPTOP = Plan(
    Data(
        corpus=Stdlib(),
        tokenizer=SentencePiece(size=2048),
        length=128,
        batch=16,
        validation=0.05,
    ),
    tokens=200_000,
    sizes=(Size(4, 64, 1, 1e-2),),
    seeds=3,
    settings={"evaluations": 3, "evaluation_rows": 32},
)
V5E_8 = Plan(
    Data(
        corpus=Tfds(name="wiki40b/en"),
        tokenizer=SentencePiece(kind="unigram", size=32_768),
        length=512,
        batch=1024,
        validation=0.001,
    ),
    tokens=6_500_000_000,
    sizes=(Size(12, 768, 12, 3e-3),),
    seeds=2,
    settings={
        "evaluations": 32,
        "evaluation_rows": 1024,
        "remat": "block",
        "microbatches": 4,
    },
)
EFFORT = {
    "smoke": Effort(rows=16, samples=2, replicates=2, share_rows=8, probe_tokens=3_000),
    "laptop": Effort(rows=128, samples=2, replicates=2, share_rows=32, probe_tokens=6_000),
    "v5e-8": Effort(rows=4096, share_rows=1024, probe_tokens=100_000),
}
"""The scales that these studies have in common, and how much each spends on scoring."""


# Groups of cells and their errors


Sums = tuple[Sequence[float], Sequence[float]]
"""By document: a sum (of bits, of labels found) and what it is divided by."""


class Measure(NamedTuple):
    """A number of a result, and where its sums by document are."""

    key: str
    by_document: Callable[[Result], Sums | None]
    better: int
    """-1 if less is better."""
    show: Callable[[float], str]


def _bits(result: Result) -> Sums | None:
    nats, sizes = result.get("document_nats"), result.get("document_bytes")
    return ([each / math.log(2) for each in nats], sizes) if nats and sizes else None


def _right(result: Result) -> Sums | None:
    probe = result.get("probe")
    return (probe["document_right"], probe["document_tokens"]) if probe else None


BITS = Measure("bits_per_byte", _bits, -1, decimals)
PROBE = Measure("probe_accuracy", _right, +1, percent)


class Group(NamedTuple):
    """The cells that differ in the seed alone."""

    name: str
    """That of its cells, without the seed."""
    arm: Arm
    size: int
    budget: str
    """The part of the name that says what was held equal: d200k, f3.1e11."""
    cells: tuple[Cell, ...]

    @property
    def results(self) -> dict[int, Result]:
        """Those that are finished, by seed."""
        return {cell.run.seed: cell.result for cell in self.cells if cell.result is not None}

    @property
    def kind(self) -> str:
        """What its bits per byte are: exact, a bound or no likelihood."""
        return str(next(iter(self.results.values())).get("kind") or "no likelihood")

    @property
    def likelihood(self) -> bool:
        """Whether its bits per byte are a code length that somebody could reach."""
        return self.kind in ("exact", "bound") and self.mean("bits_per_byte") is not None

    def values(self, key: str) -> dict[int, float]:
        """A number of each finished result that has it, by seed."""
        return {s: r[key] for s, r in self.results.items() if r.get(key) is not None}

    def mean(self, key: str) -> float | None:
        """The mean over seeds; None if no result has it."""
        values = list(self.values(key).values())
        return float(np.mean(values)) if values else None

    def seeds_se(self, key: str) -> float | None:
        """The standard error of the mean over seeds; None for one seed."""
        values = list(self.values(key).values())
        return float(np.std(values, ddof=1)) / math.sqrt(len(values)) if values[1:] else None

    def text_se(self, measure: Measure) -> float | None:
        """The standard error over documents of the mean over seeds, who read the same text."""
        return _over_documents(_sums(self, self.results, measure))

    def error(self, measure: Measure) -> float | None:
        """Both errors together: of seeds and of documents."""
        return _both(self.seeds_se(measure.key), self.text_se(measure))


def groups_of(cells: Sequence[Cell], arms: Mapping[str, Arm]) -> dict[str, Group]:
    """Groups with a finished cell by name, in the order of their first cells."""
    found: dict[Run, list[Cell]] = {}
    for cell in cells:
        found.setdefault(msgspec.structs.replace(cell.run, seed=0), []).append(cell)
    groups = {}
    for run, members in found.items():
        name = members[0].name.rpartition("-")[0]
        if any(cell.result for cell in members):
            groups[name] = Group(
                name,
                arms[arm_of(members[0])],
                parameters(run.model),
                name.rpartition("-")[2],
                tuple(members),
            )
    return groups


class Gap(NamedTuple):
    """How far one group lies above another, and how far it may by chance."""

    value: float
    seeds: float | None
    """Standard error over seeds, paired: the same data order and initial values."""
    text: float | None
    """Standard error over documents, paired: the same held-out text."""
    limit: float
    """Half the 95% interval that both errors make."""

    @property
    def error(self) -> float | None:
        """Both errors together."""
        return _both(self.seeds, self.text)

    @property
    def beyond(self) -> bool:
        """Whether it is beyond the error."""
        return abs(self.value) > self.limit


def gaps(groups: Iterable[Group], reference: Group, measure: Measure) -> dict[str, Gap]:
    """How far each other group lies above the reference, by name.

    Two or three seeds alone say little of a spread, so the one that is left when arms and seeds
    have had their means taken out is pooled over all groups (a randomized block design, Fisher
    1935); with two groups it is that of the paired differences. Student's t with its degrees of
    freedom makes the interval. Draws of masks differ between documents, so that their error is
    in that over documents.
    """
    theirs = reference.values(measure.key)
    others = {
        group.name: group
        for group in groups
        if group.name != reference.name and group.values(measure.key).keys() & theirs.keys()
    }
    spread, freedom = _spread([reference, *others.values()], measure)
    found = {}
    for name, group in others.items():
        ours = group.values(measure.key)
        both = sorted(ours.keys() & theirs.keys())
        value = float(np.mean([ours[seed] - theirs[seed] for seed in both]))
        seeds = spread * math.sqrt(2 / len(both)) if spread is not None else None
        text = _over_documents(*(_sums(g, both, measure) for g in (group, reference)))
        parts = [] if seeds is None else [float(scipy.stats.t.ppf(0.975, freedom)) * seeds]
        parts += [] if text is None else [1.96 * text]
        found[name] = Gap(value, seeds, text, math.hypot(*parts) if parts else math.inf)
    return found


def _spread(groups: Sequence[Group], measure: Measure) -> tuple[float | None, int]:
    """Standard deviation of one run beyond its arm's and its seed's mean; degrees of freedom."""
    values = [group.values(measure.key) for group in groups]
    common = sorted(set.intersection(*(set(by_seed) for by_seed in values)))
    freedom = (len(groups) - 1) * (len(common) - 1)
    if freedom < 1:
        return None, 0
    table_GS = np.array([[by_seed[seed] for seed in common] for by_seed in values])
    rest_GS = table_GS - table_GS.mean(axis=0, keepdims=True)
    rest_GS = rest_GS - rest_GS.mean(axis=1, keepdims=True)
    return math.sqrt(float((rest_GS**2).sum()) / freedom), freedom


def _sums(group: Group, seeds: Iterable[int], measure: Measure) -> list[Sums]:
    found = (measure.by_document(group.results[seed]) for seed in seeds)
    return [sums for sums in found if sums is not None]


def _over_documents(ours: Sequence[Sums], theirs: Sequence[Sums] = ()) -> float | None:
    """Error over documents of a mean ratio, or of a difference of two; None if not known."""
    sizes = {tuple(size) for _, size in [*ours, *theirs]}
    if len(sizes) != 1:
        return None
    sums = np.mean([sums for sums, _ in ours], axis=0)
    if theirs:
        sums = sums - np.mean([sums for sums, _ in theirs], axis=0)
    error = ratio_se(sums, np.array(sizes.pop()))
    return error if math.isfinite(error) else None


def _both(seeds: float | None, text: float | None) -> float | None:
    known = [error for error in (seeds, text) if error is not None]
    return math.hypot(*known) if known else None


# Sentences


def together(names: Sequence[str]) -> str:
    """Names in a sentence.

    >>> together(["a"]), together(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


def signed(gap: Gap, measure: Measure) -> str:
    """A difference with its sign and both errors together.

    >>> signed(Gap(-0.0123, 0.003, 0.004, 0.02), BITS)
    '−0.012 ± 0.005'
    """
    text = with_error(abs(gap.value), gap.error, measure.show)
    return f"{'−' if gap.value < 0 else '+'}{text}"


def best_of(groups: Sequence[Group], measure: Measure) -> tuple[Group, list[Group]] | None:
    """The best group and those that the errors do not tell from it; None if nothing to rank."""
    known = [group for group in groups if group.mean(measure.key) is not None]
    if not known:
        return None
    best = max(known, key=lambda group: measure.better * (group.mean(measure.key) or 0.0))
    found = gaps(known, best, measure)
    return best, [g for g in known if g.name in found and not found[g.name].beyond]


def value_text(group: Group, measure: Measure) -> str:
    """A group's mean and both errors together."""
    return with_error(group.mean(measure.key) or 0.0, group.error(measure), measure.show)


def winner(groups: Sequence[Group], measure: Measure, who: Callable[[Group], str]) -> str:
    """The best and who is not told from it, as a part of a sentence; "" if nothing to rank."""
    ranked = best_of(groups, measure)
    if ranked is None or len(groups) < 2:
        return ""
    best, close = ranked
    at_most = "at most " if measure is BITS and best.kind != "exact" else ""
    text = f"{who(best)} ({at_most}{value_text(best, measure)}), "
    if not close:
        return text + "beyond the error ahead of all others"
    if len(close) == len(groups) - 1:
        return text + "though no difference to the others is beyond the error"
    return text + f"not told from {together([who(group) for group in close])} within the error"


# Tables


def main_table(groups: Sequence[Group], reference: Sequence[Group], what: str) -> Table:
    """A row a group, and how far each lies above the reference of its size and budget.

    `what` names the reference in the caption.
    """
    rows = []
    for group in groups:
        found: dict[str, Gap] = {}
        for other in reference:
            if (other.size, other.name == group.name) == (group.size, False):
                peers = [g for g in groups if g.size == group.size and g.budget == group.budget]
                found = gaps(peers, other, BITS)
        gap = found.get(group.name)
        masks = [r["mc_se"] for r in group.results.values() if r.get("mc_se") is not None]
        rows.append(
            {
                "size": group.size,
                "arm": group.arm.label,
                "budget": group.budget,
                "tokens": group.mean("tokens"),
                "seeds": len(group.results),
                "bits": group.mean("bits_per_byte"),
                "bits_seeds": group.seeds_se("bits_per_byte"),
                "bits_text": group.text_se(BITS),
                "bits_masks": float(np.mean(masks))
                if masks and group.kind != "exact"
                else None,
                "kind": group.kind,
                "above": gap and gap.value,
                "above_error": gap and gap.error,
                "beyond": gap and ("yes" if gap.beyond else "no"),
                "probe": group.mean("probe_accuracy"),
                "probe_seeds": group.seeds_se("probe_accuracy"),
                "probe_text": group.text_se(PROBE),
                "loss": group.mean("validation_loss"),
            }
        )
    columns = (
        *([Column("size", "size", size_text)] if len({g.size for g in groups}) > 1 else []),
        Column("arm", "trained as"),
        *([Column("tokens", "tokens", count)] if len({g.budget for g in groups}) > 1 else []),
        Column("seeds", "seeds"),
        Column("bits", "bits per byte", decimals),
        Column("bits_seeds", "± seeds", decimals),
        Column("bits_text", "± text", decimals),
        Column("bits_masks", "± masks", decimals),
        Column("kind", "which is"),
        Column("above", "above", decimals, error="above_error"),
        Column("beyond", "beyond the error"),
        Column("probe", "probe", percent),
        Column("probe_seeds", "± seeds", percent),
        Column("probe_text", "± text", percent),
        Column("loss", "own loss", decimals),
    )
    return Table(
        columns,
        rows,
        "Means over seeds. “± seeds” is the standard error over seeds (data order, masks and"
        " initial values), “± text” that over held-out documents, which all seeds share, and"
        " “± masks” that of the masks drawn in scoring one model, which is a part of “± text”."
        f" “Above” is the difference to {what}, paired by seed and by document, with"
        " both errors together; it is beyond the error where its 95% interval leaves out 0,"
        " with the seeds' spread pooled over the arms. The probe is the share of tokens whose"
        " role is found; own loss is the objective's, in nats per predicted piece, and does not"
        " compare between arms.",
    )


def spent_table(groups: Sequence[Group], reference: Group) -> Table:
    """What each group used, as a mean over seeds, and its share of what the reference used."""
    shown: tuple[tuple[str, str, Callable[[float], str]], ...] = (
        ("tokens", "tokens", count),
        ("predicted_targets", "predicted targets", count),
        ("slots", "slots", count),
        ("flops", "FLOPs", power),
        ("device_seconds", "device time", duration),
    )
    rows = [
        {"arm": group.arm.label, "size": group.size}
        | {
            key: f"{show(mine)} ({mine / theirs:.0%})"
            for key, _, show in shown
            if (mine := group.mean(key)) is not None and (theirs := reference.mean(key))
        }
        for group in groups
    ]
    columns = (
        *([Column("size", "size", size_text)] if len({g.size for g in groups}) > 1 else []),
        Column("arm", "trained as"),
        *(Column(key, title) for key, title, _ in shown),
    )
    caption = (
        f"What a run of each arm used, and its share of what {reference.arm.name} used. Slots"
        " are prediction positions that the head computes, used or not."
    )
    return Table(columns, rows, caption)


def seed_rows(groups: Iterable[Group]) -> dict[str, dict[str, Cell]]:
    """The cells that are compared: those of one size and one seed, by group."""
    rows: dict[str, dict[str, Cell]] = {}
    for group in groups:
        for cell in group.cells:
            row = f"{size_text(group.size)}, seed {cell.run.seed}"
            rows.setdefault(row, {})[group.name] = cell
    return rows


def equal_section(groups: Sequence[Group], reference: Group, *blocks: str | Table) -> Section:
    """What was held equal, and what was not."""
    table = equal_table(seed_rows(groups), "between the arms of a size and seed")
    return Section(
        "What was held equal, and what was not",
        (table, spent_table(groups, reference), *blocks),
    )


def limits(cells: Sequence[Cell], groups: Sequence[Group], *more: str) -> Section:
    """What the result does and does not show, from what was trained."""
    run, sizes = cells[0].run, sorted({group.size for group in groups})
    seeds = sorted({len(group.results) for group in groups})
    results = [result for group in groups for result in group.results.values()]
    tokens = sorted({result["tokens"] for result in results})
    documents = len(results[0].get("document_bytes") or ())
    few = (
        "With one seed, how much trainings differ among themselves is in none of the errors."
        if seeds == [1]
        else f"Each arm has {' or '.join(map(str, seeds))} seeds, so the errors over seeds are"
        " rough, and of many differences at 95% one in twenty is beyond the error by chance."
    )
    return Section(
        "What this does and does not show",
        (
            "It shows what these objectives do to models of"
            f" {together([size_text(size) for size in sizes])} parameters (without the embedding) after {' to '.join(_ends(tokens))} training"
            f" tokens of {_corpus(run)}, scored on {documents} held-out documents, with one"
            " learning rate for all arms of a size, which was not tuned for any of them. An"
            " order of arms at this scale is not their order at another: what is behind after"
            " few tokens may only be slower. A difference that is not beyond the error is not"
            f" shown to be zero. {few}",
            "The probe reads the role of a token in Python source off frozen states. It is no"
            " fine-tuning on a language task, which is what the papers measure."
            if any(result.get("probe") for result in results)
            else "The text has no labels, so nothing is said of what the models represent.",
            *more,
        ),
    )


def _ends(tokens: Sequence[int]) -> list[str]:
    return list(dict.fromkeys((count(tokens[0]), count(tokens[-1]))))


def _corpus(run: Run) -> str:
    match run.data.corpus:
        case Stdlib():
            return "Python's standard library"
        case Tfds(name=name):
            return name
        case _:
            return "the given text"


def report_of(
    study: ModuleType,
    cells: Sequence[Cell],
    groups: Sequence[Group],
    *,
    title: str,
    answer: str,
    table: Table,
    sections: Sequence[Section | None],
) -> Report:
    """The report of a study, with what is missing and what is not equal at its top.

    `groups` are those that were to be equal in all but the objective.
    """
    return Report(
        title=title,
        question=(study.__doc__ or "").splitlines()[0],
        answer=answer,
        details=_details(groups),
        table=table,
        rows=[{"cell": c.name, "objective": arm_of(c)} | (c.result or {}) for c in cells],
        sections=tuple(section for section in sections if section is not None),
        warnings=(*missing(cells), *violations(seed_rows(groups))),
        made=made(Path(study.__file__ or "").stem, cells),
    )


NO_ANSWER = "There is no answer yet: no two arms that could be compared are finished."


def _details(groups: Sequence[Group]) -> tuple[str, ...]:
    if not groups:
        return ()
    return (
        "After ± stands one standard error, over seeds and held-out documents together; a"
        " difference is called beyond the error where its 95% interval leaves out 0.",
    )


def baselines_of(groups: Sequence[Group]) -> dict[str, float]:
    """What compressors need for the same windows."""
    found = [r["baselines"] for g in groups for r in g.results.values() if r.get("baselines")]
    names = ("gzip, by window", "xz, by window")
    return {name: found[0][name] for name in names if found and name in found[0]}


# Figures


@styled()
def dots_figure(series: Mapping[str, tuple[str, Mapping[str, Group]]]) -> Figure:
    """Bits per byte and probe of each arm, a row each; `series` are colours and groups by row.

    Filled marks are exact, hollow ones bounds, crosses no likelihood.
    """
    rows = list(dict.fromkeys(row for _, found in series.values() for row in found))
    figure, both = panels(2, height=1.3 + 0.24 * len(rows), sharey=True)
    for axes, measure in zip(both, (BITS, PROBE), strict=True):
        scale = 100 if measure is PROBE else 1
        for order, (colour, found) in enumerate(series.values()):
            nudge = 0.17 * (order - (len(series) - 1) / 2)
            for row, group in found.items():
                if (value := group.mean(measure.key)) is None:
                    continue
                axes.errorbar(
                    [scale * value],
                    [rows.index(row) + nudge],
                    xerr=[scale * (group.error(measure) or 0.0)],
                    **_mark(group, measure, colour, MARKERS[order]),
                )
        axes.grid(axis="y", visible=False)
    left, right = both
    left.set_yticks(range(len(rows)), rows)
    left.set_ylim(len(rows) - 0.4, -0.6)
    left.set(title="Held-out text", xlabel="bits per byte")
    right.set(title="Roles found by the probe", xlabel="% of tokens")
    handles = [
        Line2D([], [], color=colour, marker=MARKERS[order], linestyle="none", label=label)
        for order, (label, (colour, _)) in enumerate(series.items())
    ]
    kinds = {g.kind for _, found in series.values() for g in found.values()}
    figure.legend(
        handles=[*(handles if len(series) > 1 else []), *_kind_handles(kinds)],
        loc="outside upper left",
        ncols=5,
    )
    return figure


@styled()
def curves_figure(
    lines: Mapping[str, tuple[str, Mapping[float, Group]]],
    xlabel: str,
    baselines: Mapping[str, float],
) -> Figure:
    """Bits per byte and probe against a number; `lines` are colours and groups by it."""
    figure, both = panels(2, height=3.2)
    for axes, measure in zip(both, (BITS, PROBE), strict=True):
        scale = 100 if measure is PROBE else 1
        for order, (colour, found) in enumerate(lines.values()):
            there = {x: g for x, g in found.items() if g.mean(measure.key) is not None}
            axes.plot(
                list(there), [scale * (g.mean(measure.key) or 0.0) for g in there.values()],
                color=colour, zorder=1,
            )  # fmt: skip
            for x, group in there.items():
                axes.errorbar(
                    [x],
                    [scale * (group.mean(measure.key) or 0.0)],
                    [scale * (group.error(measure) or 0.0)],
                    **_mark(group, measure, colour, MARKERS[order]),
                )
        axes.set_xlabel(xlabel)
    left, right = both
    left.set(title="Held-out text", ylabel="bits per byte")
    right.set(title="Roles found by the probe", ylabel="% of tokens")
    reference_lines(left, baselines)
    handles = [
        Line2D([], [], color=colour, marker=MARKERS[order], label=label)
        for order, (label, (colour, _)) in enumerate(lines.items())
    ]
    kinds = {g.kind for _, found in lines.values() for g in found.values()}
    figure.legend(
        handles=[*(handles if len(lines) > 1 else []), *_kind_handles(kinds)],
        loc="outside upper left",
        ncols=5,
    )
    return figure


@styled()
def shares_figure(lines: Mapping[str, tuple[str, Group]]) -> Figure | None:
    """Error of the hidden pieces against the share hidden; None if nobody was asked."""
    figure, (axes,) = panels(1, height=3.4)
    handles = []
    for order, (label, (colour, group)) in enumerate(lines.items()):
        found = [r["error_by_share"] for r in group.results.values() if r.get("error_by_share")]
        if not found:
            continue
        shares = sorted(found[0], key=float)
        values_SR = np.array([[r[share]["bits_per_byte"] for r in found] for share in shares])
        seeds_S = values_SR.std(axis=1, ddof=1) / math.sqrt(len(found)) if found[1:] else 0.0
        masks_S = [np.mean([r[share]["mc_se"] or 0.0 for r in found]) for share in shares]
        look: dict[str, Any] = {
            "color": colour,
            "marker": MARKERS[order % len(MARKERS)],
            "linestyle": "-" if order < len(MARKERS) else "--",
        }
        axes.errorbar(
            [100 * float(share) for share in shares],
            values_SR.mean(axis=1),
            np.hypot(seeds_S, masks_S),
            elinewidth=0.9,
            **look,
        )
        handles.append(Line2D([], [], label=label, **look))
    axes.set(
        xlabel="share of the row that is hidden (%)",
        ylabel="bits per byte of the hidden pieces",
    )
    axes.set_xlim(0, 102)
    figure.legend(handles=handles, loc="outside right upper")
    return figure if handles else None


def shares_section(lines: Mapping[str, tuple[str, Group]], text: str) -> Section | None:
    """The error at fixed shares hidden, if there is any."""
    figure = shares_figure(lines)
    if figure is None:
        return None
    caption = (
        "Bits per byte of the hidden pieces when a share of the row is hidden, means over"
        " seeds. The any-order bound is the mean of such a curve over all shares. Bars are one"
        " standard error: that over seeds and that of the masks drawn, together."
    )
    return Section(
        "The error at fixed shares hidden", (text, Plot("share_hidden", figure, caption))
    )


BARS = (
    "Bars are one standard error: that over seeds and that over held-out documents, together."
    " The documents are the same for all arms, so that differences are known better than the"
    " bars say; the table has them paired."
)
"""What captions of figures say of their bars."""


def _mark(group: Group, measure: Measure, colour: str, marker: str) -> dict[str, Any]:
    hollow = measure is BITS and group.kind == "bound"
    crossed = measure is BITS and group.kind not in ("exact", "bound")
    return {
        "color": colour,
        "marker": "x" if crossed else marker,
        "markersize": 5,
        "markerfacecolor": PAPER if hollow else colour,
        "markeredgewidth": 1.2,
        "elinewidth": 1,
        "linestyle": "none",
    }


def _kind_handles(kinds: set[str]) -> list[Line2D]:
    looks = {"exact": MUTED, "bound": PAPER}
    names = {"exact": "exact", "bound": "upper bound"}
    return [
        Line2D(
            [],
            [],
            color=MUTED,
            linestyle="none",
            marker="o" if kind in looks else "x",
            markerfacecolor=looks.get(kind, MUTED),
            label=names.get(kind, kind),
        )
        for kind in sorted(kinds)
    ]
