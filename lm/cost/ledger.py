"""What a run costs: parameters, FLOPs by component, and the budgets that it used."""

import bisect
from collections import Counter

import msgspec

from lm.config import Config
from lm.example import BidirectionalMask
from lm.objectives import Base
from lm.run import Run, execution_of, steps


class Parameters(Config):
    """Parameter counts by convention: fits change in the first digit with the choice."""

    total: int
    non_embedding: int
    """Without the tables (Kaplan et al. 2020)."""
    matmul: int
    """Those in matrix products: the head's table counts, and a lookup does not."""
    groups: dict[str, int]


class RunCost(Config):
    """Budgets of a whole run."""

    steps: int
    tokens: int
    """Positions of the rows that are read: steps x rows x length. Spans lay them out in more
    positions, which `flops` counts and `flops_6nd` does not."""
    target_positions: int
    """Positions that the head computed, used or not: under a rate that changes, as many as
    its largest value needs."""
    flops: int
    """Forward and backward matrix products, without rematerialization."""
    flops_rematerialized: int
    """What `run.remat` makes the backward pass compute again; in no other number."""
    flops_forward: dict[str, int]
    """One forward pass of one batch, by component; the mean where steps differ."""
    flops_backward: dict[str, int]
    """One backward pass, likewise: two products of the size of each in the forward pass."""
    flops_again: dict[str, int]
    """What is computed again for one batch, likewise."""
    flops_6nd: int
    """The usual shorthand: 6 x non-embedding parameters x tokens (Kaplan et al. 2020)."""


def parameters(run: Run, vocabulary_size: int) -> Parameters:
    """Parameters of the run's model."""
    groups = run.model.parameters(vocabulary_size)
    heads = sum(head.outputs for head in run.objective.heads)
    if heads:
        groups = groups | {"heads": heads * (run.model.width + 1)}
    total = sum(groups.values())
    return Parameters(
        total=total,
        non_embedding=total - groups["embedding"],
        matmul=sum(run.model.matmul_parameters(vocabulary_size).values())
        + heads * run.model.width,
        groups=groups,
    )


def step_flops(run: Run, vocabulary_size: int) -> dict[str, int]:
    """Forward FLOPs of one batch by component; a training step takes three times that.

    Where steps differ, as in a curriculum, it is their mean.
    """
    return cost(run, vocabulary_size).flops_forward


def objective_flops(run: Run, objective: Base, vocabulary_size: int) -> dict[str, int]:
    """Forward FLOPs by component of one batch of an objective."""
    rows, targets = run.data.batch, objective.target_count(run.data.length)
    found = run.model.matmul_flops(
        vocabulary_size,
        rows=rows,
        length=objective.positions(run.data.length),
        targets=targets,
        attention_mask=objective.attention_mask,
    )
    if objective.heads:  # which speak in the vocabulary's place
        outputs = sum(head.outputs for head in objective.heads)
        found["head"] = 2 * rows * targets * outputs * (run.model.width + 1)
    return found


def cost(run: Run, vocabulary_size: int) -> RunCost:
    """What the whole run will use, known before it starts."""
    count = steps(run)
    tokens = count * run.data.batch * run.data.length
    parts = run.objective.parts(count, run.seed)
    forward: Counter[str] = Counter()
    again = 0
    for part, times in parts.items():
        products = objective_flops(run, part, vocabulary_size)
        forward.update({name: times * flops for name, flops in products.items()})
        again += times * sum(run.model.recomputed_flops(products, run.remat).values())
    mean = {name: flops // count for name, flops in forward.items()}
    return RunCost(
        steps=count,
        tokens=tokens,
        target_positions=sum(
            times * run.data.batch * objective.target_count(run.data.length)
            for objective, times in parts.items()
        ),
        # The gradient of a product is two products of the same size.
        flops=3 * forward.total(),
        flops_rematerialized=again,
        flops_forward=mean,
        flops_backward={name: 2 * flops for name, flops in mean.items()},
        flops_again=run.model.recomputed_flops(mean, run.remat),
        flops_6nd=6 * parameters(run, vocabulary_size).non_embedding * tokens,
    )


def kernel_flops(run: Run, objective: Base, platform: str, *, train: bool = True) -> int:
    """FLOPs that kernels of attention do on a platform in a step, or in a forward pass alone.

    They are no budget: `cost` counts what the reference computes, so that budgets are the same
    on every platform. A compiler's own count leaves them out.
    """
    return run.model.kernel_flops_of(
        execution_of(run, platform),
        rows=run.data.batch,
        length=objective.positions(run.data.length),
        attention_mask=objective.attention_mask
        if run.mesh.context in (1, None)
        else BidirectionalMask(),
        train=train,
    )


def program_flops(run: Run, objective: Base, vocabulary_size: int, platform: str) -> int:
    """FLOPs of a training step as programs of a platform do them, with what is done again."""
    forward = objective_flops(run, objective, vocabulary_size)
    again = run.model.recomputed_flops(forward, run.remat)
    if kernels := kernel_flops(run, objective, platform):
        for products in (forward, again):
            products.pop("scores", None)
    return 3 * sum(forward.values()) + sum(again.values()) + kernels


def tokens_for(run: Run, vocabulary_size: int, flops: float) -> int:
    """The token budget, in whole steps, with which a run's FLOPs are closest to `flops`."""
    each = run.data.batch * run.data.length

    def total(count: int) -> int:
        trained = msgspec.structs.replace(run, tokens=count * each)
        return cost(trained, vocabulary_size).flops

    most = 1
    while total(most) < flops:
        most *= 2
    # More steps never cost less, whichever objectives they train.
    above = bisect.bisect_left(range(most + 1), flops, lo=1, key=total)
    below = max(1, above - 1)
    return each * min(below, above, key=lambda count: abs(total(count) - flops))
