"""Losses of pairs are those of their papers, over tokens of answers and their ends alone."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.example import Batch, Output, Vocabulary
from lm.numerics import Einsum
from lm.objectives import Dpo, Ipo, Orpo, Preference, Reward

VOCABULARY = Vocabulary(
    size=9, pad=0, mask=1, bos=2, eos=3, first_ordinary=4, begins_word=(True,) * 9
)
CHOSEN, REJECTED = ([5, 6], [7, 3]), ([5, 6], [8, 8, 7, 3])
"""A prompt and the answer to it, which ends in an eos token."""


def row_of(*documents, length=24) -> Batch:
    """A row of pairs: of each, sides of a prompt and an answer, the chosen one first."""
    columns = []
    for number, sides in enumerate(documents, 1):
        for choice, (prompt, answer) in enumerate(sides):
            columns += [(token, number, choice, 0) for token in prompt]
            columns += [(token, number, choice, 1) for token in answer]
    columns += [(0, 0, 0, 0)] * (length - len(columns))
    tokens, segments, choice, loss = (jnp.array([each]) for each in zip(*columns, strict=True))
    reference = -jax.random.uniform(jax.random.key(1), tokens.shape)
    return Batch(tokens, segments, {"choice": choice, "loss": loss, "reference": reference})


def asked(objective, *batches):
    """The example of rows."""
    batch = jax.tree.map(lambda *rows: jnp.concatenate(rows), *batches)
    return _jitted(objective)(batch)


@functools.cache
def _jitted(objective):
    return jax.jit(lambda batch: objective(batch, VOCABULARY, jax.random.key(0)))


def terms(objective, output, example):
    """What the loss says, by name."""
    return jax.jit(functools.partial(objective.loss, einsum=Einsum("float32")))(output, example)


def output_of(example, width=9, seed=2) -> Output:
    states = jax.random.normal(jax.random.key(seed), (*example.targets.shape, width))
    return Output(states, jnp.eye(width))


def by_hand(batch: Batch, output: Output, row: int, places) -> tuple[list, list]:
    """Log p by the model, and by the reference, of the tokens at these places of a row."""
    logits = np.asarray(output.hidden_BPD[row], np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    token = batch.tokens_BL[row]
    policy = [log_p[at - 1, token[at]] for at in places]
    return policy, [float(batch.channels["reference"][row, at]) for at in places]


ROW = row_of((CHOSEN, REJECTED), (REJECTED, CHOSEN))
SIDES = [[(2, 3), (6, 7, 8, 9)], [(12, 13, 14, 15), (18, 19)]]
"""Places of the answers' tokens with the ends, by pair, chosen first."""


def answers_by_hand(batch=ROW, seed=2):
    objective = Preference()
    output = output_of(asked(objective, batch), seed=seed)
    return output, [[by_hand(batch, output, 0, places) for places in pair] for pair in SIDES]


def test_targets_are_the_answers_tokens_with_their_ends_alone() -> None:
    """Fails if a prompt's token or padding counts, or an end token does not, or if a side sees
    the other.
    """
    example = asked(Preference(), ROW)
    places = [at for pair in SIDES for side in pair for at in side]
    np.testing.assert_array_equal(np.flatnonzero(example.weights[0]) + 1, places)
    here = np.array(places) - 1
    np.testing.assert_array_equal(example.targets[0, here], ROW.tokens_BL[0, here + 1])
    np.testing.assert_array_equal(
        example.facts["reference"][0, here], ROW.channels["reference"][0, here + 1]
    )
    np.testing.assert_array_equal(
        example.segments[0], [1] * 4 + [2] * 6 + [3] * 6 + [4] * 4 + [0] * 4
    )
    np.testing.assert_array_equal(example.positions[0, :10], [0, 1, 2, 3, 0, 1, 2, 3, 4, 5])


def test_dpo_is_the_papers_with_sums_over_tokens() -> None:
    """Fails if log p is a mean, the reference is left out, or a token counts that must not."""
    output, pairs = answers_by_hand()
    gains = np.array([[sum(p) - sum(r) for p, r in pair] for pair in pairs])
    margins = 0.3 * (gains[:, 0] - gains[:, 1])
    objective = Preference(method=Dpo(beta=0.3))
    found = terms(objective, output, asked(objective, ROW))
    assert float(found["loss"].mean) == pytest.approx(
        np.log1p(np.exp(-margins)).mean(), rel=1e-5
    )
    assert float(found["margin"].mean) == pytest.approx(margins.mean(), rel=1e-4)
    assert float(found["accuracy"].mean) == pytest.approx((margins > 0).mean())
    assert float(found["chosen_reward"].mean) == pytest.approx(
        0.3 * gains[:, 0].mean(), rel=1e-4
    )
    assert float(found["rejected_reward"].mean) == pytest.approx(
        0.3 * gains[:, 1].mean(), rel=1e-4
    )
    assert all(float(term.count) == 2 for term in found.values())  # a pair is a pair


def test_ipo_is_the_papers() -> None:
    """Fails if tau is not twice in the denominator, or `of` is left aside."""
    output, pairs = answers_by_hand()
    for of, size in (("answer", lambda p: 1), ("token", len)):
        gains = np.array([[(sum(p) - sum(r)) / size(p) for p, r in pair] for pair in pairs])
        apart = gains[:, 0] - gains[:, 1]
        objective = Preference(method=Ipo(tau=0.2, of=of))
        found = terms(objective, output, asked(objective, ROW))
        assert float(found["loss"].mean) == pytest.approx(((apart - 2.5) ** 2).mean(), rel=1e-5)
        assert float(found["margin"].mean) == pytest.approx(0.2 * apart.mean(), rel=1e-4)


def test_orpo_is_the_papers() -> None:
    """Fails if odds are of sums, the chosen answer's nats are left out, or one is compared."""
    output, pairs = answers_by_hand()
    mean = np.array([[sum(p) / len(p) for p, _ in pair] for pair in pairs])
    log_odds = mean - np.log(1 - np.exp(mean))
    ratio = log_odds[:, 0] - log_odds[:, 1]
    expected = -mean[:, 0] + 0.5 * np.log1p(np.exp(-ratio))
    objective = Preference(method=Orpo(weight=0.5))
    assert "reference" not in objective.needs
    bare = replace(ROW, channels={n: c for n, c in ROW.channels.items() if n != "reference"})
    found = terms(objective, output, asked(objective, bare))
    assert float(found["loss"].mean) == pytest.approx(expected.mean(), rel=1e-5)
    assert float(found["margin"].mean) == pytest.approx(ratio.mean(), rel=1e-4)


def test_what_is_certain_has_finite_odds_and_gradients() -> None:
    """Fails if an answer of probability 1 makes a loss, or a gradient, that is no number."""
    objective = Preference(method=Orpo())
    example = asked(objective, ROW)
    sure = 100.0 * jax.nn.one_hot(example.targets, 9)

    @jax.jit
    def total(states):
        return terms(objective, Output(states, jnp.eye(9)), example)["loss"].total

    value, gradient = jax.value_and_grad(total)(sure)
    assert np.isfinite(float(value)) and np.isfinite(np.asarray(gradient)).all()


@pytest.mark.parametrize("times", [1, 3])
def test_the_gradient_is_the_closed_form_on_a_model_of_two_tokens(times) -> None:
    """Fails if the derivative is of another sum than the loss, or of the reference too.

    Log p(a) is log sigmoid(x) wherever it is asked. With a said so many times against b, the
    margin m is beta (times x - reference's), as log p(a) - log p(b) = x, and its derivative
    times beta, so that of the loss is -beta times sigmoid(-m) (Rafailov et al. 2023, 4).
    """
    a, b, beta, x = 4, 5, 0.4, 0.7
    pair = row_of((([2], [a] * times), ([2], [b] * times)), length=10)
    pair.channels["reference"] = jnp.where(pair.tokens_BL == a, -0.2, -1.9)
    objective = Preference(method=Dpo(beta=beta))
    example = asked(objective, pair)

    @jax.jit
    def loss(x):
        table, bias = jnp.zeros((6, 1)).at[a].set(1.0), jnp.full(6, -100.0).at[4:].set(0.0)
        output = Output(jnp.broadcast_to(x, (1, 10, 1)), table, bias)
        return terms(objective, output, example)["loss"].mean

    margin = beta * times * (x - (-0.2 + 1.9))
    value, gradient = jax.value_and_grad(loss)(x)
    assert float(value) == pytest.approx(np.log1p(np.exp(-margin)), rel=1e-5)
    assert float(gradient) == pytest.approx(-beta * times / (1 + np.exp(margin)), rel=1e-5)


def test_a_pair_that_is_not_whole_counts_nothing() -> None:
    """Fails if a missing side, an answer that was cut off, or a side without one counts."""

    def wide(answer, prompt=8):
        return [5] * prompt, answer

    whole = wide([7, 3]), wide([8, 8, 7, 3], 10)
    behind = (CHOSEN, REJECTED), (wide([7, 3], 4), wide([7, 7, 3], 5))
    cases = [
        (row_of(whole), 1),  # fills the row to its end
        (row_of((whole[0], wide([8, 8, 7, 7, 3], 10)), length=25), 0),  # goes on behind it
        (
            row_of((wide([7, 3], 15), wide([7, 3])), length=27),
            0,
        ),  # nothing of an answer is there
        (row_of(*behind), 2),
        (row_of(behind[0], (behind[1][0], wide([7] * 5, 5)), length=26), 1),
        (row_of((CHOSEN,)), 0),
        (row_of((CHOSEN, ([5, 6], []))), 0),
        (row_of((CHOSEN, ([], [7, 3]))), 1),  # behind its own first token
        (row_of((CHOSEN, ([], [3]))), 0),
    ]
    batch = jax.tree.map(
        lambda *x: jnp.concatenate([row[:, :24] for row in x]), *(row for row, _ in cases)
    )
    for objective in (Preference(), Reward()):
        example = asked(objective, batch)
        used_B = np.asarray(example.weights.sum(1) > 0)
        np.testing.assert_array_equal(used_B, [pairs > 0 for _, pairs in cases])
        output = output_of(example, width=9 if example.head is None else 1)
        found = terms(objective, output, example)
        assert float(found["loss"].count) == sum(pairs for _, pairs in cases)


def test_reward_models_compare_the_two_of_each_pair() -> None:
    """Fails if a side is compared with another pair's, or p of the higher score is no p."""
    objective = Reward()
    batches = ROW, row_of((CHOSEN, REJECTED), (CHOSEN,))
    example = asked(objective, *batches)
    scores = np.array([[1.0, 0.5, -2.0, 0.0, 9, 9], [0.2, 0.2, 7, 7, 9, 9]])
    padded = jnp.pad(jnp.array(scores), ((0, 0), (0, example.targets.shape[1] - 6)))
    found = terms(objective, Output(padded[..., None], jnp.ones((1, 1))), example)
    margins = np.array([0.5, -2.0, 0.0])
    p = 1 / (1 + np.exp(-margins))
    assert {name: float(term.count) for name, term in found.items()} == dict.fromkeys(found, 3)
    assert float(found["loss"].mean) == pytest.approx(-np.log(p).mean(), rel=1e-5)
    assert float(found["accuracy"].mean) == pytest.approx(1.5 / 3)
    assert float(found["confidence"].mean) == pytest.approx(
        np.maximum(p, 1 - p).mean(), rel=1e-5
    )
    assert float(found["brier"].mean) == pytest.approx(((1 - p) ** 2).mean(), rel=1e-5)


def test_a_score_that_has_seen_no_answer_is_refused() -> None:
    """Fails if all prompts' first tokens are scored alike."""
    assert "pool=first" in (Reward(pool="first").check(length=32, sentinels=0) or "")
    assert Reward(pool="first", attention="bidirectional").check(length=32, sentinels=0) is None
