"""What a run costs: parameters, FLOPs by component, and the budgets that it used."""

from lm.config import Config
from lm.run import Run, steps


class Parameters(Config):
    """Parameter counts by convention: fits change in the first digit with the choice."""

    total: int
    non_embedding: int
    groups: dict[str, int]


class Cost(Config):
    """Budgets of a whole run."""

    steps: int
    tokens: int
    """Positions trained on: steps x rows x length."""
    slots: int
    """Prediction slots the head computed, used or not."""
    flops: int
    """Forward and backward matrix products, without rematerialization."""
    flops_forward: dict[str, int]
    """One forward pass of one batch, by component."""
    flops_6nd: int
    """The usual shorthand: 6 x non-embedding parameters x tokens (Kaplan et al. 2020)."""


def parameters(run: Run, vocabulary_size: int) -> Parameters:
    """Parameters of the run's model."""
    groups = run.model.parameters(vocabulary_size)
    total = sum(groups.values())
    return Parameters(total=total, non_embedding=total - groups["embedding"], groups=groups)


def step_flops(run: Run, vocabulary_size: int) -> dict[str, int]:
    """Forward FLOPs of one batch by component; a training step takes three times that."""
    return run.model.products(
        vocabulary_size,
        rows=run.data.batch,
        length=run.data.length,
        slots=run.objective.slots(run.data.length),
        visible=run.objective.visible,
    )


def cost(run: Run, vocabulary_size: int) -> Cost:
    """What the whole run will use, known before it starts."""
    forward = step_flops(run, vocabulary_size)
    count = steps(run)
    tokens = count * run.data.batch * run.data.length
    return Cost(
        steps=count,
        tokens=tokens,
        slots=count * run.data.batch * run.objective.slots(run.data.length),
        # The gradient of a product is two products of the same size.
        flops=3 * count * sum(forward.values()),
        flops_forward=forward,
        flops_6nd=6 * parameters(run, vocabulary_size).non_embedding * tokens,
    )
