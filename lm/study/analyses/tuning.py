"""How tuned models do at labelled tasks: what was chosen is scored once, kept, drawn."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lm.data import Corpus, Digest
from lm.distributed import hosts
from lm.evaluate.labels import label_scores
from lm.evaluate.probe.documents import probe_labels
from lm.evaluate.tasks import metrics
from lm.evaluate.tasks.metrics import Estimate
from lm.output.files import write_whole
from lm.output.numbers import count, decimals, power
from lm.results.record import Record
from lm.study.checks import RunsByGroup
from lm.study.grid import StudyRun, Variant, variant_of
from lm.study.power import smallest_effect
from lm.study.report.figures import MARKERS, MUTED, panels, styled
from lm.study.report.values import Column, Table
from lm.study.sentences import together
from lm.study.trials import Chosen, EqualTrials, Forecast, TunedTask, choices, compared_rows
from lm.train.load import load_model

SCORE, PROBES, FORECASTS = "dev.json", "probes", "forecasts.json"
"""Where the score of a chosen run is kept, in its directory; those of probes, and forecasts,
beside all."""
PROBE = "probe"
"""The way of a probe: nothing of the model is tuned."""


class ItemScores(Record):
    """What was said of the items of a task's dev file."""

    digest: str
    """Of the file's documents."""
    columns: tuple[tuple[float, ...], ...]
    """As `lm.evaluate.labels.LabelScores` has them."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """How a variant did at a task in a way, over the seeds of what was chosen."""

    variant: Variant
    task: TunedTask
    way: str
    columns_SIK: np.ndarray

    @cached_property
    def estimate(self) -> Estimate:
        """The mean of the metric over seeds, with its interval over seeds and items."""
        return metrics.estimate(self.task.metric, self.columns_SIK)

    def above(self, other: "Outcome") -> Estimate:
        """How far it lies above another: the same items, and the same seeds, are paired."""
        return metrics.difference(self.task.metric, self.columns_SIK, other.columns_SIK)


def announce(equal: EqualTrials, directory: Path) -> list[str]:
    """What the dev files can show, a line a task; kept, as it is said before training."""
    found = equal.forecasts()
    write_whole(directory / FORECASTS, msgspec.json.encode(found).decode())
    return equal.announced(found)


def read_forecasts(directory: Path) -> dict[str, Forecast]:
    """What `announce` kept; nothing, where it was not called."""
    path = directory / FORECASTS
    if not path.exists():
        return {}
    return msgspec.json.decode(path.read_bytes(), type=dict[str, Forecast])


def score_choices(equal: EqualTrials, cells: Sequence[StudyRun]) -> None:
    """Asks the runs that were chosen, and no other, for the labels of the dev files.

    Checkpoints of the others are removed: their results say all that is asked of them.
    """
    digests = {name: digest_of(task.labelled.scored) for name, task in equal.tasks.items()}
    for choice in choices(equal, cells):
        corpus = equal.tasks[choice.task].labelled.scored
        for cell in choice.cells:
            path, digest = cell.directory / SCORE, digests[choice.task]
            if _kept(path, digest) is None:
                scores = label_scores(load_model(cell.directory), corpus)
                _keep(path, digest, scores.columns)
        if hosts.is_first():
            for cell in choice.others:
                shutil.rmtree(cell.directory / "checkpoints", ignore_errors=True)


def probe_models(
    equal: EqualTrials,
    models: Mapping[str, Path],
    directory: Path,
    *,
    items: int,
    tasks: Sequence[str] = (),
) -> None:
    """Probes models by name, tuned in nothing, on the tasks that are named, or all.

    The held-out part of a train file is that of the trials, and rows are as long.
    """
    for name in tasks or equal.tasks:
        labelled = equal.tasks[name].labelled
        digest = digest_of(labelled.scored)
        for model, folder in models.items():
            path = _probe_of(directory, model, name)
            if _kept(path, digest) is None:
                found = probe_labels(
                    load_model(folder),
                    labelled,
                    items=items,
                    length=equal.data.length,
                    validation=equal.data.validation,
                )
                _keep(path, digest, found.columns)


def _probe_of(directory: Path, model: str, task: str) -> Path:
    return directory / PROBES / f"{model}-{task}.json"


def outcomes(
    equal: EqualTrials,
    cells: Sequence[StudyRun],
    directory: Path,
    others: Mapping[str, Variant] = {},
) -> list[Outcome]:
    """All that was scored: probes of what is tuned and of others, then what was tuned."""
    found = []
    variants = {name: tuned.variant for name, tuned in equal.tuned.items()} | dict(others)
    for name, task in equal.tasks.items():
        for key, variant in variants.items():
            if (path := _probe_of(directory, key, name)).exists():
                found.append(Outcome(variant, task, PROBE, _stacked([path])))
    for choice in choices(equal, cells):
        paths = [cell.directory / SCORE for cell in choice.cells]
        if all(path.exists() for path in paths):
            variant, task = variants[choice.variant], equal.tasks[choice.task]
            found.append(Outcome(variant, task, choice.way, _stacked(paths)))
    return found


def digest_of(corpus: Corpus) -> str:
    """The digest of a corpus's documents, with their labels."""
    digest = Digest()
    for document in corpus.read():
        digest.add(document.id, document.content)
    return digest.hex()


def _stacked(paths: Sequence[Path]) -> np.ndarray:
    found = [msgspec.json.decode(path.read_bytes(), type=ItemScores) for path in paths]
    return np.array([each.columns for each in found], np.float64)


def _kept(path: Path, digest: str) -> ItemScores | None:
    """What is there already, if it is of the same items."""
    if not path.exists():
        return None
    found = msgspec.json.decode(path.read_bytes(), type=ItemScores)
    return found if found.digest == digest else None


def _keep(path: Path, digest: str, columns_IK: np.ndarray) -> None:
    if hosts.is_first():
        path.parent.mkdir(exist_ok=True)
        found = ItemScores(digest=digest, columns=tuple(map(tuple, columns_IK.tolist())))
        write_whole(path, msgspec.json.encode(found).decode())


def tuned_table(equal: EqualTrials, found: Sequence[Outcome]) -> Table:
    """A row a task and variant, a column a way: the metric with its interval."""
    ways = ways_of(equal)
    rows: dict[tuple[TunedTask, Variant], dict[str, str]] = {
        (task, variant): {
            "task": task.title,
            "metric": task.labelled.headline,
            "variant": variant.label,
        }
        for task in equal.tasks.values()
        for variant in dict.fromkeys(each.variant for each in found)
    }
    for each in found:
        rows[each.task, each.variant][each.way] = interval_text(each.estimate)
    columns = (
        Column("task", "task"),
        Column("metric", "metric"),
        Column("variant", "variant"),
        *(Column(way, label) for way, label in ways.items()),
    )
    caption = (
        "In points, with 95% intervals: a bootstrap over dev items and seeds together. Of a"
        " probe's one seed, items alone are drawn."
    )
    scored = [row for row in rows.values() if row.keys() & ways.keys()]
    return Table(columns, scored, caption)


def ways_of(equal: EqualTrials) -> dict[str, str]:
    """What each way is called, the probe first."""
    return {PROBE: "linear probe"} | {name: way.label for name, way in equal.ways.items()}


def gaps_table(
    equal: EqualTrials,
    found: Sequence[Outcome],
    reference: Variant,
    forecasts: Mapping[str, Forecast],
) -> Table:
    """How far each variant lies above a reference, beside what the set can show at all."""
    rows = []
    names = {task: name for name, task in equal.tasks.items()}
    for each, gap in gaps_to(found, reference):
        seen = (gap.high - gap.low) / (2 * 1.96)
        forecast = forecasts.get(names[each.task])
        rows.append(
            {
                "task": each.task.title,
                "way": ways_of(equal)[each.way],
                "variant": each.variant.label,
                "gap": interval_text(gap, "+") + ("*" if beyond(gap) else ""),
                "seen": 100 * seen if seen else None,
                "planned": forecast and 100 * forecast.se,
                "smallest": 100 * smallest_effect(seen) if seen else None,
            }
        )
    columns = (
        Column("task", "task"),
        Column("way", "tuned"),
        Column("variant", "variant"),
        Column("gap", f"above {reference.name}"),
        Column("planned", "error, forecast", _points),
        Column("seen", "error, found", _points),
        Column("smallest", "smallest effect", _points),
    )
    caption = (
        "Differences in points, with 95% intervals: the same items and the same seeds (data"
        " order and first values of the head) are paired, and both are drawn. An asterisk: the"
        " interval leaves out 0; of so many differences one in twenty does by chance. “Error”"
        " is the standard error of the difference, as it was forecast before the run and as the"
        " interval has it (none, where models say the same of all items); “smallest effect” is"
        " 2.8 of those found, the difference that is found in 80% of such studies at 5%"
        " two-sided. With few seeds the error over seeds is itself rough."
    )
    return Table(columns, rows, caption)


def gaps_to(found: Sequence[Outcome], reference: Variant) -> list[tuple[Outcome, Estimate]]:
    """How far each outcome lies above the reference's at the same task, in the same way."""
    theirs = {(o.task.title, o.way): o for o in found if o.variant == reference}
    return [
        (each, each.above(other))
        for each in found
        if each.variant != reference and (other := theirs.get((each.task.title, each.way)))
    ]


def beyond(gap: Estimate) -> bool:
    """Whether the interval of a difference leaves out 0."""
    return gap.low > 0 or gap.high < 0


def choices_table(equal: EqualTrials, made: Sequence[Chosen]) -> Table:
    """Which rates were tried, what each found on the validation split, and what was chosen."""
    rows = []
    for choice in made:
        first = choice.cells[0].result or {}
        rows.append(
            {
                "task": equal.tasks[choice.task].title,
                "way": equal.ways[choice.way].label,
                "variant": equal.tuned[choice.variant].variant.label,
                "trials": len(choice.losses) * len(choice.cells),
                "tokens": first.get("tokens"),
                "epochs": (first.get("tokens") or 0) / (first.get("unique_tokens") or 1),
                "trained": first.get("params_trainable") or first.get("params_total"),
                "losses": ", ".join(
                    f"{rate:g}: {decimals(loss)}{'*' if rate == choice.rate else ''}"
                    for rate, loss in choice.losses.items()
                ),
            }
        )
    columns = (
        Column("task", "task"),
        Column("way", "tuned"),
        Column("variant", "variant"),
        Column("trials", "trials"),
        Column("tokens", "tokens", count),
        Column("epochs", "epochs", lambda number: f"{number:.1f}"),
        Column("trained", "parameters", count),
        Column("losses", "validation loss by rate"),
    )
    caption = (
        "Every variant has the same trials: the rates of a way times the seeds, each with the"
        " whole budget, none stopped early. An asterisk: the rate of least mean loss over seeds"
        " on the held-out part of the train file, which alone decided."
    )
    return Table(columns, rows, caption)


def edge_warnings(equal: EqualTrials, made: Sequence[Chosen]) -> list[str]:
    """Where the best of the rates that were tried is the first or the last: beyond it may be
    a better one.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for choice in made:
        rates = list(choice.losses)
        for edge, rate in (("lowest", min(rates)), ("highest", max(rates))):
            if choice.rate == rate and len(rates) > 1:
                who = (
                    f"{equal.tuned[choice.variant].variant.label} on"
                    f" {equal.tasks[choice.task].title}"
                )
                found.setdefault((equal.ways[choice.way].label, edge), []).append(who)
    return [
        f"The best rate is the {edge} tried, and a better one may lie beyond it, of {way}:"
        f" {', '.join(who)}"
        for (way, edge), who in found.items()
    ]


def trained_table(cells: Sequence[StudyRun], variants: Mapping[str, Variant]) -> Table:
    """What was pre-trained: all that went into each variant, with what it started from."""
    rows, shown = [], ("bits_per_byte", "text_se", "kind")
    for cell in cells:
        variant = variants.get(variant_of(cell))
        tuned = not cell.run.objective.predictions
        if variant is None or tuned or cell.result is None:
            continue
        started = cell.result.get("start")
        begun = started.consumed if started is not None else None
        rows.append(
            {
                "variant": variant.label,
                "tokens": cell.result["tokens"] + (begun.tokens if begun else 0),
                "targets": cell.result["predicted_targets"] + (begun.targets if begun else 0),
                "flops": cell.result["flops"] + (begun.flops if begun else 0),
                **{name: cell.result.get(name) for name in shown},
            }
        )
    columns = (
        Column("variant", "trained as"),
        Column("tokens", "tokens", count),
        Column("targets", "predictions", count),
        Column("flops", "FLOPs", power),
        Column("bits_per_byte", "bits per byte ± text", decimals, error="text_se"),
        Column("kind", "which is"),
    )
    caption = (
        "What went into each model before it was tuned, with what it started from. Tokens are"
        " equal; predictions and FLOPs follow from the objective."
    )
    return Table(columns, rows, caption)


def equal_rows(equal: EqualTrials, cells: Sequence[StudyRun]) -> RunsByGroup:
    """Of the trials that are compared, the first of each task: what tables have room for."""
    first: dict[str, Mapping[str, StudyRun]] = {}
    for row, found in compared_rows(equal, cells).items():
        first.setdefault(row.partition(",")[0], found)
    return first


def told(equal: EqualTrials, found: Sequence[Outcome], way: str) -> str:
    """What each variant scores at each task in a way, in a sentence; "" if nothing is there."""
    parts = []
    for task in equal.tasks.values():
        here = [each for each in found if (each.task, each.way) == (task, way)]
        ranked = sorted(here, key=lambda each: -each.estimate.value)
        if ranked:
            names = [f"{o.variant.name} {points_text(o.estimate.value)}" for o in ranked]
            parts.append(f"at {task.title} ({task.labelled.headline}) {together(names)}")
    return "; ".join(parts)


@styled()
def tuning_figure(
    equal: EqualTrials, found: Sequence[Outcome], published: Sequence[Variant] = ()
) -> Figure:
    """The metric by way, a panel a task, with intervals; published models' probes as lines."""
    figure, axes = panels(len(equal.tasks), height=3.2)
    ways = ways_of(equal)
    variants = [tuned.variant for tuned in equal.tuned.values()]
    styles: list[Any] = ["--", ":", "-."]
    handles = []
    for order, variant in enumerate(variants):
        look: dict[str, Any] = {"color": variant.colour, "marker": MARKERS[order]}
        handles.append(Line2D([], [], linestyle="none", label=variant.label, **look))
        for panel, task in zip(axes, equal.tasks.values(), strict=True):
            for place, way in enumerate(ways):
                here = [o for o in found if (o.variant, o.task, o.way) == (variant, task, way)]
                for each in here:
                    at = place + 0.16 * (order - (len(variants) - 1) / 2)
                    value, low, high = (
                        100 * end
                        for end in (each.estimate.value, each.estimate.low, each.estimate.high)
                    )
                    bar = [[max(value - low, 0)], [max(high - value, 0)]]
                    panel.errorbar([at], [value], bar, elinewidth=1, **look)
    there = [variant for variant in published if any(o.variant == variant for o in found)]
    for style, variant in zip(styles, there, strict=False):
        line: dict[str, Any] = {"color": MUTED, "linestyle": style, "linewidth": 0.9}
        handles.append(Line2D([], [], label=f"{variant.label}, probe", **line))
        for panel, task in zip(axes, equal.tasks.values(), strict=True):
            for each in found:
                if (each.variant, each.task) == (variant, task):
                    panel.axhline(100 * each.estimate.value, **line)
    for panel, task in zip(axes, equal.tasks.values(), strict=True):
        panel.set_xticks(range(len(ways)), list(ways.values()), rotation=25, ha="right")
        panel.set_xlim(-0.5, len(ways) - 0.5)
        panel.set(title=task.title, ylabel=f"{task.labelled.headline} × 100")
    figure.legend(handles=handles, loc="outside upper left", ncols=4)
    return figure


def points_text(fraction: float, sign: str = "") -> str:
    """A number in points.

    >>> points_text(0.5), points_text(-0.012, "+")
    ('50.0', '−1.2')
    """
    return f"{100 * fraction:{sign}.1f}".replace("-", "−")


def interval_text(found: Estimate, sign: str = "") -> str:
    """A number in points and its interval.

    >>> interval_text(Estimate(value=0.5, low=0.4, high=0.6))
    '50.0 (40.0 to 60.0)'
    """
    value, low, high = (points_text(x, sign) for x in (found.value, found.low, found.high))
    return f"{value} ({low} to {high})"


def _points(number: float) -> str:
    return f"{number:.1f}"
