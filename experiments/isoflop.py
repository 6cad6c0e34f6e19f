"""How are size and data best split as compute grows, for a GPT and for a BERT?

Answers to: Hoffmann et al. 2022 (arXiv:2203.15556), section 3.2, figure 3 and table 2, where
approach 2 (isoFLOP curves) gives N* ~ C^0.49 and D* ~ C^0.51 for causal models. For masked ones
there is Nie et al. 2024 (arXiv:2410.18514), figure 2: a masked diffusion model has the same
exponents and needs 16 times the compute. Here both are trained at the same budgets of exact
FLOPs on the same text, and scored in the same unit.

    python -m experiments.isoflop --scale laptop

    smoke   a minute             toys on bytes, to see that everything works
    laptop  15 minutes, 2 cores  four budgets of 2e10 to 4e11 FLOPs, five sizes each, 3.6k to
                                 0.11M parameters with the head, on bytes of Python's library
    v5e-16  33 hours, 16 chips   five budgets of 1e17 to 1e19 FLOPs, five sizes each, 12M to
                                 1.1B parameters with the head, on C4 (c4/en, which TFDS
                                 prepares)

The last line is a plan by FLOPs, at 40% of the chips' peak and without scoring, as printed by
`python -m experiments.costs isoflop --scale v5e-16 --slice v5e-16`.

What is fitted is bits per byte of held-out text, which for the BERT is the bound over all
orders of writing: the objectives' own losses do not compare. The BERT's masking rate is drawn
for each row, as the bound asks for all rates. Learning rates are tuned by the same number of
trials for each arm, at one budget and size; other sizes have the rate of that one times (N / N
tuned)^(-1/3) (Porian et al. 2024). The trials are cells of the study, so its report can say
whether they bear out what this file has.

Expect parabolas whose minima move to larger models with compute, for the GPT about as C^0.5,
and wide intervals, as they stand on four minima and one seed. At the laptop's scale the BERT
has hardly begun to use what it sees, so that its minima say how many steps that takes rather
than how size and data trade.
"""

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from experiments.common import Arm
from experiments.fits import (
    NO_ANSWER,
    cells_table,
    rate_at,
    report_of,
)
from lm import ledger, study
from lm.data import Bytes, Data, SentencePiece, Stdlib, Tfds, vocabulary_size
from lm.evaluate import Effort
from lm.model import Transformer
from lm.objectives import Causal, Masked
from lm.objectives.masked import Drawn
from lm.optimizer import Cosine, Muon
from lm.report import BLUE, GREEN, Report, count
from lm.run import Run
from lm.study import Cell

ARMS = {
    "causal": Arm("GPT", "the GPT", Causal(), BLUE),
    "masked": Arm(
        "BERT, all rates",
        "the BERT",
        Masked(rate=Drawn(low=0.1, high=1.0), mask=1.0, random=0.0),
        GREEN,
    ),
}
SHOWN = "parabola"
"""The method of the figures and the answer: Hoffmann et al.'s."""
PUBLISHED = 0.5
"""About what Hoffmann et al. find for a."""


class Plan(NamedTuple):
    """What a scale trains: sizes for each budget in each arm, and trials of a rate."""

    data: Data
    budgets: Mapping[float, tuple[Transformer, ...]]
    """Model sizes by FLOPs."""
    trial: tuple[float, Transformer]
    """Budget and size at which learning rates are tried; one of those above."""
    rates: tuple[float, ...]
    """What is tried, the same for each arm."""
    used: Mapping[str, float]
    """What each arm has there, one of those."""
    settings: dict[str, Any]
    """Further fields of the runs."""

    def runs(self) -> dict[str, Run]:
        """The runs by cell name, each arm's smallest budget first."""
        found = {}
        for arm in ARMS:
            for flops, sizes in self.budgets.items():
                for size in sizes:
                    found[self._name(arm, flops, size)] = self._run(arm, flops, size)
            for rate in self.rates:
                if rate != self.used[arm]:
                    name = self._name(arm, *self.trial, f"lr{rate:g}-")
                    found[name] = self._run(arm, *self.trial, rate)
        return found

    def trials(self, arm: str) -> list[str]:
        """The names of the cells that try learning rates, the grid's own among them."""
        more = [f"lr{rate:g}-" if rate != self.used[arm] else "" for rate in self.rates]
        return [self._name(arm, *self.trial, each) for each in more]

    def _name(self, arm: str, flops: float, size: Transformer, more: str = "") -> str:
        budget = f"f{flops:.1e}".replace("+", "").replace(".0e", "e")
        return f"{arm}-{count(self._params(size))}-{budget}-{more}seed0"

    def _params(self, size: Transformer) -> int:
        return sum(size.matrices(vocabulary_size(self.data.tokenizer)).values())

    def _run(self, arm: str, flops: float, size: Transformer, rate: float | None = None) -> Run:
        if rate is None:
            rate = rate_at(self._params(size), self.used[arm], self._params(self.trial[1]))
        run = Run(
            data=self.data,
            objective=ARMS[arm].objective,
            model=size,
            optimizer=Muon(learning_rate=rate),
            schedule=Cosine(warmup=0.1),
            **self.settings,
        )
        tokens = ledger.tokens_for(run, vocabulary_size(self.data.tokenizer), flops)
        return msgspec.structs.replace(run, tokens=tokens)


def _wide(*widths: int) -> tuple[Transformer, ...]:
    """Two layers of these widths, with heads of 64 where that is possible: few shapes."""
    return tuple(Transformer(depth=2, width=w, heads=max(1, w // 64)) for w in widths)


def _deep(*depths: int) -> tuple[Transformer, ...]:
    """The shapes of `lm budget`: 64 times as wide as deep."""
    return tuple(Transformer(depth=d, width=64 * d, heads=d) for d in depths)


PLANS = {
    "smoke": Plan(
        Data(tokenizer=Bytes(), length=64, batch=4),
        {2e8: _wide(8, 12, 16), 4e8: _wide(8, 12, 16)},
        trial=(4e8, _wide(12)[0]),
        rates=(1e-2, 2e-2),
        used={"causal": 1e-2, "masked": 1e-2},
        settings={"evaluations": 1, "evaluation_rows": 16},
    ),
    "laptop": Plan(
        Data(corpus=Stdlib(), tokenizer=Bytes(), length=128, batch=4, validation=0.05),
        {
            2e10: _wide(8, 12, 16, 24, 32),
            5e10: _wide(8, 12, 16, 24, 32),
            1.4e11: _wide(12, 16, 24, 32, 48),
            4e11: _wide(16, 24, 32, 48, 64),
        },
        trial=(5e10, _wide(16)[0]),
        rates=(1e-2, 2e-2, 4e-2),
        used={"causal": 2e-2, "masked": 2e-2},
        settings={"evaluations": 1, "evaluation_rows": 32},
    ),
    "v5e-16": Plan(
        Data(
            # A seventh of C4, so that nothing is read twice.
            corpus=Tfds(name="c4/en", split="train[:15%]"),
            tokenizer=SentencePiece(kind="unigram", size=32_768),
            length=1024,
            batch=256,
            validation=0.0002,
        ),
        {
            1e17: _deep(4, 6, 8, 10, 12),
            3e17: _deep(6, 8, 10, 12, 14),
            1e18: _deep(8, 10, 12, 16, 20),
            3e18: _deep(10, 12, 16, 20, 24),
            1e19: _deep(12, 16, 20, 24, 28),
        },
        trial=(1e18, _deep(12)[0]),
        rates=(1e-3, 2e-3, 4e-3, 8e-3),
        used={"causal": 2e-3, "masked": 2e-3},
        settings={
            "evaluations": 8,
            "evaluation_rows": 1024,
            "remat": "block",
            "microbatches": 4,
        },
    ),
}
SCALES = tuple(PLANS)
EFFORT = {
    "smoke": Effort(rows=16, samples=2, share_rows=4, probe_tokens=1),
    "laptop": Effort(rows=256, samples=4, share_rows=8, probe_tokens=1),
    "v5e-16": Effort(rows=4096, share_rows=256, probe_tokens=1),
}


def runs(scale: str) -> dict[str, Run]:
    """The runs by cell name: every budget and size in each arm, and the trials."""
    return PLANS[scale].runs()


def report(cells: list[Cell]) -> Report:
    """What the finished cells say; what is missing is named."""
    return report_of(
        sys.modules[__name__],
        cells,
        title="Size and data at equal compute, for a GPT and a BERT",
        answer=NO_ANSWER,
        table=cells_table(cells, "All finished cells."),
        sections=(),
    )


if __name__ == "__main__":
    study.main(sys.modules[__name__])
