"""Lists that each follow a rule of their own: what is drawn, and the best that is possible."""

import hashlib

import numpy as np
import pytest

from lm.data import RuleLists


def test_a_document_follows_one_rule_and_others_follow_others():
    """Fails if a symbol has two labels in a document, or all documents share their labels."""
    source = RuleLists(symbols=5, labels=3, examples=40, documents=60)
    texts = [document.text for document in source.read()]
    assert len(texts) == 60 and {len(text) for text in texts} == {120}
    rules = []
    for text in texts:
        pairs = {tuple(example) for example in text.split()}
        assert len({symbol for symbol, _ in pairs}) == len(pairs)
        rules.append(frozenset(pairs))
    assert len(set(rules)) > 40
    for symbol in "abcde":
        labels = [dict(rule).get(symbol) for rule in rules]
        assert all(labels.count(label) > 5 for label in "012")


def test_documents_are_the_same_on_every_machine_and_from_any_place():
    """Fails if a draw depends on the documents before it, or on NumPy's `Generator`."""
    source = RuleLists(examples=7)
    whole, part = source.draw(0, 9), source.draw(4, 6)
    for all_of_them, some in zip(whole, part, strict=True):
        np.testing.assert_array_equal(all_of_them[4:6], some)
    text = next(iter(source.read())).text
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == FIRST
    assert RuleLists(examples=7, seed=1).draw(0, 1)[1].tolist() != source.draw(0, 1)[1].tolist()


FIRST = "328ec82526bdcee5"


@pytest.mark.parametrize("shots", [0, 1, 3, 9])
def test_the_best_reader_knows_what_it_saw_and_guesses_the_rest(shots):
    """Fails if the formula forgets that a guess may be right, or counts a symbol twice."""
    source = RuleLists(symbols=4, labels=3, examples=shots + 1)
    labels, symbols = source.draw(0, 20_000)
    asked = symbols[:, -1]
    seen = (symbols[:, :-1] == asked[:, None]).any(axis=1)
    right = np.where(seen, 1.0, labels[np.arange(len(labels)), asked] == 0)
    assert right.mean() == pytest.approx(source.best_accuracy(shots), abs=0.012)
