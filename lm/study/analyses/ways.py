"""One model in several numbers: what each scorer says of the same documents, paired."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from matplotlib.figure import Figure

from lm.distributed import hosts
from lm.evaluate.effort import Effort
from lm.evaluate.scoring import score_by, valid
from lm.evaluate.tasks.metrics import Estimate, difference, estimate, ratio
from lm.output.files import write_whole
from lm.results import Kind
from lm.results.record import Record
from lm.study.grid import StudyRun, Variant, variant_of
from lm.study.report.figures import MUTED, panels, styled
from lm.study.report.values import Column, Table
from lm.train.load import load_run

FILE = "ways.json"
"""Where the numbers are kept, beside the runs."""


class ScoredBy(Record):
    """What one scorer says of a run, document by document."""

    run: str
    scorer: str
    kind: Kind
    bits: tuple[float, ...]
    """Of each document, its layout among them."""
    bytes: tuple[int, ...]


BitsAndBytes = Mapping[tuple[str, str], np.ndarray]
"""By variant and scorer, bits and bytes of each document, float64[seeds, documents, 2]."""


def ask_ways(
    cells: Sequence[StudyRun], scorers: Sequence[str], effort: Effort, directory: Path
) -> None:
    """Every finished run is scored by those of these scorers that are valid for it.

    All of the same windows: the effort's rows are those of every scorer.
    """
    found = []
    for cell in cells:
        if cell.result is None:
            continue
        trained = load_run(cell.directory)
        fits = valid(trained.run, effort)
        for name in scorers:
            if name not in fits:
                continue
            score = score_by(trained, fits[name], effort)
            found.append(
                ScoredBy(
                    run=cell.name,
                    scorer=name,
                    kind=score.kind,
                    bits=tuple((np.array(score.document_nats) / np.log(2)).tolist()),
                    bytes=score.document_bytes,
                )
            )
    if hosts.is_first():
        write_whole(directory / FILE, msgspec.json.encode(found).decode())


def read_ways(
    cells: Sequence[StudyRun], directory: Path
) -> tuple[BitsAndBytes, dict[str, Kind]]:
    """What was kept of the finished runs, seeds together, and what each scorer's number is."""
    file = directory / FILE
    if not file.exists():
        return {}, {}
    kept = msgspec.json.decode(file.read_bytes(), type=list[ScoredBy])
    variants = {cell.name: variant_of(cell) for cell in cells if cell.result is not None}
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    for way in kept:
        if way.run in variants:
            columns = np.stack([way.bits, way.bytes], axis=-1).astype(np.float64)
            found.setdefault((variants[way.run], way.scorer), []).append(columns)
    return {key: np.stack(of) for key, of in found.items()}, {w.scorer: w.kind for w in kept}


def bits_per_byte(columns_SDC: np.ndarray) -> Estimate:
    """Over all documents, with its interval over documents and seeds."""
    return estimate(ratio(0, 1), columns_SDC)


def lies_above(mine_SDC: np.ndarray, other_SDC: np.ndarray) -> Estimate:
    """How many bits per byte one number lies above another, paired by document."""
    return difference(ratio(0, 1), mine_SDC, other_SDC)


def in_bits(found: Estimate, sign: str = "") -> str:
    """A number with its interval.

    >>> in_bits(Estimate(value=1.4832, low=1.4, high=1.55))
    '1.483 (1.400 to 1.550)'
    >>> in_bits(Estimate(value=-0.01, low=-0.02, high=0.0), "+")
    '−0.010 (−0.020 to +0.000)'
    """
    value, low, high = (f"{each:{sign}.3f}" for each in found.values())
    return f"{value} ({low} to {high})".replace("-", "−")


def how_told(found: Estimate) -> str:
    """Whether a difference is above 0, below it, or neither beyond its interval.

    >>> [how_told(Estimate(value=(low + 1) / 2, low=low, high=1)) for low in (0.5, -0.5)]
    ['shown', 'not told']
    """
    return "shown" if found.low > 0 else "contradicted" if found.high < 0 else "not told"


def ways_table(
    ways: BitsAndBytes, kinds: Mapping[str, Kind], variants: Mapping[str, Variant], exact: str
) -> Table:
    """A row a number: what it is, its size, and how far it lies above an exact model's."""
    reference = next((of for (name, _), of in ways.items() if name == exact), None)
    rows = [
        {
            "model": variants[variant].label,
            "scorer": scorer.replace("_", "-"),
            "kind": kinds[scorer],
            "bits": in_bits(bits_per_byte(of)),
            "above": in_bits(lies_above(of, reference), "+")
            if reference is not None and variant != exact
            else None,
            "seeds": len(of),
        }
        for (variant, scorer), of in ways.items()
    ]
    titles = {
        "model": "model",
        "scorer": "scorer",
        "kind": "which is",
        "bits": "bits per byte",
        "above": f"above {variants[exact].name}",
        "seeds": "seeds",
    }
    caption = (
        "With 95% intervals over documents and seeds; differences are paired by both. All are"
        " of the same windows, with what documents' ends cost."
    )
    return Table(tuple(Column(key, title) for key, title in titles.items()), rows, caption)


@styled()
def ways_figure(ways: BitsAndBytes, variants: Mapping[str, Variant]) -> Figure:
    """Each number with its interval, a row each; hollow where it is no likelihood."""
    figure, (axes,) = panels(1, height=0.9 + 0.3 * len(ways))
    names = []
    for row, ((variant, scorer), of) in enumerate(ways.items()):
        found = bits_per_byte(of)
        colour = variants[variant].colour
        axes.errorbar(
            [found.value],
            [row],
            xerr=[[max(0.0, found.value - found.low)], [max(0.0, found.high - found.value)]],
            color=colour,
            marker="o",
            markerfacecolor="none" if scorer.startswith("pseudo") else colour,
            elinewidth=1,
        )
        names.append(f"{variants[variant].label}, {scorer.replace('_', '-')}")
        if scorer == "chain_rule":
            axes.axvline(found.value, color=MUTED, linewidth=0.8, linestyle=(0, (4, 2.5)))
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel("bits per byte")
    return figure
