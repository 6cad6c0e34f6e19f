"""Runs that differ in the seed alone: means, and differences with their errors."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import scipy.stats

from lm.evaluate.bits import DocumentSums, sums_se
from lm.objectives import Masked, Objective
from lm.output.numbers import decimals, percent
from lm.run import Run
from lm.study.grid import StudyRun, Variant, parameters, size_text, variant_of
from lm.study.report.values import Row


class Measure(NamedTuple):
    """A number of a result, and where its sums by document are."""

    key: str
    by_document: Callable[[Row], DocumentSums | None]
    better: int
    """-1 if less is better."""
    show: Callable[[float], str]


def _bits(result: Row) -> DocumentSums | None:
    nats, sizes = result.get("document_nats"), result.get("document_bytes")
    return ([each / math.log(2) for each in nats], sizes) if nats and sizes else None


def _right(result: Row) -> DocumentSums | None:
    probe = result.get("probe")
    return (probe["document_right"], probe["document_tokens"]) if probe else None


BITS = Measure("bits_per_byte", _bits, -1, decimals)
PROBE = Measure("probe_accuracy", _right, +1, percent)


class Group(NamedTuple):
    """The runs that differ in the seed alone."""

    name: str
    """That of its runs, without the seed."""
    variant: Variant
    size: int
    budget: str
    """The part of the name that says what was held equal: d200k, f3.1e11."""
    cells: tuple[StudyRun, ...]

    @property
    def run(self) -> Run:
        """That of the first seed."""
        return self.cells[0].run

    @property
    def objective(self) -> Objective:
        """What it is trained for."""
        return self.variant.objective

    @property
    def rate(self) -> float:
        """The fraction that is masked, where the objective masks one."""
        assert isinstance(self.objective, Masked) and isinstance(self.objective.rate, float)
        return self.objective.rate

    @property
    def tokens(self) -> int:
        """The budget that its runs were given."""
        return self.run.tokens

    @property
    def unique(self) -> int:
        """How many of these are different, where that is limited."""
        return self.run.data.unique or self.tokens

    @property
    def epochs(self) -> int:
        """How often those are read."""
        return round(self.tokens / self.unique)

    @property
    def label(self) -> str:
        """Variant and size, as legends and columns have it."""
        return f"{self.variant.label}, {size_text(self.size)}"

    @property
    def results(self) -> dict[int, Row]:
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

    def score(self, scorer: str) -> float | None:
        """The bits per byte that a scorer finds, as a mean over seeds; None if not asked."""
        scores = [r["scores"][scorer] for r in self.results.values() if scorer in r["scores"]]
        return float(np.mean([s["bits_per_byte"] for s in scores])) if scores else None

    def error_by_fraction(self) -> dict[float, float]:
        """Bits per byte of the masked tokens by fraction masked, as means over seeds."""
        curves = [
            r["error_by_fraction"] for r in self.results.values() if r.get("error_by_fraction")
        ]
        return {
            float(fraction): float(
                np.mean([curve[fraction]["bits_per_byte"] for curve in curves])
            )
            for fraction in (curves[0] if curves else ())
        }

    def seeds_se(self, key: str) -> float | None:
        """The standard error of the mean over seeds; None for one seed."""
        values = list(self.values(key).values())
        return float(np.std(values, ddof=1)) / math.sqrt(len(values)) if values[1:] else None

    def text_se(self, measure: Measure) -> float | None:
        """The standard error over documents of the mean over seeds, who read the same text."""
        return sums_se(_sums(self, self.results, measure))

    def error(self, measure: Measure) -> float | None:
        """Both errors together: of seeds and of documents."""
        return _both(self.seeds_se(measure.key), self.text_se(measure))


def groups_of(cells: Sequence[StudyRun], variants: Mapping[str, Variant]) -> dict[str, Group]:
    """Groups with a finished run by name, in the order of their first runs."""
    found: dict[Run, list[StudyRun]] = {}
    for cell in cells:
        found.setdefault(msgspec.structs.replace(cell.run, seed=0), []).append(cell)
    groups = {}
    for run, members in found.items():
        name = members[0].name.rpartition("-")[0]
        if any(cell.result for cell in members):
            groups[name] = Group(
                name,
                variants[variant_of(members[0])],
                parameters(run.model),
                name.rpartition("-")[2],
                tuple(members),
            )
    return groups


def results_of(cells: Sequence[StudyRun]) -> list[Row]:
    """The results of those that are finished."""
    return [cell.result for cell in cells if cell.result is not None]


def of_variant(groups: Iterable[Group], variant: Variant) -> list[Group]:
    """A variant's groups."""
    return [group for group in groups if group.variant == variant]


def all_results(groups: Iterable[Group]) -> list[Row]:
    """The results of all seeds."""
    return [result for group in groups for result in group.results.values()]


def by_size(groups: Sequence[Group]) -> dict[int, list[Group]]:
    """The groups of each size, ascending."""
    sizes = sorted({group.size for group in groups})
    return {size: [group for group in groups if group.size == size] for size in sizes}


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

    Two or three seeds alone say little of a spread, so the one that is left when variants and
    seeds have had their means taken out is pooled over all groups (a randomized block design,
    Fisher 1935); with two groups it is that of the paired differences. Student's t with its
    degrees of freedom makes the interval. Draws of masks differ between documents, so that
    their error is in that over documents.
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
        text = sums_se(*(_sums(g, both, measure) for g in (group, reference)))
        parts = [] if seeds is None else [float(scipy.stats.t.ppf(0.975, freedom)) * seeds]
        parts += [] if text is None else [1.96 * text]
        found[name] = Gap(value, seeds, text, math.hypot(*parts) if parts else math.inf)
    return found


def _spread(groups: Sequence[Group], measure: Measure) -> tuple[float | None, int]:
    """Deviation of a run from what its variant and its seed explain; degrees of freedom."""
    # Groups that have fewer seeds than the first say nothing of it, and are left out.
    values = [group.values(measure.key) for group in groups]
    common = sorted(values[0])
    values = [by_seed for by_seed in values if values[0].keys() <= by_seed.keys()]
    freedom = (len(values) - 1) * (len(common) - 1)
    if freedom < 1:
        return None, 0
    table_GS = np.array([[by_seed[seed] for seed in common] for by_seed in values])
    rest_GS = table_GS - table_GS.mean(axis=0, keepdims=True)
    rest_GS = rest_GS - rest_GS.mean(axis=1, keepdims=True)
    return math.sqrt(float((rest_GS**2).sum()) / freedom), freedom


def _sums(group: Group, seeds: Iterable[int], measure: Measure) -> list[DocumentSums]:
    found = (measure.by_document(group.results[seed]) for seed in seeds)
    return [sums for sums in found if sums is not None]


def _both(seeds: float | None, text: float | None) -> float | None:
    known = [error for error in (seeds, text) if error is not None]
    return math.hypot(*known) if known else None


def best_of(groups: Sequence[Group], measure: Measure) -> tuple[Group, list[Group]] | None:
    """The best group and those that the errors do not tell from it; None if nothing to rank."""
    known = [group for group in groups if group.mean(measure.key) is not None]
    if not known:
        return None
    best = max(known, key=lambda group: measure.better * (group.mean(measure.key) or 0.0))
    found = gaps(known, best, measure)
    return best, [g for g in known if g.name in found and not found[g.name].beyond]
