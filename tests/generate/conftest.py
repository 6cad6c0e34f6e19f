"""The tiny body that scorers are checked with speaks here too."""

from tests.evaluate.conftest import module, params, tiny, vocabulary

__all__ = ["module", "params", "tiny", "vocabulary"]
