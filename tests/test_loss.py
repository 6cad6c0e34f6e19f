"""The loss in chunks is the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm import loss
from lm.distributed import mesh
from lm.example import Output
from lm.numerics import Einsum
from lm.plan import hlo


@pytest.fixture
def arrays():
    keys = jax.random.split(jax.random.key(0), 4)
    hidden = jax.random.normal(keys[0], (3, 10, 8))
    table = jax.random.normal(keys[1], (20, 8))
    targets = jax.random.randint(keys[2], (3, 10), 0, 20)
    weights = jax.random.uniform(keys[3], (3, 10)).at[0, 3:].set(0)
    return hidden, table, targets, weights


def direct(hidden, table, targets, weights):
    log_p = jax.nn.log_softmax(jnp.einsum("BPD,VD->BPV", hidden, table, precision="highest"))
    return -(weights * jnp.take_along_axis(log_p, targets[..., None], 2)[..., 0]).sum()


@jax.jit
def direct_with_gradients(hidden, table, targets, weights):
    both = jax.value_and_grad(lambda h, t: 3.0 * direct(h, t, targets, weights), (0, 1))
    return both(hidden, table)


FOUR = mesh.make(mesh.Mesh(context=4), jax.devices()[:4])


@pytest.mark.eight_devices
@pytest.mark.parametrize(
    ("at_once", "where"),
    [(1 << 22, None), (150, None), (1, None), pytest.param(150, FOUR, id="spread")],
)
def test_chunks_change_neither_the_sum_nor_the_gradient(arrays, monkeypatch, at_once, where):
    """Fails if the last, filled-up chunk counts, or a chunk's gradient is added twice."""
    monkeypatch.setattr(loss, "LOGITS_AT_ONCE", at_once)
    hidden, table, targets, weights = arrays
    how = {"einsum": Einsum("float32"), "mesh": where}

    def chunked(hidden, table):
        return 3.0 * loss.cross_entropy(Output(hidden, table), targets, weights, **how).total

    value, grads = jax.jit(jax.value_and_grad(chunked, (0, 1)))(hidden, table)
    expected, expected_grads = direct_with_gradients(hidden, table, targets, weights)
    assert value == pytest.approx(float(expected), rel=1e-5)
    for got, want in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)

    def by_token(hidden, table):
        return 3.0 * (weights * loss.token_nats(Output(hidden, table), targets, **how)).sum()

    value, grads = jax.jit(jax.value_and_grad(by_token, (0, 1)))(hidden, table)
    assert value == pytest.approx(float(expected), rel=1e-5)
    for got, want in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("at_once", [1 << 22, 150])
def test_what_is_likeliest_is_known_by_chunks_too(arrays, monkeypatch, at_once):
    """Fails if the two are swapped, chunks lose their order, or confidence is of the target."""
    monkeypatch.setattr(loss, "LOGITS_AT_ONCE", at_once)
    hidden, table, targets, _ = arrays
    nats, least = loss.token_and_least_nats(
        Output(hidden, table), targets, einsum=Einsum("float32")
    )
    alone = loss.token_nats(Output(hidden, table), targets, einsum=Einsum("float32"))
    np.testing.assert_allclose(nats, alone, rtol=1e-6)
    log_p = jax.nn.log_softmax(jnp.einsum("BPD,VD->BPV", hidden, table, precision="highest"))
    np.testing.assert_allclose(least, -log_p.max(-1), rtol=1e-4, atol=1e-5)


@pytest.mark.eight_devices
def test_devices_that_share_a_row_share_the_products_of_the_loss(arrays, monkeypatch):
    """Fails if each of them makes the logits of all target positions, forward or backward."""
    monkeypatch.setattr(
        loss, "LOGITS_AT_ONCE", 3 * 20
    )  # a target position of each device at a time
    hidden, table, targets, weights = arrays
    hidden = jax.device_put(hidden[:, :8], mesh.sharding(FOUR, "batch", "length", "act_embed"))

    def total(hidden, table, where):
        how = {"einsum": Einsum("float32"), "mesh": where}
        return loss.cross_entropy(
            Output(hidden, table), targets[:, :8], weights[:, :8], **how
        ).total

    def flops(where):
        step = jax.jit(jax.grad(total, (0, 1)), static_argnums=2)
        return hlo.work(step.lower(hidden, table, where).compile().as_text(), 4).flops

    assert flops(FOUR) == 3 * 2 * 3 * 8 * 20 * 8 / 4
    assert flops(None) > flops(FOUR)


def test_the_count_is_the_weight(arrays):
    """Fails if the count is the number of target positions."""
    hidden, table, targets, weights = arrays
    both = loss.cross_entropy(Output(hidden, table), targets, weights, einsum=Einsum("float32"))
    assert both.count == pytest.approx(float(weights.sum()))
    assert both.mean == pytest.approx(float(both.total / weights.sum()))


def test_m3_a_loss_over_no_target_is_not_a_number():
    """Fails if it is 0, the best loss that there is."""
    assert jnp.isnan(loss.Sum(jnp.float32(0), jnp.float32(0)).mean)


@pytest.mark.parametrize("by", ["sum", "token"])
@pytest.mark.parametrize(("platform", "at_once"), [("cpu", 2 * 8 * 64), ("tpu", 2 * 64)])
def test_no_array_holds_all_logits(monkeypatch, by, platform, at_once):
    """Fails if logits of all positions are made at once, or kept for the backward pass.

    Or if an accelerator has chunks as small as a CPU's.
    """
    monkeypatch.setattr(loss, "LOGITS_AT_ONCE", at_once)
    monkeypatch.setattr(loss, "platform_of", lambda mesh: platform)
    hidden, table = jnp.ones((2, 64, 4)), jnp.ones((64, 4))
    targets, weights = jnp.zeros((2, 64), int), jnp.ones((2, 64))

    def total(hidden, table):
        output, einsum = Output(hidden, table), Einsum("bfloat16")
        if by == "token":
            return loss.token_nats(output, targets, einsum=einsum).sum()
        return loss.cross_entropy(output, targets, weights, einsum=einsum).total

    text = str(jax.make_jaxpr(jax.grad(total, (0, 1)))(hidden, table))
    assert "[2,8,64]" in text
    assert "[2,64,64]" not in text and "[8,2,8,64]" not in text


def products(jaxpr):
    """The matrix products of a program, those of its parts too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for inner in equation.params.values():
            if hasattr(inner, "jaxpr"):
                yield from products(inner.jaxpr)


def test_bfloat16_products_accumulate_in_float32_forward_and_backward():
    """Fails if an operand of any product is float32, or its result bfloat16."""

    def total(x, w):
        return jnp.square(Einsum("bfloat16")("BD,DF->BF", x, w)).sum()

    jaxpr = jax.make_jaxpr(jax.grad(total, (0, 1)))(jnp.ones((4, 8)), jnp.ones((8, 16)))
    found = list(products(jaxpr.jaxpr))
    assert len(found) == 3
    for product in found:
        assert [operand.aval.dtype for operand in product.invars] == [jnp.bfloat16] * 2
        assert product.outvars[0].aval.dtype == jnp.float32
    x = jax.random.normal(jax.random.key(0), (4, 8))
    w = jax.random.normal(jax.random.key(1), (8, 16))
    for got, want in zip(
        jax.grad(total, (0, 1))(x, w),
        jax.grad(lambda x, w: jnp.square(x @ w).sum(), (0, 1))(x, w),
        strict=True,
    ):
        np.testing.assert_allclose(got, want, rtol=0.05, atol=0.05 * float(abs(want).max()))
