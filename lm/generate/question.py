"""What a model is asked when nobody knows the answer, and what it may answer."""

import jax
import jax.numpy as jnp
import numpy as np

from lm.example import Example, Visible, Vocabulary


def question(
    inputs_BL: jax.Array,
    predict_BP: jax.Array,
    segments_BL: jax.Array,
    positions_BL: jax.Array,
    visible: Visible,
) -> Example:
    """An example that asks what stands somewhere and has no answer to hold it to."""
    return Example(
        inputs=inputs_BL,
        predict=predict_BP,
        targets=jnp.zeros_like(predict_BP),
        weights=jnp.zeros(predict_BP.shape),
        segments=segments_BL,
        positions=positions_BL,
        visible=visible,
    )


def ordinary(vocabulary: Vocabulary) -> np.ndarray:
    """Which pieces are no special ones, bool[V]."""
    return np.arange(vocabulary.size) >= vocabulary.ordinary


def possible(vocabulary: Vocabulary) -> np.ndarray:
    """Which pieces may come next in a text, bool[V]: ordinary ones and the end."""
    possible_V = ordinary(vocabulary)
    possible_V[vocabulary.end] = True
    return possible_V
