"""Do larger models need fewer tokens for the same loss, as a GPT and as a BERT?

Answers to: Kaplan et al. 2020 (arXiv:2001.08361), figure 2, where loss against tokens falls
faster the larger the model, of causal models alone.

    python -m experiments.bigger_learns_faster --scale laptop

    smoke   a minute            toys, to see that everything works
    laptop  6 minutes, 2 cores  6k to 0.4M parameters, 0.6M tokens of a known source
    v5e-16  16 hours, 16 chips  25M to 1.2B parameters, 1.7B tokens of Wikipedia, 7.4e19 FLOPs

The accelerator's line is what this prints, a plan by FLOPs that has not been run:

    python -m experiments.bigger_learns_faster --scale v5e-16 --cost v5e-16

A point on the way of a run whose learning rate will yet fall is not where a shorter run would
have ended, and a run that is close to its end has had the gain of the fall. So here the rate
stays constant after warm-up: every point is the end of the same recipe, at a loss that is
higher than a fall of the rate would make it. All sizes have the same batch, warm-up and rows.
Losses are each objective's own, on the same held-out rows, and compare between sizes, not
between objectives.

Expect fewer tokens for each loss as models grow, by a power that is far below one: a larger
model saves tokens and not FLOPs.
"""

import sys

from experiments.common import Arm
from experiments.fits import NO_ANSWER, cells_table, report_of
from experiments.plans import LAPTOP_SOURCE, SMOKE_SOURCE, V5E_16, Plan, Size
from lm import study
from lm.evaluate import Effort
from lm.objectives import AnyOrder, Causal
from lm.optimizer import WarmupStableDecay
from lm.report import BLUE, GREEN, Report
from lm.run import Run
from lm.study import Cell

ARMS = {
    "causal": Arm("GPT", "the GPT", Causal(), BLUE),
    "any_order": Arm("BERT, all rates", "the BERT trained at all rates", AnyOrder(), GREEN),
}


CONSTANT = WarmupStableDecay(warmup=0.05, decay=0.0)
PLANS = {
    "smoke": Plan(
        SMOKE_SOURCE,
        tokens=8192,
        sizes=(Size(1, 16, 1, 1e-2), Size(1, 32, 1, 1e-2)),
        seeds=2,
        settings={"schedule": CONSTANT, "evaluations": 8, "evaluation_rows": 16},
    ),
    "laptop": Plan(
        LAPTOP_SOURCE,
        tokens=614_400,
        sizes=tuple(Size(2, width, max(1, width // 32), 1e-2) for width in (16, 32, 64, 128)),
        seeds=2,
        settings={"schedule": CONSTANT, "evaluations": 40, "evaluation_rows": 256},
    ),
    "v5e-16": Plan(
        V5E_16,
        tokens=1600 * 2**20,
        sizes=(
            Size(8, 512, 8, 4e-3),
            Size(12, 768, 12, 3e-3),
            Size(24, 1024, 16, 2e-3),
            Size(24, 2048, 32, 1e-3),
        ),
        seeds=2,
        settings={
            "schedule": CONSTANT,
            "evaluations": 64,
            "evaluation_rows": 1024,
            "remat": "block",
            "microbatches": 4,
        },
    ),
}
SCALES = tuple(PLANS)
EFFORT = {
    "smoke": Effort(rows=32, samples=2, replicates=2, share_rows=8, probe_tokens=1),
    "laptop": Effort(rows=256, samples=2, replicates=2, share_rows=16, probe_tokens=1),
    "v5e-16": Effort(rows=4096, share_rows=256, probe_tokens=1),
}


def runs(scale: str) -> dict[str, Run]:
    """The runs by cell name: each size in each arm, for every seed."""
    return PLANS[scale].once().runs(ARMS)


def report(cells: list[Cell]) -> Report:
    """What the finished cells say; what is missing is named."""
    return report_of(
        sys.modules[__name__],
        cells,
        title="Bigger learns faster",
        answer=NO_ANSWER,
        table=cells_table(cells, "All finished cells."),
        sections=[],
    )


if __name__ == "__main__":
    study.main(sys.modules[__name__])
