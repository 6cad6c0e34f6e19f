"""An n-gram model that sits tasks."""

import numpy as np
import pytest

from lm.evaluate.tasks.base import Query
from lm.evaluate.tasks.counted import NGramCandidate, _read
from lm.run import steps
from lm.train.load import load_run
from lm.train.train import train_run


@pytest.fixture(scope="module")
def trained(run, tmp_path_factory):
    """A run with its text."""
    directory = tmp_path_factory.mktemp("runs") / "run"
    train_run(run, directory)
    return load_run(directory)


def test_it_counts_the_very_rows_that_the_run_read(trained):
    """Fails if rows are left out, counted twice, or special tokens are counted."""
    run, vocabulary = trained.run, trained.tokens.tokenizer.vocabulary
    counts_V = np.bincount(np.concatenate(list(_read(trained))), minlength=vocabulary.size)
    expected_V = np.zeros(vocabulary.size, int)
    batches = trained.tokens.batches(run.data, run.seed)
    for batch in batches.iterate(0, steps(run), np.arange(run.data.batch)):
        tokens, segments = np.asarray(batch.tokens_BL), np.asarray(batch.segments_BL)
        expected_V += np.bincount(tokens[segments > 0], minlength=vocabulary.size)
    expected_V[~vocabulary.is_ordinary] = 0
    np.testing.assert_array_equal(counts_V, expected_V)


def test_its_likelihoods_chain_over_context_and_continuation(trained):
    """Fails if the context is scored too, or not seen."""
    candidate = NGramCandidate.of(trained, order=3)
    whole, first, behind, alone = candidate.likelihoods(
        [
            Query("", "def main"),
            Query("", "def"),
            Query("def", " main"),
            Query("", " main"),
        ]
    )
    assert whole.log_p == pytest.approx(first.log_p + behind.log_p, abs=1e-9)
    assert whole.tokens == first.tokens + behind.tokens
    assert behind.log_p != alone.log_p
    assert candidate.kind == "exact" and candidate.scorer == "3-gram"
