"""The windows of held-out text that all scorers share, and where they are put."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import jax
import numpy as np

from lm.data import LengthModel, Split, Tokens, n_rows, rows
from lm.distributed import mesh as _mesh
from lm.evaluate.bits import WindowText, text_of
from lm.evaluate.layout import LayoutGiven, layout_nats
from lm.train.load import ModelWithText
from lm.train.use import place_rows


@dataclass(frozen=True)
class Cut:
    """How documents are cut into rows of their own: a bos token, then tokens of one document.

    The document's length is told, and no layout is paid for.
    """

    length: int
    """Tokens of a row, at most, without what is put around them."""
    stride: int | None = None
    """How far apart rows begin, each scored in what none before it holds; None: disjoint."""
    end: bool = False
    """Whether an eos token stands after the tokens, which is shown and not scored."""

    @property
    def around(self) -> int:
        """Positions of a row that no token of the text takes."""
        return 2 if self.end else 1

    def rows(self, size: int) -> list[tuple[int, int, int]]:
        """Where each row of a document of `size` tokens begins, ends, and is scored from.

        >>> Cut(4).rows(9), Cut(4, stride=2).rows(7)
        ([(0, 4, 0), (4, 8, 4), (8, 9, 8)], [(0, 4, 0), (2, 6, 4), (4, 7, 6)])
        """
        step = self.stride or self.length
        starts = range(0, max(size - self.length + step, 1), step)
        return [
            (start, min(start + self.length, size), start and start + self.length - step)
            for start in starts
        ]


@dataclass(frozen=True, eq=False)
class GivenText(Tokens):
    """Text that a model is scored on, in place of a corpus."""

    model_lengths: LengthModel | None
    sizes: np.ndarray
    """int32[stream]: the bytes of the text that each token of the stream stands for."""
    cut: Cut | None
    """How documents are cut into rows; None: rows are windows of the stream, as in training."""
    lossy: str | None
    """Why this text is not what its tokens give back; None: it is."""

    @property
    def lengths(self) -> LengthModel | None:  # type: ignore[override] # of a foreign model
        """How long the documents were that the model was trained on, if that is known."""
        return self.model_lengths


@dataclass(frozen=True)
class Windows:
    """Windows of a split of which no token is scored twice, and what each token stands for."""

    split: Split
    lengths: LengthModel | None
    """Of the documents that the model was trained on; None: they are not known."""
    tokens_RL: np.ndarray
    segments_RL: np.ndarray
    index_R: np.ndarray
    text: WindowText
    batch: int
    corpus_digest: str
    cut: Cut | None = None
    """How documents were cut into these rows; None: they are windows of the stream."""

    @staticmethod
    def of(trained: ModelWithText, split: Split, number: int | None) -> "Windows":
        """The first window to the last, or `number` of them evenly spaced."""
        if isinstance(trained.tokens, GivenText) and trained.tokens.cut is not None:
            return _of_documents(trained, trained.tokens, trained.tokens.cut, number)
        index_R = _spread(n_rows(split, trained.run.data.length), number)
        return Windows.at(trained, split, index_R)

    @staticmethod
    def at(trained: ModelWithText, split: Split, index_R: np.ndarray) -> "Windows":
        """These windows of the stream: the r-th holds it from `r * (L - 1)` on."""
        data, tokenizer = trained.run.data, trained.tokens.tokenizer
        read = rows(split, index_R, data.length, tokenizer.vocabulary)
        tokens_RL, segments_RL = np.asarray(read.tokens_BL), np.asarray(read.segments_BL)
        text = text_of(
            tokens_RL,
            segments_RL,
            windows=index_R,
            bos=tokenizer.vocabulary.bos,
            token_bytes_V=token_bytes(trained),
            offsets=split.offsets,
        )
        digest = trained.tokens.corpus_digest
        return Windows(
            split=split,
            lengths=trained.tokens.lengths,
            tokens_RL=tokens_RL,
            segments_RL=segments_RL,
            index_R=index_R,
            text=text,
            batch=data.batch,
            corpus_digest=digest,
        )

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(self.tokens_RL), self.batch):
            part = slice(start, start + self.batch)
            yield self.tokens_RL[part], self.segments_RL[part]

    def scored(self, nats_KRL: np.ndarray) -> np.ndarray:
        """The nats with 0 at what is context here, as another window scores it."""
        if self.cut is None or self.cut.stride is None:
            return nats_KRL
        return np.where(self.text.documents_RL >= 0, nats_KRL, 0.0)

    def layout(self, told: LayoutGiven) -> np.ndarray | None:
        """Nats of what a model is told of where documents end, float64[R, L].

        None: it is told something for which no length model pays.
        """
        if self.cut is not None:
            return None
        if told == "nothing":
            return np.zeros(self.tokens_RL.shape)
        if self.lengths is None:
            return None
        return layout_nats(
            told,
            self.lengths,
            windows=self.index_R,
            offsets=self.split.offsets,
            length=self.tokens_RL.shape[1],
        )

    def same_as(self, other: "Windows") -> bool:
        """Whether these are the same windows of the same text, cut into the same tokens.

        The tokens' ids may differ, as they do where a tokenizer has sentinels. Of documents cut
        into rows, tokens may differ too: the bytes of each document that are scored are equal.
        """
        if self.cut is not None and other.cut is not None:
            mine, others = (np.bincount(1 + text.documents_RL.ravel(), text.bytes_RL.ravel())
                            for text in (self.text, other.text))  # fmt: skip
            return np.array_equal(mine, others) and self.corpus_digest == other.corpus_digest
        both = zip((self.index_R, *self.text), (other.index_R, *other.text), strict=True)
        same = all(np.array_equal(mine, others) for mine, others in both)
        return same and self.corpus_digest == other.corpus_digest


POSITIONS = 8192
"""Positions that a device computes at once, of rows whose number nothing else decides."""


def _of_documents(
    trained: ModelWithText, given: GivenText, cut: Cut, number: int | None
) -> Windows:
    """The rows of all documents, or `number` of them evenly spaced."""
    split, vocabulary = given.validation, given.tokenizer.vocabulary
    stream = split.read([0], split.size)[0]
    # A document stands in the stream between a bos and an eos token.
    every = [
        (document, begin + 1, row)
        for document, (begin, end) in enumerate(pairwise(split.offsets.tolist()))
        for row in cut.rows(end - begin - 2)
    ]
    index_R = _spread(len(every), number)
    chosen = [every[index] for index in index_R]
    length = cut.around + max(stop - start for _, _, (start, stop, _) in chosen)
    shape = len(chosen), length
    tokens_RL = np.full(shape, vocabulary.pad, np.int32)
    segments_RL, bytes_RL = np.zeros(shape, np.int32), np.zeros(shape, np.int64)
    documents_RL = np.full(shape, -1)
    for r, (document, first, (start, stop, scored)) in enumerate(chosen):
        size, seen = stop - start, slice(first + start, first + stop)
        tokens_RL[r, 0], tokens_RL[r, 1 : 1 + size] = vocabulary.bos, stream[seen]
        tokens_RL[r, 1 + size : size + cut.around] = vocabulary.eos
        segments_RL[r, : size + cut.around] = 1
        new = slice(1 + scored - start, 1 + size)
        bytes_RL[r, new] = given.sizes[first + scored : first + stop]
        documents_RL[r, new] = document
    devices = _mesh.num_shards(trained.program.mesh, "batch")
    return Windows(
        split=split,
        lengths=given.lengths,
        tokens_RL=tokens_RL,
        segments_RL=segments_RL,
        index_R=index_R,
        text=WindowText(bytes_RL, documents_RL),
        batch=min(len(chosen), devices * max(1, POSITIONS // length)),
        corpus_digest=given.corpus_digest,
        cut=cut,
    )


def _spread(rows: int, number: int | None) -> np.ndarray:
    """Which of these rows are asked: all, or `number` of them evenly spaced."""
    return np.unique(np.linspace(0, rows - 1, min(number or rows, rows)).astype(int))


def place_of(trained: ModelWithText) -> Callable[[np.ndarray], jax.Array]:
    """Puts an array of rows on the devices, split as in training, filled up with zeros."""
    return partial(place_rows, mesh=trained.program.mesh)


def token_bytes(trained: ModelWithText) -> np.ndarray:
    """UTF-8 bytes of each token."""
    return np.array([len(token) for token in trained.tokens.tokenizer.tokens])


def document_of(split: Split, number: int) -> tuple[str, np.ndarray]:
    """The text of a document, and its tokens."""
    start, stop = split.offsets[number : number + 2]
    return split.text(number), split.read([int(start)], int(stop - start))[0]
