"""LoRA: a product of two narrow matrices is trained beside each frozen one (Hu et al. 2021)."""

import difflib
import fnmatch
import math
import zlib
from collections.abc import Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from msgspec import Meta

from lm.config import Config, UserError
from lm.numerics import LowRank
from lm.optimizer.axes import is_layer_matrix, sides_of, stack_axes

_Axes = Mapping[str, tuple[str, ...]]
"""The names of each parameter's axes by its path."""


class Lora(Config):
    """A low-rank adapter: W becomes W + (alpha / rank) A B, of which A and B are trained.

    Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv:2106.09685); the
    defaults are those of its RoBERTa base (table 9). B starts at 0, so that a model starts as
    its base.

    A module computes x W + (x A) B: the sum of the matrices is not formed, nor its gradient. A
    training step so saves the gradients of the frozen matrices, a third of their FLOPs, and
    keeps nothing of their size but the matrices themselves; what it adds are products of the
    width of the rank. It asks of an architecture only that its matrices enter
    `lm.numerics.Einsum`, on the right, with their inputs first, as all of them do.
    """

    rank: Annotated[int, Meta(ge=1, description="width of the narrow matrices (r)")] = 8
    alpha: Annotated[float, Meta(gt=0, description="they are added alpha / rank times")] = 8.0
    targets: Annotated[
        tuple[str, ...],
        Meta(
            min_length=1,
            description='matrices of the layers that they are added to, as ["layers/*"]',
        ),
    ] = ("*/query", "*/value")

    @property
    def scale(self) -> float:
        """How many times A B is added."""
        return self.alpha / self.rank

    def chosen(self, axes: _Axes) -> tuple[str, ...]:
        """Paths of the matrices that it is added to, of a model's parameters.

        A pattern is a path as a shell matches it; tables, norms and biases that it matches as
        well are passed over, and so are the matrices of experts and of cells. Raises UserError
        where one matches no matrix.

        >>> Lora(targets=("layers/*",)).chosen({"layers/up": ("layers", "embed", "mlp"),
        ...     "layers/norm/scale": ("layers", "embed"), "embedding": ("vocab", "embed")})
        ('layers/up',)
        """
        names = [
            name
            for name, of in axes.items()
            if of[0] == "layers" and is_layer_matrix(of) and stack_axes(of) == 1
        ]
        for pattern in self.targets:
            if not fnmatch.filter(names, pattern):
                near = difflib.get_close_matches(pattern, names, 3, 0.0)
                raise UserError(
                    f"adapter.targets: {pattern} matches no matrix of the layers; nearest:"
                    f" {near}"
                )
        return tuple(
            name for name in names if any(fnmatch.fnmatchcase(name, p) for p in self.targets)
        )

    def axes(self, axes: _Axes) -> dict[str, tuple[str, ...]]:
        """The names of the axes of each A and B by its path, of a model's parameters.

        >>> Lora(targets=("out",)).axes({"out": ("layers", "heads", "head", "embed")})
        ... # doctest: +NORMALIZE_WHITESPACE
        {'lora/out/a': ('layers', 'heads', 'head', 'rank'),
         'lora/out/b': ('layers', 'rank', 'embed')}
        """
        return self._each(axes, axes, "rank")

    def shapes(
        self, axes: _Axes, shapes: Mapping[str, tuple[int, ...]]
    ) -> dict[str, tuple[int, ...]]:
        """The shape of each A and B by its path, of a model's parameters.

        >>> Lora(rank=2, targets=("query",)).shapes(
        ...     {"query": ("layers", "embed", "heads", "head")}, {"query": (5, 8, 4, 3)})
        {'lora/query/a': (5, 8, 2), 'lora/query/b': (5, 2, 4, 3)}
        """
        return self._each(axes, shapes, self.rank)

    def draw(
        self, key: jax.Array, axes: _Axes, shapes: Mapping[str, tuple[int, ...]]
    ) -> dict[str, jax.Array]:
        """A and B before training, by path: each A by its own name, and every B is 0.

        A is uniform with the variance 1 / (3 inputs), as in the paper's code
        (github.com/microsoft/LoRA, loralib/layers.py).
        """
        found = {}
        for name, shape in self.shapes(axes, shapes).items():
            if name.endswith("/b"):
                found[name] = jnp.zeros(shape)
                continue
            inputs, _ = sides_of(self.axes(axes)[name])
            most = math.prod(shape[axis] for axis in inputs) ** -0.5
            own = jax.random.fold_in(key, zlib.crc32(name.encode()))
            found[name] = jax.random.uniform(own, shape, minval=-most, maxval=most)
        return found

    def joined(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters by path as the module takes them, with a `LowRank` for each target."""
        found = {name: x for name, x in params.items() if not name.startswith(LORA)}
        for name in _targets(params):
            a, b = params[f"{LORA}{name}/a"], params[f"{LORA}{name}/b"]
            found[name] = LowRank(found[name], a, self.scale * b)
        return found

    def merged(self, params: Mapping[str, Any], axes: _Axes) -> dict[str, Any]:
        """Parameters by path with what is learnt added to them: a model without an adapter.

        >>> ones = {"up": jnp.ones((1, 3, 4)), "lora/up/a": jnp.ones((1, 3, 2)),
        ...     "lora/up/b": jnp.ones((1, 2, 4))}
        >>> axes = {"up": ("layers", "embed", "mlp")}
        >>> float(Lora(rank=2, alpha=6).merged(ones, axes)["up"][0, 2, 3])
        7.0
        """
        found = self.joined(params)
        for name in _targets(params):
            ins, outs = ("".join("nabcd"[i] for i in side) for side in sides_of(axes[name]))
            equation = f"n{ins}r,nr{outs}->n{ins}{outs}"
            each = found[name]
            found[name] = each.weight + jnp.einsum(
                equation, each.a, each.b, precision="highest"
            )
        return found

    def _each(self, axes: _Axes, values: Mapping[str, tuple[Any, ...]], rank: Any) -> Any:
        """Of each A and B what `values` have of each axis of their matrix, and the rank's."""
        found = {}
        for name in self.chosen(axes):
            inputs, outputs = sides_of(axes[name])
            value = values[name]
            found[f"{LORA}{name}/a"] = (value[0], *(value[i] for i in inputs), rank)
            found[f"{LORA}{name}/b"] = (value[0], rank, *(value[i] for i in outputs))
        return found


LORA = "lora/"
"""How the paths of A and B begin."""


def _targets(params: Mapping[str, Any]) -> list[str]:
    """Paths of the matrices that parameters by path have an A and a B of."""
    return [
        name.removeprefix(LORA).removesuffix("/a")
        for name in params
        if name.startswith(LORA) and name.endswith("/a")
    ]
