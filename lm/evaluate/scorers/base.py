"""Nats of every token of every window, by the scorers that are valid for a model.

A scorer is a frozen value that asks one question (`lm.objectives.Prediction`), so it is valid
for the models that were trained to predict it. What it attributes to a token stays at that
token, so that bits per byte, by document or by window, are sums over one array.
"""

import math
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np

from lm.distributed.hosts import fetch
from lm.evaluate.effort import Effort
from lm.evaluate.layout import LayoutGiven
from lm.example import BidirectionalMask, Example, Vocabulary, content_of, positions_of
from lm.loss import token_and_least_nats
from lm.model.base import Module
from lm.objectives.base import Base, MaskPrediction, Prediction
from lm.results import Kind


class ScoredRows(NamedTuple):
    """Rows, and which of their tokens are scored: the others are context, and always seen."""

    tokens_BL: jax.Array
    segments_BL: jax.Array
    scored_BL: jax.Array


class TokenNats(NamedTuple):
    """What is attributed to each token of rows."""

    nats_BL: jax.Array
    """-log p, float32[B, L]; 0 where none is scored."""
    likeliest_BL: jax.Array
    """Whether no other token was likelier where it was predicted, bool[B, L]; so it is where
    none is scored."""


class Scorer(Protocol):
    """All that a scorer owes; `Usual` has what most of them share.

    Hashable; each sample attributes nats to a row's tokens, their mean is the estimate.
    """

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> Kind: ...
    @property
    def prediction(self) -> Prediction:
        """The question that it asks: what a model must have been trained to answer."""
        ...

    @property
    def layout_given(self) -> LayoutGiven:
        """What a model is given to know of where documents end, which is not in its nats."""
        ...

    @property
    def samples(self) -> int: ...
    @property
    def block(self) -> int | None:
        """Tokens that a decoding order unmasks at once; None for other scorers."""
        ...

    @property
    def draws(self) -> bool:
        """Whether masks are drawn at random, so that replicates differ."""
        ...

    @property
    def only_by_name(self) -> bool:
        """Whether it takes so many passes that it is asked only where it is named."""
        ...

    def fitted(self, objective: Base, *, length: int, effort: Effort) -> Self:
        """The scorer as a model of this objective and row length is asked, with this effort."""
        ...

    def rows(self, effort: Effort) -> int | None:
        """How many windows it scores; None: all."""
        ...

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
        """What a sample attributes to each token; 0 where none is scored.

        `key_B` are the rows' keys: others in every replicate, if the scorer draws.
        """
        ...


class Usual:
    """A scorer that is the same for all models and takes a pass or a few a window."""

    only_by_name: ClassVar[bool] = False
    kind: ClassVar[Kind]

    @property
    def block(self) -> int | None:
        return None

    @property
    def draws(self) -> bool:
        return self.kind != "exact"

    def fitted(self, objective: Base, *, length: int, effort: Effort) -> Self:
        return self

    def rows(self, effort: Effort) -> int | None:
        return effort.rows


def mask_prediction_of(predictions: frozenset[Prediction]) -> MaskPrediction | None:
    """Where a model says what is masked, if it was trained to predict that; at the place, if
    at both.
    """
    blanks: tuple[MaskPrediction, ...] = ("masked", "masked before")
    return next((blank for blank in blanks if blank in predictions), None)


def refuses(scorer: Scorer, predictions: Collection[Prediction]) -> str | None:
    """Why a scorer is not valid for a model that was trained to predict `predictions`; None if
    it is.

    >>> from lm.evaluate.scorers.chain_rule import ChainRule
    >>> refuses(ChainRule(), {"masked"})
    'the chain rule needs a model that was trained to predict which token is next'
    >>> refuses(ChainRule(), {"masked", "next"})
    """
    if scorer.prediction in predictions:
        return None
    wanted = _PREDICTED[scorer.prediction]
    return f"the {scorer.name} needs a model that was trained to predict {wanted}"


_PREDICTED: dict[Prediction, str] = {
    "next": "which token is next",
    "masked": "which tokens are masked",
    "masked before": "which tokens are masked, at the place before",
    "spans": "which tokens stand behind a sentinel",
}


def score(
    scorer: Scorer,
    module: Module,
    params: Any,
    windows: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    vocabulary: Vocabulary,
    replicates: int = 1,
    first: int = 0,
    seed: int = 0,
    place: Callable[[np.ndarray], jax.Array] = jnp.asarray,
) -> np.ndarray:
    """Nats of each token of R windows by each sample of K independent replicates.

    Returns float32[K, S, R, L]; a scorer's estimate is the mean over its S samples. `windows`
    are batches of (tokens, segments), all of one size but the last, which is filled up with
    padding; `place` puts an array of a batch's rows on the devices. A position without content
    gets 0. Row r has the same masks for every model and every batch size. `first` is the number
    of the first replicate: those from `first` on are independent of those before it.
    """
    nats: list[np.ndarray] = []
    start = batch = 0
    for tokens_BL, segments_BL in windows:
        rows, batch = len(tokens_BL), batch or len(tokens_BL)
        fill = ((0, batch - rows), (0, 0))
        arrays = [place(np.pad(array, fill)) for array in (tokens_BL, segments_BL)]
        number_B = place(np.arange(start, start + batch, dtype=np.uint32))
        numbers = range(first, first + replicates)
        drawn = [number if scorer.draws else 0 for number in numbers]
        keys = [jax.random.fold_in(jax.random.key(seed), number) for number in drawn]
        predictions = [
            [
                nats_of(scorer, module, vocabulary, params, *arrays, number_B, key, sample)
                for sample in range(scorer.samples)
            ]
            for key in keys
        ]
        fetched = [[fetch(nats_BL) for nats_BL in of] for of in predictions]
        nats.append(np.array(fetched)[:, :, :rows])
        start += rows
    return np.concatenate(nats, axis=2)


class ExampleScorer(Usual):
    """A scorer of which each sample is one example: what the model says, weighted."""

    def build_example(
        self,
        rows: ScoredRows,
        *,
        vocabulary: Vocabulary,
        key_B: jax.Array,
        sample: jax.Array | int,
    ) -> tuple[Example, jax.Array]:
        """What to ask of the model, and the row position of each target, int32[B, P].

        What is said of a target whose position is L belongs to no token of the row.
        """
        raise NotImplementedError

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
        example, at_BP = self.build_example(
            rows, vocabulary=vocabulary, key_B=key_B, sample=sample
        )
        output = module.apply({"params": params}, example)
        nats_BP, least_BP = token_and_least_nats(
            output, example.targets, einsum=module.einsum, mesh=module.mesh
        )
        used_BP = example.weights > 0
        # Not a product: what a model says of padding may be anything, NaN too.
        weighted_BP = jnp.where(used_BP, example.weights * nats_BP, 0.0)
        missed_BP = used_BP & (nats_BP > least_BP)
        nothing_BL = jnp.zeros(rows.tokens_BL.shape)
        return TokenNats(
            at_positions(nothing_BL, at_BP).add(weighted_BP, mode="drop"),
            at_positions(nothing_BL, at_BP).add(missed_BP, mode="drop") == 0,
        )


@partial(jax.jit, static_argnums=(0, 1, 2))
def nats_of(
    scorer: Scorer,
    module: Module,
    vocabulary: Vocabulary,
    params: Any,
    tokens_BL: jax.Array,
    segments_BL: jax.Array,
    number_B: jax.Array,
    key: jax.Array,
    sample: jax.Array,
) -> jax.Array:
    """What one sample attributes to each token, float32[B, L]: the compiled part of `score`."""
    rows = ScoredRows(tokens_BL, segments_BL, content_of(tokens_BL, segments_BL, vocabulary))
    key_B = jax.vmap(partial(jax.random.fold_in, key))(number_B)
    return scorer.nats(
        module, params, rows, vocabulary=vocabulary, key_B=key_B, sample=sample
    ).nats_BL


def ask_masked(
    module: Module,
    params: Any,
    rows: ScoredRows,
    masked_BL: jax.Array,
    at_BP: jax.Array,
    prediction: MaskPrediction,
    vocabulary: Vocabulary,
) -> tuple[jax.Array, jax.Array]:
    """-log p of the tokens at these places, and of the likeliest there, float32[B, P] each.

    The model sees the rows with the mask token where they are masked.
    """
    tokens_BL, segments_BL, _ = rows
    example = Example(
        inputs=jnp.where(masked_BL, vocabulary.mask_token, tokens_BL),
        target_positions=answer_positions(at_BP, prediction),
        targets=jnp.take_along_axis(tokens_BL, at_BP, axis=1),
        weights=jnp.ones(at_BP.shape),
        segments=segments_BL,
        positions=positions_of(segments_BL),
        attention_mask=BidirectionalMask(),
    )
    output = module.apply({"params": params}, example)
    return token_and_least_nats(output, example.targets, einsum=module.einsum, mesh=module.mesh)


def mask_count(fraction: float, content: int) -> int:
    """How many of so many tokens of content a fraction is, at least one."""
    return max(1, math.floor(fraction * content + 0.5))


def shift_left(x_BL: jax.Array) -> jax.Array:
    """Each row one position to the left, 0 at its end."""
    return jnp.pad(x_BL[:, 1:], ((0, 0), (0, 1)))


def at_positions(x_BL: jax.Array, at_BP: jax.Array) -> Any:
    """`x_BL.at[...]` the given position of each row; one past the row is ignored by `drop`."""
    return x_BL.at[jnp.arange(len(x_BL))[:, None], at_BP]


def answer_positions(at_BP: jax.Array, prediction: MaskPrediction) -> jax.Array:
    """Where a model says what stands at these places; an unused target position may stand at
    0.
    """
    return at_BP if prediction == "masked" else (at_BP - 1).clip(0)
