"""A trained model at work on a held-out passage."""

from typing import Literal

import numpy as np

from lm.evaluate.scorers.base import blank_of
from lm.generate import likeliest
from lm.objectives.base import Blank
from lm.results import Guess, Passage
from lm.train.load import Trained


def says(trained: Trained, *, context: int = 120, places: int = 6) -> Passage:
    """The model at work on a held-out passage: five likeliest pieces at a few places.

    A causal model sees what is before a place; a masked one all but the places themselves. One
    that was taught neither is asked nothing.
    """
    answers = trained.run.objective.answers
    answer: Literal["next"] | Blank | None = "next" if "next" in answers else blank_of(answers)
    tokenizer, split = trained.tokens.tokenizer, trained.tokens.validation
    longest = int(np.argmax(split.bytes))
    length = min(context, trained.run.data.length - 1, int(np.diff(split.offsets)[longest]) - 2)
    start = int(split.offsets[longest]) + 1
    passage = split.read([start], length)[0]
    # Places are spread over the second half, where both kinds of model have seen something.
    spread = np.linspace(length // 2, max(length // 2, length - 2), places)
    chosen = sorted({int(place) for place in spread})
    document, text = split.ids[longest], tokenizer.decode(passage)
    if answer is None:
        return Passage(document=document, passage=text, after=text, pieces=())
    seen = passage.copy()
    if answer != "next":
        seen[chosen] = tokenizer.vocabulary.mask
    ids, probabilities = likeliest(
        trained.program.body,
        trained.params,
        seen.tolist(),
        chosen,
        vocabulary=tokenizer.vocabulary,
        length=trained.run.data.length,
        answer=answer,
    )
    pieces, last = [], 0
    for row, place in enumerate(chosen):
        pieces.append(
            Guess(
                before=tokenizer.decode(passage[last:place]),
                truth=tokenizer.decode(passage[place : place + 1]),
                hidden=answer != "next",
                likeliest=tuple(
                    (tokenizer.decode([piece]), float(share))
                    for piece, share in zip(ids[row], probabilities[row], strict=True)
                ),
            )
        )
        last = place + 1
    after = tokenizer.decode(passage[last:])
    return Passage(document=document, passage=text, after=after, pieces=tuple(pieces))
