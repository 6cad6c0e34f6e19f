"""What is done with a chunk of documents in one stage, wherever it is done.

A stage is what can be done to each document without knowing the others: what a compared step
decided of it, then steps by document, then what the next compared step observes.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from lm.data.cleaning.base import AcrossDocuments, Base, TextJudge, Verdict
from lm.data.cleaning.chunks import Chunk, bytes_of, rank_of, zstandard
from lm.data.cleaning.pii import Pii
from lm.data.cleaning.recipe import Cleaning, CleaningStep
from lm.data.cleaning.tally import EXAMPLES, EXCERPT, ChunkTally, Shown, StepTally
from lm.data.cleaning.words import hash_of, plain_words
from lm.data.corpora import fraction_of

NOTHING_LEFT = "nothing left"
NOTHING_LEFT_ABOUT = "documents of which only white space is left"


class Stage(NamedTuple):
    """What is done to chunks in one go; steps by their numbers in the recipe."""

    number: int
    decided: int | None
    steps: tuple[int, ...]
    observed: int | None


def stages_of(steps: Sequence[CleaningStep]) -> list[Stage]:
    """Cuts steps into stages at those that compare all documents.

    >>> from lm.data.cleaning.c4 import C4
    >>> from lm.data.cleaning.exact import ExactCopies
    >>> for stage in stages_of((C4(), ExactCopies(), C4())):
    ...     print(*stage)
    0 None (0,) 1
    1 1 (2,) None
    """
    found: list[Stage] = []
    decided, inside = None, list[int]()
    for number, step in enumerate(steps):
        if isinstance(step, AcrossDocuments):
            found.append(Stage(len(found), decided, tuple(inside), number))
            decided, inside = number, []
        else:
            inside.append(number)
    return [*found, Stage(len(found), decided, tuple(inside), None)]


class Twins(Protocol):
    """Who the documents are that `Verdict.twin` numbers."""

    def source(self, twin: int) -> str:
        """The source of one."""

    def name(self, twin: int) -> str:
        """Its source and id, for an example."""


class Decisions(NamedTuple):
    """What a compared step observed of a chunk and decided about it."""

    arrays: Mapping[str, np.ndarray]
    twins: Twins


class Done(NamedTuple):
    """What a stage made of a chunk."""

    chunk: Chunk
    tally: ChunkTally
    observed: Mapping[str, np.ndarray]
    """What the next compared step saw, with `ranks` and `held` of each document."""


class Cleaner:
    """What a process needs for every chunk: the recipe and its steps, opened."""

    def __init__(self, cleaning: Cleaning) -> None:
        self.cleaning = cleaning
        self._judges: dict[int, TextJudge] = {}
        self._mask = Pii().open()
        self._sources = [each.name for each in cleaning.sources]

    def open(self) -> None:
        """Opens all steps, so that what is wrong with one is found before any work."""
        if self.cleaning.compression == "zstd":
            zstandard()
        for number, step in enumerate(self.cleaning.steps):
            if isinstance(step, Base):
                self._judges[number] = step.open()

    def work(self, stage: Stage, chunk: Chunk, decisions: Decisions | None) -> Done:
        """Does a stage's work on a chunk; decisions where the stage begins with some."""
        steps: dict[str, StepTally] = {}
        came = len(chunk.texts), sum(map(bytes_of, chunk.texts))
        if stage.decided is not None:
            assert decisions is not None
            steps[str(stage.decided)] = tally = StepTally()
            verdicts = self._compared(stage.decided).judge(chunk.texts, decisions.arrays)
            chunk = self._apply(stage.decided, tally, chunk, verdicts, decisions.twins)
        for number in stage.steps:
            steps[str(number)] = tally = StepTally()
            if number not in self._judges:
                step = self.cleaning.steps[number]
                assert isinstance(step, Base)
                self._judges[number] = step.open()
            verdicts = self._judges[number](chunk.texts)
            chunk = self._apply(number, tally, chunk, verdicts, None)
        held = np.array([self._held_out(text) for text in chunk.texts], bool)
        sizes = np.array([*map(bytes_of, chunk.texts)], np.int64)
        done = ChunkTally(
            source=chunk.source,
            documents=len(sizes),
            bytes=int(sizes.sum()),
            held_documents=int(held.sum()),
            held_bytes=int(sizes[held].sum()),
            steps=steps,
            kept=self._shown_of_kept(chunk) if stage.observed is None else [],
            read_documents=came[0],
            read_bytes=came[1],
        )
        observed = {} if stage.observed is None else self._observe(stage.observed, chunk, held)
        plain_words.cache_clear()
        return Done(chunk, done, observed)

    def _compared(self, number: int) -> AcrossDocuments:
        step = self.cleaning.steps[number]
        assert isinstance(step, AcrossDocuments)
        return step

    def _held_out(self, text: str) -> bool:
        return fraction_of(text.encode()) < self.cleaning.validation

    def _observe(self, number: int, chunk: Chunk, held: np.ndarray) -> Mapping[str, np.ndarray]:
        source = self._sources.index(chunk.source)
        ranks = [rank_of(source, chunk.source, id) for id in chunk.ids]
        return {
            **self._compared(number).observe(chunk.texts, self.cleaning.seed),
            "ranks": np.array(ranks, np.uint64),
            "held": held,
        }

    def _apply(
        self,
        number: int,
        tally: StepTally,
        chunk: Chunk,
        verdicts: list[Verdict],
        twins: Twins | None,
    ) -> Chunk:
        """What is left of a chunk, and counts what is not."""
        ids, texts = [], []
        secret = isinstance(self.cleaning.steps[number], Pii)
        for id, text, verdict in zip(chunk.ids, chunk.texts, verdicts, strict=True):
            rule = verdict.rule
            if not rule and (verdict.text is not text and not verdict.text.strip()):
                rule = NOTHING_LEFT
            changes = [rule] if rule else [*verdict.changes]
            for each in changes:
                removal = tally.of(each, chunk.source)
                if rule:
                    removal.documents += 1
                    removal.bytes += bytes_of(text)
                else:
                    removal.changed += 1
                    removal.changes += verdict.changes[each]
                if twins and verdict.twin >= 0:
                    removal.across += verdict.across
                    source = twins.source(verdict.twin)
                    removal.twins[source] = removal.twins.get(source, 0) + 1
            if not rule:
                ids.append(id)
                texts.append(verdict.text)
                if changes:
                    tally.cut += bytes_of(text) - bytes_of(verdict.text)
            if changes and not secret and (rule or len(changes) == 1):
                self._show(tally, changes[0], chunk.source, id, text, verdict, twins)
        return Chunk(chunk.source, ids, texts)

    def _show(
        self,
        tally: StepTally,
        rule: str,
        source: str,
        id: str,
        text: str,
        verdict: Verdict,
        twins: Twins | None,
    ) -> None:
        """Keeps an example: what is removed, or the lines that are cut."""
        order = hash_of(f"{self.cleaning.seed}\0{rule}\0{source}\0{id}".encode())
        order >>= 1  # JSON's readers know no larger integers
        shown = tally.examples.get(rule, [])
        if len(shown) == EXAMPLES and shown[-1].order < order:
            return  # most are not shown, and need no excerpt
        if rule in verdict.changes:
            left = set(verdict.text.split("\n"))
            text = "\n".join(line for line in text.split("\n") if line.strip() not in left)
        twin = twins.name(verdict.twin) if twins and verdict.twin >= 0 else ""
        masked = self._masked(text)
        why = self._masked(verdict.why)
        tally.show(rule, Shown(order, source, id, why, masked, twin))

    def _masked(self, text: str) -> str:
        """The beginning of a text as it may be shown to anybody.

        What is masked is a little more than what is shown, so that no address is cut in two.
        """
        return self._mask([text[: 2 * EXCERPT]])[0].text[:EXCERPT]

    def _shown_of_kept(self, chunk: Chunk) -> list[Shown]:
        orders = [
            hash_of(f"{self.cleaning.seed}\0kept\0{chunk.source}\0{id}".encode()) >> 1
            for id in chunk.ids
        ]
        least = sorted(range(len(orders)), key=lambda n: (orders[n], chunk.texts[n]))[:EXAMPLES]
        return [
            Shown(orders[n], chunk.source, chunk.ids[n], "", self._masked(chunk.texts[n]))
            for n in least
        ]
