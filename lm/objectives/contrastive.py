"""Bring the vectors of two texts that belong together near, and those of others apart."""

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from msgspec import Meta

from lm.data.sources import DOCUMENT, SIDE
from lm.example import Batch, Example, Head, Output, Vocabulary, content_of, positions_of
from lm.loss import Sum
from lm.numerics import Einsum
from lm.objectives.headed import Headed
from lm.objectives.labelled import by_document
from lm.objectives.pairs import by_side

SHORTEST = 6
"""Tokens of a pair at least: of either text what begins and ends it, and one between."""
_FAR = -1e30
"""A logit of what is no candidate: minus infinity less itself would be no number."""


class Contrastive(Headed, tag="contrastive"):
    """Find the text that belongs to another one among all of the batch, by pooled states.

    The loss is the cross-entropy of the right one under a softmax over cosines, divided by the
    temperature (InfoNCE: van den Oord et al. 2018; in-batch negatives: Karpukhin et al. 2020,
    "Dense passage retrieval"; both directions: Radford et al. 2021, CLIP). Candidates are the
    texts of all rows of all devices. Not among them are texts that may be as right: those of
    the same document, those of a pair of which either text is the same, and a text itself.
    """

    couples_rows: ClassVar[bool] = True
    pool: Annotated[
        Literal["mean", "first", "last"],
        Meta(description="which of a text's states is its vector, or their mean"),
    ] = "mean"
    temperature: Annotated[
        float, Meta(gt=0, description="cosines are divided by it; a low one asks for more")
    ] = 0.05
    direction: Annotated[
        Literal["both", "first"],
        Meta(description="which text looks for the other: each, or the first alone"),
    ] = "both"
    pairs: (
        Annotated[
            int,
            Meta(
                ge=1,
                description="of a row that count, the first ones, as memory goes with the"
                " square of rows times these; null: as many as may find room",
            ),
        ]
        | None
    ) = None

    @property
    def head(self) -> Head:
        """The pooled states themselves."""
        return Head("vector", 0, self.pool)

    @property
    def needs(self) -> dict[str, int | None]:
        return {SIDE.name: None}

    def target_count(self, length: int) -> int:
        """Two for each pair that finds room in a row."""
        return 2 * self._most(length)

    def compared(self, rows: int, length: int) -> int:
        return (rows * self._most(length)) ** 2

    def _most(self, length: int) -> int:
        room = max(1, length // SHORTEST)
        return room if self.pairs is None else min(self.pairs, room)

    def __call__(
        self,
        batch: Batch,
        vocabulary: Vocabulary,
        key: jax.Array,
        progress: jax.Array | float = 1.0,
    ) -> Example:
        """Each text of a pair is a segment with a vector; those have weight that look.

        A pair counts if both texts have content. Eos tokens are left out where models are used
        without them, so that a text is read as it will be.

        >>> vocabulary = Vocabulary(
        ...     size=9, pad=0, mask=1, bos=2, eos=3, first_ordinary=4, begins_word=(True,) * 9
        ... )
        >>> tokens = jnp.array([[2, 5, 3, 2, 6, 7, 3, 2, 8, 3, 2, 3, 0]])
        >>> segments = jnp.array([[1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 0]])
        >>> side = jnp.array([[0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1, 1, 0]])
        >>> batch = Batch(tokens, segments, {"side": side})
        >>> example = Contrastive()(batch, vocabulary, jax.random.key(0))
        >>> example.segments.tolist()
        [[1, 1, 0, 2, 2, 2, 0, 3, 3, 0, 4, 0, 0]]
        >>> example.weights.astype(int).tolist()  # the second has a text of nothing
        [[1, 1, 0, 0]]
        """
        tokens_BL, length = batch.tokens_BL, batch.tokens_BL.shape[1]
        sides_BL = 2 * batch.segments_BL - 1 + batch.channels[SIDE.name]
        seen_BL = batch.segments_BL > 0
        if vocabulary.eos_counts:
            seen_BL &= tokens_BL != vocabulary.eos
        segments_BL = jnp.where(seen_BL, sides_BL, 0)
        content_BL = content_of(tokens_BL, segments_BL, vocabulary)
        content_BS2 = by_side(content_BL.astype(jnp.int32), segments_BL, self._most(length))
        looks_112 = jnp.array([[[True, self.direction == "both"]]])
        used_BS2 = (content_BS2 > 0).all(2, keepdims=True) & looks_112
        rows = len(tokens_BL)
        used_BP = used_BS2.reshape(rows, -1)
        example = self.example_of(
            batch, jnp.zeros_like(used_BP, jnp.int32), used_BP, segments_BL
        )
        facts = {"text": self._fingerprints(tokens_BL, content_BL, segments_BL)}
        if DOCUMENT.name in batch.channels:
            number_BL = batch.channels[DOCUMENT.name]
            apart = Batch(tokens_BL, segments_BL)
            facts[DOCUMENT.name] = by_document(number_BL, apart, used_BP.shape[1], -1)
        return replace(example, facts=facts)

    def _fingerprints(
        self, tokens_BL: jax.Array, content_BL: jax.Array, segments_BL: jax.Array
    ) -> jax.Array:
        """Two words for each text, uint32[B, P, 2], which are the same for the same tokens.

        Each is a polynomial in an odd number; two texts of which one token differs never have
        the same, and others by a chance of 2^-64 or so.
        """
        rows, length = tokens_BL.shape
        place_BL = positions_of(segments_BL)
        token_BL = jnp.where(content_BL, tokens_BL + 1, 0).astype(jnp.uint32)
        words = []
        for base in _BASES:
            powers_L = np.cumprod(np.full(length, base, np.uint32), dtype=np.uint32)
            word_BL = token_BL * jnp.asarray(powers_L)[place_BL]
            words.append(by_side(word_BL, segments_BL, self._most(length)).reshape(rows, -1))
        return jnp.stack(words, axis=2)

    def loss(
        self,
        output: Output,
        example: Example,
        *,
        einsum: Einsum,
        mesh: jax.sharding.Mesh | None = None,
    ) -> dict[str, Sum]:
        """Nats of the right text for each that looks for one, and what is found.

        `accuracy` is the fraction of them whose right text is nearer than all other candidates,
        `candidates` how many there are, `cosine` that of the right one.
        """
        rows, targets, width = output.hidden_BPD.shape
        unit_BPD = _unit(output.hidden_BPD.astype(jnp.float32))
        unit_N2D = unit_BPD.reshape(rows * targets // 2, 2, width)
        # At the highest precision, as the temperature multiplies the error.
        cosine_NN = jnp.einsum(
            "ND,MD->NM", unit_N2D[:, 0], unit_N2D[:, 1], precision=jax.lax.Precision.HIGHEST
        )
        weights_N2 = example.weights.reshape(-1, 2)
        own_NN = jnp.eye(len(weights_N2), dtype=bool)
        candidate_NN = own_NN | self._others(example, weights_N2[:, 0] > 0)
        logits_NN = jnp.where(candidate_NN, cosine_NN / self.temperature, _FAR)
        right_N = jnp.diagonal(logits_NN)
        totals = []
        for axis in (1, 0):  # the first looks for the second, then the other way
            nats_N = jax.nn.logsumexp(logits_NN, axis=axis) - right_N
            nearest_N = jnp.where(own_NN, _FAR, logits_NN).max(axis=axis)
            totals.append(
                (
                    nats_N,
                    (right_N > nearest_N).astype(jnp.float32),
                    candidate_NN.sum(axis=axis).astype(jnp.float32),
                    right_N * self.temperature,
                )
            )
        count = weights_N2.sum()
        names = "loss", "accuracy", "candidates", "cosine"
        return {
            name: Sum(jnp.sum(weights_N2 * jnp.stack(both, axis=1)), count)
            for name, both in zip(names, zip(*totals, strict=True), strict=True)
        }

    def _others(self, example: Example, is_pair_N: jax.Array) -> jax.Array:
        """Whether the second text of pair m is a wrong answer to the first of n, [N, N].

        It is the same question the other way round: each is a wrong answer to the other.
        """
        text_N22 = example.facts["text"].reshape(-1, 2, 2)

        def same(one_N2: jax.Array, other_N2: jax.Array) -> jax.Array:
            return (one_N2[:, None] == other_N2[None]).all(2)

        first_N2, second_N2 = text_N22[:, 0], text_N22[:, 1]
        alike_NN = same(first_N2, first_N2) | same(second_N2, second_N2)
        # A text is near itself, whatever else it belongs to.
        alike_NN |= same(first_N2, second_N2)
        if DOCUMENT.name in example.facts:
            number_N = example.facts[DOCUMENT.name].reshape(-1, 2)[:, 0]
            known_N1 = (number_N >= 0)[:, None]
            alike_NN |= known_N1 & (number_N[:, None] == number_N[None])
        return is_pair_N[:, None] & is_pair_N[None] & ~alike_NN


_BASES = (0x9E3779B1, 0x85EBCA77)
"""Odd, as an even number's powers soon have no low bits."""


def _unit(states_BPD: jax.Array) -> jax.Array:
    """States of length one; of nothing it is 0, and so is the derivative."""
    square_BP1 = jnp.sum(jnp.square(states_BPD), axis=2, keepdims=True)
    return states_BPD * jax.lax.rsqrt(jnp.maximum(square_BP1, 1e-24))
