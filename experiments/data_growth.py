"""Does the gain from more data flatten earlier for a BERT than for a GPT?

Answers to: nobody's table. Hoffmann et al. 2022 (arXiv:2203.15556), equation 2, has the loss
fall as E + B / D^beta in the tokens D, for causal models; Nie et al. 2024 (arXiv:2410.18514)
and Ni et al. 2025 (arXiv:2510.03280) fit masked diffusion by compute. This study asks for beta
of each objective on the same text, and whether they differ.

    python -m experiments.data_growth --scale laptop

    smoke   a minute             toys, to see that everything works
    laptop  10 minutes, 2 cores  0.1M parameters, 51k to 1.6M tokens of a known source
    v5e-16  3 hours, 16 chips    85M parameters, 52M to 1.7B tokens of Wikipedia, 1.3e19 FLOPs

The accelerator's line is what this prints, a plan by FLOPs that has not been run:

    python -m experiments.data_growth --scale v5e-16 --cost v5e-16

Every run reads new text once, with a schedule of its own length. What a size cannot learn is in
E, as there is one size: it is not the entropy of the text, though no E can be below that. The
GPT's bits per byte are exact and those of the BERT at all rates a bound; the BERT at 15% has
hardly learnt what a bound asks, and is compared in its own loss.

Expect the BERT to need more tokens to begin, to gain more at each doubling once it has, and a
beta that is not known to differ.
"""

import sys
from typing import Any, NamedTuple

import msgspec

from experiments.common import Arm
from experiments.fits import NO_ANSWER, cells_table, report_of
from experiments.plans import LAPTOP_SOURCE, SMOKE_SOURCE, V5E_16, Plan, Size
from lm import study
from lm.data import Data
from lm.evaluate import Effort
from lm.objectives import AnyOrder, Causal, Masked
from lm.report import BLUE, GREEN, VERMILLION, Report
from lm.run import Run
from lm.study import Cell

ARMS = {
    "causal": Arm("GPT", "the GPT", Causal(), BLUE),
    "masked15": Arm("BERT, 15%", "the BERT trained at 15%", Masked(), VERMILLION),
    "any_order": Arm("BERT, all rates", "the BERT trained at all rates", AnyOrder(), GREEN),
}


class Scale(NamedTuple):
    """One size, and on how many tokens it is trained: each number twice the one before."""

    data: Data
    size: Size
    budgets: tuple[int, ...]
    seeds: int
    settings: dict[str, Any]


PLANS = {
    "smoke": Scale(
        SMOKE_SOURCE,
        Size(1, 16, 1, 1e-2),
        budgets=(1024, 2048, 4096, 8192),
        seeds=1,
        settings={"evaluations": 1, "evaluation_rows": 32},
    ),
    "laptop": Scale(
        LAPTOP_SOURCE,
        Size(2, 64, 2, 1e-2),
        budgets=tuple(51_200 * 2**k for k in range(6)),
        seeds=2,
        settings={"evaluations": 1, "evaluation_rows": 1024},
    ),
    "v5e-16": Scale(
        msgspec.structs.replace(V5E_16, batch=512),
        Size(12, 768, 12, 3e-3),
        budgets=tuple(50 * 2**20 * 2**k for k in range(6)),
        seeds=2,
        settings={"evaluations": 4, "evaluation_rows": 4096, "remat": "block"},
    ),
}
SCALES = tuple(PLANS)
EFFORT = {
    "smoke": Effort(rows=32, samples=2, replicates=2, share_rows=8, probe_tokens=1),
    "laptop": Effort(rows=1024, samples=2, replicates=2, share_rows=16, probe_tokens=1),
    "v5e-16": Effort(rows=4096, share_rows=256, probe_tokens=1),
}


def runs(scale: str) -> dict[str, Run]:
    """The runs by cell name: each number of tokens in each arm, for every seed."""
    plan, found = PLANS[scale], dict[str, Run]()
    for tokens in plan.budgets:
        grid = Plan(plan.data, tokens, (plan.size,), plan.seeds, plan.settings)
        found |= grid.once().runs(ARMS)
    return found


def report(cells: list[Cell]) -> Report:
    """What the finished cells say; what is missing is named."""
    return report_of(
        sys.modules[__name__],
        cells,
        title="What more data gains",
        answer=NO_ANSWER,
        table=cells_table(cells, "All finished cells."),
        sections=[],
    )


if __name__ == "__main__":
    study.main(sys.modules[__name__])
