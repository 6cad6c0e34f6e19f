"""The second half of a text given the first: what GPTs, prefix and span models can all say."""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from lm.evaluate.layout import LayoutGiven
from lm.evaluate.scorers.base import ExampleScorer, ScoredRows
from lm.evaluate.scorers.chain_rule import ChainRule
from lm.evaluate.scoring import score_of
from lm.evaluate.windows import Windows
from lm.example import Example, UntilMask, Vocabulary
from lm.objectives import Base, Prediction, Prefix, Spans
from lm.objectives.spans import lay_out
from lm.results import Kind, Score
from lm.study.analyses.parts import asked
from lm.train.load import ModelWithText

NAME = "second_half"
"""Of the file beside a run that holds the score, and of the score."""
MEASURE = asked(NAME)


@dataclass(frozen=True)
class SecondHalf(ExampleScorer):
    """-log p of the second half of each row, given the first, as the objective shows it.

    A causal model reads it from left to right. A prefix model sees the first half whole. A span
    model is shown it before one sentinel, behind which stands all the rest. All are exact.
    """

    objective: Base
    name: ClassVar[str] = "second half"
    kind: ClassVar[Kind] = "exact"
    prediction: ClassVar[Prediction] = "next"
    layout_given: ClassVar[LayoutGiven] = "nothing"
    samples: ClassVar[int] = 1

    def build_example(
        self,
        rows: ScoredRows,
        *,
        vocabulary: Vocabulary,
        key_B: jax.Array,
        sample: jax.Array | int,
    ) -> tuple[Example, jax.Array]:
        """Rows are of one document each: others are not to be asked."""
        batch, length = rows.tokens_BL.shape
        half, index_L = length // 2, jnp.arange(length)
        rows = rows._replace(scored_BL=rows.scored_BL & (index_L >= half)[None])
        if isinstance(self.objective, Spans):
            # A sentinel in the text; before the tokens that it stands for, and behind them.
            layout = lay_out(*rows, vocabulary, text=half + 1, spans=length - half + 2)
            return layout.example(self.objective.stack), layout.origin_BP
        example, at_BP = ChainRule().build_example(
            rows, vocabulary=vocabulary, key_B=key_B, sample=sample
        )
        if isinstance(self.objective, Prefix):
            until_BL = jnp.broadcast_to(jnp.maximum(index_L, half - 1), (batch, length))
            example = replace(example, attention_mask=UntilMask(until_BL))
        return example, at_BP


def second_half(trained: ModelWithText, *, rows: int | None) -> dict[str, Score]:
    """The score of the second halves of held-out windows, evenly spaced, by its name.

    Windows that hold the end of a document are left out, so that nobody is told of one.
    """
    windows = Windows.of(trained, trained.tokens.validation, rows)
    segments_RL = windows.segments_RL
    one_R = ((segments_RL == segments_RL[:, :1]) & (segments_RL > 0)).all(axis=1)
    first_RL = np.broadcast_to(
        np.arange(segments_RL.shape[1]) < segments_RL.shape[1] // 2, segments_RL.shape
    )
    text = windows.text
    text = text._replace(
        bytes_RL=np.where(first_RL, 0, text.bytes_RL)[one_R],
        documents_RL=np.where(first_RL, -1, text.documents_RL)[one_R],
    )
    windows = replace(
        windows,
        tokens_RL=windows.tokens_RL[one_R],
        segments_RL=segments_RL[one_R],
        index_R=windows.index_R[one_R],
        text=text,
    )
    scorer = SecondHalf(trained.run.objective.last)
    return {NAME: score_of(trained, scorer, windows)}
