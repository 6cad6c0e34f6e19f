"""The linear probe on features whose best classifier is known."""

import jax
import numpy as np
import pytest

from lm.evaluate.probe.probe import Sample, features, fit, probe, sample
from lm.example import BidirectionalMask, CausalMask

NAMES = ("a", "b", "c")


def made(random, count, *, width=5, noise=0.0):
    """Features that hold the label in two directions of several; tokens that do not."""
    labels = random.integers(3, size=count)
    x = random.normal(size=(count, width))
    x[:, 1] = labels == 1
    x[:, 2] = labels == 2
    x[:, 1:3] += noise * random.normal(size=(count, 2))
    return Sample(
        x.astype(np.float32), labels, random.integers(9, size=count), np.arange(count) % 20
    )


def test_what_is_there_is_found_and_what_is_not_is_not():
    """Fails when the test sample is fitted on, or features and labels are misaligned."""
    random = np.random.default_rng(0)
    training, test = made(random, 2000), made(random, 600)
    found = probe(training, test, names=NAMES)
    assert found.accuracy == 1 and set(found.recall.values()) == {1.0}
    noise = random.normal(size=(2600, 5))
    chance = probe(
        training._replace(features_ND=noise[:2000]),
        test._replace(features_ND=noise[2000:]),
        names=NAMES,
    )
    assert chance.accuracy == pytest.approx(1 / 3, abs=5 * chance.accuracy_se)
    assert 0.01 < chance.accuracy_se < 0.04  # sqrt(1/3 x 2/3 / 600) = 0.019
    assert found.training_tokens == 2000 and found.test_tokens == 600


def test_scales_do_not_matter_but_shifts_between_samples_do():
    """Fails when features are not standardized, or each sample by its own statistics."""
    random = np.random.default_rng(0)
    training, test = made(random, 2000, noise=0.3), made(random, 600, noise=0.3)
    scale = np.array([1, 1e4, 1e-4, 1e3, 1], np.float32)[None, :]
    plain = probe(training, test, names=NAMES)
    scaled = probe(
        training._replace(features_ND=training.features_ND * scale + 7),
        test._replace(features_ND=test.features_ND * scale + 7),
        names=NAMES,
    )
    assert scaled.accuracy == pytest.approx(plain.accuracy, abs=0.02)
    moved = probe(training, test._replace(features_ND=test.features_ND + 5), names=NAMES)
    assert moved.accuracy < plain.accuracy - 0.2


def test_the_classifier_gives_the_shares_of_its_training_sample():
    """Fails when the optimum is not reached, or biases are penalized."""
    groups = np.repeat(np.arange(2), 1000)
    labels = np.concatenate([np.repeat([0, 1, 2], [500, 300, 200]), np.repeat([0, 1], 500)])
    x = np.eye(2, dtype=np.float32)[groups]
    weights, bias = fit(x, labels, classes=3, penalty=1e-7)
    fractions = jax.nn.softmax(np.eye(2) @ weights + bias[None, :], axis=-1)
    np.testing.assert_allclose(fractions, [[0.5, 0.3, 0.2], [0.5, 0.5, 0.0]], atol=0.01)
    weights, bias = fit(x, labels, classes=3, penalty=1e4)
    np.testing.assert_allclose(weights, 0, atol=1e-3)
    np.testing.assert_allclose(jax.nn.softmax(bias), [0.5, 0.4, 0.1], atol=0.01)


def test_baselines_come_from_the_training_sample():
    """Fails when the most frequent labels are those of the test sample."""
    labels = np.array([0, 0, 0, 1, 1, 2])
    tokens = np.array([4, 4, 5, 5, 5, 6])
    none = np.zeros((6, 1), np.float32)
    training = Sample(none, labels, tokens, np.zeros(6, int))
    test = Sample(
        none,
        np.array([1, 1, 1, 2, 0, 0]),
        np.array([5, 4, 5, 6, 7, 7]),
        np.array([0, 0, 1, 1, 2, 2]),
    )
    found = probe(training, test, names=NAMES)
    assert found.majority_accuracy == pytest.approx(2 / 6)
    assert found.token_accuracy == pytest.approx(5 / 6)  # 1, 0 (wrong), 1, 2; 7 was never seen
    assert found.recall == {"a": 1.0, "b": 0.0, "c": 0.0}


def test_the_error_is_of_documents():
    """Fails when tokens are resampled: all of a document are right or wrong together."""
    random = np.random.default_rng(0)
    training = made(random, 2000)
    test = made(random, 1000)
    wrong = test.documents_N % 2 == 0
    test = test._replace(labels_N=np.where(wrong, (test.labels_N + 1) % 3, test.labels_N))
    found = probe(training, test, names=NAMES)
    assert found.accuracy == pytest.approx(0.5)
    assert found.accuracy_se == pytest.approx(0.5 / np.sqrt(20), rel=0.15)


def test_features_see_what_the_model_may_see(module, params):
    """Fails when `attention_mask` is ignored or something is masked."""
    segments = np.ones((1, 5), np.int32)
    one, two = np.array([[2, 4, 5, 6, 4]], np.int32), np.array([[2, 4, 5, 6, 5]], np.int32)
    for visible, same in ((CausalMask(), True), (BidirectionalMask(), False)):
        x, y = (
            np.asarray(features(module, params, t, segments, attention_mask=visible))
            for t in (one, two)
        )
        assert np.array_equal(x[:, :4], y[:, :4]) == same
        assert not np.array_equal(x[:, 4:], y[:, 4:])


def test_a_sample_is_of_labelled_tokens_in_their_order(module, params):
    """Fails when the filling of the last batch is taken in, or batches shift the labels."""
    random = np.random.default_rng(0)
    tokens = random.integers(4, 7, size=(5, 6)).astype(np.int32)
    tokens[:, 0] = 2
    segments = np.ones_like(tokens)
    labels = random.integers(-1, 3, size=(5, 6))
    documents = np.repeat(np.arange(5)[:, None], 6, axis=1)
    windows = [(tokens[i : i + 2], segments[i : i + 2]) for i in range(0, 5, 2)]
    found = sample(
        module, params, windows, labels, documents, attention_mask=BidirectionalMask()
    )
    states = features(module, params, tokens, segments, attention_mask=BidirectionalMask())
    np.testing.assert_allclose(found.features_ND, np.asarray(states)[labels >= 0], rtol=1e-5)
    assert found.labels_N.tolist() == labels[labels >= 0].tolist()
    assert found.tokens_N.tolist() == tokens[labels >= 0].tolist()
    assert found.documents_N.tolist() == documents[labels >= 0].tolist()
