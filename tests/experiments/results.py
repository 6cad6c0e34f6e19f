"""Results of runs that were not trained: the ledger's costs, and losses that a test wants."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lm.cost import ledger
from lm.data import vocabulary_size
from lm.objectives import Objective
from lm.run import Run, evaluation_steps
from lm.study.grid import StudyRun

Law = Callable[[float, float], float]
"""Loss by parameters in matrix products and tokens."""

BYTES = (900, 1100, 4000, 2000)
"""Of the held-out documents."""
HARD = (0.1, -0.1, 0.05, -0.09)
"""What makes a document hard for every model, in bits per byte."""


def scorer_of(objective: Objective) -> tuple[str, str]:
    """The headline scorer of what is trained for an objective, and what its number is."""
    if "next" in objective.predictions:
        return "chain_rule", "exact"
    return ("spans", "exact") if "spans" in objective.predictions else ("any_order", "bound")


def result_of(
    run: Run, bits: float, *, probe: float = 0.6, hard: Sequence[float] = HARD, **other: Any
) -> dict[str, Any]:
    """A finished run that needs so many bits per byte; `other` replaces what else is there."""
    tokens = vocabulary_size(run.data.tokenizer)
    cost, parameters = ledger.cost(run, tokens), ledger.parameters(run, tokens)
    scorer, kind = scorer_of(run.objective)
    bits_d = np.array(BYTES) * (bits + np.array(hard))
    bits_d *= bits * sum(BYTES) / bits_d.sum()
    score = {
        "bits_per_byte": bits,
        "layout_bits": 0.012 if kind == "bound" else 0.0,
        "text_se": 0.05,
        "mc_se": 0.011 if kind == "bound" else 0.0,
        "kind": kind,
    }
    fractions = {
        str(fraction): score | {"bits_per_byte": 1 + fraction} for fraction in (0.15, 0.5, 1.0)
    }
    unique = min(run.data.unique or cost.tokens, cost.tokens)
    return {
        **score,
        "scorer": scorer,
        "scores": {scorer: score},
        "error_by_fraction": fractions if kind == "bound" else {},
        "document_nats": (bits_d * math.log(2)).tolist(),
        "document_bytes": list(BYTES),
        "probe_accuracy": probe,
        "probe_se": 0.01,
        "probe": {
            "document_right": [round(1000 * probe) + at for at in (-3, 1, 2, 0)],
            "document_tokens": [1000] * 4,
        },
        "baselines": {"gzip, by window": 3.0, "xz, by window": 2.9},
        "validation_loss": 2 * bits,
        "tokens": cost.tokens,
        "unique_tokens": unique,
        "steps": cost.steps,
        "flops": cost.flops,
        "target_positions": cost.target_positions,
        "predicted_targets": cost.target_positions,
        "device_seconds": 10.0,
        "params_total": parameters.total,
        "params_non_embedding": parameters.non_embedding,
        "params_matmul": parameters.matmul,
        "seed": run.seed,
        "corpus_digest": "c0ffee" * 10,
        "tokenizer_digest": "70cec0" * 10,
        "batches_digest": f"{run.seed}-{unique}-{cost.steps}" * 3,
    } | other


def cell(name: str, run: Run, law: Law, directory: Path) -> StudyRun:
    """A finished run with the losses of a law, at its end and where it was validated."""
    params = ledger.parameters(run, vocabulary_size(run.data.tokenizer)).matmul
    result = result_of(run, 1.0)
    loss = law(params, result["tokens"])
    (directory / name).mkdir(parents=True)
    each = run.data.batch * run.data.length
    records = [
        {"step": step, "validation_loss": law(params, step * each)}
        for step in evaluation_steps(run)
    ]
    text = "".join(json.dumps(record) + "\n" for record in records)
    (directory / name / "metrics.jsonl").write_text(text)
    result |= {"bits_per_byte": loss, "validation_loss": loss}
    return StudyRun(name, run, result, directory / name)
