"""What one reading of a corpus finds: its digest, and how its documents are split."""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec

from lm.config import UserError
from lm.data import cache
from lm.data.mixture import AnyCorpus, TextMixture, of_component
from lm.data.sources import Damaged, Document, Empty


class Survey(msgspec.Struct, frozen=True):
    """What one reading of a corpus found."""

    digest: str
    """SHA-256 of every document's id and content, in order."""
    train_documents: int
    train_bytes: int
    validation_documents: int
    validation_bytes: int
    lowest: float
    """The smallest fraction that would hold a document out."""
    highest: float
    """From this fraction on every document is held out."""
    damaged: int = 0
    """Places that hold no document, and were left out."""
    first_damaged: str = ""
    """The first of them, and why."""
    empty: int = 0
    first_empty: str = ""

    @property
    def left_out(self) -> str:
        """What was left out, in words; "" for nothing."""
        found = []
        if self.damaged:
            found.append(
                f"{self.damaged:,} places hold no document, first {self.first_damaged}"
            )
        if self.empty:
            found.append(f"{self.empty:,} documents are empty, first {self.first_empty}")
        return "; ".join(found)


def survey(corpus: AnyCorpus, validation: float) -> Survey:
    """Read the corpus once; later calls trust files of unchanged path, size and mtime.

    Raises `UserError` if either split is empty, of a mixture that of any component.
    """
    if isinstance(corpus, TextMixture):
        return _joined(
            [
                (each.name, of_component(each.name, partial(survey, each.corpus, validation)))
                for each in corpus.components
            ]
        )
    path = _survey_path(corpus, validation)
    kept = cache.read(path)
    if kept is not None:
        return msgspec.json.decode(kept, type=Survey)
    digest, counts, fractions = Digest(), {True: [0, 0], False: [0, 0]}, [1.0, 0.0]
    damaged = empty = 0
    first_damaged = first_empty = ""
    for document in corpus.read_all():
        if isinstance(document, Damaged):
            damaged += 1
            first_damaged = first_damaged or f"{document.place}: {document.why}"
            continue
        if isinstance(document, Empty):
            empty += 1
            first_empty = first_empty or document.place
            continue
        content = document.text.encode()
        digest.add(document.id, document.content)
        if document.held_out is None:
            fraction = fraction_of(document.split_by)
            fractions = [min(fractions[0], fraction), max(fractions[1], fraction)]
        count = counts[is_held_out(document, validation)]
        count[0] += 1
        count[1] += len(content)
    if not any(documents for documents, _ in counts.values()):
        raise UserError(f"data.corpus: {corpus} holds no text; name one that does")
    for held_out, (hint, bound) in {True: ("above", 0), False: ("at most", 1)}.items():
        if not counts[held_out][0]:
            which = "validation" if held_out else "training"
            raise UserError(
                f"data.validation: {validation} leaves no document for {which} out of "
                f"{counts[not held_out][0]}; take more documents, or a fraction {hint} "
                f"{fractions[bound]:.6f}"
            )
    (train_documents, train_bytes), (documents, size) = counts[False], counts[True]
    found = Survey(
        digest=digest.hex(),
        train_documents=train_documents,
        train_bytes=train_bytes,
        validation_documents=documents,
        validation_bytes=size,
        lowest=fractions[0],
        highest=fractions[1],
        damaged=damaged,
        first_damaged=first_damaged,
        empty=empty,
        first_empty=first_empty,
    )
    cache.write(path, msgspec.json.encode(found))
    return found


def _joined(found: Sequence[tuple[str, Survey]]) -> Survey:
    """What was found of the components of a mixture, as one."""
    digest = Digest()
    for name, each in found:
        digest.add(name, each.digest.encode())
    surveys = [each for _, each in found]
    return Survey(
        digest.hex(),
        sum(each.train_documents for each in surveys),
        sum(each.train_bytes for each in surveys),
        sum(each.validation_documents for each in surveys),
        sum(each.validation_bytes for each in surveys),
        min(each.lowest for each in surveys),
        max(each.highest for each in surveys),
        sum(each.damaged for each in surveys),
        next((each.first_damaged for each in surveys if each.damaged), ""),
        sum(each.empty for each in surveys),
        next((each.first_empty for each in surveys if each.empty), ""),
    )


def is_held_out(document: Document, validation: float) -> bool:
    """Whether a document is held out, if this fraction is: where nothing says so, by a hash."""
    if document.held_out is not None:
        return document.held_out
    return fraction_of(document.split_by) < validation


def forget(corpus: AnyCorpus, validation: float) -> None:
    """Have the next `survey` read the corpus again."""
    _survey_path(corpus, validation).unlink(missing_ok=True)


def fraction_of(content: bytes) -> float:
    """Where in [0, 1) a document falls, by its content alone, so that copies fall together.

    >>> round(fraction_of(b"a document"), 3)
    0.051
    """
    return int.from_bytes(hashlib.sha256(content).digest()[:6], "big") / 2**48


class Digest:
    """SHA-256 over (id, content) pairs, each with its length so that none can flow over."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, id: str, content: bytes) -> None:
        for part in (id.encode(), content):
            self._hash.update(b"%d:" % len(part))
            self._hash.update(part)

    def hex(self) -> str:
        return self._hash.hexdigest()


def _survey_path(corpus: AnyCorpus, validation: float) -> Path:
    states = [
        (id, str(path), (state := path.stat()).st_size, state.st_mtime_ns)
        for id, path in corpus.files()
    ]
    key = hashlib.sha256(msgspec.json.encode((corpus, validation, states))).hexdigest()
    return cache.folder() / "corpora" / f"{key[:32]}.json"
