"""The loss of a student, against its formula."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lm.loss
from lm.example import Batch, Output
from lm.loss import logits
from lm.numerics import Einsum
from lm.objectives import Causal, Distil, Masked
from lm.objectives.rollout import Taught

FLOAT32 = Einsum("float32")
ROWS, LENGTH, WIDTH, SIZE = 3, 5, 4, 7


def drawn(seed: int, *, width: int = WIDTH, softcap: float | None = None) -> Output:
    keys = jax.random.split(jax.random.key(seed), 3)
    return Output(
        jax.random.normal(keys[0], (ROWS, LENGTH, width)),
        jax.random.normal(keys[1], (SIZE, width)),
        jax.random.normal(keys[2], (SIZE,)),
        softcap,
    )


@pytest.fixture
def example(vocabulary):
    tokens_BL = jnp.array(np.random.default_rng(0).integers(4, SIZE, (ROWS, LENGTH)))
    made = Causal()(Batch(tokens_BL, tokens_BL // tokens_BL), vocabulary, jax.random.key(0))
    weights_BP = jax.random.uniform(jax.random.key(1), made.weights.shape)
    return replace(made, weights=weights_BP.at[0, 2].set(0.0))


def by_formula(output, taught, example, temperature, hard):
    """The docstring's, of whole logits."""
    z_BPV, t_BPV = (logits(each, einsum=FLOAT32) for each in (output, taught))
    log_p, log_q = (jax.nn.log_softmax(each / temperature) for each in (z_BPV, t_BPV))
    kl_BP = jnp.sum(jnp.exp(log_q) * (log_q - log_p), axis=-1)
    picked = jnp.take_along_axis(jax.nn.log_softmax(z_BPV), example.targets[..., None], -1)
    soft_BP = (1 - hard) * temperature**2 * kl_BP
    return jnp.sum(example.weights * (soft_BP - hard * picked[..., 0]))


@pytest.mark.parametrize(("temperature", "hard"), [(1.0, 0.0), (3.0, 0.25), (0.5, 0.9)])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("at_once", [1 << 23, 40])
def test_value_and_gradient_are_those_of_the_formula(
    example, monkeypatch, temperature, hard, softcap, at_once
):
    """Fails if T^2 or a weight is left out, a cap is not differentiated, a chunk is lost, or
    the teacher is trained.
    """
    monkeypatch.setattr(lm.loss, "LOGITS_AT_ONCE", at_once)
    student, teacher = drawn(0, softcap=softcap), drawn(1, width=6)
    objective = Distil(temperature=temperature, hard=hard)

    def mine(output, taught):
        return objective.loss_taught(output, example, Taught(taught, FLOAT32), einsum=FLOAT32)[
            "loss"
        ].total

    def theirs(output, taught):
        return by_formula(output, taught, example, temperature, hard)

    arrays = student._replace(softcap=None)

    def of_arrays(function):
        def total(arrays):
            return function(arrays._replace(softcap=softcap), teacher)

        return jax.value_and_grad(total)(arrays)

    (value, found), (wanted, gradient) = of_arrays(mine), of_arrays(theirs)
    assert float(value) == pytest.approx(float(wanted), rel=1e-5)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(gradient), strict=True):
        assert np.abs(one - other).max() < 1e-5 * max(1, float(np.abs(other).max()))
    nothing = jax.grad(lambda hidden: mine(student, teacher._replace(hidden_BPD=hidden)))
    assert not nothing(teacher.hidden_BPD).any()


def test_gradient_by_logits_in_closed_form(example):
    """Fails if the soft part's gradient is not w (1 - hard) T (p - q), so shrinks with T."""
    size = SIZE
    z = jax.random.normal(jax.random.key(2), (ROWS, LENGTH, size))
    t = jax.random.normal(jax.random.key(3), (ROWS, LENGTH, size))
    teacher = Taught(Output(t, jnp.eye(size)), FLOAT32)
    weights = example.weights[..., None]
    for temperature in (1.0, 100.0):
        objective = Distil(temperature=temperature, hard=0.0)

        def total(z, objective=objective):
            output = Output(z, jnp.eye(size))
            return objective.loss_taught(output, example, teacher, einsum=FLOAT32)["loss"].total

        p, q = (jax.nn.softmax(each / temperature) for each in (z, t))
        wanted = weights * temperature * (p - q)
        assert np.abs(jax.grad(total)(z) - wanted).max() < 1e-4
    # Of high temperatures, that of half the squared difference of centred logits, a token.
    centred = (z - z.mean(-1, keepdims=True)) - (t - t.mean(-1, keepdims=True))
    assert np.abs(jax.grad(total)(z) - weights * centred / size).max() < 0.02


def test_a_teacher_that_is_the_student_teaches_nothing(example):
    """Fails if the two are not read alike: the divergence is 0, and the text alone is left."""
    student = drawn(0)
    found = Distil(hard=0.3, temperature=2.0).loss_taught(
        student, example, Taught(student, FLOAT32), einsum=FLOAT32
    )
    text = Causal().loss(student, example, einsum=FLOAT32)["loss"]
    assert abs(float(found["kl"].mean)) < 1e-6
    assert float(found["cross_entropy"].mean) == pytest.approx(float(text.mean), rel=1e-6)
    assert float(found["loss"].mean) == pytest.approx(0.3 * float(text.mean), rel=1e-5)
    assert float(found["loss"].count) == float(example.weights.sum())


def test_it_is_the_objective_that_both_answer():
    """Fails if masks, targets or what a student is used for are another objective's."""
    of = Masked(rate=0.3)
    objective = Distil(of=of)
    assert objective.last == of and objective.predictions == of.predictions
    assert objective.attention_mask == of.attention_mask and objective.masks == of.masks
    assert objective.target_count(64) == of.target_count(64)
    assert objective.taught_by == "start" and list(objective.companions) == ["start"]
