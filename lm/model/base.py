"""What a model owes: its sizes, what it can serve, what it costs, its module and its cache.

`Run`, the ledger, plans, budgets, proofs, scorers and generation know this contract alone. A
model is a frozen value that carries its behaviour: one file, and one line in the union of
`lm.model`. What is not overridden here holds for a model without attention, whose every matrix
multiplies every position once.
"""

import math
from collections.abc import Iterator, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm.config import Config, UserError
from lm.distributed.mesh import platform_of
from lm.example import (
    AttentionMask,
    BidirectionalMask,
    CausalMask,
    Example,
    Source,
    UntilMask,
)
from lm.model.attention import Attention
from lm.numerics import Einsum, Precision

Remat = Literal["none", "matmuls", "block"]


class Execution(NamedTuple):
    """How a model is run, for those of its numbers that depend on it."""

    platform: str | None
    """The devices' (cpu, gpu, tpu); None: not known yet."""
    precision: Precision = "bfloat16"
    attention: Attention = "auto"
    remat: Remat = "none"


class Base(Config):
    """A model: a frozen value of its settings, and all that others may ask of it."""

    masks: ClassVar[frozenset[type[AttentionMask]]] = frozenset(
        {CausalMask, BidirectionalMask, UntilMask}
    )
    """The kinds of attention mask that it can serve."""
    reads_source: ClassVar[bool] = False
    """Whether it reads the source of an example, as an encoder and a decoder do."""
    remats: ClassVar[frozenset[Remat]] = frozenset({"none"})
    """What its backward pass can be told to compute again."""
    components: ClassVar[Mapping[str, str]] = {}
    """The component of the cost that a parameter belongs to, by its name or its scope's.

    Tables are the embedding; other vectors are the norm, and matrices the mlp."""

    # What it is

    @classmethod
    def named(cls) -> Mapping[str, Config]:
        """The published models, as `model=gpt2`."""
        from lm.model.presets import presets  # made of these

        return {name: preset.model for name, preset in presets().items()}

    @property
    def depth(self) -> int:
        """Layers N."""
        raise NotImplementedError

    @property
    def width(self) -> int:
        """Model width D, which learning rates are transferred by."""
        raise NotImplementedError

    @property
    def width_multiple(self) -> int:
        """Widths that it may have, other fields as they are, are multiples of this."""
        return 1

    @property
    def window(self) -> int | None:
        """How far before and after itself a position reads in one layer; None: a whole row."""
        return None

    @property
    def longest(self) -> int | None:
        """Positions of a segment that it has places for, at most; None: any number."""
        return None

    @property
    def has_last_norm(self) -> bool:
        """Whether a norm is the last before the vocabulary: its vectors have axis last_embed,
        and stand for a multiplier of the logits where rates are transferred by width.
        """
        return True

    def check(self) -> str | None:
        """What is wrong with the fields, in one line that begins with one; None if nothing."""
        return None

    def splits(self) -> dict[str, tuple[str, int]]:
        """What a mesh may split, by logical axis: the field, and its size."""
        raise NotImplementedError

    def tiny(self, depth: int) -> Self:
        """The same kind of model, so small that proofs can ask about every position."""
        raise NotImplementedError

    def at_depth(self, depth: int) -> Self:
        """The model that depth, as the one dial of size, makes of this one."""
        raise UserError(f"model.type={self.kind}: its size is not a matter of one dial")

    # What it can serve

    def refuse_objective(
        self, masks: frozenset[type[AttentionMask]], *, source: bool = False
    ) -> str | None:
        """Why it cannot serve examples of these masks, or with a source; None if it can."""
        if source and not self.reads_source:
            return (
                "objective: its examples have a source for an encoder, and model.type="
                f"{self.kind} reads none; spans have objective.stack=single"
            )
        if more := masks - self.masks:
            asked, served = (
                " or ".join(sorted(_MASK_NAMES[mask] for mask in kinds))
                for kinds in (more, self.masks)
            )
            return (
                f"objective: its attention is {asked}, and model.type={self.kind} serves"
                f" {served} alone"
            )
        return None

    def refuse_execution(self, how: Execution) -> str | None:
        """Why it cannot be run so, in one line that begins with a field; None if it can."""
        if how.attention != "auto":
            return f"attention={how.attention}: model.type={self.kind} has none; must be auto"
        return self.refuse_remat(how.remat)

    def refuse_remat(self, remat: Remat) -> str | None:
        """Why its backward pass cannot compute this again, in one line; None if it can."""
        if remat in self.remats:
            return None
        legal = " or ".join(sorted(self.remats))
        return f"remat={remat}: model.type={self.kind} computes no such thing again; {legal}"

    @property
    def kind(self) -> str:
        """The name of this kind of model in settings."""
        return str(self.__struct_config__.tag)

    # What it costs

    def parameters(self, vocabulary_size: int) -> dict[str, int]:
        """Number of parameters by component, counted in the tree that `init` would make."""
        order = "embedding", *self.components.values(), "mlp", "norm"
        counts = dict.fromkeys(order, 0)
        for name, axes, size in self._sizes(vocabulary_size):
            counts[self._component(name, axes)] += size
        return counts

    @property
    def idle_parameters(self) -> int:
        """Those that a token does not pass through, as experts that are not chosen for it."""
        return 0

    def matmul_parameters(self, vocabulary_size: int) -> dict[str, int]:
        """Parameters that a token is multiplied by, by component.

        The head's table does, whether it is tied or not; a lookup is no product.
        """
        counts = dict.fromkeys((*self.components.values(), "mlp"), 0)
        for component, size in self.matrices().values():
            counts[component] += size
        return counts | {"head": vocabulary_size * self.width}

    def matrices(self) -> dict[str, tuple[str, int]]:
        """The component and the size of each matrix in a product by its path, without tables.

        >>> from lm.model import Transformer
        >>> Transformer(depth=2, width=16, heads=2).matrices()["layers/query"]
        ('attention', 512)
        """
        return {
            "/".join(name): (self._component(name, axes), size)
            for name, axes, size in self._sizes(1)
            if not is_vector(axes) and TABLES.isdisjoint(axes)
        }

    def axes(self) -> dict[str, tuple[str, ...]]:
        """The names of each parameter's axes by its path.

        >>> from lm.model import Transformer
        >>> Transformer().axes()["layers/up"]
        ('layers', 'embed', 'mlp')
        """
        return {"/".join(name): axes for name, axes, _ in self._sizes(1)}

    def shapes(self, vocabulary_size: int) -> dict[str, tuple[int, ...]]:
        """The shape of each parameter by its path; tables have a row for each token.

        >>> from lm.model import Transformer
        >>> Transformer(depth=2, width=16, heads=2).shapes(9)["layers/query"]
        (2, 16, 2, 8)
        """
        found = {}
        for name, axes, shape in _shapes(self):
            sizes = zip(axes, shape, strict=True)
            found["/".join(name)] = tuple(
                vocabulary_size if axis == "vocab" else size for axis, size in sizes
            )
        return found

    def matmul_flops(
        self,
        vocabulary_size: int,
        *,
        rows: int,
        length: int,
        targets: int,
        attention_mask: AttentionMask,
        source: int = 0,
    ) -> dict[str, int]:
        """Forward FLOPs of the matrix products by component: two a multiplication.

        `source` is how many positions of each row an encoder reads.
        """
        found = {"embedding": 0}
        for name, weights in self.matmul_parameters(vocabulary_size).items():
            found[name] = 2 * rows * (targets if name == "head" else length) * weights
        return found

    def kernel_flops_of(
        self,
        how: Execution,
        *,
        rows: int,
        length: int,
        attention_mask: AttentionMask,
        train: bool,
    ) -> int:
        """FLOPs of attention's kernels in a step of training, or in a forward pass alone.

        0 where no kernel of the platform's own computes it: the component `scores` then is
        what a program does.
        """
        return 0

    def recomputed_flops(self, forward: Mapping[str, int], remat: Remat) -> dict[str, int]:
        """Those of the forward FLOPs that the backward pass computes again, by component."""
        return {}

    def activation_bytes(self, remat: Remat) -> int:
        """Bytes a position that all layers keep for the backward pass, at least."""
        return 0

    def score_bytes(self, how: Execution, length: int) -> int:
        """Bytes a position that attention scores in rows of this length take, at least."""
        return 0

    def _sizes(
        self, vocabulary_size: int
    ) -> Iterator[tuple[tuple[str, ...], tuple[str, ...], int]]:
        """Name, axes and size of each parameter; tables have a row for each token."""
        for name, axes, shape in _shapes(self):
            sizes = zip(axes, shape, strict=True)
            size = math.prod(vocabulary_size if axis == "vocab" else n for axis, n in sizes)
            yield name, axes, size

    def _component(self, name: tuple[str, ...], axes: tuple[str, ...]) -> str:
        if found := next((self.components[n] for n in name if n in self.components), None):
            return found
        if not TABLES.isdisjoint(axes):
            return "embedding"
        return "norm" if is_vector(axes) else "mlp"

    # What computes

    def layers_in_a_row(self, unroll: int | None, mesh: jax.sharding.Mesh | None) -> int:
        """How many layers are compiled in a row; None: what suits the platform.

        A rolled loop costs a CPU a third of its speed, a TPU nothing.
        """
        if unroll is not None:
            return unroll
        return self.depth if platform_of(mesh) == "cpu" else 1

    def build(
        self,
        vocabulary_size: int,
        *,
        mesh: jax.sharding.Mesh | None,
        precision: Precision = "bfloat16",
        remat: Remat = "none",
        unroll: int | None = None,
        attention: Attention = "auto",
    ) -> "Module":
        """The module of this model; without a mesh it pins no layout.

        `unroll` is how many layers are compiled in a row, None what suits the platform.
        """
        raise NotImplementedError


class Module(nn.Module):
    """What computes: `apply({"params": params}, example) -> Output`.

    Hashable. An rng `dropout` turns dropout on. Parameters are boxed with the names of their
    axes, those of layers stacked. One that generates goes on from what it has read:
    `init_cache(rows, length)` is an empty cache, and `apply({"params": params}, example,
    cache)` gives the output and the next cache. Each row of a cache has a length of its own,
    and positions of segment 0 leave it as it is.
    """

    config: Base
    vocabulary_size: int
    mesh: jax.sharding.Mesh | None
    precision: Precision
    if TYPE_CHECKING:
        # Flax says that any tree may come out; ours give what is said above.

        def apply(self, variables: Any, *given: Any, **more: Any) -> Any: ...

    @property
    def einsum(self) -> Einsum:
        """The matrix product of this module, for the head that follows it."""
        return Einsum(self.precision)

    def init_cache(self, rows: int, length: int, source: int = 0) -> Any:
        """The cache of rows of which nothing is read yet; they may grow to `length`.

        `source` is how many positions an encoder reads of each.
        """
        del rows, length, source
        raise UserError(f"model.type={self.config.kind}: it keeps no cache to generate with")

    @nn.nowrap
    def for_generating(self, params: Any, *, rows: int) -> tuple["Module", Any]:
        """The module and its parameters in the form in which so many rows go on fastest.

        What it computes is the same; unless a model knows better, so are both.
        """
        del rows
        return self, params


def is_vector(axes: tuple[str, ...]) -> bool:
    """Whether a parameter of these axes is a scale or a bias, one or a stack.

    >>> is_vector(("layers", "embed")), is_vector(("embed", "mlp"))
    (True, False)
    >>> is_vector(("layers", "heads", "head"))  # a bias of queries
    True
    >>> is_vector(("layers", "taps", "channels"))  # a convolution of each channel alone
    True
    """
    beside = "layers", "head", "gates", "halves", "taps"
    return len([axis for axis in axes if axis not in beside]) < 2


TABLES = frozenset({"vocab", "positions", "token_types", "buckets"})
"""Axes of what is looked up by number: a lookup is no product."""


def blank_example(model: Base, rows: int, length: int) -> Example:
    """An example that a model can serve, to call `init` with: initial values depend on none."""
    ones_BL = jnp.ones((rows, length), jnp.int32)
    return Example(
        inputs=ones_BL,
        target_positions=None,
        targets=ones_BL,
        weights=ones_BL,
        segments=ones_BL,
        positions=ones_BL,
        attention_mask=BidirectionalMask()
        if BidirectionalMask in model.masks
        else CausalMask(),
        source=Source(*[ones_BL] * 3) if model.reads_source else None,
    )


_MASK_NAMES: dict[type, str] = {
    CausalMask: "causal",
    BidirectionalMask: "bidirectional",
    UntilMask: "prefix",
}


@cache
def _shapes(model: Base) -> tuple[Any, ...]:
    """Name, axes and shape of each parameter for a vocabulary of one token.

    Nothing is allocated, and no device is asked for.
    """
    module = model.build(1, mesh=None)
    example = partial(blank_example, model, 1, 2)
    boxed = jax.eval_shape(lambda: module.init(jax.random.key(0), example()))["params"]
    found = jax.tree_util.tree_leaves_with_path(boxed, is_leaf=_is_box)
    return tuple(
        (tuple(key.key for key in path), box.names, box.value.shape) for path, box in found
    )


def _is_box(x: object) -> bool:
    return isinstance(x, nn.LogicallyPartitioned)
