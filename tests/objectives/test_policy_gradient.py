"""The policy gradient against what it is in expectation, with every answer written down."""

import itertools
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.example import Batch, Output, Vocabulary
from lm.loss import Sum
from lm.numerics import Einsum
from lm.objectives import PolicyGradient, rewards
from lm.objectives.policy_gradient import advantages
from lm.objectives.rewards import Exact, Judged, Recall
from lm.objectives.rollout import START, RolledOut

SIZE, EOS, LENGTH = 5, 2, 3
VOCABULARY = Vocabulary(
    size=SIZE, pad=0, mask=None, bos=1, eos=EOS, first_ordinary=3, begins_word=(True,) * SIZE
)
ANSWERS = [(EOS,)] + [(one, two) for one in range(SIZE) if one != EOS for two in range(SIZE)]
"""All of at most two tokens: an end, or another token and any."""
RANDOM = np.random.default_rng(0)
WORTH = jnp.array(RANDOM.uniform(0, 1, (SIZE, SIZE)), jnp.float32)
TABLES = jnp.array(RANDOM.normal(size=(2, SIZE, 2 * SIZE)), jnp.float32)
"""Logits [V] of the policy and of the start, after each token at the first or second place."""


class OfBoth(rewards.Base, tag="of both"):
    """What each answer is worth."""

    def __call__(self, answers: Any) -> jax.Array:
        return WORTH[answers.tokens_BL[:, 1], answers.tokens_BL[:, 2]]


class Known(NamedTuple):
    """A companion whose log p is known."""

    known_BL: jax.Array

    def log_p(self, tokens_BL: jax.Array, segments_BL: jax.Array) -> jax.Array:
        return self.known_BL


def laid_out(answers):
    """Rows of one prompt token and these answers, and which tokens are answers."""
    tokens_BL, sampled_BL = np.zeros((2, len(answers), LENGTH), np.int32)
    tokens_BL[:, 0] = VOCABULARY.bos
    for row, answer in enumerate(answers):
        tokens_BL[row, 1 : 1 + len(answer)] = answer
        sampled_BL[row, 1 : 1 + len(answer)] = 1
    return jnp.asarray(tokens_BL), sampled_BL > 0


def states(tokens_BL):
    """One state for each token at each place, so that logits are a column of a table."""
    places_L = jnp.minimum(jnp.arange(LENGTH), 1)
    return jax.nn.one_hot(tokens_BL + SIZE * places_L[None], 2 * SIZE)


def log_p_of(table, answers):
    """log p of each token of each answer, [B, L]; 0 elsewhere."""
    tokens_BL, sampled_BL = laid_out(answers)
    logits_BLV = jnp.einsum("BLD,VD->BLV", states(tokens_BL), table, precision="highest")
    next_BL1 = jnp.pad(tokens_BL[:, 1:], ((0, 0), (0, 1)))[..., None]
    nats_BL = jnp.take_along_axis(jax.nn.log_softmax(logits_BLV), next_BL1, 2)[..., 0]
    return jnp.where(sampled_BL, jnp.pad(nats_BL[:, :-1], ((0, 0), (1, 0))), 0.0)


def rolled_out(objective, answers) -> Batch:
    """The batch of a step that drew these answers."""
    tokens_BL, sampled_BL = laid_out(answers)

    def generate(*_: Any) -> RolledOut:
        log_p_BL = log_p_of(TABLES[0], answers)
        ended_B = (tokens_BL == EOS).any(axis=1)
        return RolledOut(
            tokens_BL, jnp.asarray(sampled_BL), log_p_BL, jnp.zeros_like(log_p_BL), ended_B
        )

    rows = jnp.array([[1, EOS, 0]] * len(answers)), jnp.array([[1, 1, 0]] * len(answers))
    read = Batch(*rows, {"loss": jnp.array([[0, 1, 0]] * len(answers))})
    companions: Any = {START: Known(log_p_of(TABLES[1], answers))}
    return objective.rollout(
        read, VOCABULARY, jax.random.key(0), generate=generate, companions=companions
    )


def terms(objective, batch: Batch, table) -> dict[str, Sum]:
    example = objective(batch, VOCABULARY, jax.random.key(0))
    output = Output(states(batch.tokens_BL), table)
    found: dict[str, Sum] = objective.loss(output, example, einsum=Einsum("float32"))
    return found


def test_the_gradient_is_that_of_reward_less_kl_in_expectation():
    """Fails if the mean has the answer itself in it, a token of an answer is left out, the KL
    is k3 as a loss or has no gradient, or an answer is divided by its length.
    """
    objective = PolicyGradient(reward=OfBoth(), group=2, beta=0.3)

    def j(table):
        log_p = log_p_of(table, ANSWERS).sum(axis=1)
        tokens_BL, _ = laid_out(ANSWERS)
        worth = WORTH[tokens_BL[:, 1], tokens_BL[:, 2]]
        ratio = log_p - log_p_of(TABLES[1], ANSWERS).sum(axis=1)
        return jnp.sum(jnp.exp(log_p) * (worth - objective.beta * ratio))

    pairs = np.array(list(itertools.product(range(len(ANSWERS)), repeat=2)))

    @jax.jit
    def gradients():
        batch = rolled_out(objective, [ANSWERS[number] for pair in pairs for number in pair])
        p = jnp.exp(log_p_of(TABLES[0], ANSWERS).sum(axis=1))
        batch.channels["advantage"] *= jnp.repeat(p[pairs].prod(axis=1), 2)[:, None]
        found = jax.grad(lambda table: terms(objective, batch, table)["loss"].total)
        return p.sum(), found(TABLES[0]) / 2, -jax.grad(j)(TABLES[0])

    whole, found, expected = gradients()
    assert float(whole) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert float(jnp.abs(expected).max()) > 0.01


def test_what_is_measured_is_of_answers_or_of_tokens():
    """Fails if a mean of answers weighs long ones more, or the loss is not reward less KL."""
    objective = PolicyGradient(reward=OfBoth(), group=2, beta=0.3)
    answers = [(EOS,), (3, EOS), (3, 4), (4, 4)]
    measured = jax.jit(lambda: terms(objective, rolled_out(objective, answers), TABLES[0]))
    found = {name: float(term.mean) for name, term in measured().items()}
    ratio_BL = np.asarray(log_p_of(TABLES[1], answers) - log_p_of(TABLES[0], answers))
    reward = np.mean([WORTH[2, 0], WORTH[3, 2], WORTH[3, 4], WORTH[4, 4]])
    assert found["reward"] == pytest.approx(reward, rel=1e-5)
    assert found["kl"] == pytest.approx((np.expm1(ratio_BL) - ratio_BL).sum() / 4, rel=1e-4)
    assert found["loss"] == pytest.approx(-reward - 0.3 * ratio_BL.sum() / 4, rel=1e-5)
    assert (found["length"], found["ended"]) == (7 / 4, 0.5)


def test_an_advantage_is_of_its_own_group():
    """Fails if groups are taken across, or what is standardized is not of spread 1."""
    score = np.array([3.0, 1.0, 2.0, 9.0, 9.0, 9.0])
    plain, divided = (advantages(jnp.array(score), 3, divided=d) for d in (False, True))
    np.testing.assert_allclose(plain, [1.5, -1.5, 0, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(divided, [1.5**0.5, -(1.5**0.5), 0, 0, 0, 0], atol=1e-5)


def test_no_sample_sees_the_right_answer():
    """Fails if a prompt goes on into the answer, or has a token less; or if padding, or a
    second answer of the row, is taken for the first.
    """
    asked = []

    def generate(tokens_BL, prompt_B, end_B, key, count):
        asked.append((prompt_B.tolist(), end_B.tolist(), count))
        zeros = jnp.zeros(tokens_BL.shape)
        return RolledOut(tokens_BL, zeros > 0, zeros, zeros, zeros[:, 0] > 0)

    rows = jnp.array([[1, 3, 4, 2, 3, 4], [1, 3, 4, 0, 0, 0], [0] * 6, [1, 3, 3, 3, 4, 3]])
    segments = (rows > 0).astype(jnp.int32)
    marked = jnp.array([[0, 0, 1, 1, 0, 1], [0] * 6, [1] * 6, [0, 0, 0, 0, 1, 1]])
    seen: list[Any] = []

    class Sees(rewards.Base, tag="sees"):
        def __call__(self, answers: Any) -> jax.Array:
            seen.append(answers)
            return jnp.zeros(len(answers.tokens_BL))

    PolicyGradient(group=2, answer=9, reward=Sees()).rollout(
        Batch(rows, segments, {"loss": marked}),
        VOCABULARY,
        jax.random.key(0),
        generate=generate,
        companions={START: Known(jnp.zeros(rows.shape))},
    )
    assert asked == [([2, 3, 0, 4], [2, EOS, EOS, 3], 5)]
    assert seen[0].right_BL.astype(int).tolist() == [
        [0, 0, 1, 1, 0, 0], [0] * 6, [0] * 6, [0, 0, 0, 0, 1, 1],
    ]  # fmt: skip


def answers_of(samples: list[list[int]], right: list[int]) -> Judged:
    """RolledOut and the right answer, all behind a token 2 and ended by a 3."""
    length = 1 + max(map(len, samples))
    tokens_BL, right_BL = np.zeros((2, len(samples), length), np.int32)
    for row, sample in enumerate(samples):
        tokens_BL[row, : 1 + len(sample)] = [2, *sample]
        right_BL[row, : 1 + len(right)] = [2, *right]
    vocabulary = replace(VOCABULARY, size=9, bos=2, eos=3, first_ordinary=4)
    inside = [jnp.asarray(x > 0).at[:, 0].set(False) for x in (tokens_BL, right_BL)]
    arrays = jnp.asarray(tokens_BL), inside[0], jnp.asarray(right_BL), inside[1]
    return Judged(*arrays, jnp.asarray(tokens_BL > 0).astype(int), vocabulary, {})


def test_rewards_know_the_end():
    """Fails if a sample that goes on, or does not end, is the right answer; or if what lists
    everything scores less in recall, which is its flaw.
    """
    samples = [[5, 6, 3], [5, 6], [5, 6, 6, 3], [6, 5, 3], [4, 5, 6, 7, 8]]
    answers = answers_of(samples, [5, 6, 3])
    assert Exact()(answers).tolist() == [1, 0, 0, 0, 0]
    assert Recall()(answers).tolist() == [1] * 5
    assert Recall()(answers_of([[5, 5, 3]], [5, 6, 3])).tolist() == [0.5]
