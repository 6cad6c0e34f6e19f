"""How many FLOP/s a device does at most: by its maker, or measured."""

import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from lm.cost.chips import peak_of
from lm.numerics import Precision


def device_peak() -> float:
    """FLOP/s of one device in bfloat16 products: an accelerator's as its maker prints it.

    Where it is not in `lm.cost.chips`, as no CPU is, it is measured. The product that is
    measured takes a TPU v6e 19 microseconds, less than it takes to start: a clock would flatter
    there.
    """
    return peak_of(jax.devices()[0].device_kind) or matmul_peak()


@functools.cache
def matmul_peak(precision: Precision = "bfloat16") -> float:
    """FLOP/s of one device in products that accumulate in float32, measured once.

    A 2048-cube product, the best of twenty: what this machine can do, not what its maker says.
    """
    size = 2048
    x = jnp.ones((size, size), precision)
    product = jax.jit(lambda a: jnp.matmul(a, a, preferred_element_type=jnp.float32))
    return 2 * size**3 / best_seconds(lambda: product(x), 20)


def best_seconds(call: Callable[[], jax.Array], number: int) -> float:
    """The shortest of so many calls, after one that compiles."""
    call().block_until_ready()
    times = []
    for _ in range(number):
        start = time.perf_counter()
        call().block_until_ready()
        times.append(time.perf_counter() - start)
    return min(times)
