"""Models from anywhere on the same given text: their scores, kept in a file, and a table."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from lm.config import UserError
from lm.distributed import hosts
from lm.evaluate.bits import paired
from lm.evaluate.given_text import TextScore, score_text
from lm.output.files import write_whole
from lm.output.numbers import decimals
from lm.study.report.values import Column, Row, Table
from lm.train.load import load_model

ScoresByModel = dict[str, dict[str, TextScore] | str]
"""By model its scores, the headline first, or why it has none."""


def score_models(
    models: Mapping[str, Path], texts: Sequence[Path], *, length: int, file: Path
) -> None:
    """Scores models on the same files in rows of a length; keeps scores and refusals."""
    found: ScoresByModel = {}
    for label, path in models.items():
        try:
            found[label] = score_text(load_model(path), texts, length=length)
        except UserError as error:
            found[label] = str(error).replace(f"{path}: ", "")
    if hosts.is_first():
        write_whole(file, msgspec.json.encode(found).decode())


def read_scores(file: Path) -> tuple[dict[str, dict[str, TextScore]], dict[str, str]]:
    """The scores by model that `score_models` kept, and why other models have none."""
    found = msgspec.json.decode(file.read_bytes(), type=ScoresByModel) if file.exists() else {}
    scores = {label: of for label, of in found.items() if not isinstance(of, str)}
    return scores, {label: why for label, why in found.items() if isinstance(why, str)}


def models_table(scores: Mapping[str, Mapping[str, TextScore]]) -> Table:
    """A row a model and scorer, and how far each lies above the least of the headlines."""
    headlines = [next(iter(of.values())) for of in scores.values()]
    least = min(headlines, key=lambda score: score.bits_per_byte, default=None)
    rows = [
        {"model": label, "scorer": name.replace("_", " "), **_row(score, least)}
        for label, of in scores.items()
        for name, score in of.items()
    ]
    columns = (
        Column("model", "model"),
        Column("scorer", "scorer"),
        Column("kind", "which is"),
        Column("bits_per_byte", "bits per byte ± text", decimals, error="text_se"),
        Column("mc_se", "± masks", decimals),
        Column("above", "above the least", decimals, error="above_se"),
        Column("tokens", "tokens"),
        Column("bytes", "bytes"),
        Column("length", "window"),
        Column("before", "after"),
        Column("lossy", "lossy"),
    )
    caption = (
        "“± text” is the standard error over documents, “± masks” that of the masks drawn."
        " “Above the least” is paired by document. “Window” is the most tokens that are read"
        " at once, “after” the token that stands before them and is not scored. A lossy"
        " tokenizer tells less than the text: its number is of what it tells, by the bytes of"
        " the text as given."
    )
    return Table(columns, rows, caption)


def _row(score: TextScore, least: TextScore | None) -> Row:
    row = {**score.brief(), "before": score.prefix.token}
    if least is None or score == least or score.document_bytes != least.document_bytes:
        return row
    gap = paired(score, least)
    return row | {"above": gap.bits_per_byte, "above_se": gap.text_se}
