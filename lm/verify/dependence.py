"""What a state may depend on, and what it does depend on: by derivatives and by edits.

`allowed` says in its own words what masks and segments mean; `reach` and `changed_logits` ask a
body, which is tiny, has random parameters and a vocabulary of `TABLE` tokens.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lm.distributed import mesh as _mesh
from lm.example import BidirectionalMask, CausalMask, Example, Source, UntilMask
from lm.loss import logits
from lm.model import Attention, Base, build
from lm.numerics import Einsum
from lm.verify.rows import LENGTH

_TABLE = ("vocab", "embed")
"""The axes of a table of tokens."""

TABLE = 256
"""Tokens of the modules' vocabulary, so that every position of a batch has one of its own."""


def modules(
    config: Base,
    *,
    depths: Sequence[int] = (1, 2),
    mesh: jax.sharding.Mesh | None = None,
    unroll: int | None = None,
    attention: Attention = "auto",
) -> tuple[Any, ...]:
    """Tiny modules of one and of two layers, in float32, on one device or a mesh.

    What a mask leaves out is missed by one layer only, as the next may go around it; what one
    layer passes on of a position that it must not see is found by the next.
    """
    mesh = mesh or _mesh.make(_mesh.Mesh(), jax.devices()[:1])
    return tuple(
        build(
            config.tiny(depth),
            TABLE,
            mesh=mesh,
            precision="float32",
            unroll=unroll,
            attention=attention,
        )
        for depth in depths
    )


def random_parameters(module: Any, example: Example, *, seed: int = 1) -> Any:
    """Random parameters, far from initial ones, where scales are 1 and attention is flat."""
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: random.normal(scale=0.5, size=x.shape).astype(x.dtype),
        nn.unbox(_boxed_for(module, example)),
    )


def allowed(example: Example, window: int | None = None) -> np.ndarray:
    """What each position's state may depend on after one layer, bool[B, L, L + M].

    It says in its own words what each attention mask means, as those of attention are held
    against it; of a model with a window, only what lies in it. Positions of a source come last;
    what a state has of its own input stays.

    >>> segments, nothing = np.array([[1, 1, 2, 0]]), np.zeros((1, 4), int)
    >>> example = Example(
    ...     inputs=nothing, target_positions=None, targets=nothing, weights=nothing,
    ...     segments=segments, positions=nothing, attention_mask=CausalMask(),
    ... )
    >>> allowed(example)[0].astype(int).tolist()
    [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    """
    segments_BL = keys_BM = np.asarray(example.segments)
    batch, length = segments_BL.shape
    match example.attention_mask:
        case CausalMask():
            until_BL = np.tile(np.arange(length), (batch, 1))
        case BidirectionalMask():
            until_BL = np.full((batch, length), length - 1)
        case UntilMask(until):
            until_BL = np.array(until)
    if example.source is not None:
        keys_BM = np.concatenate([segments_BL, np.asarray(example.source.segments_BM)], axis=1)
    may_BLM = np.zeros((batch, length, keys_BM.shape[1]), bool)
    for row, query in np.argwhere(segments_BL > 0):
        may_BLM[row, query] = keys_BM[row] == segments_BL[row, query]
        may_BLM[row, query, until_BL[row, query] + 1 : length] = False
    if window is not None:
        index_L = np.arange(length)
        may_BLM[:, :, :length] &= abs(index_L[:, None] - index_L[None, :]) <= window
    return may_BLM | np.eye(*may_BLM.shape[1:], dtype=bool)[None]


def closed(may_BLM: np.ndarray) -> np.ndarray:
    """The same after any number of layers.

    >>> chain = np.array([[[1, 0, 0], [1, 1, 0], [0, 1, 1]]], bool)
    >>> closed(chain)[0].astype(int).tolist()
    [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    """
    length = may_BLM.shape[1]
    for _ in range(length.bit_length()):
        may_BLM = may_BLM | (may_BLM[:, :, :length] @ may_BLM)
    return may_BLM


def reach(module: Any, params: Any, example: Example) -> np.ndarray:
    """Which inputs the state at each target depends on, by its Jacobian, bool[B, P, B, L + M].

    Each position looks up a row of its own in the module's tables (the parameters whose first
    axis is `vocab`): a derivative by that row is one by the position's embedding.
    """
    sizes = [example.inputs.shape]
    if example.source is not None:
        sizes.append(example.source.inputs_BM.shape)
    number, places = 0, []
    for batch, width in sizes:
        places.append(number + np.arange(batch * width).reshape(batch, width))
        number += batch * width
    found_BPV = np.asarray(_jacobian(module)(params, _with_inputs(example, *places))) > 0
    found = [np.take(found_BPV, places_BM, axis=2) for places_BM in places]
    return np.concatenate(found, axis=3)


def _with_inputs(example: Example, inputs: Any, source: Any = None) -> Example:
    if example.source is not None:
        return replace(example, inputs=inputs, source=example.source._replace(inputs_BM=source))
    return replace(example, inputs=inputs)


jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
"""What runs a few times, on tiny arrays, is not worth the compiler's pains."""


@cache
def _boxed(module: Any, mask: type, source_width: int) -> Any:
    """The shapes of a module's parameters, with the names of their axes; masks make none."""
    zeros, source = jnp.zeros((1, LENGTH), int), None
    if source_width:
        source = Source(*[jnp.zeros((1, source_width), int)] * 3)
    example = Example(
        inputs=zeros,
        target_positions=None,
        targets=zeros,
        weights=zeros,
        segments=zeros,
        positions=zeros,
        attention_mask=UntilMask(zeros) if mask is UntilMask else mask(),
        source=source,
    )
    return jax.eval_shape(module.init, jax.random.key(0), example)["params"]


def _boxed_for(module: Any, example: Example) -> Any:
    mask: type = type(example.attention_mask)
    source_width = 0 if example.source is None else example.source.inputs_BM.shape[1]
    return _boxed(module, mask, source_width)


@cache
def _jacobian(module: Any) -> Any:
    def sizes(params: Any, example: Example) -> jax.Array:
        boxed = _boxed_for(module, example)
        boxes = jax.tree.leaves(boxed, is_leaf=lambda x: isinstance(x, nn.Partitioned))
        tables = [number for number, box in enumerate(boxes) if box.names == _TABLE]
        leaves, structure = jax.tree.flatten(params)

        def states(values: list[jax.Array]) -> jax.Array:
            new = dict(zip(tables, values, strict=True))
            given = [new.get(number, leaf) for number, leaf in enumerate(leaves)]
            tree = jax.tree.unflatten(structure, given)
            hidden_BPD = module.apply({"params": tree}, example).hidden_BPD
            # One random direction of each state depends on what the state depends on.
            return hidden_BPD @ jax.random.normal(jax.random.key(2), hidden_BPD.shape[-1:])

        by_table = jax.jacrev(states)([leaves[number] for number in tables])
        return jnp.stack([jnp.abs(each).sum(-1) for each in by_table]).sum(0)

    return jit(sizes)


@cache
def _logits(module: Any) -> Any:
    def answer(params: Any, example: Example) -> jax.Array:
        return logits(module.apply({"params": params}, example), einsum=Einsum("float32"))

    return jit(answer)


def changed_logits(module: Any, params: Any, examples: Example) -> np.ndarray:
    """Which logits of a stack of examples differ from those of the first, bool[N, B, P].

    By more than rounding: a row may be computed in another order at another place of a batch.
    """
    shape = examples.inputs.shape[:2]
    batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), examples)
    logits_RPV = np.asarray(_logits(module)(params, batch))
    logits_NBPV = logits_RPV.reshape(*shape, *logits_RPV.shape[1:])
    sizes_NBP = np.abs(logits_NBPV - logits_NBPV[:1]).max(-1)
    return sizes_NBP > 1e-5 * np.abs(logits_NBPV).max()


def by_position(example: Example) -> Example:
    """The example with another token at each position of its inputs, then of its source."""
    parts = [np.asarray(example.inputs)]
    if example.source is not None:
        parts.append(np.asarray(example.source.inputs_BM))
    shown_BM = np.concatenate(parts, axis=1)
    width = shown_BM.shape[1]
    edits_NBM = shown_BM[None] + np.eye(width, dtype=shown_BM.dtype)[:, None]
    stack = jax.tree.map(lambda x: np.tile(x, (width, *[1] * np.ndim(x))), example)
    return _with_inputs(stack, *np.split(edits_NBM, [parts[0].shape[1]], axis=2))


def forget() -> None:
    """Drops what was compiled, for who changes code that it was compiled from."""
    for function in (_boxed, _jacobian, _logits):
        function.cache_clear()
