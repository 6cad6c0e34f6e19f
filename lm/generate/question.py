"""What a model is asked when nobody knows the answer, and what it may answer."""

import jax
import jax.numpy as jnp
import numpy as np

from lm.example import AttentionMask, Example, Vocabulary


def question(
    inputs_BL: jax.Array,
    target_positions_BP: jax.Array,
    segments_BL: jax.Array,
    positions_BL: jax.Array,
    attention_mask: AttentionMask,
) -> Example:
    """An example that asks what stands somewhere and has no answer to hold it to."""
    return Example(
        inputs=inputs_BL,
        target_positions=target_positions_BP,
        targets=jnp.zeros_like(target_positions_BP),
        weights=jnp.zeros(target_positions_BP.shape),
        segments=segments_BL,
        positions=positions_BL,
        attention_mask=attention_mask,
    )


def possible(vocabulary: Vocabulary) -> np.ndarray:
    """Which tokens may come next in a text, bool[V]: ordinary ones and the end."""
    possible_V = vocabulary.is_ordinary
    possible_V[vocabulary.eos] = True
    return possible_V
