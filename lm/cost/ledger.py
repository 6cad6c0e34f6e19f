"""What a run costs: parameters, FLOPs by component, and the budgets that it used."""

import bisect
import math
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from lm.config import Config
from lm.data import Data
from lm.example import AttentionMask, BidirectionalMask
from lm.model.heads import parameters_of
from lm.objectives import Base, Causal
from lm.optimizer import LORA, trainable
from lm.run import Run, changing, execution_of, steps


class Parameters(Config):
    """Parameter counts by convention: fits change in the first digit with the choice."""

    total: int
    non_embedding: int
    """Without the tables (Kaplan et al. 2020)."""
    active: int
    """Those that a token passes through: all but the experts that are not chosen for it."""
    matmul: int
    """Those in matrix products: the table of each head that speaks, and no lookup. Of experts
    the active ones."""
    trainable: int
    """Those that training changes."""
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
    """What `run.remat` makes the backward pass compute again, and the logits of an objective
    that needs them twice; in no other number."""
    flops_forward: dict[str, int]
    """One forward pass of one batch, by component; the mean where steps differ. `rollout` is
    what sampling as many tokens as it may takes, `companions` what frozen models are asked."""
    flops_backward: dict[str, int]
    """One backward pass, likewise: two products of the size of each in the forward pass, but
    for those that frozen parameters save."""
    flops_again: dict[str, int]
    """What is computed again for one batch, likewise."""
    flops_6nd: int
    """The usual shorthand: 6 x non-embedding parameters x tokens (Kaplan et al. 2020); of
    experts the active ones."""


def parameters(run: Run, vocabulary_size: int) -> Parameters:
    """Parameters of the run's model."""
    groups = run.model.parameters(vocabulary_size)
    heads = sum(head.outputs for head in run.objective.heads)
    if heads:
        shapes = (shape for shape, _ in _of_heads(run).values())
        groups = groups | {"heads": sum(map(math.prod, shapes))}
    sizes = {name: math.prod(of) for name, of in _shapes(run, vocabulary_size).items()}
    if added := sum(size for name, size in sizes.items() if name.startswith(LORA)):
        groups = groups | {"lora": added}
    total = sum(groups.values())
    matmul = Counter(run.model.matmul_parameters(vocabulary_size))
    if all(part.heads for part in run.objective.parts(steps(run), run.seed)):
        del matmul["head"]  # the vocabulary's, which never speaks
    return Parameters(
        total=total,
        non_embedding=total - groups["embedding"],
        active=total - run.model.idle_parameters,
        matmul=matmul.total() + heads * run.model.width + added,
        trainable=total
        if changing(run) is None
        else sum(sizes[name] for name in _changes(run).names),
        groups=groups,
    )


def step_flops(run: Run, vocabulary_size: int) -> dict[str, int]:
    """Forward FLOPs of one batch by component; the backward pass comes on top, see `Cost`.

    Where steps differ, as in a curriculum, it is their mean.
    """
    return cost(run, vocabulary_size).flops_forward


_Named = Mapping[str, Run]
"""The settings of models that an objective names by a path."""
_NONE: _Named = MappingProxyType({})
_NO_GRADIENT = "rollout", "companions"


def objective_flops(
    run: Run, objective: Base, vocabulary_size: int, named: _Named = _NONE
) -> dict[str, int]:
    """Forward FLOPs by component of one batch of an objective.

    A companion whose settings are not `named` is counted as nothing.
    """
    rows, length = run.data.batch, run.data.length
    targets = objective.target_count(length)
    found = _forward_flops(
        run,
        vocabulary_size,
        length=objective.positions(length),
        targets=targets,
        attention_mask=objective.attention_mask,
        source=objective.source_positions(length),
    )
    if objective.heads:  # which speak in the vocabulary's place
        outputs = sum(head.outputs for head in objective.heads)
        found["head"] = 2 * rows * targets * outputs * (run.model.width + 1)
        pools = sum(head.pool is not None for head in objective.heads)
        positions = objective.positions(length)
        found["pool"] = 2 * rows * targets * pools * positions * run.model.width
        if queries := sum(head.pool == "attention" for head in objective.heads):
            found["pool_scores"] = 2 * rows * queries * positions * run.model.width
    if pairs := objective.compared(rows, length):
        found["compared"] = 2 * pairs * run.model.width
    if count := objective.sample_count(length):
        # Every token read, and those drawn, looks at each place of the cache.
        sampled = _forward_flops(
            run,
            vocabulary_size,
            length=length + count,
            targets=1 + count,
            attention_mask=BidirectionalMask(),
        )
        found["rollout"] = sum(sampled.values())
    if asked := _asked(run, objective.companions, named):
        # A teacher answers what the student does, others what they were trained for.
        found["companions"] = sum(
            sum(objective_flops(of, last, vocabulary_size).values())
            for of in asked
            for last in [objective.last if objective.taught_by else of.objective.last]
        )
    return found


def companion_parameters(run: Run, vocabulary_size: int, named: _Named = _NONE) -> int:
    """How many parameters the frozen models have that the objective asks."""
    asked = _asked(run, run.objective.companions, named)
    return sum(parameters(of, vocabulary_size).total for of in asked)


def derived_flops(run: Run, vocabulary_size: int, named: _Named = _NONE) -> int:
    """FLOPs of computing one batch's derived channels: a forward pass of what says them.

    They are in no other number, as each row of the text is read so once, however often it is
    trained on.
    """
    asked = _asked(run, run.objective.derived, named)
    return sum(sum(objective_flops(of, Causal(), vocabulary_size).values()) for of in asked)


def _asked(run: Run, models: Mapping[str, Any], named: _Named) -> list[Run]:
    """Frozen models as runs on the rows of this one: what it starts from, and what is named."""
    found = []
    for name, path in models.items():
        if path is None:
            found.append(msgspec.structs.replace(run, objective=Causal(), adapter=None))
        elif name in named:
            data = run.data
            rows = Data(tokenizer=data.tokenizer, length=data.length, batch=data.batch)
            found.append(msgspec.structs.replace(named[name], data=rows, adapter=None))
    return found


def _forward_flops(
    run: Run,
    vocabulary_size: int,
    *,
    length: int,
    targets: int,
    attention_mask: AttentionMask,
    source: int = 0,
) -> dict[str, int]:
    """Those of a batch's way through the model, with its adapter."""
    found = run.model.matmul_flops(
        vocabulary_size,
        rows=run.data.batch,
        length=length,
        targets=targets,
        attention_mask=attention_mask,
        source=source,
    )
    if run.adapter is not None:
        # As many positions pass through A and B as through their matrix.
        multiplied = run.model.matmul_parameters(vocabulary_size)
        added, matrices = Counter[str](), run.model.matrices()
        for name, shape in _adapter_shapes(run).items():
            component, _ = matrices[name.removeprefix(LORA).rpartition("/")[0]]
            added[component] += math.prod(shape)
        found["lora"] = sum(
            found[component] * size // multiplied[component]
            for component, size in added.items()
        )
    return found


class Gradients(NamedTuple):
    """FLOPs of the backward pass of one batch by component."""

    inputs: dict[str, int]
    """Of what goes into the products: it takes the gradient to what changes below them."""
    weights: dict[str, int]
    """Of the matrices that change; where both operands are activations, of the second."""


def gradient_flops(run: Run, objective: Base, vocabulary_size: int) -> Gradients:
    """FLOPs of the gradients of one batch of an objective, by component.

    Each is a product of the size of the one in the forward pass. What nothing needs is not
    computed: the gradient of a frozen matrix, and whatever is below all that changes. Layers
    are one loop, in which each of them does what any of them must.
    """
    forward = objective_flops(run, objective, vocabulary_size)
    changes = _changes(run)
    of_all, of_changed = Counter[str](), Counter[str]()
    for name, (component, size) in run.model.matrices().items():
        of_all[component] += size
        of_changed[component] += size * (name in changes.names)
    inputs, weights = {}, {}
    for name, flops in forward.items():
        if name in _NO_GRADIENT:
            inputs[name] = weights[name] = 0
            continue
        inputs[name] = flops * changes.layers
        weights[name] = inputs[name]
        if name in of_all:
            weights[name] = flops * of_changed[name] // of_all[name]
        elif name == "head":
            inputs[name] = flops * changes.states
            weights[name] = flops * bool(changes.names & _tables(run, objective))
        elif name == "pool":
            # How much of each state is no parameter, but what scores make it follows from one.
            scored = "pool_scores" in forward and (changes.states or changes.query)
            inputs[name], weights[name] = flops * changes.states, flops * scored
        elif name == "compared":
            inputs[name] = weights[name] = flops * changes.states
        elif name == "pool_scores":
            inputs[name], weights[name] = flops * changes.states, flops * changes.query
    return Gradients(inputs, weights)


class _Changes(NamedTuple):
    """What training changes, and how far down its backward pass must go for it."""

    names: frozenset[str]
    """Paths of the parameters that change."""
    states: bool
    """Whether one of them is below the heads."""
    layers: bool
    """Whether one of them is in the layers or below, so below the last norm."""
    query: bool
    """Whether one of them is the query of a head that pools by attention."""


def _changes(run: Run) -> _Changes:
    """What `lm.run.changing` says; raises UserError where it matches nothing."""
    axes = run.model.axes()
    if run.adapter is not None:
        axes |= run.adapter.axes(axes)
    axes |= {name: of for name, (_, of) in _of_heads(run).items()}
    names = frozenset(axes)
    if (patterns := changing(run)) is not None:
        names = frozenset(n for n, train in trainable(patterns, axes).items() if train)
    outputs = {"unembedding", "output_bias"} | {n for n in axes if n.startswith("head_")}
    below = names - outputs
    layers = any(axes[n] != ("last_embed",) for n in below)  # which a last norm's vectors have
    query = any(name.startswith("head_") and name.endswith("/query") for name in names)
    return _Changes(names, bool(below), layers, query)


def _shapes(run: Run, vocabulary_size: int) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter of a run by its path."""
    heads = {name: shape for name, (shape, _) in _of_heads(run).items()}
    return run.model.shapes(vocabulary_size) | _adapter_shapes(run) | heads


def _of_heads(run: Run) -> dict[str, tuple[tuple[int, ...], tuple[str, ...]]]:
    """The shape and the axes of each parameter of the run's heads by its path."""
    each = (parameters_of(head, run.model.width) for head in run.objective.heads)
    return {name: of for parameters in each for name, of in parameters.items()}


def _adapter_shapes(run: Run) -> dict[str, tuple[int, ...]]:
    if run.adapter is None:
        return {}
    return run.adapter.shapes(run.model.axes(), run.model.shapes(1))


def _again(run: Run, objective: Base, forward: Mapping[str, int]) -> dict[str, int]:
    """What the backward pass of one batch of an objective computes again, by component."""
    remat = run.remat if _changes(run).layers else "none"
    found = run.model.recomputed_flops(forward, remat)
    if remat == "block" and "lora" in forward:
        found["lora"] = forward["lora"]
    if objective.logits_again:
        found["head"] = forward["head"]
    return found


def _tables(run: Run, objective: Base) -> frozenset[str]:
    """Paths of what turns states into the outputs of an objective."""
    if objective.heads:
        parts = ("table", "bias")
        return frozenset(f"head_{h.name}/{part}" for h in objective.heads for part in parts)
    tables = frozenset(name for name, axes in run.model.axes().items() if "vocab" in axes)
    return tables & {"unembedding"} or tables


def cost(run: Run, vocabulary_size: int, named: _Named = _NONE) -> RunCost:
    """What the whole run will use, known before it starts."""
    count = steps(run)
    tokens = count * run.data.batch * run.data.length
    parts = run.objective.parts(count, run.seed)
    forward, inputs, weights = Counter[str](), Counter[str](), Counter[str]()
    again = Counter[str]()
    for part, times in parts.items():
        products = objective_flops(run, part, vocabulary_size, named)
        gradients = gradient_flops(run, part, vocabulary_size)
        found = (products, *gradients, _again(run, part, products))
        for total, each in zip((forward, inputs, weights, again), found, strict=True):
            total.update({name: times * flops for name, flops in each.items()})
    mean = {name: flops // count for name, flops in forward.items()}
    counted = parameters(run, vocabulary_size)
    return RunCost(
        steps=count,
        tokens=tokens,
        target_positions=sum(
            times * run.data.batch * objective.target_count(run.data.length)
            for objective, times in parts.items()
        ),
        flops=forward.total() + inputs.total() + weights.total(),
        flops_rematerialized=again.total(),
        flops_forward=mean,
        flops_backward={name: inputs[name] // count + weights[name] // count for name in mean},
        flops_again={name: flops // count for name, flops in again.items()},
        flops_6nd=6 * (counted.non_embedding - run.model.idle_parameters) * tokens,
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


def program_flops(
    run: Run, objective: Base, vocabulary_size: int, platform: str, named: _Named = _NONE
) -> int:
    """FLOPs of a training step as programs of a platform do them, with what is done again."""
    layers = _changes(run).layers
    forward = objective_flops(run, objective, vocabulary_size, named)
    done = [forward, *gradient_flops(run, objective, vocabulary_size)]
    done.append(_again(run, objective, forward))
    if kernels := kernel_flops(run, objective, platform, train=layers):
        for products in done:
            products.pop("scores", None)
    return sum(sum(products.values()) for products in done) + kernels


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
