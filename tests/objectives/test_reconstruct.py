"""The objective that says again what an encoder has read, and the code it goes through."""

from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.example import CausalMask, Source, positions_of, unanswered
from lm.model import EncoderDecoder, build
from lm.model.code import Code, codes_given, codes_of, rounded
from lm.objectives import Causal, Reconstruct
from lm.verify import leaks
from lm.verify.dependence import modules
from lm.verify.leaks import prove

SEGMENTS = jnp.array([[1, 1, 1, 2, 2, 2, 2, 0], [1] * 8])
MODEL = EncoderDecoder(depth=1, width=16, heads=2, code=Code(size=3))


@pytest.fixture(scope="module")
def module():
    return build(MODEL, 32, mesh=None, precision="float32")


@pytest.fixture(scope="module")
def given():
    """Two documents in a row and one in another, and others of their lengths as the source."""
    tokens = jax.random.randint(jax.random.key(0), SEGMENTS.shape, 4, 32)
    source = Source(jnp.flip(tokens, 1), SEGMENTS, positions_of(SEGMENTS))
    return unanswered(tokens, SEGMENTS, CausalMask(), source=source)


@pytest.fixture(scope="module")
def apply(module, given):
    """Hidden states of an example, and its codes; compiled once."""
    params = nn.unbox(jax.jit(module.init)(jax.random.key(0), given))["params"]

    @jax.jit
    def states(example):
        output, kept = module.apply({"params": params}, example, mutable=["intermediates"])
        return output.hidden_BPD, codes_of(kept)

    @jax.jit
    def of_codes(example, codes_BSE):
        with codes_given(codes_BSE):
            return module.apply({"params": params}, example).hidden_BPD

    return states, of_codes


def test_the_decoder_reads_the_code_alone(apply, given):
    """Fails if more of the source than its code reaches the decoder, or the code does not."""
    states, of_codes = apply
    hidden_BPD, codes_BSE = states(given)
    assert codes_BSE.shape == (2, 9, 3) and float(jnp.abs(codes_BSE).max()) < 1
    other = replace(given, source=given.source._replace(inputs_BM=given.inputs * 0 + 5))
    assert float(jnp.abs(states(other)[1] - codes_BSE)[:, 1].max()) > 1e-3
    np.testing.assert_allclose(of_codes(other, codes_BSE), hidden_BPD, atol=1e-6)
    moved = of_codes(given, codes_BSE.at[:, 1].add(0.5)) - hidden_BPD
    assert float(jnp.abs(moved[0, :3]).min()) > 0
    # The second document of the first row has another code, which stayed.
    assert float(jnp.abs(moved[0, 3:7]).max()) == 0


def test_a_documents_code_is_its_own_wherever_it_stands(apply, given):
    """Fails if padding or a neighbour is in the mean, or segments are counted from 0."""
    states, _ = apply
    _, codes_BSE = states(given)
    source = given.source
    second = source.inputs_BM[0, 3:7]
    tokens = source.inputs_BM.at[1].set(0).at[1, :4].set(second)
    segments = source.segments_BM.at[1].set(jnp.array([1] * 4 + [0] * 4))
    moved = replace(given, source=Source(tokens, segments, positions_of(segments)))
    _, others_BSE = states(moved)
    np.testing.assert_allclose(others_BSE[1, 1], codes_BSE[0, 2], atol=1e-6)


def test_levels_are_few_and_the_gradient_passes():
    """Fails if a code has other values, or rounding stops what it learns from."""
    values = jnp.linspace(-0.999, 0.999, 101)
    found = rounded(values, 5)
    assert sorted(set(np.round(np.asarray(found), 5).tolist())) == [-1, -0.5, 0, 0.5, 1]
    assert float(jnp.abs(found - values).max()) <= 0.2501
    np.testing.assert_array_equal(jax.grad(lambda x: rounded(x, 5).sum())(values), 1)


@pytest.mark.parametrize("masked", [0.0, 0.5, 1.0])
def test_what_is_masked_is_shown_to_the_encoder_alone(masked, rows, ask, vocabulary):
    """Fails if bos is masked, targets are others, or the source is what the decoder sees."""
    tokens, segments = rows()
    example = ask(Reconstruct(masked=masked), (tokens, segments))
    plain = ask(Causal(), (tokens, segments))
    np.testing.assert_array_equal(example.source.inputs_BM, tokens)
    np.testing.assert_array_equal(example.targets, plain.targets)
    np.testing.assert_array_equal(example.weights, plain.weights)
    content = np.asarray((segments > 0) & (tokens != vocabulary.bos))
    hidden = np.asarray(example.inputs != tokens)
    assert not hidden[~content].any()
    fraction = hidden.sum() / content.sum()
    assert fraction == pytest.approx(masked, abs=0.1 if masked == 0.5 else 0)


def test_what_the_decoder_sees_beside_the_code_is_proven(monkeypatch):
    """Fails if a proof takes the code for a leak, or no longer sees one in the inputs."""
    proof = prove(Reconstruct(masked=0.5), modules(MODEL, depths=(1,)), keys=2)
    assert proof.violations == () and proof.pairs

    class Leaky(Reconstruct, tag="leaky"):
        def __call__(self, batch, vocabulary, key, progress=1.0):
            example = Reconstruct.__call__(self, batch, vocabulary, key, progress)
            return replace(example, inputs=example.targets)

    assert "sees its target" in " ".join(prove(Leaky(), (), keys=1).violations)
    leaks.forget()
