"""From a budget of FLOPs and a law to model shapes, tokens, steps and hours."""

import bisect
import math
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec

from lm.config import UserError
from lm.cost import ledger
from lm.data import Data, SentencePiece, vocabulary_size
from lm.model import Model
from lm.run import Run, validate
from lm.scaling import laws
from lm.scaling.fit import Fit, predict
from lm.scaling.laws import Convention
from lm.scaling.parametric import Parametric

STEP = 4
"""Each rung's budget is this many times that of the rung below."""

_MOST_PARAMS = 1e24

PLANNED = Run(data=Data(length=1024, tokenizer=SentencePiece(size=32_768)))
"""What is planned where the command line does not say otherwise."""

DEFAULT = Fit(
    law=Parametric(),
    parameters=laws.BESIROGLU,
    objective=0.0,
    rows_used=0,
    degrees=0,
    # The runs that they are of, as read off that paper's figure.
    ranges={
        "params": (5.73e7, 1.62e10),
        "tokens": (1.39e9, 3.18e11),
        "flops": (1.4e18, 1.3e22),
    },
    warnings=(
        "constants of Besiroglu et al. 2024 (arXiv:2404.10102), of another data set (Hoffmann"
        " et al. 2022), without intervals; --law FIT.json takes a law of your own runs",
    ),
)
"""The law where none is given; its N counts all parameters."""


class Rung(NamedTuple):
    """A run of the ladder, and what it costs."""

    run: Run
    budget: float
    """FLOPs to be spent."""
    params: ledger.Parameters
    tokens_best: float | None
    """D* at this N: the tokens with which the law finds no other size better."""
    flops_6nd: float
    """6 N D, with N by the convention that the law counts in."""
    cost: ledger.RunCost

    @property
    def batch(self) -> int:
        """Positions of a step."""
        return self.run.data.batch * self.run.data.length


def optimum(fit: Fit, flops: float, unique: float | None = None) -> dict[str, Any]:
    """N*, D* and the loss at a budget, with 95% intervals where the fit has draws.

    Raises UserError where the law has no N*.

    >>> found = optimum(DEFAULT, 5.76e23)
    >>> f"{found['params']:.3e} {found['tokens']:.3e}"
    '7.225e+10 1.329e+12'
    """
    try:
        found = predict(fit, flops=flops, unique=unique)
    except ValueError as error:
        raise UserError(str(error).replace("unique=..", "--unique")) from None
    except KeyError as error:
        raise UserError(f"the {fit.law} law has no parameter {error}") from None
    if "params" not in found:
        raise UserError(f"the {fit.law} law has no line k_N C^a of the best size, so no N*")
    if not 0 < found["params"] < math.inf or _growth(fit, flops, unique) <= 0:
        raise UserError(f"the {fit.law} law's N* does not grow with FLOPs")
    if "tokens" not in found:
        k = laws.FLOPS_PER_PARAMETER_AND_TOKEN
        found["tokens"] = flops / (k * found["params"])
        if ends := found.get("ci95", {}).get("params"):
            found["ci95"]["tokens"] = tuple(flops / (k * end) for end in reversed(ends))
    return found


def best_tokens(fit: Fit, params: float, unique: float | None = None) -> float | None:
    """D* at a size: that of the budget at which the size is best; None beyond all budgets.

    >>> f"{best_tokens(DEFAULT, 7.225e10):.3e}"
    '1.329e+12'
    """

    def off(log_flops: float) -> float:
        return math.log(_best_params(fit, math.exp(log_flops), unique) / params)

    ends = math.log(1e3), math.log(1e45)
    if off(ends[0]) > 0 or off(ends[1]) < 0:
        return None
    from scipy.optimize import brentq  # slow to import

    flops = math.exp(brentq(off, *ends, xtol=1e-9))
    return float(optimum(fit, flops, unique)["tokens"])


def nearest_depth(model: Model, tokens: int, params: float, convention: Convention) -> int:
    """The depth whose number of parameters is by factors nearest to `params`."""

    def count(depth: int) -> int:
        return getattr(_parameters(model.at_depth(depth), tokens), convention)

    most = 1
    while count(most) < params:
        most *= 2
    above = bisect.bisect_left(range(most + 1), params, lo=1, key=count)
    return min(max(1, above - 1), above, key=lambda d: abs(math.log(count(d) / params)))


def batch_and_rate(params_matmul: float) -> tuple[float, float]:
    """Tokens of a batch, and adamw's learning rate: where to start, not where to end.

    Porian et al. 2024 (arXiv:2406.19146), as rounded in their plotting.py: 160 rows of 2048
    and 0.0047 at N = 108M, going as N^(2/3) and N^(-1/3). They were found at N of 25M to 108M
    on RefinedWeb, for tokens near the best, a constant rate and decay independent of it.

    >>> batch_and_rate(108e6)
    (327680.0, 0.0047)
    """
    times = params_matmul / 108e6
    return 160 * 2048 * times ** (2 / 3), 0.0047 * times ** (-1 / 3)


def ladder(
    base: Run,
    fit: Fit,
    flops: float,
    *,
    rungs: int,
    convention: Convention = "total",
    unique: float | None = None,
) -> list[Rung]:
    """Runs at a budget and below it, each `STEP` times as large as the one before.

    A rung is the shape nearest to N* of its budget, and trains as many whole steps as spend
    that budget by the exact count. Where shapes are too coarse for two budgets the larger one
    stays. Raises UserError where the budget is too small for any shape.
    """
    tokens = vocabulary_size(base.data.tokenizer)
    least = getattr(_parameters(base.model.at_depth(1), tokens), convention)
    found: dict[int, Rung] = {}
    for times in range(rungs):
        budget = flops / STEP**times
        params = optimum(fit, budget, unique)["params"]
        if params < least / 2:
            break
        if params > _MOST_PARAMS:
            raise UserError(f"--flops {flops:g}: N* is {params:.3g}, beyond any model")
        depth = nearest_depth(base.model, tokens, params, convention)
        if depth not in found:
            found[depth] = _rung(base, fit, budget, depth, convention, unique)
    if not found:
        best = optimum(fit, flops, unique)["params"]
        raise UserError(
            f"--flops {flops:g}: N* is {best:.3g}, but the smallest shape of the ladder has"
            f" {least:,} {convention.replace('_', '-')} parameters"
        )
    return list(reversed(found.values()))


def _rung(
    base: Run, fit: Fit, budget: float, depth: int, convention: Convention, unique: float | None
) -> Rung:
    tokens, model = vocabulary_size(base.data.tokenizer), base.model.at_depth(depth)
    params = _parameters(model, tokens)
    batch, rate = batch_and_rate(params.matmul)
    # A power of two, which devices can share.
    rows = 2 ** max(0, round(math.log2(batch / base.data.length)))
    run = msgspec.structs.replace(
        base,
        model=model,
        data=msgspec.structs.replace(base.data, batch=rows),
        optimizer=msgspec.structs.replace(base.optimizer, learning_rate=float(f"{rate:.2g}")),
    )
    run = validate(run)
    run = msgspec.structs.replace(run, tokens=ledger.tokens_for(run, tokens, budget))
    counted = getattr(params, convention)
    return Rung(
        run=run,
        budget=budget,
        params=params,
        tokens_best=best_tokens(fit, counted, unique),
        flops_6nd=float(laws.FLOPS_PER_PARAMETER_AND_TOKEN * counted * run.tokens),
        cost=ledger.cost(run, tokens),
    )


def _parameters(model: Model, tokens: int) -> ledger.Parameters:
    return ledger.parameters(Run(model=model), tokens)


def _best_params(fit: Fit, flops: float, unique: float | None) -> float:
    points = {"flops": flops} if unique is None else {"flops": flops, "unique": unique}
    return float(predict(replace(fit, draws={}, ranges={}), **points)["params"])


def _growth(fit: Fit, flops: float, unique: float | None) -> float:
    """The exponent of N*, d ln N* / d ln C, about a budget."""
    ends = [_best_params(fit, flops * times, unique) for times in (0.5, 2)]
    return math.log(ends[1] / ends[0]) / math.log(4)
