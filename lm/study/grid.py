"""What a study trains: variants at several sizes, budgets and seeds, and what came of each
run.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from lm.config import Config, dump, parse
from lm.cost import ledger
from lm.data import Data, vocabulary_size
from lm.model import Model, Transformer
from lm.objectives import AnyOrder, Causal, Masked, Objective
from lm.optimizer import Muon, WarmupStableDecay
from lm.output.numbers import count
from lm.run import Run
from lm.study.report.figures import BLUE, GREEN, VERMILLION
from lm.study.report.values import Row

STUDY = "$STUDY"
"""What stands for a study's directory in its settings."""
C = TypeVar("C", bound=Config)


def placed(settings: C, directory: Path) -> C:
    """The same settings with a study's directory where they say `STUDY`.

    >>> placed(Run(seed=3), Path("runs")) == Run(seed=3)
    True
    """
    if STUDY not in (text := dump(settings)):
        return settings
    # A path may have signs that JSON escapes.
    there = json.dumps(str(directory.absolute()))[1:-1]
    return parse(type(settings), text.replace(STUDY, there), "settings")


def scale_of(directory: Path) -> str:
    """The scale of a study's directory, which has a digest behind it where settings differ.

    >>> scale_of(Path("runs/isoflop/laptop-0af3b1")), scale_of(Path("v5e-8"))
    ('laptop', 'v5e-8')
    """
    return re.split("-(?=[0-9a-f]{6}$)", directory.name)[0]


class StudyRun(NamedTuple):
    """One run of a study and what came of it."""

    name: str
    run: Run
    result: Row | None
    """By column: a `Result`, and what a study adds; None until it is finished."""
    directory: Path


class Variant(NamedTuple):
    """One way of training: what figures and sentences call it, its objective, its colour."""

    label: str
    name: str
    objective: Objective
    colour: str


GPT = Variant("GPT", "the GPT", Causal(), BLUE)
BERT = Variant("BERT, 15%", "the BERT trained at 15%", Masked(), VERMILLION)
ANY_ORDER = Variant("BERT, all rates", "the BERT trained at all rates", AnyOrder(), GREEN)
GPT_AND_BERTS = {"causal": GPT, "masked15": BERT, "any_order": ANY_ORDER}
"""By the name that the runs' names begin with."""


def variant_of(cell: StudyRun) -> str:
    """The name of a run's variant."""
    return cell.name.split("-")[0]


class Size(NamedTuple):
    """A model, and the learning rate that is used for all of its variants."""

    depth: int
    width: int
    heads: int = 1
    learning_rate: float = 1e-2

    @property
    def model(self) -> Transformer:
        """The model itself."""
        return Transformer(depth=self.depth, width=self.width, heads=self.heads)


class Scale(NamedTuple):
    """What a scale trains: each size in each variant on each number of tokens, for each
    seed.
    """

    data: Data
    sizes: tuple[Size, ...] = ()
    """Ascending."""
    tokens: tuple[int, ...] = ()
    seeds: int = 1
    settings: Mapping[str, Any] = {}
    """Further fields of the runs."""
    only: tuple[str, ...] | None = None
    """The variants that are trained; None: all."""

    def runs(self, variants: Mapping[str, Variant], *, once: bool = False) -> dict[str, Run]:
        """The runs by name; a seed is finished before the next begins.

        With `once`, text is new throughout: refused, where there is not as much.
        """
        return {
            f"{name}-{size_text(parameters(run.model))}-d{count(tokens)}-seed{seed}": run
            for tokens in self.tokens
            for seed in range(self.seeds)
            for size in self.sizes
            for name, variant in variants.items()
            if self.only is None or name in self.only
            for new in [msgspec.structs.replace(self.data, unique=tokens)]
            for run in [
                self.run(variant, size, tokens, seed=seed, data=new if once else self.data)
            ]
        }

    def runs_at_flops(self, variants: Mapping[str, Variant]) -> dict[str, Run]:
        """Those of equal FLOPs as well, where they need another number of steps.

        The first variant's FLOPs are what all get, to the nearest step.
        """
        vocabulary, first = vocabulary_size(self.data.tokenizer), next(iter(variants))
        found = {}
        for name, run in self.runs(variants).items():
            found[name] = run
            spent = msgspec.structs.replace(run, objective=variants[first].objective)
            flops = ledger.cost(spent, vocabulary).flops
            tokens = ledger.tokens_for(run, vocabulary, flops)
            if tokens != ledger.cost(run, vocabulary).tokens:
                variant, size, _, seed = name.split("-")
                other = f"{variant}-{size}-{flops_text(flops)}-{seed}"
                found[other] = msgspec.structs.replace(run, tokens=tokens)
        return found

    def run(self, variant: Variant, size: Size, tokens: int, **fields: Any) -> Run:
        """One run; `fields` are those that are not as in the others."""
        usual = {
            "data": self.data,
            "objective": variant.objective,
            "model": size.model,
            "optimizer": Muon(learning_rate=size.learning_rate),
            "schedule": WarmupStableDecay(warmup=0.05),
            "tokens": tokens,
        }
        return Run(**usual | dict(self.settings) | fields)


def parameters(model: Model) -> int:
    """Parameters without the embedding."""
    return sum(model.parameters(0).values())


def matmul_parameters(model: Transformer, data: Data) -> int:
    """Parameters in matrix products, the head's among them."""
    return sum(model.matmul_parameters(vocabulary_size(data.tokenizer)).values())


def size_text(parameters: float) -> str:
    """A model size as run names and axes give it: one digit, or two where one is 5% off.

    >>> size_text(790_000), size_text(1_770_000), size_text(302_000_000)
    ('0.8M', '1.8M', '302M')
    """
    one = float(f"{parameters:.0e}")
    return count(parameters, digits=1 if abs(one / parameters - 1) < 0.05 else 2)


def flops_text(flops: float) -> str:
    """A budget of FLOPs as run names give it.

    >>> flops_text(3.14e11), flops_text(2e10)
    ('f3.1e11', 'f2.0e10')
    """
    return f"f{flops:.1e}".replace("+", "")
