"""A trained model at work on a held-out passage."""

from typing import Any, Literal

import numpy as np

from lm.evaluate.scoring import blank_of
from lm.generate import likeliest
from lm.objectives.base import Blank
from lm.train.load import Trained


def says(trained: Trained, *, context: int = 120, places: int = 6) -> dict[str, Any]:
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
    said: dict[str, Any] = {
        "document": split.ids[longest],
        "passage": tokenizer.decode(passage),
    }
    if answer is None:
        return said | {"after": said["passage"], "pieces": []}
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
            {
                "before": tokenizer.decode(passage[last:place]),
                "truth": tokenizer.decode(passage[place : place + 1]),
                "hidden": answer != "next",
                "likeliest": [
                    [tokenizer.decode([piece]), float(share)]
                    for piece, share in zip(ids[row], probabilities[row], strict=True)
                ],
            }
        )
        last = place + 1
    return said | {"after": tokenizer.decode(passage[last:]), "pieces": pieces}
