"""Images of digits as a source."""

import sys

import numpy as np
import pytest

from lm.config import UserError
from lm.data import Digits
from lm.data.sources.digits import image_of_text

pytest.importorskip("sklearn", reason="scikit-learn is not installed")


def test_a_document_is_an_image_and_its_label_the_digit():
    """Fails if pixels are in another order or of other levels, or a label is of another."""
    from sklearn.datasets import load_digits

    there, found = load_digits(), list(Digits().read())
    assert len(found) == Digits().expected_documents == len({each.id for each in found})
    for number in (0, 1000, 1796):
        document = found[number]
        np.testing.assert_array_equal(image_of_text(document.text), there.images[number])
        assert document.parts[0].values == {"label": there.target[number]}
        assert len(document.text.encode()) == Digits.row_length - 2 == 64
    assert Digits().files()[0][1].is_file()


def test_without_scikit_learn_it_is_one_line(monkeypatch):
    """Fails if it is a traceback, or the line does not name the extra."""
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match=r"pip install 'yardstick-lm\[digits\]'"):
        next(Digits().read())
