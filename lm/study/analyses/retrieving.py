"""How models find documents, before and after contrastive training, beside those that count."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from lm.evaluate.tasks.metrics import Estimate, difference, estimate, mean
from lm.evaluate.tasks.retrieval import MEASURES
from lm.study.analyses.on_tasks import Sitting
from lm.study.grid import Variant
from lm.study.report.figures import MUTED, panels, styled
from lm.study.report.values import Column, Table

SHOWN = {
    "ndcg_10": "nDCG@10",
    "ndcg_10_binary": "the same, binary",
    "recall_10": "recall@10",
    "recall_100": "recall@100",
    "mrr": "MRR",
}
"""Measures that a table shows."""
HEADLINE = "ndcg_10"
Findings = Mapping[str, np.ndarray]
"""By variant, what was measured of each query, float64[seeds, queries, measures]."""


def findings_of(answers: Sequence[Sitting]) -> dict[str, np.ndarray]:
    """What was found by each variant, seeds together; by those that are no runs, by name."""
    found: dict[str, list[np.ndarray]] = {}
    for answer in answers:
        name = answer.run.partition("-")[0] if answer.trained else answer.run
        found.setdefault(name, []).append(answer.result.array)
    return {name: np.concatenate(of) for name, of in found.items()}


def measured(columns_SIK: np.ndarray, measure: str = HEADLINE) -> Estimate:
    """The mean over queries and seeds, with its interval over both."""
    return estimate(mean(MEASURES.index(measure)), columns_SIK)


def lead_over(columns: Findings, mine: str, other: str) -> Estimate | None:
    """How far one lies above another in the headline, paired by query; None: one is absent."""
    if mine not in columns or other not in columns or mine == other:
        return None
    return difference(mean(MEASURES.index(HEADLINE)), columns[mine], columns[other])


def in_points(found: Estimate, sign: str = "") -> str:
    """A number with its interval, in points.

    >>> in_points(Estimate(value=0.3812, low=0.35, high=0.4112))
    '38.1 (35.0 to 41.1)'
    >>> in_points(Estimate(value=-0.01, low=-0.02, high=0.0), "+")
    '−1.0 (−2.0 to +0.0)'
    """
    value, low, high = (f"{100 * each:{sign}.1f}" for each in found.values())
    return f"{value} ({low} to {high})".replace("-", "−")


def retrieval_table(
    columns: Findings, variants: Mapping[str, Variant], starts: Mapping[str, str], words: str
) -> Table:
    """A row a variant: its measures, and how far it lies above its start and above words."""
    rows = []
    for name, columns_SIK in columns.items():
        gaps = {"start": starts.get(name, ""), "words": words}
        rows.append(
            {
                "who": variants[name].label,
                "seeds": len(columns_SIK),
                **{measure: in_points(measured(columns_SIK, measure)) for measure in SHOWN},
                **{
                    key: in_points(gap, "+") + ("" if gap.low <= 0 <= gap.high else "*")
                    for key, other in gaps.items()
                    if (gap := lead_over(columns, name, other))
                },
            }
        )
    shown = [Column(measure, title) for measure, title in SHOWN.items()]
    caption = (
        "In points, with 95% intervals over queries and seeds. “Above” are paired differences"
        " of nDCG@10, with an asterisk where the interval leaves out 0."
    )
    gap_columns = Column("start", "above its start"), Column("words", f"above {words}")
    return Table((Column("who", "who"), *shown, *gap_columns), rows, caption)


@styled()
def retrieval_figure(columns: Findings, variants: Mapping[str, Variant]) -> Figure:
    """nDCG@10 of each, a row each."""
    figure, (axes,) = panels(1, height=0.9 + 0.28 * len(columns))
    for row, (name, columns_SIK) in enumerate(columns.items()):
        found = measured(columns_SIK)
        value, low, high = (100 * each for each in found.values())
        axes.errorbar(
            [value],
            [row],
            xerr=[[max(0.0, value - low)], [max(0.0, high - value)]],
            color=variants[name].colour,
            marker="o",
            elinewidth=1,
        )
        if name == "BM25":
            axes.axvline(value, color=MUTED, linewidth=0.8, linestyle=(0, (4, 2.5)))
    axes.set_yticks(range(len(columns)), [variants[name].label for name in columns])
    axes.set_ylim(len(columns) - 0.4, -0.6)
    axes.set_xlabel("nDCG@10, in points")
    return figure
