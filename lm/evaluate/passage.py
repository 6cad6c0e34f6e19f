"""A trained model at work on a held-out passage."""

from typing import Literal

import numpy as np

from lm.evaluate.scorers.base import mask_prediction_of
from lm.generate import likeliest
from lm.objectives.base import MaskPrediction
from lm.results import Guess, Passage
from lm.train.load import ModelWithText


def says(trained: ModelWithText, *, context: int = 120, places: int = 6) -> Passage:
    """The model at work on a held-out passage: five likeliest tokens at a few places.

    A causal model sees what is before a place; a masked one all but the places themselves. One
    that was trained to predict neither is asked nothing.
    """
    predictions = trained.run.objective.predictions
    prediction: Literal["next"] | MaskPrediction | None = (
        "next" if "next" in predictions else mask_prediction_of(predictions)
    )
    tokenizer, split = trained.tokens.tokenizer, trained.tokens.validation
    longest = int(np.argmax(split.bytes))
    # A row holds what stands before the passage too, and after it where that is told.
    around = 1 if tokenizer.vocabulary.eos_counts else 2
    length = min(
        context, trained.run.data.length - around, int(np.diff(split.offsets)[longest]) - 2
    )
    start = int(split.offsets[longest]) + 1
    passage = split.read([start], length)[0]
    # Places are spread over the second half, where both kinds of model have seen something.
    spread = np.linspace(length // 2, max(length // 2, length - 2), places)
    chosen = sorted({int(place) for place in spread})
    document, text = split.ids[longest], tokenizer.decode(passage)
    if prediction is None:
        return Passage(document=document, passage=text, after=text, tokens=())
    seen = passage.copy()
    if prediction != "next":
        seen[chosen] = tokenizer.vocabulary.mask_token
    ids, probabilities = likeliest(
        trained.program.module,
        trained.params,
        seen.tolist(),
        chosen,
        vocabulary=tokenizer.vocabulary,
        length=trained.run.data.length,
        prediction=prediction,
    )
    tokens, last = [], 0
    for row, place in enumerate(chosen):
        tokens.append(
            Guess(
                before=tokenizer.decode(passage[last:place]),
                truth=tokenizer.decode(passage[place : place + 1]),
                masked=prediction != "next",
                likeliest=tuple(
                    (tokenizer.decode([token]), float(fraction))
                    for token, fraction in zip(ids[row], probabilities[row], strict=True)
                ),
            )
        )
        last = place + 1
    after = tokenizer.decode(passage[last:])
    return Passage(document=document, passage=text, after=after, tokens=tuple(tokens))
