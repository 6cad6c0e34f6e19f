"""What a model will be asked is left out of what it is trained on, by common runs of words."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta

from lm.config import UserError
from lm.data.cleaning.base import Base, TextJudge, Verdict
from lm.data.cleaning.named import NamedCorpus
from lm.data.cleaning.words import WordArrays, blocks, plain_words


class Decontaminate(Base, frozen=True, tag="decontaminate"):
    """Removes documents that share a run of words with evaluation texts.

    Words are compared in lower case without punctuation. A text of fewer words than a run is
    not looked for, as a question of six words stands in many innocent places.
    """

    rules: ClassVar = {
        "evaluation text": "as many runs of words as set, or more, stand in an evaluation text"
        " too (Brown et al. 2020, arXiv:2005.14165, appendix C: 13 words)",
    }

    against: Annotated[
        tuple[NamedCorpus, ...], Meta(min_length=1, description="the evaluation texts, by name")
    ]
    words: Annotated[int, Meta(ge=2, le=100, description="of a run")] = 13
    runs: Annotated[int, Meta(ge=1, description="in common, from which on it is removed")] = 1

    def files(self) -> list[tuple[str, Path]]:
        return [
            (f"{each.name}:{name}", path)
            for each in self.against
            for name, path in each.corpus.files()
        ]

    def open(self) -> TextJudge:
        """Reads the evaluation texts; memory is 9 bytes for each of their words.

        Raises UserError where one has no text as long as a run.
        """
        keys, owners = self._evaluation()

        def judge(texts: Sequence[str]) -> list[Verdict]:
            return [
                verdict
                for block in blocks(texts)
                for verdict in self._judge(block, keys, owners)
            ]

        return judge

    def _evaluation(self) -> tuple[np.ndarray, np.ndarray]:
        """(sorted n-gram hashes, uint64; which evaluation each is of, uint8)."""
        keys, owners = [], []
        for number, each in enumerate(self.against):
            part = [
                WordArrays.of([plain_words(document.text)]).ngrams(self.words)[0]
                for document in each.corpus.read()
            ]
            found = np.unique(np.concatenate([np.empty(0, np.uint64), *part]))
            if not len(found):
                raise UserError(
                    f"steps: decontaminate.against[{number}]: {each.name} has no text of"
                    f" {self.words} words; set fewer words"
                )
            keys.append(found)
            owners.append(np.full(len(found), number, np.uint8))
        joined, order = np.unique(np.concatenate(keys), return_index=True)
        return joined, np.concatenate(owners)[order]

    def _judge(
        self, texts: Sequence[str], keys: np.ndarray, owners: np.ndarray
    ) -> list[Verdict]:
        words = [plain_words(text) for text in texts]
        arrays = WordArrays.of(words)
        hashes, places = arrays.ngrams(self.words)
        near = np.minimum(np.searchsorted(keys, hashes), len(keys) - 1)
        hit = np.flatnonzero(keys[near] == hashes)
        document = arrays.documents[places[hit]]
        counts = np.bincount(document, minlength=len(texts))
        found = [Verdict(text) for text in texts]
        for number in np.flatnonzero(counts >= self.runs).tolist():
            first = hit[np.searchsorted(document, number)]
            begin = places[first] - arrays.starts[number]
            run = " ".join(words[number][begin : begin + self.words])
            why = f"{counts[number]} runs, of {self.against[owners[near[first]]].name}: {run}"
            found[number] = Verdict(texts[number], "evaluation text", why)
        return found
