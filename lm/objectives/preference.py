"""Prefer the answer that was chosen to the one that was rejected (DPO, IPO, ORPO)."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from msgspec import Meta
from msgspec.structs import replace

from lm.config import Config
from lm.data.derived import REFERENCE
from lm.example import (
    AttentionMask,
    Batch,
    CausalMask,
    Example,
    Output,
    Vocabulary,
    positions_of,
)
from lm.loss import Sum, token_nats
from lm.numerics import Einsum
from lm.objectives.base import Base, Prediction
from lm.objectives.causal import shift
from lm.objectives.pairs import CHOICE, LOSS, answers, by_side, sides
from lm.objectives.rollout import Named


class Compared(NamedTuple):
    """What is known of the two answers of each pair, [B, S, 2]: chosen, then rejected."""

    policy_BS2: jax.Array
    """Log p of the whole answer, a sum over its tokens, by the model that is trained."""
    gain_BS2: jax.Array
    """By how much that is above the reference's."""
    tokens_BS2: jax.Array
    """How many tokens the answer has; 1 where there is no pair."""


class Dpo(Config, frozen=True, tag="dpo"):
    """Direct preference optimization (Rafailov et al. 2023, equation 7)."""

    beta: Annotated[float, Meta(gt=0, description="how closely the reference is kept to")] = 0.1

    def rewards(self, compared: Compared) -> jax.Array:
        """The implicit reward of each answer, [B, S, 2]: beta times its gain."""
        return self.beta * compared.gain_BS2

    def losses(self, compared: Compared) -> jax.Array:
        """-log sigmoid of the margin between the rewards, [B, S]."""
        return jax.nn.softplus(-margins(self.rewards(compared)))


class Ipo(Config, frozen=True, tag="ipo"):
    """Identity preference optimization (Azar et al. 2023, equation 17)."""

    tau: Annotated[float, Meta(gt=0, description="how closely the reference is kept to")] = 0.1
    of: Annotated[
        Literal["answer", "token"],
        Meta(
            description="log p of a whole answer, as in the paper, or its mean over tokens, so"
            " that the margin that is aimed at does not depend on lengths"
        ),
    ] = "answer"

    def rewards(self, compared: Compared) -> jax.Array:
        """Tau times the gain of each answer, or of its mean token, [B, S, 2]."""
        tokens_BS2 = compared.tokens_BS2 if self.of == "token" else 1.0
        return self.tau * compared.gain_BS2 / tokens_BS2

    def losses(self, compared: Compared) -> jax.Array:
        """The square of what the gains' difference is from 1 / (2 tau), [B, S]."""
        apart_BS = margins(self.rewards(compared)) / self.tau
        return jnp.square(apart_BS - 1 / (2 * self.tau))


class Orpo(Config, frozen=True, tag="orpo"):
    """Odds ratio preference optimization, without a reference (Hong et al. 2024)."""

    weight: Annotated[
        float, Meta(gt=0, description="lambda: of the odds ratio beside the chosen answer")
    ] = 0.1

    def rewards(self, compared: Compared) -> jax.Array:
        """The log odds of each answer, [B, S, 2], by the mean log p of its tokens.

        odds = p / (1 - p) (equation 4), where log p is a mean over tokens (equation 1).
        """
        mean_BS2 = jnp.minimum(compared.policy_BS2 / compared.tokens_BS2, -_LEAST)
        return mean_BS2 - jnp.log(-jnp.expm1(mean_BS2))

    def losses(self, compared: Compared) -> jax.Array:
        """The chosen answer's mean nats, and the weight times -log sigmoid of the log odds
        ratio, [B, S] (equations 5 to 7).
        """
        nats_BS = -compared.policy_BS2[..., 0] / compared.tokens_BS2[..., 0]
        return nats_BS + self.weight * jax.nn.softplus(-margins(self.rewards(compared)))


_LEAST = 1e-6
"""Nats that an answer's mean token has at least: odds of what is certain are infinite."""


def margins(rewards_BS2: jax.Array) -> jax.Array:
    """By how much the reward of what was chosen is above the other's, [B, S]."""
    return rewards_BS2[..., 0] - rewards_BS2[..., 1]


def won(margins_BS: jax.Array) -> jax.Array:
    """1 where the margin is above 0, and a half where it is 0, [B, S]."""
    return (jnp.sign(margins_BS) + 1) / 2


class Preference(Base, tag="preference"):
    """Raise the answer that was chosen above the one that was rejected, pair by pair."""

    attention_mask: ClassVar[AttentionMask] = CausalMask()
    predictions: ClassVar[frozenset[Prediction]] = frozenset({"next"})
    whole: ClassVar[bool] = True
    logits_again: ClassVar[bool] = True
    method: Annotated[
        Dpo | Ipo | Orpo, Meta(description="what is made of the two answers' log p")
    ] = Dpo()
    reference: Annotated[
        Named | None,
        Meta(description="the model that gains are above; null: what the run starts from"),
    ] = None

    @property
    def derived(self) -> dict[str, Named | None]:
        return {} if isinstance(self.method, Orpo) else {REFERENCE.name: self.reference}

    def with_digests(self, digests: Mapping[str, str]) -> "Preference":
        if self.reference is None:
            return self
        digest = digests[REFERENCE.name]
        return replace(self, reference=replace(self.reference, digest=digest))

    @property
    def needs(self) -> dict[str, int | None]:
        return {CHOICE: None, LOSS: None, **dict.fromkeys(self.derived)}

    def check(self, *, length: int, sentinels: int) -> str | None:
        if self.reference is not None and not self.derived:
            return "reference: method.type=orpo compares with none; leave it out, or take dpo"
        return None

    def target_count(self, length: int) -> int:
        """Target positions of a row: every position has one."""
        return length

    def __call__(
        self,
        batch: Batch,
        vocabulary: Vocabulary,
        key: jax.Array,
        progress: jax.Array | float = 1.0,
    ) -> Example:
        """Each side of a pair is a segment; the tokens of its answer are the targets.

        >>> vocabulary = Vocabulary(
        ...     size=9, pad=0, mask=1, bos=2, eos=3, first_ordinary=4, begins_word=(True,) * 9
        ... )
        >>> tokens = jnp.array([[5, 6, 3, 5, 7, 3, 0]])
        >>> channels = {
        ...     "choice": jnp.array([[0, 0, 0, 1, 1, 1, 0]]),
        ...     "loss": jnp.array([[0, 1, 1, 0, 1, 1, 0]]),
        ...     "reference": jnp.array([[0.0, -1.0, -2.0, 0.0, -3.0, -4.0, 0.0]]),
        ... }
        >>> batch = Batch(tokens, jnp.array([[1, 1, 1, 1, 1, 1, 0]]), channels)
        >>> example = Preference()(batch, vocabulary, jax.random.key(0))
        >>> example.targets.tolist(), example.weights.astype(int).tolist()
        ([[6, 3, 5, 7, 3, 0, 0]], [[1, 1, 0, 1, 1, 0, 0]])
        >>> example.facts["reference"].tolist()
        [[-1.0, -2.0, 0.0, -3.0, -4.0, 0.0, 0.0]]
        """
        segments_BL = sides(batch)
        facts = {}
        if REFERENCE.name in self.needs:
            facts[REFERENCE.name] = shift(batch.channels[REFERENCE.name], 0)
        return Example(
            inputs=batch.tokens_BL,
            target_positions=None,
            targets=shift(batch.tokens_BL, vocabulary.pad),
            weights=shift(answers(batch, vocabulary), False).astype(jnp.float32),
            segments=segments_BL,
            positions=positions_of(segments_BL),
            attention_mask=self.attention_mask,
            facts=facts,
        )

    def loss(
        self,
        output: Output,
        example: Example,
        *,
        einsum: Einsum,
        mesh: jax.sharding.Mesh | None = None,
    ) -> dict[str, Sum]:
        """The method's loss a pair, and what it says of pairs, all means over pairs.

        `margin` is the difference of `chosen_reward` and `rejected_reward`, and `accuracy` the
        fraction of pairs where it is above 0, of which a margin of 0 is a half.
        """
        weights_BP, segments_BP = example.weights, example.segments
        log_p_BP = -token_nats(output, example.targets, einsum=einsum, mesh=mesh)
        # Of each token first, as that is near 0 where the two models are near each other.
        gain_BP = log_p_BP - example.facts.get(REFERENCE.name, jnp.zeros_like(log_p_BP))
        tokens_BS2 = by_side(weights_BP, segments_BP)
        compared = Compared(
            by_side(weights_BP * log_p_BP, segments_BP),
            by_side(weights_BP * gain_BP, segments_BP),
            jnp.where(tokens_BS2 > 0, tokens_BS2, 1.0),
        )
        is_pair_BS = (tokens_BS2 > 0).all(2).astype(jnp.float32)
        count = is_pair_BS.sum()

        def total(values_BS: jax.Array) -> Sum:
            return Sum(jnp.sum(is_pair_BS * values_BS), count)

        rewards_BS2 = self.method.rewards(compared)
        margins_BS = margins(rewards_BS2)
        return {
            "loss": total(self.method.losses(compared)),
            "margin": total(margins_BS),
            "accuracy": total(won(margins_BS)),
            "chosen_reward": total(rewards_BS2[..., 0]),
            "rejected_reward": total(rewards_BS2[..., 1]),
        }
