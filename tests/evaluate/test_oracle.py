"""The source as a model: every scorer's number of it is known by the forward algorithm."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.data import Bytes, Hmm, open_tokenizer
from lm.data.sources.hmm import ALPHABET
from lm.evaluate.oracle import Oracle
from lm.evaluate.scorers.any_order import AnyOrderBound
from lm.evaluate.scorers.base import ScoredRows, score
from lm.evaluate.scorers.chain_rule import ChainRule
from lm.evaluate.scorers.curve import MaskFractions
from lm.evaluate.scorers.pseudo import Pseudo
from lm.example import Batch, content_of

SOURCE = Hmm(states=4, symbols=6, length=9, concentration=0.3)
TOKENIZER = open_tokenizer(Bytes())
VOCABULARY = TOKENIZER.vocabulary


@pytest.fixture(scope="module")
def symbols():
    return SOURCE.draw(0, 24)[1]


@pytest.fixture(scope="module")
def windows(symbols):
    """A batch of rows, each of which is one document."""
    ids = [TOKENIZER.encode("".join(ALPHABET[k] for k in row)) for row in symbols]
    ends = [VOCABULARY.bos], [VOCABULARY.eos, VOCABULARY.bos]
    tokens = np.stack([np.concatenate([ends[0], row, ends[1]]) for row in ids])
    segments = np.ones_like(tokens)
    segments[:, -1] = 2
    return [(tokens.astype(np.int32), segments.astype(np.int32))]


def nats(scorer, windows, **settings):
    oracle = Oracle(SOURCE, VOCABULARY)
    return score(scorer, oracle, {}, windows, vocabulary=VOCABULARY, **settings)


def test_its_chain_rule_is_the_forward_algorithm(symbols, windows):
    """Fails if the filter is a step late, a token is another symbol's, or the end costs."""
    found = nats(ChainRule(), windows)[0, 0]
    expected = SOURCE.source().prediction_nats(symbols)
    assert found[:, 1 : 1 + SOURCE.length] == pytest.approx(expected, abs=1e-4)
    assert abs(found[:, 1 + SOURCE.length :]).max() < 1e-4


@pytest.mark.parametrize("scorer", [Pseudo(samples=4), MaskFractions((0.2, 0.5, 1.0))])
def test_what_it_says_of_masked_tokens_is_forward_backward(scorer, symbols, windows):
    """Fails if a masked symbol is used, another one is not summed out, or time runs one way."""
    found = nats(scorer, windows)[0]
    keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), n))(
        jnp.arange(24, dtype=jnp.uint32)
    )
    tokens, segments = map(jnp.array, windows[0])
    for sample in range(scorer.samples):
        example, at = scorer.build_example(
            ScoredRows(tokens, segments, content_of(tokens, segments, VOCABULARY)),
            vocabulary=VOCABULARY,
            key_B=keys,
            sample=sample,
        )
        hidden = np.zeros(windows[0][0].shape, bool)
        row, slot = np.nonzero(np.asarray(example.weights) > 0)
        hidden[row, np.asarray(at)[row, slot]] = True
        weight = np.asarray(example.weights).max(1, keepdims=True)
        inner = hidden[:, 1 : 1 + SOURCE.length]
        expected = weight * SOURCE.source().conditional_nats(symbols, inner)
        assert found[sample][:, 1 : 1 + SOURCE.length] == pytest.approx(expected, abs=1e-3)


def test_its_any_order_bound_is_tight(symbols, windows):
    """Fails if the bound is biased: for the source all orders agree, so it is no bound but -log
    p itself."""
    found = nats(AnyOrderBound(samples=8), windows, replicates=40).mean(1).sum((1, 2))
    exact = -SOURCE.source().log_probability(symbols).sum()
    error = float(found.std(ddof=1)) / math.sqrt(len(found))
    assert error < 0.01 * exact
    assert float(found.mean()) == pytest.approx(exact, abs=4 * error)


def test_it_refuses_what_it_does_not_know(windows):
    """Fails if a prefix is answered as if the row were seen whole."""
    from lm.objectives import Prefix

    tokens, segments = map(jnp.array, windows[0])
    example = Prefix()(Batch(tokens, segments), VOCABULARY, jax.random.key(0))
    with pytest.raises(ValueError, match="seen whole"):
        Oracle(SOURCE, VOCABULARY).apply({}, example)
