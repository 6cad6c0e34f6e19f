"""How many times may the same text be read, by a GPT and by a BERT?

Answers to: Muennighoff et al. 2023 (arXiv:2305.16264), figure 3 and equation 5, where the value
of a repeated token falls off exponentially, to nothing after R_D = 15 repeats or so, up to 4
epochs cost next to nothing, and all models are causal; and Prabhudesai et al. 2025
(arXiv:2507.15857) and Ni et al. 2025 (arXiv:2511.03276), by whom masked diffusion models bear
far more repeats (the former fit an R_D of about 500) and pass causal ones where text is scarce.

    python -m experiments.repeated_data --scale laptop

    smoke   a minute             toys, to see that everything works
    laptop  10 minutes, 2 cores  0.1M parameters, up to 32 epochs of a known source
    v5e-16  5 hours, 16 chips    85M parameters, up to 64 epochs of Wikipedia, 2.1e19 FLOPs

Each arm trains on so many tokens of text that is read once, and on as many of a part of it that
is read again and again; the first epoch is the same rows in the same order. A run that ends
worse than one of fewer epochs of the same text has overfit: the law knows no such thing, and is
fit to the best of a run and those that stopped before it.

The accelerator's line is what this prints, a plan by FLOPs that has not been run:

    python -m experiments.repeated_data --scale v5e-16 --cost v5e-16

Expect the GPT ahead wherever text is new, its loss to rise again after some ten epochs of
little text, and the BERT's to fall on: each epoch hides other pieces.
"""

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from experiments.common import Arm
from experiments.fits import NO_ANSWER, cells_table, report_of
from experiments.plans import LAPTOP_SOURCE, SMOKE_SOURCE, V5E_16, Plan, Size
from lm import study
from lm.data import Data
from lm.evaluate import Effort
from lm.objectives import AnyOrder, Causal
from lm.report import BLUE, GREEN, Report, count
from lm.run import Run
from lm.study import Cell

ARMS = {
    "causal": Arm("GPT", "the GPT", Causal(), BLUE),
    "any_order": Arm("BERT, all rates", "the BERT trained at all rates", AnyOrder(), GREEN),
}


class Scale(NamedTuple):
    """What is trained on how much text, and how often it is read."""

    data: Data
    size: Size
    fresh: tuple[int, ...]
    """Tokens of text that is read once."""
    repeated: Mapping[int, tuple[int, ...]]
    """Tokens trained on, by how many of them are different."""
    seeds: int
    settings: dict[str, Any]


PLANS = {
    "smoke": Scale(
        SMOKE_SOURCE,
        Size(1, 16, 1, 1e-2),
        fresh=(1024, 2048, 4096, 8192),
        repeated={1024: (4096, 8192)},
        seeds=1,
        settings={"evaluations": 1, "evaluation_rows": 16},
    ),
    "laptop": Scale(
        LAPTOP_SOURCE,
        Size(2, 64, 2, 1e-2),
        fresh=(51_200, 102_400, 204_800, 409_600, 819_200),
        repeated={25_600: (51_200, 204_800, 819_200), 102_400: (204_800, 819_200)},
        seeds=2,
        settings={"evaluations": 4, "evaluation_rows": 128},
    ),
    "v5e-16": Scale(
        msgspec.structs.replace(V5E_16, batch=512),
        Size(12, 768, 12, 3e-3),
        fresh=(50 * 2**20, 100 * 2**20, 200 * 2**20, 400 * 2**20, 800 * 2**20, 1600 * 2**20),
        repeated={
            25 * 2**20: (100 * 2**20, 400 * 2**20, 1600 * 2**20),
            100 * 2**20: (400 * 2**20, 1600 * 2**20),
        },
        seeds=2,
        settings={"evaluations": 16, "evaluation_rows": 1024, "remat": "block"},
    ),
}
SCALES = tuple(PLANS)
EFFORT = {
    "smoke": Effort(rows=32, samples=2, replicates=2, share_rows=8, probe_tokens=1),
    "laptop": Effort(rows=1024, samples=2, replicates=2, share_rows=16, probe_tokens=1),
    "v5e-16": Effort(rows=4096, share_rows=256, probe_tokens=1),
}


def runs(scale: str) -> dict[str, Run]:
    """The runs by cell name: new text and repeated text in each arm, for every seed."""
    plan, found = PLANS[scale], dict[str, Run]()
    grid = [(tokens, tokens) for tokens in plan.fresh]
    grid += [(unique, tokens) for unique, more in plan.repeated.items() for tokens in more]
    for unique, tokens in grid:
        data = msgspec.structs.replace(plan.data, unique=unique)
        cells = Plan(data, tokens, (plan.size,), plan.seeds, plan.settings).runs(ARMS)
        for name, run in cells.items():
            arm, size, *rest = name.split("-")
            found["-".join([arm, size, f"u{count(unique)}", *rest])] = run
    return found


def report(cells: list[Cell]) -> Report:
    """What the finished cells say; what is missing is named."""
    return report_of(
        sys.modules[__name__],
        cells,
        title="The same text again",
        answer=NO_ANSWER,
        table=cells_table(cells, "All finished cells."),
        sections=[],
    )


if __name__ == "__main__":
    study.main(sys.modules[__name__])
