"""How parameters move: the optimizers, their schedules, and the optax transformation of both.

`build` needs to know what each parameter is. It is told so by the axes that the parameter was
declared with - `("layers", "embed", "mlp")` - and never guesses from the number of dimensions,
because layers are stacked: a stack of norm scales has two dimensions and is not a matrix.

The best learning rate falls as models get wider. With `base_width`, the width at which the rate
was tuned, it need not be tuned again: what training changes in activations and logits is the
same at every width (maximal update parametrization, Yang et al. 2022, arXiv:2203.03466, table 8
with tied embeddings; for muon the spectral condition, Yang, Simon & Bernstein 2023,
arXiv:2310.17813). For a model r times as wide as the base,

    matrices of layers      steps / r (adamw, lion: every entry of a step has one size, and r
                            times as many inputs add up), / sqrt(r) (muon)
    the last norm           value, gradient and steps / r: the same as if the logits were
                            multiplied by 1 / r, as they are sums over r times as many states
    embeddings, other norms as they are
    eps of adam             / r, as all gradients are

Initial values of matrices of layers fall as 1 / sqrt(inputs) at any rate (lm/model). Decay is
not scaled: a weight loses the same share per step at every width (Wang & Aitchison 2024,
arXiv:2405.13698). All this holds between models of one depth and head size, whose heads and MLP
grow with the width, and which train on equal batches for as long.
"""

import math
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import optax
from msgspec import Meta

from lm.config import Config, UserError

Peak = Annotated[float, Meta(ge=0, description="learning rate at the peak of the schedule")]
Decay = Annotated[float, Meta(ge=0, description="share of a weight lost, per unit of rate")]
Clip = Annotated[float, Meta(gt=0, description="largest global norm of a gradient")] | None
Epsilon = Annotated[float, Meta(gt=0, description="added to the root of the mean square")]
Final = Annotated[float, Meta(ge=0, le=1, description="share of the peak at the end")]
BaseWidth = (
    Annotated[
        int,
        Meta(ge=2, description="model width that the rate was tuned at; null: rate as it is"),
    ]
    | None
)


class Adamw(Config, tag="adamw"):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    learning_rate: Peak = 3e-3
    b1: Annotated[float, Meta(ge=0, lt=1, description="decay of the mean gradient")] = 0.9
    b2: Annotated[float, Meta(ge=0, lt=1, description="decay of the mean square")] = 0.95
    eps: Epsilon = 1e-8
    decay: Decay = 0.1
    clip: Clip = 1.0
    base_width: BaseWidth = None


class Lion(Config, tag="lion"):
    """The sign of an interpolated momentum (Chen et al. 2023, arXiv:2302.06675).

    Its rate is about a tenth of adamw's and its decay ten times adamw's (their section 5).
    """

    learning_rate: Peak = 3e-4
    b1: Annotated[float, Meta(ge=0, lt=1, description="weight of the momentum in a step")] = 0.9
    b2: Annotated[float, Meta(ge=0, lt=1, description="decay of the momentum")] = 0.99
    decay: Decay = 1.0
    clip: Clip = 1.0
    base_width: BaseWidth = None


class Adafactor(Config, tag="adafactor"):
    """Factored second moments (Shazeer & Stern 2018, arXiv:1804.04235, algorithms 4 and 5).

    No momentum; steps are relative to the RMS of the parameter, and the decay of the second
    moment is 1 - t^-exponent. It has no `base_width`: how far that RMS depends on the width
    changes as training goes on.
    """

    learning_rate: Peak = 1e-2
    exponent: Annotated[float, Meta(gt=0, le=1, description="of the moment's decay")] = 0.8
    factor_from: Annotated[int, Meta(ge=1, description="sides smaller than this are whole")] = (
        128
    )
    threshold: Annotated[float, Meta(ge=1, description="largest RMS of an update")] = 1.0
    decay: Decay = 0.0
    clip: Clip = 1.0


class Muon(Config, tag="muon"):
    """Orthogonalized momentum for hidden matrices, adam for everything else.

    A matrix's step is scaled to the RMS that adam's has, 0.2 sqrt(max(inputs, outputs))
    (Liu et al. 2025, arXiv:2502.16982, eq. 4), so one rate and one decay serve both kinds.
    """

    learning_rate: Peak = 3e-3
    momentum: Annotated[float, Meta(ge=0, lt=1, description="decay of the momentum")] = 0.95
    iterations: Annotated[int, Meta(ge=1, description="of Newton and Schulz")] = 5
    b1: Annotated[float, Meta(ge=0, lt=1, description="adam's decay of the mean")] = 0.9
    b2: Annotated[float, Meta(ge=0, lt=1, description="adam's decay of the mean square")] = 0.95
    eps: Epsilon = 1e-8
    decay: Decay = 0.1
    clip: Clip = 1.0
    base_width: BaseWidth = None


Optimizer = Adamw | Lion | Adafactor | Muon


class WarmupStableDecay(Config, tag="warmup_stable_decay"):
    """Up in a line, flat, down at the end (Hägele et al. 2024, arXiv:2405.18392)."""

    warmup: Annotated[float, Meta(ge=0, le=1, description="share of the steps going up")] = 0.02
    decay: Annotated[float, Meta(ge=0, le=1, description="share of the steps going down")] = 0.2
    final: Final = 0.0
    shape: Annotated[
        Literal["linear", "sqrt"], Meta(description="of the way down; sqrt: 1 - sqrt(progress)")
    ] = "sqrt"


class Cosine(Config, tag="cosine"):
    """Up in a line, down along half a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983)."""

    warmup: Annotated[float, Meta(ge=0, le=1, description="share of the steps going up")] = 0.02
    final: Final = 0.1


Schedule = WarmupStableDecay | Cosine


def check(schedule: Schedule) -> None:
    """Raise `UserError` if the parts of the schedule do not fit into one run."""
    if isinstance(schedule, WarmupStableDecay) and schedule.warmup + schedule.decay > 1:
        raise UserError(
            f"schedule.decay: {schedule.decay:g} does not fit beside schedule.warmup "
            f"{schedule.warmup:g}; at most {1 - schedule.warmup:g}"
        )


def warmup_steps(schedule: Schedule, steps: int) -> int:
    """How many of the first steps go up; the last of them is at the peak.

    >>> warmup_steps(Cosine(warmup=0.1), 30), warmup_steps(Cosine(warmup=0.1), 1)
    (3, 0)
    """
    return round(schedule.warmup * steps)


def decay_steps(schedule: Schedule, steps: int) -> int:
    """How many of the last steps go down; never more than warm-up leaves.

    >>> decay_steps(WarmupStableDecay(warmup=0.5, decay=0.5), 3), decay_steps(Cosine(), 100)
    (1, 98)
    """
    rest = steps - warmup_steps(schedule, steps)
    if isinstance(schedule, Cosine):
        return rest
    return min(round(schedule.decay * steps), rest)


def learning_rate(optimizer: Optimizer, schedule: Schedule, steps: int) -> optax.Schedule:
    """The rate at step 0, 1, ... `steps - 1`, as a function that jit can trace.

    No update is wasted: step 0 is at peak / warm-up steps, and the final value is what step
    number `steps` would have, the one after the last.
    """
    warmup, decay = warmup_steps(schedule, steps), decay_steps(schedule, steps)

    def rate(step: jax.typing.ArrayLike) -> jax.Array:
        now = jnp.asarray(step, jnp.float32)
        up = jnp.minimum((now + 1) / max(warmup, 1), 1.0)
        progress = jnp.clip((now - (steps - decay)) / max(decay, 1), 0.0, 1.0)
        if isinstance(schedule, Cosine):
            left = (1 + jnp.cos(jnp.pi * progress)) / 2
        elif schedule.shape == "sqrt":
            left = 1 - jnp.sqrt(progress)
        else:
            left = 1 - progress
        return optimizer.learning_rate * up * (schedule.final + (1 - schedule.final) * left)

    return rate


def build(
    optimizer: Optimizer, schedule: Schedule, steps: int, axes: Any, *, width: int
) -> optax.GradientTransformation:
    """The whole update: clip, the optimizer's direction, decay of weights, the learning rate.

    `axes` is the parameters' tree with tuples of axis names for leaves, `width` the model's.
    Decay is decoupled (multiplied by the rate, not by the gradient) and reaches every matrix,
    embeddings too, and no scale or bias, as in BERT (arXiv:1810.04805, the reference code's
    `exclude_from_weight_decay`) and GPT (Radford et al. 2018, section 4.1).
    """
    clip = math.inf if optimizer.clip is None else optimizer.clip
    ratio = _ratio(optimizer, width)
    gradient = optax.chain(
        _multiply(lambda names: _last_norm(names, ratio), axes), optax.clip_by_global_norm(clip)
    )
    step = optax.chain(
        _multiply(lambda names: _rate(optimizer, names, ratio), axes),
        optax.add_decayed_weights(optimizer.decay, mask=_map_axes(is_weight, axes)),
    )
    rate = optax.scale_by_learning_rate(learning_rate(optimizer, schedule, steps))
    return optax.chain(gradient, _direction(optimizer, axes, ratio), step, rate)


def initial(optimizer: Optimizer, params: Any, axes: Any, *, width: int) -> Any:
    """The values to begin from: the body's own, the last norm's smaller beyond the base width.

    >>> axes = {"norm": ("embed",), "up": ("layers", "embed", "mlp")}
    >>> ones = {"norm": jnp.ones(8), "up": jnp.ones((2, 8, 8))}
    >>> found = initial(Adamw(base_width=2), ones, axes, width=8)
    >>> float(found["norm"][0]), float(found["up"][0, 0, 0])
    (0.25, 1.0)
    """
    ratio = _ratio(optimizer, width)
    return _map_axes(lambda names, x: _last_norm(names, ratio) * x, axes, params)


def state_axes(transformation: optax.GradientTransformation, params: Any, axes: Any) -> Any:
    """Axes of every leaf of the optimizer's state, so that it is sharded as its parameter is.

    A leaf whose path ends in a parameter's path has its axes; the rest (counters, all of
    Adafactor's, which is small) get `()`: a copy on every device.
    """
    names = dict(jax.tree_util.tree_flatten_with_path(axes, is_leaf=_is_axes)[0])

    def of(path: tuple[Any, ...], _: Any) -> tuple[str, ...]:
        tails = (path[start:] for start in range(len(path)))
        return next((names[tail] for tail in tails if tail in names), ())

    return jax.tree_util.tree_map_with_path(of, jax.eval_shape(transformation.init, params))


def is_weight(axes: tuple[str, ...]) -> bool:
    """Whether these are the axes of a matrix: inputs and outputs, one or a stack.

    >>> is_weight(("layers", "embed", "heads", "head")), is_weight(("vocab", "embed"))
    (True, True)
    >>> is_weight(("layers", "embed")), is_weight(("layers", "heads", "head"))
    (False, False)
    """
    return len(_sides(axes)) == 2


def _ratio(optimizer: Optimizer, width: int) -> float:
    """How many times as wide as the base."""
    base = None if isinstance(optimizer, Adafactor) else optimizer.base_width
    return width / (base or width)


def _last_norm(axes: tuple[str, ...], ratio: float) -> float:
    """What stands for a multiplier of the logits: 1 / r for vectors beside the layers."""
    return 1 / ratio if axes == ("embed",) else 1.0


def _rate(optimizer: Optimizer, axes: tuple[str, ...], ratio: float) -> float:
    """What a parameter's steps are multiplied by, so that the rate suits its width."""
    if not _is_hidden(axes):
        return _last_norm(axes, ratio)
    return ratio**-0.5 if isinstance(optimizer, Muon) else 1 / ratio


def _multiply(factor: Any, axes: Any) -> optax.GradientTransformation:
    def scale(updates: Any, params: Any) -> Any:
        del params
        return _map_axes(lambda names, update: factor(names) * update, axes, updates)

    return optax.stateless(scale)


def _direction(optimizer: Optimizer, axes: Any, ratio: float) -> optax.GradientTransformation:
    match optimizer:
        case Adamw():
            return _adam(optimizer, ratio)
        case Lion():
            return optax.scale_by_lion(b1=optimizer.b1, b2=optimizer.b2)
        case Adafactor():
            matrix = optax.chain(
                optax.scale_by_factored_rms(
                    decay_rate=optimizer.exponent, min_dim_size_to_factor=optimizer.factor_from
                ),
                optax.clip_by_block_rms(optimizer.threshold),
                optax.scale_by_param_block_rms(),
            )
            return _each_matrix(matrix, axes)
        case Muon():
            return optax.partition(
                {
                    "hidden": _orthogonalized(optimizer, axes),
                    "rest": _adam(optimizer, ratio),
                },
                _map_axes(lambda names: "hidden" if _is_hidden(names) else "rest", axes),
            )


def _adam(optimizer: Adamw | Muon, ratio: float) -> optax.GradientTransformation:
    return optax.scale_by_adam(b1=optimizer.b1, b2=optimizer.b2, eps=optimizer.eps / ratio)


def _orthogonalized(optimizer: Muon, axes: Any) -> optax.GradientTransformation:
    def dimensions(names: tuple[str, ...]) -> Any:
        if not _is_hidden(names):
            return optax.MaskedNode()
        inputs, outputs = _sides(names)
        return optax.contrib.MuonDimensionNumbers(inputs, outputs)

    def scale(names: tuple[str, ...], update: Any) -> Any:
        if not _is_hidden(names):
            return update
        sides = (math.prod(update.shape[i] for i in side) for side in _sides(names))
        return 0.2 * math.sqrt(max(sides)) * update

    def scale_all(updates: Any, params: Any) -> Any:
        del params
        return _map_axes(scale, axes, updates)

    return optax.chain(
        optax.contrib.scale_by_muon(
            beta=optimizer.momentum,
            ns_steps=optimizer.iterations,
            weight_dimension_numbers=_map_axes(dimensions, axes),
        ),
        optax.stateless(scale_all),
    )


def _each_matrix(
    inner: optax.GradientTransformation, axes: Any
) -> optax.GradientTransformation:
    """Apply `inner` to every layer of every parameter by itself, with each side one dimension.

    Otherwise Adafactor would factor the two largest dimensions, which may be layers or heads,
    and take its root mean squares over all layers.
    """

    def over(names: tuple[str, ...], function: Any) -> Any:
        return jax.vmap(function) if "layers" in names else function

    def matrix(names: tuple[str, ...], x: jax.Array) -> jax.Array:
        sides = tuple(math.prod(x.shape[i] for i in side) for side in _sides(names))
        return x.reshape(x.shape[: "layers" in names] + sides)

    def init(params: Any) -> Any:
        return _map_axes(lambda n, p: over(n, inner.init)(matrix(n, p)), axes, params)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        def one(names: tuple[str, ...], u: jax.Array, s: Any, p: jax.Array) -> tuple[Any, Any]:
            move, new = over(names, inner.update)(matrix(names, u), s, matrix(names, p))
            return move.reshape(u.shape), new

        both = _map_axes(one, axes, updates, state, params)
        return tuple(_map_axes(lambda _, pair, i=i: pair[i], axes, both) for i in (0, 1))

    return optax.GradientTransformation(init, update)


_SIDES = (("heads", "head"), ("kv", "head"), ("embed",), ("mlp",), ("vocab",), ("head",))
"""Runs of axes that are one side of a matrix: all of its inputs or all of its outputs."""


def _sides(axes: tuple[str, ...]) -> list[tuple[int, ...]]:
    """Positions of the axes of each side, inputs before outputs; layers are no side.

    >>> _sides(("layers", "embed", "heads", "head"))
    [(1,), (2, 3)]
    """
    sides: list[tuple[int, ...]] = []
    start = 1 if axes[:1] == ("layers",) else 0
    while start < len(axes):
        run = next((run for run in _SIDES if axes[start : start + len(run)] == run), None)
        if run is None or len(sides) == 2:
            raise ValueError(f"which axes of {axes} are inputs, which outputs? See _SIDES")
        sides.append(tuple(range(start, start + len(run))))
        start += len(run)
    return sides


def _is_hidden(axes: tuple[str, ...]) -> bool:
    return is_weight(axes) and "vocab" not in axes


def _is_axes(x: Any) -> bool:
    return isinstance(x, tuple)


def _map_axes(function: Any, axes: Any, *trees: Any) -> Any:
    return jax.tree.map(function, axes, *trees, is_leaf=_is_axes)
