"""How fast this machine is, and how long a training step takes on it."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

from lm.cost.peak import best_seconds, matmul_peak
from lm.data import vocabulary_size
from lm.example import Batch
from lm.plan.found import Speed
from lm.run import channels_of
from lm.train.step import Program


def step_seconds(program: Program, least: float = 3.0) -> list[float]:
    """Seconds of training steps on random tokens, after one that warms up.

    They are five steps or more, and last `least` seconds or longer: other programs come and go.
    """
    run = program.run
    shape = run.data.batch, run.data.length
    random = np.random.default_rng(0)
    tokens_BL = random.integers(4, vocabulary_size(run.data.tokenizer), shape, dtype=np.int32)
    channels = {
        channel.name: np.zeros((*shape, *channel.shape), channel.dtype)
        for channel in channels_of(run)
    }
    # Where an objective asks what counts, it is the second half of each row.
    half_BL = np.broadcast_to((np.arange(shape[1]) >= shape[1] // 2).astype(np.int32), shape)
    channels = dict.fromkeys(run.objective.needs, half_BL) | channels
    drawn = jax.tree.map(_zeros, program.companions)
    program = dataclasses.replace(program, companions=drawn)
    part = program.place(Batch(tokens_BL, np.ones(shape, np.int32), channels))
    state = program.init()
    seconds: list[float] = []
    while len(seconds) < 6 or sum(seconds[1:]) < least:
        start = time.perf_counter()
        state, metrics = program.step(state, part)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def _zeros(array: jax.ShapeDtypeStruct) -> jax.Array:
    return jax.device_put(np.zeros(array.shape, array.dtype), array.sharding)


def speed() -> Speed:
    """This machine's products and its memory, at best."""
    x = jnp.zeros(1 << 26, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    return Speed(
        flops=matmul_peak(),
        flops_float32=matmul_peak("float32"),
        bandwidth=2 * x.nbytes / best_seconds(lambda: copy(x), 50),
    )
