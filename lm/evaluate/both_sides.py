"""The likelihood of a masked model from both sides: an interval for the mixture of all orders.

What a masked model gives a text is p = E[p_order], over random orders
(`lm.evaluate.scorers.all_orders`). K orders are drawn of each unit, a block of a window, and
the code length of all units, -sum log p, is held between two ends.

At most. The mean of K orders' p_order is an unbiased estimate of p that is never negative, and
so is the product of these means over units, as their orders are independent. By Markov's
inequality it is above 1/delta times its expectation with probability delta at most, whatever
the orders' spread: -sum log p <= -sum log mean(p_order) + log(1/delta). It is proven, costs
log(1/delta) nats in all and not for every unit, and lies below the any-order bound, which is
the mean of the logarithms (Burda et al. 2016, arXiv:1509.00519, on the mean within the
logarithm; Grosse et al. 2015, arXiv:1511.02543, on Markov's inequality).

At least. As log is concave, its tangent at any psi > 0 lies above it:

    log p <= log psi + (p - psi) / psi = log psi + E[p_order] / psi - 1,

with equality at psi = p (Ivanov et al. 2026, arXiv:2605.24292, who name it TUBE). The mean over
orders in the place of E[p_order] is unbiased only if psi does not depend on them: psi is the
mean of the first half of the orders, and the second half estimates. Were psi of the same half,
the ratio would always be 1 and the "bound" log mean(p_order), which is below log p on average.

How far may the estimate fall below its expectation? Ratios r = p_order/psi have heavy tails, so
that a normal interval from their sample is too short. But they are never negative, and a sum of
such numbers lies below its expectation, in the worst case, as a normal variable of their second
moments does: P(sum E[r] - sum r >= t) <= exp(-t^2 / (2 sum E[r^2])) (Maurer 2003, "A bound on
the deviation probability for sums of non-negative random variables", J. Inequal. Pure Appl.
Math. 4(1), equation 1.1). The second moment is estimated, as the larger of the sample's and of
the one that r has if its logarithm is normal with the spread that was found; that estimate is
not proven. No interval that sampled orders give can be, as one of those not drawn may have any
probability (Bahadur and Savage 1956): the only proof is the exact sum over all of them. So this
end is given where log p spreads little over orders, at which it was measured to hold, and is
not resolved elsewhere.

Dimension letters: K orders, U units, R windows, L positions.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from lm.config import UserError
from lm.evaluate.bits import measure
from lm.evaluate.scorers.all_orders import MOST, AllOrders, OneOrder, blocks_of
from lm.evaluate.scorers.base import ScoredRows, mask_prediction_of, refuses
from lm.evaluate.scoring import nats_by
from lm.evaluate.windows import Windows
from lm.example import content_of
from lm.objectives.base import MaskPrediction
from lm.results import Score
from lm.train.load import ModelWithText

MISS = 0.025
"""The probability that the likelihood lies beyond one of the ends."""
SPREAD = 1.5
"""Nats by which log p may spread over orders, as a standard deviation, to be resolved."""
MARGIN = 1.0
"""Nats a unit by which the estimate of the tangent may err, to be resolved."""
LEAST_ORDERS = 8
"""Half of them give psi, and half a mean and a spread."""
MOST_ORDERS = 4096
"""More would not fit where many windows are scored; all of a block of 8 take fewer calls."""


class Ends(NamedTuple):
    """Between what the code length of all units lies, in nats, each end with its own miss."""

    at_most: float
    at_least: float | None
    """None: not resolved."""
    bound: float
    """The mean over orders of their code lengths: the any-order bound, estimated."""
    spread: float
    """Standard deviation of log p over the orders of a unit: root mean square over units."""


def ends_of(nats_KU: np.ndarray) -> Ends:
    """The ends, from -log p_order of K independent orders of each of U units.

    Orders that all agree leave what Markov's inequality costs:

    >>> found = ends_of(np.full((8, 100), 3.0))
    >>> round(found.at_most - 300, 3), found.bound, found.spread
    (3.689, 300.0, 0.0)
    >>> ends_of(5 * np.random.default_rng(0).normal(size=(8, 100))).at_least is None
    True
    """
    log_KU = -nats_KU.astype(np.float64)
    orders, units = log_KU.shape
    half = orders // 2
    if orders < LEAST_ORDERS:
        raise ValueError(f"{orders} orders: both sides need at least {LEAST_ORDERS}")
    at_most = -_log_mean(log_KU).sum() + math.log(1 / MISS)

    psi_U = _log_mean(log_KU[:half])  # its logarithm
    ratio_KU = np.exp(np.minimum(log_KU[half:] - psi_U, 300))  # whose square is finite
    tangent = psi_U.sum() + (ratio_KU.mean(axis=0) - 1).sum()
    variance_U = log_KU.var(axis=0, ddof=1)
    normal_U = 2 * (log_KU.mean(axis=0) - psi_U + variance_U)  # log E[r^2] of a normal log r
    second_U = np.maximum((ratio_KU**2).mean(axis=0), np.exp(np.minimum(normal_U, 300)))
    margin = math.sqrt(2 * math.log(1 / MISS) * second_U.sum() / len(ratio_KU))

    spread = math.sqrt(variance_U.mean())
    resolved = spread <= SPREAD and margin <= MARGIN * units
    return Ends(
        at_most=float(at_most),
        at_least=float(-tangent - margin) if resolved else None,
        bound=float(nats_KU.mean(axis=0, dtype=np.float64).sum()),
        spread=spread,
    )


def _log_mean(log_KU: np.ndarray) -> np.ndarray:
    """Log of the mean of probabilities over K, given their logarithms."""
    return np.logaddexp.reduce(log_KU, axis=0) - math.log(len(log_KU))


@dataclass(frozen=True)
class BothSides:
    """The likelihood of all orders within blocks, in bits per byte with its layout."""

    block: int
    """Tokens of a block: all orders of each, from left to right."""
    orders: int
    units: int
    """Blocks that were scored."""
    bytes: int
    at_most: float
    at_least: float | None
    """None: not resolved."""
    bound: float
    """The any-order bound of the block model."""
    spread: float
    """Nats by which log p spreads over the orders of a block."""
    layout_bits: float | None
    """The part of all of these that the length model pays."""


def both_sides(
    trained: ModelWithText, *, rows: int | None, block: int, orders: int
) -> BothSides:
    """Both sides of a masked model's likelihood, by so many orders of each block.

    Raises UserError for a model that does not say what is masked.
    """
    scorer = OneOrder(block, _blank(trained))
    windows = Windows.of(trained, trained.tokens.validation, rows)
    nats_KRL = nats_by(trained, scorer, windows, orders)[:, 0]
    block_RL = _blocks(trained, windows, block)
    _, unit_n = np.unique(
        np.stack([np.nonzero(block_RL)[0], block_RL[block_RL > 0]]), axis=1, return_inverse=True
    )
    nats_KU = np.stack([np.bincount(unit_n.ravel(), of[block_RL > 0]) for of in nats_KRL])
    found = ends_of(nats_KU)
    total = int(windows.text.bytes_RL.sum())
    layout_RL = windows.layout(scorer.layout_given)
    layout = None if layout_RL is None else float(layout_RL.sum())

    def bits(nats: float) -> float:
        return (nats + (layout or 0.0)) / math.log(2) / total

    return BothSides(
        block=block,
        orders=orders,
        units=nats_KU.shape[1],
        bytes=total,
        at_most=bits(found.at_most),
        at_least=None if found.at_least is None else bits(found.at_least),
        bound=bits(found.bound),
        spread=found.spread,
        layout_bits=None if layout is None else bits(0.0),
    )


def exact_side(trained: ModelWithText, *, rows: int | None, block: int) -> Score:
    """The same likelihood itself, by all orders of each block; raises UserError as both do."""
    check_block(block)
    scorer = AllOrders(block, _blank(trained))
    windows = Windows.of(trained, trained.tokens.validation, rows)
    nats_KRL = nats_by(trained, scorer, windows, 1)[:, 0]
    layout_RL = windows.layout(scorer.layout_given)
    return measure(nats_KRL, windows.text, kind="exact", layout_RL=layout_RL, block=block)


def check_block(block: int) -> None:
    """Raises UserError for a block whose subsets are too many to be summed."""
    if block > MOST:
        raise UserError(f"--block {block}: all orders are summed of at most {MOST} tokens")


def _blank(trained: ModelWithText) -> MaskPrediction:
    """Where the model says what is masked; UserError where it does not."""
    predictions = trained.run.objective.predictions
    blank = mask_prediction_of(predictions)
    if blank is None:
        raise UserError(f"--orders: {refuses(OneOrder(), predictions)}")
    return blank


def _blocks(trained: ModelWithText, windows: Windows, size: int) -> np.ndarray:
    """The block of each scored token of the windows, from 1; 0 where none is scored."""
    tokens_RL, segments_RL = jnp.asarray(windows.tokens_RL), jnp.asarray(windows.segments_RL)
    vocabulary = trained.tokens.tokenizer.vocabulary
    scored_RL = content_of(tokens_RL, segments_RL, vocabulary)
    found_RL = blocks_of(ScoredRows(tokens_RL, segments_RL, scored_RL), size)
    return np.asarray(jnp.where(scored_RL, found_RL, 0)).astype(int)
