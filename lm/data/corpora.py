"""What one reading of a corpus finds: its digest, and how its documents are split."""

import hashlib
import math
from pathlib import Path

import msgspec

from lm.config import UserError
from lm.data import cache
from lm.data.sources import Corpus


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


def survey(corpus: Corpus, validation: float) -> Survey:
    """Read the corpus once; later calls trust files of unchanged path, size and mtime.

    Raises `UserError` if either split is empty.
    """
    path = _survey_path(corpus, validation)
    kept = cache.read(path)
    if kept is not None:
        return msgspec.json.decode(kept, type=Survey)
    digest, counts, fractions = Digest(), {True: [0, 0], False: [0, 0]}, [math.inf, 0.0]
    for document in corpus.read():
        content = document.text.encode()
        digest.add(document.id, document.content)
        fraction = fraction_of(document.split_by)
        fractions = [min(fractions[0], fraction), max(fractions[1], fraction)]
        count = counts[fraction < validation]
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
    found = Survey(digest.hex(), *counts[False], *counts[True], *fractions)
    cache.write(path, msgspec.json.encode(found))
    return found


def forget(corpus: Corpus, validation: float) -> None:
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


def _survey_path(corpus: Corpus, validation: float) -> Path:
    states = [
        (id, str(path), (state := path.stat()).st_size, state.st_mtime_ns)
        for id, path in corpus.files()
    ]
    key = hashlib.sha256(msgspec.json.encode((corpus, validation, states))).hexdigest()
    return cache.folder() / "corpora" / f"{key[:32]}.json"
