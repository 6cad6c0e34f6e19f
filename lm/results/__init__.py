"""What came of a run, typed: its costs, its training, its evaluation; result.json both ways."""

from lm.results.columns import columns, compared, leading
from lm.results.result import (
    ComponentCosts,
    ComponentScore,
    Costs,
    Evaluation,
    Guess,
    Kind,
    Passage,
    Probe,
    Result,
    Score,
    Training,
    Truth,
    read_result,
)
