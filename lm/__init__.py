"""Yardstick: encoders and decoders trained on the same bytes, scored in the same unit.

    import lm

    run = lm.Run(objective=lm.Masked(rate=0.3), tokens=1_000_000)
    lm.train_run(run, "runs/bert")
    model = lm.load_model("runs/bert")
    lm.score_text(model, ["book.txt"])["any_order"].bits_per_byte
    lm.save_model(model, "bert")

Names are imported when they are first used: jax takes seconds.
"""

import os
from typing import TYPE_CHECKING, Any

# XLA's CPU compiler logs an error, a page long, for every program that it takes from its cache
# on the very machine that put it there ("prefer-no-gather is not supported on the host
# machine"). It reads the level when jax is first imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_HOMES = {
    "Run": "lm.run",
    "Data": "lm.data",
    "Transformer": "lm.model",
    "Causal": "lm.objectives",
    "Masked": "lm.objectives",
    "UserError": "lm.config",
    "train_run": "lm.train.train",
    "load_model": "lm.train.load",
    "save_model": "lm.train.load",
    "score_text": "lm.evaluate.given_text",
    "generate_text": "lm.train.generating",
}
"""The public API: each name and the module that it is in."""

__all__ = list(_HOMES)

if TYPE_CHECKING:
    from lm.config import UserError as UserError
    from lm.data import Data as Data
    from lm.evaluate.given_text import score_text as score_text
    from lm.model import Transformer as Transformer
    from lm.objectives import Causal as Causal
    from lm.objectives import Masked as Masked
    from lm.run import Run as Run
    from lm.train.generating import generate_text as generate_text
    from lm.train.load import load_model as load_model
    from lm.train.load import save_model as save_model
    from lm.train.train import train_run as train_run


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lm' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
