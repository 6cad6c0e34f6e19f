"""An n-gram model that sits tasks: what counting the same text is worth."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lm.config import UserError
from lm.data import Tokenizer
from lm.evaluate.baselines.ngram import NGram
from lm.evaluate.tasks.base import Completion, Likelihood, Note, Query, Ranking, TextStates
from lm.evaluate.tasks.rows import common_ids, split_spaces
from lm.results import Kind
from lm.run import steps
from lm.train.load import ModelWithText


@dataclass(frozen=True)
class NGramCandidate:
    """An n-gram model of the rows that a run read, in its tokens."""

    ngram: NGram
    tokenizer: Tokenizer
    identity: str
    """Which rows it counted."""

    @staticmethod
    def of(trained: ModelWithText, *, order: int = 5) -> "NGramCandidate":
        """A model of the rows that a run read, each as often as it was read."""
        run, tokenizer = trained.run, trained.tokens.tokenizer
        size = tokenizer.vocabulary.size
        ngram = NGram.fit(_read(trained), order=order, size=size)
        rows = f"{trained.tokens.corpus_digest} {run.seed} {steps(run)} {run.data} {order}"
        return NGramCandidate(ngram, tokenizer, hashlib.sha256(rows.encode()).hexdigest()[:16])

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"{self.identity} {self.scorer}".encode()).hexdigest()[:16]

    @property
    def scorer(self) -> str:
        return f"{self.ngram.order}-gram"

    @property
    def kind(self) -> Kind:
        return "exact"

    @property
    def around(self) -> str:
        return "after a text's beginning"

    @property
    def sees_after(self) -> bool:
        return False

    def likelihoods(
        self, queries: Sequence[Query], note: Note = lambda *_: None
    ) -> list[Likelihood]:
        pairs = [split_spaces(each) for each in queries]
        contexts = self.tokenizer.encode_all([context for context, _ in pairs])
        wholes = self.tokenizer.encode_all([a + b for a, b in pairs])
        nats = self.ngram.nats_all(wholes)
        found = []
        for context, whole, nats_n in zip(contexts, wholes, nats, strict=True):
            start = common_ids(context, whole)
            found.append(Likelihood(-float(nats_n[start:].sum()), False, len(whole) - start))
        note(range(len(queries)), found)
        return found

    def states(self, texts: Sequence[str]) -> TextStates:
        raise UserError("an n-gram model has no states")

    def ranked(self, queries: Sequence[str], documents: Sequence[str], count: int) -> Ranking:
        raise UserError("an n-gram model ranks no documents: it has no states")

    def written(
        self,
        prompts: Sequence[str],
        *,
        count: int,
        stop: Sequence[str],
        note: Note = lambda *_: None,
    ) -> list[Completion]:
        raise UserError("an n-gram model writes no text here")

    def answered(
        self,
        messages: Sequence[str],
        *,
        count: int,
        stop: Sequence[str],
        note: Note = lambda *_: None,
    ) -> list[Completion]:
        raise UserError("an n-gram model writes no text here")


def _read(trained: ModelWithText) -> Iterator[np.ndarray]:
    """The stretches of documents in the rows that a run read, without special tokens."""
    run, tokens = trained.run, trained.tokens
    ordinary_V = tokens.tokenizer.vocabulary.is_ordinary
    batches = tokens.batches(run.data, run.seed, run.objective.copies)
    everything = np.arange(run.data.batch)
    for batch in batches.iterate(0, steps(run), everything):
        tokens_BL, segments_BL = np.asarray(batch.tokens_BL), np.asarray(batch.segments_BL)
        for tokens_L, segments_L in zip(tokens_BL, segments_BL, strict=True):
            for segment in np.unique(segments_L[segments_L > 0]):
                stretch_n = tokens_L[segments_L == segment]
                yield stretch_n[ordinary_V[stretch_n]]
