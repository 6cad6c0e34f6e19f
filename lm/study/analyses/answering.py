"""How models answer held-out questions, and how they do on text: scored, kept, drawn."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from matplotlib.figure import Figure

from lm.data import LOSS
from lm.distributed import hosts
from lm.evaluate.effort import Effort
from lm.evaluate.scoring import score_by, valid
from lm.evaluate.tasks.metrics import Estimate, Metric, difference, estimate, mean, ratio
from lm.objectives.pairs import CHOICE
from lm.output.files import write_whole
from lm.output.numbers import count, decimals, percent
from lm.study.grid import StudyRun, Variant, variant_of
from lm.study.report.figures import panels, styled
from lm.study.report.values import Column, Table
from lm.train.load import ModelWithText, load_run
from lm.train.reference import token_log_p

FILE = "answering.json"
"""Where it is kept, beside the runs."""


class Answering(NamedTuple):
    """What a run makes of the same held-out pairs of answers, and of the same held-out text."""

    run: str
    answers: tuple[tuple[float, ...], ...]
    """A row a pair: bits and bytes of the chosen answer, 1 where it is the likelier one, and by
    how many bits it is."""
    text: tuple[tuple[float, ...], ...]
    """A row a document: its bits and bytes."""


class StageMeasure(NamedTuple):
    """What is told of a run: its name, which rows of it, how, and how it is shown."""

    title: str
    part: str
    metric: Metric
    unit: str
    factor: float = 1.0


QUANTITIES = {
    "answers": StageMeasure("Held-out answers", "answers", ratio(0, 1), "bits per byte"),
    "gained": StageMeasure("Chosen gained more", "answers", mean(3), "% of pairs", 100),
    "likelier": StageMeasure("Chosen is likelier", "answers", mean(2), "% of pairs", 100),
    "text": StageMeasure("Held-out text", "text", ratio(0, 1), "bits per byte"),
}


def score_answering(
    cells: Sequence[StudyRun], *, pairs: str, text: str, effort: Effort, directory: Path
) -> None:
    """Scores every finished run on the held-out pairs of one run, and on the text of another.

    `pairs` and `text` are variants: each run is asked by the first run of theirs, whose rows,
    tokenizer and program all share, as all are of one model.
    """
    done = [cell for cell in cells if cell.result is not None]
    first = {variant_of(cell): cell for cell in reversed(done)}
    if pairs not in first or text not in first:
        return
    asks_pairs, asks_text = (load_run(first[name].directory) for name in (pairs, text))
    found = []
    for cell in done:
        params = load_run(cell.directory).params
        found.append(
            Answering(
                cell.name,
                tuple(map(tuple, pair_scores(replace(asks_pairs, params=params)).tolist())),
                tuple(map(tuple, _text_scores(replace(asks_text, params=params), effort))),
            )
        )
    if hosts.is_first():
        write_whole(directory / FILE, msgspec.json.encode(found).decode())


def read_answering(directory: Path) -> list[Answering]:
    """What was kept; nothing, where nothing was scored."""
    file = directory / FILE
    return msgspec.json.decode(file.read_bytes(), type=list[Answering]) if file.exists() else []


def pair_scores(trained: ModelWithText) -> np.ndarray:
    """What is found of each held-out pair that has room in a row, float64[pairs, 4].

    These are the bits and bytes of the answer that was chosen, 1 where it is likelier than the
    other (a half where it is as likely), and by how many bits it is. The token that ends an
    answer counts among its bits, and has no bytes.
    """
    split = trained.tokens.validation
    found = token_log_p(trained.run, {"": split}, trained.program, trained.params)
    log_p = found[""]
    tokens = split.read([0], split.size)[0]
    channels = {name: x[0] for name, x in split.read_channels([0], split.size).items()}
    rows = []
    for start, end in zip(split.offsets, split.offsets[1:], strict=False):
        if end - start > trained.run.data.length:
            continue
        answer = channels[LOSS.name][start:end] > 0
        sides = [answer & (channels[CHOICE][start:end] == side) for side in (0, 1)]
        chosen, rejected = (
            -float(log_p[start:end][side].sum(dtype=np.float64)) / math.log(2) for side in sides
        )
        size = len(split.tokenizer.decode(tokens[start:end][sides[0]]).encode())
        rows.append((chosen, size, _won(rejected - chosen), rejected - chosen))
    return np.array(rows, np.float64)


def _won(above: Any) -> Any:
    """1 for what is above 0, a half for 0."""
    return (np.sign(above) + 1) / 2


def _text_scores(trained: ModelWithText, effort: Effort) -> list[tuple[float, float]]:
    (scorer, *_) = valid(trained.run, effort).values()
    score = score_by(trained, scorer, effort)
    pairs = zip(score.document_nats, score.document_bytes, strict=True)
    return [(nats / math.log(2), float(size)) for nats, size in pairs]


def columns_of(
    found: Sequence[Answering], variants: Mapping[str, Variant], reference: str
) -> dict[str, dict[str, np.ndarray]]:
    """By quantity and variant the rows of its runs, float64[seeds, items, columns].

    Of pairs the last column is 1 where the chosen answer gained more than the rejected one
    since the reference of the same seed, and a half where it gained as much.
    """
    by_variant: dict[str, list[Answering]] = {}
    for each in found:
        by_variant.setdefault(each.run.split("-")[0], []).append(each)
    parts: dict[str, dict[str, np.ndarray]] = {
        part: {
            variant: np.array([getattr(each, part) for each in by_variant[variant]])
            for variant in variants
            if variant in by_variant
        }
        for part in ("answers", "text")
    }
    if reference in by_variant:
        began_SI = parts["answers"][reference][..., 3].copy()
        for of in parts["answers"].values():
            of[..., 3] = _won(of[..., 3] - began_SI)
    return {name: parts[quantity.part] for name, quantity in QUANTITIES.items()}


def estimates(
    columns: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, dict[str, Estimate]]:
    """The quantities of each variant, with intervals over items and seeds."""
    return {
        name: {variant: estimate(QUANTITIES[name].metric, x) for variant, x in of.items()}
        for name, of in columns.items()
    }


def changes(
    columns: Mapping[str, Mapping[str, np.ndarray]], reference: str
) -> dict[str, dict[str, Estimate]]:
    """How far each variant lies above another, paired by item and seed."""
    return {
        name: {
            variant: difference(QUANTITIES[name].metric, x, of[reference])
            for variant, x in of.items()
            if reference in of and variant != reference
        }
        for name, of in columns.items()
    }


def answering_table(
    cells: Sequence[StudyRun],
    found: Mapping[str, Mapping[str, Estimate]],
    variants: Mapping[str, Variant],
) -> Table:
    """A row a variant: each quantity and its interval, and what its last run was tuned on."""
    rows = []
    for key, variant in variants.items():
        tuned = next((c.result for c in cells if variant_of(c) == key and c.result), {})
        row = {"who": variant.label, "tokens": tuned.get("tokens")}
        for name, of in found.items():
            if key in of:
                show = percent if QUANTITIES[name].factor == 100 else decimals
                value, low, high = map(show, of[key].values())
                row[name] = f"{value} ({low} to {high})"
        rows.append(row)
    columns = [Column("who", "who"), Column("tokens", "tokens of its last run", count)]
    for name, quantity in QUANTITIES.items():
        unit = "" if quantity.factor == 100 else f", {quantity.unit}"
        columns.append(Column(name, quantity.title.lower() + unit))
    return Table(tuple(columns), rows, "With 95% intervals.")


@styled()
def answering_figure(
    found: Mapping[str, Mapping[str, Estimate]], variants: Mapping[str, Variant]
) -> Figure:
    """A panel a quantity, a row a variant, with 95% intervals."""
    figure, axes = panels(len(QUANTITIES), height=1.3 + 0.28 * len(variants), sharey=True)
    for panel, (name, quantity) in zip(axes, QUANTITIES.items(), strict=True):
        for place, (key, variant) in enumerate(variants.items()):
            if key not in found[name]:
                continue
            value, low, high = (quantity.factor * x for x in found[name][key].values())
            panel.errorbar(
                value,
                place,
                xerr=[[max(value - low, 0)], [max(high - value, 0)]],
                color=variant.colour,
                marker="o",
            )
        panel.set(title=quantity.title, xlabel=quantity.unit)
    axes[0].set_yticks(range(len(variants)), [each.label for each in variants.values()])
    axes[0].set_ylim(len(variants) - 0.5, -0.5)
    return figure
