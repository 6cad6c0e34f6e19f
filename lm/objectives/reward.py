"""Score answers, so that those score higher that were chosen: a reward model."""

from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from msgspec import Meta

from lm.example import Batch, Example, Head, Output, Vocabulary
from lm.loss import Sum, logits
from lm.numerics import Einsum
from lm.objectives.headed import Headed
from lm.objectives.pairs import CHOICE, LOSS, answers, by_side, most_pairs, sides
from lm.objectives.preference import margins, won


class Reward(Headed, tag="reward"):
    """Score each answer by a number, as pairs say which was chosen (Bradley & Terry 1952).

    Documents that are no whole pair are not asked for.
    """

    attention: Annotated[
        Literal["causal", "bidirectional"],
        Meta(description="what a token sees of its side of a pair: what is before, or all"),
    ] = "causal"
    pool: Annotated[
        Literal["last", "first", "mean"],
        Meta(description="which state of a prompt with its answer scores it, or their mean"),
    ] = "last"

    @property
    def head(self) -> Head:
        return Head("reward", 1, self.pool)

    @property
    def needs(self) -> dict[str, int | None]:
        return {CHOICE: None, LOSS: None}

    def target_count(self, length: int) -> int:
        """Two for each pair that finds room in a row."""
        return 2 * most_pairs(length)

    def __call__(
        self,
        batch: Batch,
        vocabulary: Vocabulary,
        key: jax.Array,
        progress: jax.Array | float = 1.0,
    ) -> Example:
        """Each side of a pair is a segment, with a score of its own; the first has the weight.

        >>> vocabulary = Vocabulary(
        ...     size=9, pad=0, mask=1, bos=2, eos=3, first_ordinary=4, begins_word=(True,) * 9
        ... )
        >>> channels = {
        ...     "choice": jnp.array([[0, 0, 0, 1, 1, 1, 0, 0, 0]]),
        ...     "loss": jnp.array([[0, 1, 1, 0, 1, 1, 0, 0, 0]]),
        ... }
        >>> segments = jnp.array([[1, 1, 1, 1, 1, 1, 2, 2, 0]])
        >>> batch = Batch(jnp.full((1, 9), 3), segments, channels)
        >>> Reward()(batch, vocabulary, jax.random.key(0)).weights.astype(int).tolist()
        [[1, 0, 0, 0]]
        """
        segments_BL = sides(batch)
        answer_BL = answers(batch, vocabulary).astype(jnp.float32)
        is_pair_BS = (by_side(answer_BL, segments_BL) > 0).all(2)
        first_BS2 = is_pair_BS[..., None] & jnp.array([[[True, False]]])
        used_BP = first_BS2.reshape(len(first_BS2), -1)
        return self.example_of(batch, jnp.zeros_like(used_BP, jnp.int32), used_BP, segments_BL)

    def loss(
        self,
        output: Output,
        example: Example,
        *,
        einsum: Einsum,
        mesh: jax.sharding.Mesh | None = None,
    ) -> dict[str, Sum]:
        """-log p that what was chosen is, a pair: its log odds are the scores' difference.

        `accuracy` is the fraction of pairs where the higher score was chosen, `confidence` the
        mean p of the higher one, which is the same for a model that is calibrated, and `brier`
        the mean square of what p of the chosen one misses (Brier 1950).
        """
        rewards_BP = logits(output, einsum=einsum)[..., 0]
        rewards_BS2 = rewards_BP.reshape(len(rewards_BP), -1, 2)
        is_pair_BS = example.weights.reshape(rewards_BS2.shape)[..., 0]
        count = is_pair_BS.sum()

        def total(values_BS: jax.Array) -> Sum:
            return Sum(jnp.sum(is_pair_BS * values_BS), count)

        margins_BS = margins(rewards_BS2)
        return {
            "loss": total(jax.nn.softplus(-margins_BS)),
            "accuracy": total(won(margins_BS)),
            "confidence": total(jax.nn.sigmoid(jnp.abs(margins_BS))),
            "brier": total(jnp.square(jax.nn.sigmoid(-margins_BS))),
            "margin": total(margins_BS),
            "chosen_reward": total(rewards_BS2[..., 0]),
            "rejected_reward": total(rewards_BS2[..., 1]),
        }
