"""Texts that each follow a rule of their own, which nothing but the text itself tells."""

from collections.abc import Iterator
from typing import Annotated

import numpy as np
from msgspec import Meta

from lm.data.sources.base import Base
from lm.data.sources.draws import philox, uniform
from lm.data.sources.hmm import ALPHABET

LABELS = "0123456789"
SYMBOLS = ALPHABET[:52]


class RuleLists(Base, frozen=True, tag="rules"):
    """Each document is a list of examples `k3 `: a symbol, its label, a space.

    Which label a symbol has is drawn anew for each document, so that nothing but the document
    itself tells it: whoever predicts labels better than by guessing has learnt in context
    (Chan et al. 2022, arXiv:2205.05055, on such data). Of an example whose symbol stood before,
    the label is certain; of a new one, every label is as likely. So the best possible accuracy
    is known, `best_accuracy`.
    """

    symbols: Annotated[int, Meta(ge=1, le=len(SYMBOLS), description="that are labelled")] = 8
    labels: Annotated[int, Meta(ge=2, le=len(LABELS), description="that they may have")] = 4
    examples: Annotated[int, Meta(ge=1, le=4096, description="of a document")] = 24
    documents: Annotated[int, Meta(ge=1, description="how many are drawn")] = 40_000
    seed: Annotated[int, Meta(ge=0, lt=2**31, description="of all draws")] = 0

    @property
    def row_length(self) -> int:
        """The row length (L) at which every row is one document in bytes."""
        return 3 * self.examples + 3

    def draw(self, first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Labels of all symbols, and symbols of the examples, of documents `first .. stop - 1`.

        Both are int64, [N, symbols] and [N, examples].

        >>> labels, symbols = RuleLists(symbols=4, examples=3).draw(0, 2)
        >>> labels.shape, symbols.shape, int(symbols.max()) < 4
        ((2, 4), (2, 3), True)
        """
        size = self.symbols + self.examples
        counts = -(-size // 4)  # of Philox's counter, which gives 4 numbers each
        bits = (
            philox(self.seed, 1).advance(first * counts).random_raw((stop - first) * counts * 4)
        )
        drawn = uniform(bits.reshape(stop - first, -1)[:, :size])
        labels = np.floor(drawn[:, : self.symbols] * self.labels).astype(np.int64)
        symbols = np.floor(drawn[:, self.symbols :] * self.symbols).astype(np.int64)
        return labels, symbols

    def contents(self) -> Iterator[tuple[str, int, bytes]]:
        step = 4096
        for first in range(0, self.documents, step):
            labels, symbols = self.draw(first, min(first + step, self.documents))
            for index in range(len(labels)):
                text = "".join(
                    f"{SYMBOLS[symbol]}{LABELS[labels[index, symbol]]} "
                    for symbol in symbols[index]
                )
                yield f"rules:{first + index:06}", 0, text.encode()

    def best_accuracy(self, shots: int) -> float:
        """How often the best reader names the label of a symbol drawn after so many examples.

        >>> [RuleLists(symbols=2, labels=4).best_accuracy(shots) for shots in (0, 1)]
        [0.25, 0.625]
        """
        unseen = (1 - 1 / self.symbols) ** shots
        return 1 - unseen * (1 - 1 / self.labels)

    @property
    def title(self) -> str:
        return "lists that each follow a rule of their own"

    @property
    def expected_documents(self) -> int:
        return self.documents
