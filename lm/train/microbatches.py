"""Gradients of a batch, a part of it at a time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lm.example import Example
from lm.loss import Sum


def over_microbatches(
    gradient: Callable[[Any, Any, Example, jax.Array], tuple[dict[str, Sum], Any]],
    params: Any,
    example: Example,
    key: jax.Array,
    parts: int,
) -> tuple[dict[str, Sum], Any]:
    """Sums of losses and gradients over equal parts of the batch, one part at a time."""
    if parts == 1:
        return gradient(params, None, example, key)
    counts: Any = None

    def one(sums: Any, part: tuple[Example, jax.Array]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, sums, gradient(params, counts, *part)), None

    # Every part takes each parts-th row, so that it has rows of every device.
    split = jax.tree.map(
        lambda x: jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1), example
    )
    given = split, jax.random.split(key, parts)
    first = jax.tree.map(lambda x: x[0], given)
    shapes = jax.eval_shape(gradient, params, None, *first)
    if any(term.coefficient for term in shapes[0].values()):
        # Terms of different weights are added with those of the whole batch, which examples
        # alone decide: what else is computed for them, nothing needs, and the compiler drops.
        def count(part: tuple[Example, jax.Array]) -> dict[str, jax.Array]:
            terms, _ = gradient(params, None, *part)
            return {name: term.count for name, term in terms.items()}

        counts = jax.tree.map(lambda x: x.sum(0), jax.lax.map(count, given))
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    found: tuple[dict[str, Sum], Any] = jax.lax.scan(one, zero, given)[0]
    return found
