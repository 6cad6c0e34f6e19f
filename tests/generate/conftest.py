"""The tiny body that scorers are checked with speaks here too."""

from tests.evaluate.conftest import body, params, tiny, vocabulary

__all__ = ["body", "params", "tiny", "vocabulary"]
