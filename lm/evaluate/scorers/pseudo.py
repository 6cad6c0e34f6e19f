"""The pseudo-log-likelihood, which is no likelihood."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp

from lm.evaluate.effort import Effort
from lm.evaluate.layout import LayoutGiven
from lm.evaluate.scorers.base import (
    ScoredRows,
    TokenNats,
    Usual,
    ask_masked,
    mask_prediction_of,
)
from lm.evaluate.scorers.masked import MaskedScorer
from lm.example import Vocabulary
from lm.model.base import Module
from lm.objectives.base import Base, MaskPrediction
from lm.objectives.units import word_starts
from lm.results import Kind


@dataclass(frozen=True)
class Pseudo(MaskedScorer):
    """-log p(token | all others), summed over tokens: no likelihood, as its terms do not chain.

    Each sample hides another token of the row, so with n samples nothing is left to chance.
    """

    samples: int = 16
    prediction: MaskPrediction = "masked"
    name: ClassVar[str] = "pseudo-likelihood"
    kind: ClassVar[Kind] = "no likelihood"

    def rows(self, effort: Effort) -> int | None:
        return effort.curve_rows

    def mask_counts(self, content_B: jax.Array, uniform_B: jax.Array, length: int) -> jax.Array:
        return jnp.ones((self.samples, len(content_B)), jnp.int32)

    def target_count(self, length: int) -> int:
        return 1


@dataclass(frozen=True)
class PseudoOfAll(Usual):
    """The same of every token, each masked in its turn: for short texts, as of tasks.

    It is the original one (Wang and Cho 2019; Salazar et al. 2020, equation 3). Within words,
    the tokens of a word that stand behind the masked one are masked too: else a word of several
    tokens gives itself away (Kauf and Ivanova 2023, section 3).
    """

    within_words: bool = False
    prediction: MaskPrediction = "masked"
    kind: ClassVar[Kind] = "no likelihood"
    layout_given: ClassVar[LayoutGiven] = "ends of documents"
    samples: ClassVar[int] = 1
    draws: ClassVar[bool] = False
    only_by_name: ClassVar[bool] = True

    def fitted(self, objective: Base, *, length: int, effort: Effort) -> Self:
        return replace(self, prediction=mask_prediction_of(objective.predictions) or "masked")

    def rows(self, effort: Effort) -> int | None:
        return effort.orders

    @property
    def name(self) -> str:
        """Which of both it is.

        >>> PseudoOfAll().name, PseudoOfAll(within_words=True).name
        ('pseudo-likelihood of all tokens', 'pseudo-likelihood from left to right within words')
        """
        how = "from left to right within words" if self.within_words else "of all tokens"
        return f"pseudo-likelihood {how}"

    def nats(
        self,
        module: Module,
        params: Any,
        rows: ScoredRows,
        *,
        vocabulary: Vocabulary,
        key_B: jax.Array,
        sample: jax.Array | int,
    ) -> TokenNats:
        tokens_BL, _, scored_BL = rows
        index_BL = jnp.broadcast_to(jnp.arange(tokens_BL.shape[1]), tokens_BL.shape)
        whole_B = jnp.full(len(tokens_BL), tokens_BL.shape[1])
        starts_BL = word_starts(tokens_BL, whole_B, vocabulary)
        word_BL = jnp.cumsum(starts_BL, 1) if self.within_words else index_BL

        def step(carry: tuple[jax.Array, TokenNats]) -> tuple[jax.Array, TokenNats]:
            left_BL, (nats_BL, likeliest_BL) = carry
            at_B1 = left_BL.argmax(axis=1, keepdims=True)
            word_B1 = jnp.take_along_axis(word_BL, at_B1, axis=1)
            masked_BL = left_BL & (word_BL == word_B1)
            nats_B1, least_B1 = ask_masked(
                module, params, rows, masked_BL, at_B1, self.prediction, vocabulary
            )
            used_B1 = jnp.take_along_axis(left_BL, at_B1, axis=1)
            here_BL = used_B1 & (index_BL == at_B1)
            found = TokenNats(
                jnp.where(here_BL, nats_B1, nats_BL),
                jnp.where(here_BL, nats_B1 <= least_B1, likeliest_BL),
            )
            return left_BL & ~here_BL, found

        none = TokenNats(jnp.zeros(tokens_BL.shape), jnp.ones(tokens_BL.shape, bool))
        _, found = jax.lax.while_loop(lambda carry: carry[0].any(), step, (scored_BL, none))
        return found
