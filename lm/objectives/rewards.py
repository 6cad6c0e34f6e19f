"""What a sampled answer is worth. A new reward: a class here, and its name in `Judge`.

A reward is a frozen value. Called with `Judged`, inside the jitted step, it gives a number for
each; nothing is differentiated by it.
"""

from collections.abc import Mapping
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
from msgspec.structs import replace

from lm.config import Config
from lm.example import Vocabulary
from lm.objectives.rollout import Companion, Named


class Judged(NamedTuple):
    """Sampled answers, and the right one of each row, which the model did not see."""

    tokens_BL: jax.Array
    """int32[B, L]: each row's prompt and its sample."""
    sampled_BL: jax.Array
    """bool[B, L]: which tokens were sampled, with the one that ends each sample."""
    right_tokens_BL: jax.Array
    """int32[B, L]: each row's prompt and its right answer."""
    right_BL: jax.Array
    """bool[B, L]: which tokens are the right answer, with the one that ends it."""
    segments_BL: jax.Array
    """int32[B, L]: 1 at prompt and sample, 0 at padding."""
    vocabulary: Vocabulary
    companions: Mapping[str, Companion]
    """The models that the reward names, by its name for them."""


class Base(Config):
    """A reward: a frozen value that is called with answers."""

    @property
    def companions(self) -> dict[str, Named]:
        """The models that it asks, by its name for them."""
        return {}

    def with_digests(self, digests: Mapping[str, str]) -> Self:
        """The reward with the digest of each of these models."""
        return self

    def __call__(self, answers: Judged) -> jax.Array:
        """What each answer is worth, float32[B]."""
        raise NotImplementedError


class Exact(Base, tag="exact"):
    """1 for a sample that is the right answer, token by token, with its end; 0 for others."""

    def __call__(self, answers: Judged) -> jax.Array:
        same_BL = answers.sampled_BL == answers.right_BL
        same_BL &= ~answers.sampled_BL | (answers.tokens_BL == answers.right_tokens_BL)
        return same_BL.all(axis=1).astype(jnp.float32)


class Recall(Base, tag="recall"):
    """The fraction of the right answer's different tokens that occur in the sample.

    It does not fall with what else the sample holds: one that lists everything scores full.
    """

    def __call__(self, answers: Judged) -> jax.Array:
        ordinary_V = jnp.asarray(answers.vocabulary.is_ordinary)

        def held(tokens_BL: jax.Array, inside_BL: jax.Array) -> jax.Array:
            none_BV = jnp.zeros((len(tokens_BL), len(ordinary_V)), bool)
            rows_B1 = jnp.arange(len(tokens_BL))[:, None]
            return none_BV.at[rows_B1, tokens_BL].max(inside_BL) & ordinary_V[None]

        right_BV = held(answers.right_tokens_BL, answers.right_BL)
        found_BV = right_BV & held(answers.tokens_BL, answers.sampled_BL)
        return found_BV.sum(axis=1) / jnp.maximum(right_BV.sum(axis=1), 1)


class Learnt(Base, tag="learnt"):
    """What a reward model's head says of prompt and sample together."""

    model: Named

    @property
    def companions(self) -> dict[str, Named]:
        return {"reward": self.model}

    def with_digests(self, digests: Mapping[str, str]) -> "Learnt":
        return replace(self, model=replace(self.model, digest=digests["reward"]))

    def __call__(self, answers: Judged) -> jax.Array:
        return answers.companions["reward"].scores(answers.tokens_BL, answers.segments_BL)


Judge = Exact | Recall | Learnt
