"""Results of cells that were not trained: the ledger's costs, and a law's losses."""

import json
from collections.abc import Callable
from pathlib import Path

from lm.cost import ledger
from lm.data import vocabulary_size
from lm.run import Run, evaluation_steps
from lm.study.runner import Cell

Law = Callable[[float, float], float]
"""Loss by parameters in matrix products and tokens."""


def cell(name: str, run: Run, law: Law, directory: Path, kind: str = "exact") -> Cell:
    """A finished cell with the losses of a law, at its end and where it was validated."""
    pieces = vocabulary_size(run.data.tokenizer)
    cost, parameters = ledger.cost(run, pieces), ledger.parameters(run, pieces)
    loss = law(parameters.matmul, cost.tokens)
    result = {
        "params_total": parameters.total,
        "params_non_embedding": parameters.non_embedding,
        "params_matmul": parameters.matmul,
        "steps": cost.steps,
        "tokens": cost.tokens,
        "flops": cost.flops,
        "bits_per_byte": loss,
        "text_se": 0.1,
        "kind": kind,
        "validation_loss": loss,
        "seed": run.seed,
    }
    (directory / name).mkdir(parents=True)
    each = run.data.batch * run.data.length
    records = [
        {"step": step, "validation_loss": law(parameters.matmul, step * each)}
        for step in evaluation_steps(run)
    ]
    text = "".join(json.dumps(record) + "\n" for record in records)
    (directory / name / "metrics.jsonl").write_text(text)
    return Cell(name, run, result, directory / name)
