"""The windows of held-out text that all scorers share, and where they are put."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax
import numpy as np

from lm.data import LengthModel, Split, n_rows, rows
from lm.distributed import hosts
from lm.distributed import mesh as _mesh
from lm.evaluate.bits import WindowText, text_of
from lm.evaluate.layout import LayoutGiven, layout_nats
from lm.train.load import ModelWithText


@dataclass(frozen=True)
class Windows:
    """Non-overlapping windows of a split, and what each of their tokens stands for."""

    split: Split
    lengths: LengthModel | None
    """Of the documents that the model was trained on; None: they are not known."""
    tokens_RL: np.ndarray
    segments_RL: np.ndarray
    index_R: np.ndarray
    text: WindowText
    batch: int
    corpus_digest: str

    @staticmethod
    def of(trained: ModelWithText, split: Split, number: int | None) -> "Windows":
        """The first window to the last, or `number` of them evenly spaced."""
        data, tokenizer = trained.run.data, trained.tokens.tokenizer
        there = n_rows(split, data.length)
        index_R = np.unique(np.linspace(0, there - 1, min(number or there, there)).astype(int))
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

    def layout(self, told: LayoutGiven) -> np.ndarray | None:
        """Nats of what a model is told of where documents end, float64[R, L].

        None: it is told something for which no length model pays.
        """
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

        The tokens' ids may differ, as they do where a tokenizer has sentinels.
        """
        both = zip((self.index_R, *self.text), (other.index_R, *other.text), strict=True)
        same = all(np.array_equal(mine, others) for mine, others in both)
        return same and self.corpus_digest == other.corpus_digest


def place_of(trained: ModelWithText) -> Callable[[np.ndarray], jax.Array]:
    """Puts an array of rows on the devices, split as in training, filled up with zeros."""
    mesh = trained.program.mesh

    def place(array: np.ndarray) -> jax.Array:
        axes = ("batch", "length")[: array.ndim]
        # A text of few windows may have fewer rows than there are devices.
        missing = -len(array) % _mesh.num_shards(mesh, "batch")
        filled = np.pad(array, [(0, missing), (0, 0)][: array.ndim])
        return hosts.put(filled, _mesh.sharding(mesh, *axes))

    return place


def token_bytes(trained: ModelWithText) -> np.ndarray:
    """UTF-8 bytes of each token."""
    return np.array([len(token) for token in trained.tokens.tokenizer.tokens])


def document_of(split: Split, number: int) -> tuple[str, np.ndarray]:
    """The text of a document, and its tokens."""
    start, stop = split.offsets[number : number + 2]
    return split.text(number), split.read([int(start)], int(stop - start))[0]
