"""Learning from one's own samples: known optima, what is sampled, and what a step is told."""

import dataclasses
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from msgspec.structs import replace

from experiments.benchmarks import reward_hacking
from lm.data import Bytes, Data
from lm.distributed import mesh
from lm.distributed.mesh import Mesh
from lm.example import Batch, CausalMask, Vocabulary, unanswered
from lm.generate.rollout import roll_out
from lm.loss import logits
from lm.model import Transformer
from lm.objectives import PolicyGradient, rewards
from lm.objectives.rollout import START
from lm.optimizer import Adamw
from lm.run import Run
from lm.train.step import Program, prepare

VOCABULARY = Vocabulary(
    size=8, pad=0, mask=None, bos=1, eos=2, first_ordinary=3, begins_word=(True,) * 8
)
OF_ONE = jnp.array([0.0, 0.0, 0.1, 0.2, 0.0, 0.35, -0.15, 0.05])
OF_TWO = jnp.full((8, 8), 0.0).at[3, 3:].set(0.7).at[4, 5].set(1.0)
"""The best pair begins with 4, but whoever draws what comes next by chance begins with 3."""


class OfPrompt(rewards.Base, tag="of prompt"):
    """What one token is worth behind the long prompt, and what two are behind the short one."""

    def __call__(self, answers: Any) -> jax.Array:
        _, one_B, two_B, three_B = answers.tokens_BL.T
        return jnp.where(one_B == LONG[1], OF_ONE[three_B], OF_TWO[two_B, three_B])


SHORT, LONG = [1, 3], [1, 6, 6]
OBJECTIVE = PolicyGradient(reward=OfPrompt(), group=64, answer=2, beta=0.15)
RUN = Run(
    data=Data(length=4, batch=128, tokenizer=Bytes(), packing="single"),
    objective=OBJECTIVE,
    model=Transformer(depth=1, width=16, heads=2),
    optimizer=Adamw(learning_rate=5e-3, weight_decay=0.0),
    tokens=300 * 128 * 4,
    precision="float32",
)
ONE = Mesh(replica=1, fsdp=1, tensor=1, context=1)


def rows(run: Run, *both: tuple[list[int], list[int]]) -> Batch:
    """A batch of prompts and their right answers, as often as there is room."""
    tokens_BL, segments_BL, loss_BL = np.zeros((3, run.data.batch, run.data.length), np.int32)
    each = run.data.batch // len(both)
    for number, (prompt, answer) in enumerate(both):
        some, size = slice(number * each, (number + 1) * each), len(prompt + answer)
        tokens_BL[some, :size] = prompt + answer
        segments_BL[some, :size], loss_BL[some, len(prompt) : size] = 1, 1
    return Batch(tokens_BL, segments_BL, {"loss": loss_BL})


def program(run: Run, grid: Mesh = ONE) -> Program:
    """The run's, whose start is what it is before training."""
    shards = [grid.replica, grid.fsdp, grid.tensor, grid.context]
    made = prepare(run, VOCABULARY, mesh.make(grid, jax.devices()[: np.prod(shards)]))
    return dataclasses.replace(made, companions={START: made.init().params})


@partial(jax.jit, static_argnums=0)
def log_p(module: Any, params: Any, tokens_BL: jax.Array) -> jax.Array:
    """Of every token after each, float32[B, L, V]."""
    example = unanswered(tokens_BL, jnp.ones_like(tokens_BL), CausalMask())
    output = module.apply({"params": params}, example)
    return jax.nn.log_softmax(logits(output, einsum=module.einsum))


def optimum(start: np.ndarray, reward: Any, beta: float) -> np.ndarray:
    best = start * np.exp(np.asarray(reward, np.float64) / beta)
    return best / best.sum()


@pytest.fixture(scope="module")
def trained() -> tuple[Program, np.ndarray, np.ndarray, dict[str, float]]:
    """Probabilities after each token of `[*SHORT, token]` and of LONG, before training and
    after it, and the last metrics.
    """
    made = program(RUN)
    state, batch = made.init(), made.place(rows(RUN, (SHORT, [5]), (LONG, [5])))
    for _ in range(300):
        state, metrics = made.step(state, batch)
    every_VL = jnp.array([*([*SHORT, token] for token in range(8)), LONG])
    start, found = (
        np.exp(np.asarray(log_p(made.module, params, every_VL), np.float64))
        for params in (made.companions[START], state.params)
    )
    return made, start, found, {name: np.array(x) for name, x in metrics.items()}


def test_a_bandit_finds_the_known_optimum(trained):
    """Fails if the KL is left out, or is that of another direction, as k3 in the loss is."""
    _, start, found, metrics = trained
    assert metrics["length"] == pytest.approx(1.5, abs=0.1)  # a row has room for one or two
    best = optimum(start[8, 2], OF_ONE, RUN.objective.beta)
    assert np.abs(best - start[8, 2]).max() > 0.3
    assert np.abs(found[8, 2] - best).max() < 0.02


def test_two_steps_find_the_known_optimum(trained):
    """Fails if a first token is paid by what the next one is worth on average: the greedy first
    step is wrong.
    """

    def pairs(each: np.ndarray) -> np.ndarray:
        then = each[:8, 2].copy()
        then[VOCABULARY.eos] = np.eye(8)[0]  # nothing comes after an end
        return each[0, 1][:, None] * then

    _, *both, _ = trained
    start, found = map(pairs, both)
    paid_V = (start * np.asarray(OF_TWO)).sum(axis=1) / start.sum(axis=1)
    assert paid_V.argmax() == 3
    best = optimum(start, OF_TWO, RUN.objective.beta)
    assert best.sum(axis=1).argmax() == 4
    assert np.abs(found - best).max() < 0.04


@cache
def sampled(count: int) -> tuple[Program, Any, Batch, Any]:
    """A program with random parameters, and what it puts behind prompts of 2, 5, 0 and 8."""
    run = replace(RUN, data=replace(RUN.data, length=8, batch=64))
    made = program(run)
    leaves = iter(range(1000))
    params = jax.tree.map(
        lambda x: 0.5 * jax.random.normal(jax.random.key(next(leaves)), x.shape),
        made.init().params,
    )
    prompt_B = np.tile([2, 5, 0, 8], 16)
    tokens_BL = np.random.default_rng(0).integers(3, 8, (64, 8), np.int32)
    tokens_BL[:, 0] = VOCABULARY.bos
    # Of a row in two, another token than eos ends it.
    end_B = np.repeat([VOCABULARY.eos, 5], 32)
    drawn = jax.jit(partial(roll_out, made.module, count=count, vocabulary=VOCABULARY))(
        params, tokens_BL, prompt_B, end_B, jax.random.key(1)
    )
    return made, params, Batch(tokens_BL, prompt_B, {"end": end_B}), drawn


def test_a_sample_stands_behind_its_prompt_and_ends_with_its_end():
    """Fails if the end is left out, what comes after it is kept, a prompt is sampled over or
    counts, a row is overrun, or a sample that was cut is taken to have ended.
    """
    _, _, rows, drawn = sampled(4)
    drawn = jax.tree.map(np.asarray, drawn)
    sizes = set()
    for row in range(64):
        prompt, end = rows.segments_BL[row], {2, rows.channels["end"][row]}
        size = drawn.sampled_BL[row].sum()
        sizes.add((int(prompt), int(size)))
        tokens = drawn.tokens_BL[row].tolist()
        assert drawn.sampled_BL[row].tolist() == [
            prompt <= place < prompt + size for place in range(8)
        ]
        assert tokens[:prompt] == rows.tokens_BL[row, :prompt].tolist()
        assert not any(tokens[prompt + size :])
        sample = tokens[prompt : prompt + size]
        assert not end & set(sample[:-1])
        assert drawn.ended_B[row] == bool(end & set(sample))
        room = min(4, 8 - prompt) if prompt else 0
        assert size == room or drawn.ended_B[row]
    assert {(2, 4), (2, 1), (5, 3), (5, 1), (0, 0), (8, 0)} <= sizes


def test_what_a_sample_was_drawn_with_is_what_the_model_says_of_it():
    """Fails if a token is drawn from what the one before it was, from part of the vocabulary,
    or with the positions of the cache in place of the row's own; or if its log p or entropy
    is another's.
    """
    made, params, _, drawn = sampled(4)
    log_p_BLV = np.asarray(log_p(made.module, params, drawn.tokens_BL))[:, :-1]
    sampled_BL = np.asarray(drawn.sampled_BL)
    next_BL1 = np.asarray(drawn.tokens_BL)[:, 1:, None]
    expected_BL = np.take_along_axis(log_p_BLV, next_BL1, axis=2)[..., 0]
    entropy_BL = -(np.exp(log_p_BLV) * log_p_BLV).sum(axis=2)
    for found, expected in ((drawn.log_p_BL, expected_BL), (drawn.entropy_BL, entropy_BL)):
        inside_BL = sampled_BL[:, 1:]
        np.testing.assert_allclose(
            np.asarray(found)[:, 1:], np.where(inside_BL, expected, 0), atol=2e-5
        )
    first = drawn.tokens_BL[::4, 2]  # of special tokens as well
    assert set(np.asarray(first).tolist()) & {0, 1}


def one_step(run: Run, grid: Mesh) -> tuple[dict[str, float], Any]:
    made = program(run, grid)
    batch = made.place(rows(run, (SHORT, [5]), (LONG, [5])))
    state, metrics = made.step(made.init(), batch)
    metrics.pop("batches")
    return {name: float(x) for name, x in metrics.items()}, jax.device_get(state.params)


@pytest.mark.eight_devices
def test_groups_are_whole_whatever_a_batch_is_cut_into():
    """Fails if advantages are of the rows of a part or of a device, or if samples depend on
    the mesh.
    """
    metrics, params = one_step(RUN, ONE)
    cut = replace(RUN, microbatches=4)
    found, others = one_step(cut, Mesh(replica=2, fsdp=2, tensor=2, context=1))
    assert found == pytest.approx(metrics, rel=2e-4, abs=1e-6)
    for one, other in zip(*map(jax.tree.leaves, (params, others)), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)
    assert metrics["gradient_norm"] > 0.01


def test_a_reward_with_a_flaw_is_hacked_and_a_sound_one_is_not():
    """Fails if a reward does not reach the model, or beta does not hold it at its start."""
    start, sound, hacked, held = reward_hacking.measure(90).values()
    assert start["exact"] < 0.4 and start["length"] < 3
    assert hacked["reward"] > 0.9 and hacked["length"] > 2 * start["length"]
    assert hacked["exact"] < start["exact"] + 0.15 and hacked["ended"] < 0.5
    assert sound["exact"] > 0.6 and sound["length"] < 2.5
    assert held["length"] < 3 and held["ended"] > 0.9 and held["kl"] < 0.2 < hacked["kl"]
