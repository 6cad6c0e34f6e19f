"""Learn from rewards of a model's own answers, compared within groups (GRPO, RLOO).

The objective is J = E[reward - beta x KL] over prompts and over answers that the model itself
draws, with KL = sum over the answer's tokens of log p - log p0, where p0 is the model that the
run starts from. Its optimum is known: p0 exp(reward / beta), normalized for each prompt.

Each step draws `group` answers to a prompt and takes one update from them, so that they are
the model's own: the ratio of new to old probabilities is 1, and there is nothing to clip. An
answer scores its reward less beta x log p / p0 (Ziegler et al. 2019, equation 2), and its
advantage is by how much that is above the others of its group. By default nothing is divided,
so that the gradient is that of J in expectation:

- The mean is that of the *other* answers (Ahmadian et al. 2024, RLOO): a mean with the answer
  in it makes the gradient smaller by 1 - 1 / group.
- Dividing by the group's standard deviation (Shao et al. 2024, GRPO; `standardized`) weighs a
  prompt the more, the less its answers differ (Liu et al. 2025, "Understanding R1-Zero-like
  training", arXiv:2503.20783).
- Log-probabilities are summed over an answer's tokens, and averaged over answers. To divide
  by an answer's length, as GRPO does, pulls less at each token of a long wrong answer than of
  a short one; to divide by the tokens of all answers weighs a batch by how short it happens
  to be.
- The KL is part of the score. As a term of the loss, GRPO's estimator k3 has the gradient of
  another divergence, KL(p0 || p), with another optimum. k3 is what the metric `kl` is, since
  it is never negative and varies less (Schulman 2020, joschu.net/blog/kl-approx.html).
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
from msgspec import Meta
from msgspec.structs import replace

from lm.data import sources
from lm.example import AttentionMask, Batch, CausalMask, Example, Output, Vocabulary
from lm.loss import Sum, cross_entropy
from lm.numerics import Einsum
from lm.objectives.base import Base, Prediction
from lm.objectives.causal import Causal, shift
from lm.objectives.rewards import Exact, Judge, Judged
from lm.objectives.rollout import START, Companion, Generate, Named

LOSS = sources.LOSS.name
_FACTS = ("advantage", "reward", "behaviour", "reference", "entropy", "ended")


class PolicyGradient(Base, tag="policy_gradient"):
    """Raise a reward of the model's own answers, with a penalty for leaving its start.

    The prompt is what stands in a row before the first token whose channel `loss` is 1; the
    answer from there on is the right one, and no sample sees it.
    """

    reward: Annotated[Judge, Meta(description="what an answer is worth")] = Exact()
    group: Annotated[int, Meta(ge=2, description="answers to each prompt of a batch")] = 8
    answer: Annotated[int, Meta(ge=1, description="tokens of an answer, at most")] = 64
    beta: Annotated[
        float, Meta(ge=0, description="what a nat of KL to the start costs in reward")
    ] = 0.05
    advantage: Annotated[
        Literal["difference", "standardized"],
        Meta(
            description="an answer's score less the mean of the others in its group, or less"
            " the mean and over the standard deviation"
        ),
    ] = "difference"

    attention_mask: ClassVar[AttentionMask] = CausalMask()
    predictions: ClassVar[frozenset[Prediction]] = frozenset({"next"})
    whole: ClassVar[bool] = True
    single: ClassVar[bool] = True

    @property
    def needs(self) -> dict[str, int | None]:
        return {LOSS: None}

    @property
    def copies(self) -> int:
        return self.group

    @property
    def companions(self) -> dict[str, Named | None]:
        """The start, for the KL, and what the reward asks."""
        return {START: None, **self.reward.companions}

    def with_digests(self, digests: Mapping[str, str]) -> "PolicyGradient":
        return replace(self, reward=self.reward.with_digests(digests))

    def target_count(self, length: int) -> int:
        """Target positions of a row: every position has one."""
        return length

    def sample_count(self, length: int) -> int:
        return min(self.answer, length - 1)

    def rollout(
        self,
        batch: Batch,
        vocabulary: Vocabulary,
        key: jax.Array,
        *,
        generate: Generate,
        companions: Mapping[str, Companion],
    ) -> Batch:
        """The rows with sampled answers in place of the right ones, and what these are worth.

        The channel `loss` marks sampled tokens, with the one that ends an answer. Of them
        there is `behaviour` and `reference`, the log p of each by the model as it is and by the
        start, and the `entropy` that it was drawn with. Of whole rows there is `reward`,
        `advantage`, and whether the answer `ended`. An answer ends as the right one does, or
        with eos.
        """
        tokens_BL = batch.tokens_BL
        length = tokens_BL.shape[1]
        index_1L = jnp.arange(length)[None]
        real_BL, marked_BL = batch.segments_BL > 0, batch.channels[LOSS] > 0
        marked_BL &= real_BL
        answered_B = marked_BL.any(axis=1)
        prompt_B = jnp.where(answered_B, marked_BL.argmax(axis=1), real_BL.sum(axis=1))
        # Of several answers in a row, the first.
        after_BL = (index_1L >= prompt_B[:, None]) & ~marked_BL
        stop_B = jnp.where(after_BL.any(axis=1), after_BL.argmax(axis=1), length)
        right_BL = marked_BL & (index_1L < stop_B[:, None])
        last_B1 = jnp.maximum(stop_B - 1, 0)[:, None]
        end_B = jnp.take_along_axis(tokens_BL, last_B1, axis=1)[:, 0]
        end_B = jnp.where(answered_B, end_B, vocabulary.eos)

        samples = generate(tokens_BL, prompt_B, end_B, key, self.sample_count(length))
        sampled_BL = samples.sampled_BL
        inside_BL = sampled_BL | (index_1L < prompt_B[:, None])
        segments_BL = inside_BL.astype(jnp.int32)
        log_p_BL = companions[START].log_p(samples.tokens_BL, segments_BL)
        log_p_BL = jnp.where(sampled_BL, log_p_BL, 0.0)
        reward_B = self.reward(
            Judged(
                samples.tokens_BL,
                sampled_BL,
                tokens_BL,
                right_BL,
                segments_BL,
                vocabulary,
                companions,
            )
        )
        ratio_B = jnp.sum(samples.log_p_BL - log_p_BL, axis=1)
        advantage_B = advantages(
            reward_B - self.beta * ratio_B, self.group, divided=self.advantage != "difference"
        )

        def everywhere(x_B: jax.Array) -> jax.Array:
            return jnp.where(inside_BL, x_B[:, None].astype(jnp.float32), 0.0)

        return Batch(
            samples.tokens_BL,
            segments_BL,
            {
                LOSS: sampled_BL.astype(jnp.int32),
                "behaviour": samples.log_p_BL,
                "reference": log_p_BL,
                "entropy": samples.entropy_BL,
                "reward": everywhere(reward_B),
                "advantage": everywhere(advantage_B),
                "ended": everywhere(samples.ended_B),
            },
        )

    def __call__(
        self,
        batch: Batch,
        vocabulary: Vocabulary,
        key: jax.Array,
        progress: jax.Array | float = 1.0,
    ) -> Example:
        """Targets are the tokens that the channel `loss` marks, each predicted one before.

        >>> vocabulary = Vocabulary(
        ...     size=9, pad=0, mask=1, bos=2, eos=3, first_ordinary=4, begins_word=(True,) * 9
        ... )
        >>> rows = jnp.array([[2, 5, 6, 3]]), jnp.ones((1, 4), jnp.int32)
        >>> marked = {"loss": jnp.array([[0, 0, 1, 1]])}
        >>> example = PolicyGradient()(Batch(*rows, marked), vocabulary, jax.random.key(0))
        >>> example.targets.tolist(), example.weights.astype(int).tolist()
        ([[5, 6, 3, 0]], [[0, 1, 1, 0]])
        """
        example = Causal()(batch, vocabulary, key, progress)

        def at_targets(name: str) -> jax.Array:
            channel_BL = batch.channels.get(name)
            if channel_BL is None:  # of rows that were not rolled out
                return jnp.zeros(batch.tokens_BL.shape)
            return shift(channel_BL, 0).astype(jnp.float32)

        # What was sampled counts, whichever token it is; so it may be one that is no content.
        next_BL = shift(example.segments, 0)
        counts_BL = (next_BL > 0) & (next_BL == example.segments) & (at_targets(LOSS) > 0)
        return dataclasses.replace(
            example,
            weights=counts_BL.astype(jnp.float32),
            facts={name: at_targets(name) for name in _FACTS},
        )

    def loss(
        self,
        output: Output,
        example: Example,
        *,
        einsum: Einsum,
        mesh: jax.sharding.Mesh | None = None,
    ) -> dict[str, Sum]:
        """-J of an answer, with the gradient of J in expectation, and what J is made of.

        `reward`, `kl` (nats), `length` (tokens) and `ended` are means over answers, `entropy`
        (nats) over tokens.
        """
        weights_BP, facts = example.weights, example.facts
        answered_B = weights_BP.any(axis=1)
        answers, tokens = answered_B.sum().astype(jnp.float32), weights_BP.sum()

        def of_answers(x_BP: jax.Array) -> jax.Array:
            """The sum over answers of what is the same at all tokens of each."""
            mean_B = jnp.sum(weights_BP * x_BP, 1) / jnp.maximum(weights_BP.sum(1), 1)
            return jnp.sum(mean_B)

        pulled_BP = weights_BP * facts["advantage"]
        pull = cross_entropy(output, example.targets, pulled_BP, einsum=einsum, mesh=mesh).total
        ratio_BP = facts["reference"] - facts["behaviour"]  # log p0 / p
        reward = of_answers(facts["reward"])
        worth = reward + self.beta * jnp.sum(weights_BP * ratio_BP)
        k3_BP = jnp.expm1(ratio_BP) - ratio_BP
        return {
            # Advantages of a group add up to 0: what `pull` is says nothing, but its gradient.
            "loss": Sum(pull - jax.lax.stop_gradient(pull) - worth, answers),
            "reward": Sum(reward, answers),
            "kl": Sum(jnp.sum(weights_BP * k3_BP), answers),
            "length": Sum(tokens, answers),
            "ended": Sum(of_answers(facts["ended"]), answers),
            "entropy": Sum(jnp.sum(weights_BP * facts["entropy"]), tokens),
        }


def advantages(score_B: jax.Array, group: int, *, divided: bool) -> jax.Array:
    """By how much each score is above those of its group, of rows one behind the other.

    >>> scores = jnp.array([2.0, 0.0, 4.0, 1.0])
    >>> advantages(scores, 2, divided=False).tolist()
    [2.0, -2.0, 3.0, -3.0]
    """
    score_NG = score_B.reshape(-1, group)
    above_NG = score_NG - score_NG.mean(axis=1, keepdims=True)
    if divided:
        above_NG /= score_NG.std(axis=1, keepdims=True) + 1e-6
    else:
        above_NG *= group / (group - 1)
    return above_NG.reshape(-1)
