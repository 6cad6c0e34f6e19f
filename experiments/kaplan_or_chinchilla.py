"""Which steps lead from Kaplan's best model sizes to Chinchilla's, on runs of one's own?

Answers to: Porian et al. 2024 (arXiv:2406.19146), figure 1 and table 2. Kaplan et al. 2020
(arXiv:2001.08361) have N* ~ C^0.73 (0.88 where the data are not limited), Hoffmann et al. 2022
(arXiv:2203.15556) N* ~ C^0.5. The paper goes from one to the other in five steps, and so does
this study, with models that a laptop trains:

    1  Kaplan's setting: N and C = 6 N D without the head, a warm-up of as many tokens for every
       size, a learning rate that has not decayed where the loss is read
    2  the same runs, with the head's parameters in N and C
    3  a warm-up of as many tokens as the model has parameters
    4  a cosine that ends where the loss is read: a run for each budget and size
    5  the rate, batch and beta2 of adamw tuned by size, with a constant rate again

    python -m experiments.kaplan_or_chinchilla --scale laptop

    smoke   a minute             toys on bytes, to see that everything works
    laptop  15 minutes, 2 cores  seven sizes of 7k to 0.1M parameters with the head, budgets up
                                 to 2e11 FLOPs, Python's library in 1,024 pieces
    v5e-16  21 hours, 16 chips   eight sizes of 8M to 0.2B parameters, budgets up to 3e18
                                 FLOPs, on C4 (c4/en, which TFDS prepares)

The last line is a plan by FLOPs, at 40% of the chips' peak and without scoring, as printed by
`python -m experiments.kaplan_or_chinchilla --scale v5e-16 --cost v5e-16`.

One run of a size gives its loss at every budget, from its validations along the way, as long as
the rate does not decay: steps 1, 2, 3 and 5 are read off such curves, and steps 1 and 2 are two
counts of the same runs. Kaplan's cosine ended far beyond the budgets that were read; a constant
rate is what that comes to. The trials that step 5 rests on are cells of the study: a star about
one setting, at two sizes.

Expect the exponent to fall most where the head is counted, since small models are mostly head.
The others matter where warm-up is long against a run and where one batch is too large for small
models; at the laptop's scale each may be within its error.
"""

import math
import sys
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from experiments.fits import NO_ANSWER, cells_table, report_of
from lm import study
from lm.budget import batch_and_rate
from lm.data import Bytes, Data, SentencePiece, Stdlib, Tfds, vocabulary_size
from lm.evaluate import Effort
from lm.model import Transformer
from lm.optimizer import Adamw, Cosine, WarmupStableDecay
from lm.report import Report, count
from lm.run import Run
from lm.scaling.laws import FLOPS_PER_PARAMETER_AND_TOKEN as SIX
from lm.study import Cell


class Setting(NamedTuple):
    """What is tuned in step 5."""

    learning_rate: float
    rows: int
    """Of a batch."""
    b2: float


Curve = Literal["long", "short", "tuned"]
"""Runs at a constant rate: long or short warm-up, and the latter with tuned settings."""


class Plan(NamedTuple):
    """What a scale trains."""

    data: Data
    sizes: tuple[Transformer, ...]
    """Ascending."""
    most: float
    """FLOPs of a curve, by 6 N D with the head in N."""
    tokens: int
    """Tokens of a curve at most."""
    warmup: int
    """Tokens of the long warm-up."""
    base: Setting
    tuned: tuple[Setting, ...]
    """What each size has in step 5."""
    trials: Mapping[int, tuple[Setting, ...]]
    """What was tried, by the number of the size."""
    matched: Mapping[float, tuple[int, ...]]
    """The numbers of the sizes of step 4, by FLOPs of the same count."""
    evaluations: int
    """Times that a curve is validated, evenly spaced."""
    settings: dict[str, Any]
    """Further fields of the runs."""

    def runs(self) -> dict[str, Run]:
        """The runs by cell name."""
        found = {}
        for size, settings in self.trials.items():
            for setting in settings:
                found[self.trial_name(size, setting)] = self._trial(size, setting)
        for curve in ("long", "short"):
            for size in range(len(self.sizes)):
                found[self.name(size, curve)] = self._curve(size, curve, self.base)
        for flops, sizes in self.matched.items():
            for size in sizes:
                budget = f"f{flops:.1e}".replace("+", "").replace(".0e", "e")
                found[self.name(size, f"matched-{budget}")] = self._matched(size, flops)
        for size, setting in enumerate(self.tuned):
            found[self.name(size, "tuned")] = self._curve(size, "short", setting)
        return found

    def name(self, size: int, what: str) -> str:
        """The name of a cell."""
        return f"causal-{count(self.params(size))}-{what}-seed0"

    def trial_name(self, size: int, setting: Setting) -> str:
        """The name of the cell that tries a setting."""
        rate, rows, b2 = setting
        return self.name(size, f"trial-lr{rate:g}-b{rows}-beta{b2:g}")

    def params(self, size: int) -> int:
        """Parameters in matrix products, the head's among them."""
        matrices = self.sizes[size].matrices(vocabulary_size(self.data.tokenizer))
        return sum(matrices.values())

    def _curve(self, size: int, curve: Literal["long", "short"], setting: Setting) -> Run:
        tokens = min(self.tokens, round(self.most / (SIX * self.params(size))))
        run = self._run(size, setting, tokens, self.evaluations)
        warmup = self.warmup if curve == "long" else self.params(size)
        return self._constant(run, warmup)

    def _trial(self, size: int, setting: Setting) -> Run:
        run = self._run(size, setting, 20 * self.params(size), 1)
        return self._constant(run, self.params(size))

    def _matched(self, size: int, flops: float) -> Run:
        run = self._run(size, self.base, round(flops / (SIX * self.params(size))), 1)
        share = min(1.0, self.params(size) / run.tokens)
        return msgspec.structs.replace(run, schedule=Cosine(warmup=share, final=0.0))

    def _constant(self, run: Run, warmup: int) -> Run:
        schedule = WarmupStableDecay(warmup=min(1.0, warmup / run.tokens), decay=0.0)
        return msgspec.structs.replace(run, schedule=schedule)

    def _run(self, size: int, setting: Setting, tokens: int, evaluations: int) -> Run:
        return Run(
            data=msgspec.structs.replace(self.data, batch=setting.rows),
            model=self.sizes[size],
            optimizer=Adamw(learning_rate=setting.learning_rate, b2=setting.b2),
            tokens=tokens,
            evaluations=evaluations,
            **self.settings,
        )


def _wide(*widths: int) -> tuple[Transformer, ...]:
    return tuple(Transformer(depth=2, width=width, heads=1) for width in widths)


def _star(rate: float, rows: int, b2: float, other: float) -> tuple[Setting, ...]:
    """A setting, and others that differ in the rate, the batch or beta2."""
    return (
        Setting(rate, rows, b2),
        Setting(rate / 2, rows, b2),
        Setting(rate * 2, rows, b2),
        Setting(rate, rows // 2, b2),
        Setting(rate, rows * 2, b2),
        Setting(rate, rows, other),
        Setting(rate, rows // 2, other),
    )


def _published(params: float, length: int) -> Setting:
    """Porian et al.'s settings by size; beta2 is larger where batches are small."""
    tokens, rate = batch_and_rate(params)
    rows = 2 ** round(math.log2(tokens / length))
    return Setting(float(f"{rate:.2g}"), rows, 0.99 if tokens < 2**17 else 0.95)


_DEEP = tuple(Transformer(depth=d, width=64 * d, heads=d) for d in (3, 4, 6, 8, 10, 12, 14, 16))
_DEEP_PARAMS = tuple(sum(size.matrices(32_768).values()) for size in _DEEP)

PLANS = {
    "smoke": Plan(
        Data(tokenizer=Bytes(), length=64, batch=4),
        _wide(8, 12, 16),
        most=4e8,
        tokens=10_000,
        warmup=4096,
        base=Setting(1e-2, 4, 0.95),
        tuned=(Setting(2e-2, 2, 0.99),) * 3,
        trials={1: (Setting(1e-2, 2, 0.99), Setting(2e-2, 2, 0.99))},
        matched={2e8: (0, 1, 2), 4e8: (0, 1, 2)},
        evaluations=8,
        settings={"evaluation_rows": 16},
    ),
    "laptop": Plan(
        Data(
            corpus=Stdlib(),
            tokenizer=SentencePiece(size=1024),
            length=64,
            batch=16,
            validation=0.05,
        ),
        _wide(6, 8, 12, 16, 24, 32, 48),
        most=2e11,
        tokens=1_200_000,
        warmup=150_000,
        base=Setting(5e-3, 16, 0.95),
        tuned=(Setting(1e-2, 8, 0.99),) * 7,
        trials={1: _star(1e-2, 8, 0.95, 0.99), 4: _star(1e-2, 8, 0.95, 0.99)},
        matched={
            1.5e10: (0, 1, 2, 3),
            4e10: (1, 2, 3, 4),
            9e10: (2, 3, 4, 5),
            2e11: (3, 4, 5, 6),
        },
        evaluations=40,
        settings={"evaluation_rows": 128},
    ),
    "v5e-16": Plan(
        Data(
            corpus=Tfds(name="c4/en", split="train[:15%]"),
            tokenizer=SentencePiece(kind="unigram", size=32_768),
            length=1024,
            batch=256,
            validation=0.0002,
        ),
        _DEEP,
        most=3e18,
        tokens=20_000_000_000,
        warmup=1_500_000_000,
        base=Setting(3e-3, 256, 0.95),
        tuned=tuple(_published(params, 1024) for params in _DEEP_PARAMS),
        trials={
            number: _star(*_published(_DEEP_PARAMS[number], 1024)[:2], 0.95, 0.99)
            for number in (1, 4)
        },
        matched={
            3e16: (0, 1, 2, 3),
            1e17: (0, 1, 2, 3, 4),
            3e17: (1, 2, 3, 4, 5),
            1e18: (2, 3, 4, 5, 6),
            3e18: (3, 4, 5, 6, 7),
        },
        evaluations=64,
        settings={"evaluation_rows": 1024, "remat": "block"},
    ),
}
SCALES = tuple(PLANS)
EFFORT = {
    "smoke": Effort(rows=16, probe_tokens=1),
    "laptop": Effort(rows=128, probe_tokens=1),
    "v5e-16": Effort(rows=4096, probe_tokens=1),
}


def runs(scale: str) -> dict[str, Run]:
    """The runs by cell name: trials, curves of steps 1 to 3, runs of step 4, step 5."""
    return PLANS[scale].runs()


def report(cells: list[Cell]) -> Report:
    """What the finished cells say; what is missing is named."""
    return report_of(
        sys.modules[__name__],
        cells,
        title="From Kaplan's exponent to Chinchilla's, in five steps",
        answer=NO_ANSWER,
        table=cells_table(cells, "All finished cells."),
        sections=(),
    )


if __name__ == "__main__":
    study.main(sys.modules[__name__])
