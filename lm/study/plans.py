"""The scales that studies over several seeds have in common, and their runs."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from lm.cost import ledger
from lm.data import Bytes, Data, Hmm, SentencePiece, Stdlib, Tfds, vocabulary_size
from lm.evaluate.scoring import Effort
from lm.model import Transformer
from lm.optimizer import Muon, WarmupStableDecay
from lm.output.numbers import count
from lm.run import Run
from lm.study.common import (
    Arm,
    parameters,
    size_text,
)


class Size(NamedTuple):
    """A model, and the learning rate that is used for all of its arms."""

    depth: int
    width: int
    heads: int
    learning_rate: float


class Plan(NamedTuple):
    """What a scale trains: each size in each arm, on as many tokens, for each seed."""

    data: Data
    tokens: int
    sizes: tuple[Size, ...]
    seeds: int
    settings: dict[str, Any]
    """Further fields of the runs."""
    only: tuple[str, ...] | None = None
    """The arms that are trained; None: all."""

    def runs(self, arms: Mapping[str, Arm]) -> dict[str, Run]:
        """The runs by cell name; a seed is finished before the next begins."""
        return {
            f"{name}-{size_text(parameters(run.model))}-d{count(self.tokens)}-seed{seed}": run
            for seed in range(self.seeds)
            for size in self.sizes
            for name, arm in arms.items()
            if self.only is None or name in self.only
            for run in [self._run(arm, size, seed)]
        }

    def runs_at_flops(self, arms: Mapping[str, Arm]) -> dict[str, Run]:
        """Those of equal FLOPs as well, where they need another number of steps.

        The first arm's FLOPs are what all get, to the nearest step.
        """
        pieces, first = vocabulary_size(self.data.tokenizer), next(iter(arms))
        found = {}
        for name, run in self.runs(arms).items():
            found[name] = run
            spent = msgspec.structs.replace(run, objective=arms[first].objective)
            flops = ledger.cost(spent, pieces).flops
            tokens = ledger.tokens_for(run, pieces, flops)
            if tokens != ledger.cost(run, pieces).tokens:
                arm, size, _, seed = name.split("-")
                budget = f"f{flops:.1e}".replace("+", "")
                found[f"{arm}-{size}-{budget}-{seed}"] = msgspec.structs.replace(
                    run, tokens=tokens
                )
        return found

    def _run(self, arm: Arm, size: Size, seed: int) -> Run:
        usual = {"schedule": WarmupStableDecay(warmup=0.05)}
        return Run(
            data=self.data,
            objective=arm.objective,
            model=Transformer(depth=size.depth, width=size.width, heads=size.heads),
            optimizer=Muon(learning_rate=size.learning_rate),
            tokens=self.tokens,
            seed=seed,
            **usual | self.settings,
        )

    def once(self) -> "Plan":
        """The same on text that is new throughout: refused, where there is not as much."""
        return self._replace(data=msgspec.structs.replace(self.data, unique=self.tokens))


SMOKE = Plan(
    Data(tokenizer=Bytes(), length=64, batch=16),
    tokens=8192,
    sizes=(Size(1, 32, 1, 1e-2),),
    seeds=2,
    settings={"evaluations": 1, "evaluation_rows": 16},
)
LAPTOP = Plan(
    Data(
        corpus=Stdlib(),
        tokenizer=SentencePiece(size=2048),
        length=128,
        batch=16,
        validation=0.05,
    ),
    tokens=200_000,
    sizes=(Size(4, 64, 1, 1e-2),),
    seeds=3,
    settings={"evaluations": 3, "evaluation_rows": 32},
)
V5E_8 = Plan(
    Data(
        corpus=Tfds(name="wiki40b/en"),
        tokenizer=SentencePiece(kind="unigram", size=32_768),
        length=512,
        batch=1024,
        validation=0.001,
    ),
    tokens=6_500_000_000,
    sizes=(Size(12, 768, 12, 3e-3),),
    seeds=2,
    settings={
        "evaluations": 32,
        "evaluation_rows": 1024,
        "remat": "block",
        "microbatches": 4,
    },
)
EFFORT = {
    "smoke": Effort(rows=16, samples=2, replicates=2, share_rows=8, probe_tokens=3_000),
    "laptop": Effort(rows=128, samples=2, replicates=2, share_rows=32, probe_tokens=6_000),
    "v5e-8": Effort(rows=4096, share_rows=1024, probe_tokens=100_000),
}
"""The scales that these studies have in common, and how much each spends on scoring."""


def source_data(source: Hmm, batch: int) -> Data:
    """Rows of a document each, of a source whose truth is known."""
    return Data(corpus=source, tokenizer=Bytes(), length=source.row_length, batch=batch)


SMOKE_SOURCE = source_data(
    Hmm(states=3, symbols=5, length=29, documents=900, concentration=0.4), batch=16
)
LAPTOP_SOURCE = source_data(Hmm(documents=40_000), batch=16)
"""What models learn that a laptop trains in seconds, from hidden pieces too: of text, after the
0.2M tokens of `objectives`, those know little more than how frequent pieces are."""
FEW_ROWS = msgspec.structs.replace(LAPTOP_SOURCE, batch=4)
"""A hundred steps in 26k tokens: with fewer, the loss is a matter of steps and not of data."""
V5E_16 = V5E_8.data
"""Wikipedia, a row of which is the same for studies at either scale."""
