"""The whole update of a run, from an optimizer, its schedule, and the axes of parameters."""

import difflib
import fnmatch
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from lm.config import UserError
from lm.optimizer.axes import is_axes, is_layer_matrix, is_weight, map_axes
from lm.optimizer.base import Base
from lm.optimizer.schedule import Schedule, Slopes, learning_rate


def build(
    optimizer: Base,
    schedule: Schedule,
    slopes: Slopes,
    axes: Any,
    *,
    width: int,
    trains: Any = None,
    mesh: Mesh | None = None,
) -> optax.GradientTransformation:
    """The whole update: clip, the optimizer's direction, decay of weights, the learning rate.

    `axes` is the parameters' tree with tuples of axis names for leaves, `width` the model's.
    Decay is decoupled (multiplied by the rate, not by the gradient) and reaches every matrix,
    embeddings too, and no scale or bias, as in BERT (arXiv:1810.04805, the reference code's
    `exclude_from_weight_decay`) and GPT (Radford et al. 2018, section 4.1).

    `trains` is the tree of `trainable`, where only some parameters change: the others count in
    no norm and have no state. Their gradients must be zeros: see `only_trained`. `mesh` is
    where parameters are split, for what is then better done in another layout.
    """
    if trains is not None:
        some = jax.tree.map(
            lambda names, train: names if train else optax.MaskedNode(),
            axes,
            trains,
            is_leaf=is_axes,
        )
        whole = build(optimizer, schedule, slopes, some, width=width, mesh=mesh)
        return optax.masked(whole, trains)
    clip = math.inf if optimizer.clip is None else optimizer.clip
    ratio = optimizer.width_ratio(width)
    gradient = optax.chain(
        _multiply(lambda names: _last_norm(names, ratio), axes), optax.clip_by_global_norm(clip)
    )
    step = optax.chain(
        _multiply(lambda names: _rate(optimizer, names, ratio), axes),
        optax.add_decayed_weights(optimizer.weight_decay, mask=map_axes(is_weight, axes)),
    )
    rate = optax.scale_by_learning_rate(learning_rate(optimizer, schedule, slopes))
    return optax.chain(gradient, optimizer.direction(axes, ratio, mesh), step, rate)


def trainable(patterns: Sequence[str], axes: Any) -> Any:
    """Which parameters change: the tree of `axes` with a bool for each leaf.

    A pattern is a path as a shell matches it. Raises UserError where one matches no parameter.

    >>> trainable(["layers/*"], {"layers": {"up": ("embed", "mlp")}, "norm": ("embed",)})
    {'layers': {'up': True}, 'norm': False}
    """
    paths = jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/"),
        axes,
        is_leaf=is_axes,
    )
    names = jax.tree.leaves(paths)
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            near = difflib.get_close_matches(pattern, names, 3, 0.0)
            raise UserError(f"trainable: {pattern} matches no parameter; nearest: {near}")
    return jax.tree.map(
        lambda name: any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns), paths
    )


def only_trained(trains: Any, gradients: Any) -> Any:
    """The gradients, with zeros where a parameter does not change."""
    return jax.tree.map(lambda train, x: x if train else jnp.zeros_like(x), trains, gradients)


def initial(optimizer: Base, params: Any, axes: Any, *, width: int) -> Any:
    """The values to begin from: the model's own, the last norm's smaller beyond the base width.

    >>> import jax.numpy as jnp
    >>> from lm.optimizer import Adamw
    >>> axes = {"norm": ("last_embed",), "up": ("layers", "embed", "mlp")}
    >>> ones = {"norm": jnp.ones(8), "up": jnp.ones((2, 8, 8))}
    >>> found = initial(Adamw(base_width=2), ones, axes, width=8)
    >>> float(found["norm"][0]), float(found["up"][0, 0, 0])
    (0.25, 1.0)
    """
    ratio = optimizer.width_ratio(width)
    return map_axes(lambda names, x: _last_norm(names, ratio) * x, axes, params)


def state_axes(transformation: optax.GradientTransformation, params: Any, axes: Any) -> Any:
    """Axes of every leaf of the optimizer's state, so that it is sharded as its parameter is.

    A leaf whose path ends in a parameter's path has its axes; the rest (counters, all of
    Adafactor's, which is small) get `()`: a copy on every device.
    """
    names = dict(jax.tree_util.tree_flatten_with_path(axes, is_leaf=is_axes)[0])

    def of(path: tuple[Any, ...], _: Any) -> tuple[str, ...]:
        tails = (path[start:] for start in range(len(path)))
        return next((names[tail] for tail in tails if tail in names), ())

    return jax.tree_util.tree_map_with_path(of, jax.eval_shape(transformation.init, params))


def _last_norm(axes: tuple[str, ...], ratio: float) -> float:
    """What stands for a multiplier of the logits: 1 / r for the norm before the vocabulary."""
    return 1 / ratio if axes == ("last_embed",) else 1.0


def _rate(optimizer: Base, axes: tuple[str, ...], ratio: float) -> float:
    """What a parameter's steps are multiplied by, so that the rate suits its width."""
    if not is_layer_matrix(axes):
        return _last_norm(axes, ratio)
    return optimizer.layer_step(ratio)


def _multiply(factor: Any, axes: Any) -> optax.GradientTransformation:
    def scale(updates: Any, params: Any) -> Any:
        del params
        return map_axes(lambda names, update: factor(names) * update, axes, updates)

    return optax.stateless(scale)
