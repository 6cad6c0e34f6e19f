"""known_truth: what its report says of results beside a truth that is known."""

import math
from pathlib import Path
from typing import Any

import pytest

from experiments import known_truth
from lm.evaluate import bits as scores
from lm.study.grid import StudyRun
from tests.experiments.results import BYTES, result_of

LEAST = 2.3
"""What the source needs, in bits per byte."""


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    """Enough for errors that only have to be there."""
    monkeypatch.setattr(scores, "RESAMPLES", 40)


def _truth() -> dict[str, Any]:
    return {
        "bits_per_byte": LEAST,
        "probe_accuracy": 0.8,
        "entropy_rate": 2.25,
        "document_nats": [LEAST * size * math.log(2) for size in BYTES],
        "error_by_fraction": {
            str(fraction): {"bits_per_byte": 0.9 + fraction, "mc_se": 0.01}
            for fraction in (0.15, 0.5, 1.0)
        },
    }


@pytest.mark.parametrize(
    ("bits", "says"),
    [
        (2.8, "No model, at any size, lies below the truth"),
        (2.0, "which no honest scorer allows: causal-"),
    ],
)
def test_the_answer_says_whether_anybody_lies_below_the_truth(bits, says, tmp_path: Path):
    """Fails if the gap is turned, its error is not looked at, or the lengths are left out."""
    cells = [
        StudyRun(name, run, result_of(run, bits, truth=_truth()), tmp_path / "laptop" / name)
        for name, run in known_truth.runs("laptop").items()
    ]
    drawn = known_truth.report(cells)
    assert says in drawn.answer
    assert ("any_order_lengths" in drawn.answer) == (bits < LEAST)
    assert drawn.warnings == ()
    assert {row["above_truth"] for row in drawn.table.rows} == {bits - LEAST}
    assert [section.heading for section in drawn.sections] == [
        "From above, and how near",
        "At every fraction masked",
        "The hidden states",
        "Documents of random lengths",
        "What was held equal, and what was not",
        "What this does and does not show",
    ]
