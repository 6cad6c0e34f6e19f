"""What a model may answer when nobody knows what comes."""

import numpy as np

from lm.example import Vocabulary


def possible(vocabulary: Vocabulary) -> np.ndarray:
    """Which tokens may come next in a text, bool[V]: ordinary ones and the end."""
    possible_V = vocabulary.is_ordinary
    possible_V[vocabulary.eos] = True
    return possible_V
