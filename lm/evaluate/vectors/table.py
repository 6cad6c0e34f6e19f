"""Words and their vectors: GloVe's files, and what models look up for their tokens."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lm.artifact import by_name
from lm.config import UserError
from lm.data import Tokenizer
from lm.distributed import hosts
from lm.output.files import check_exists
from lm.train.load import LoadedModel, load_model

VECTORS, WORDS = "vectors.npy", "words.txt"
"""What a folder of vectors holds: float[W, D], and a word a line in the same order."""
TABLES = {"embedding": "input", "unembedding": "output"}
"""What a model's tables of tokens are called here, by the names of their parameters."""


class FoundVectors(NamedTuple):
    """The vectors of some words."""

    vectors_ND: np.ndarray
    """float32, of length 1; zeros where a word is not known."""
    tokens_N: np.ndarray
    """int: how many rows of the table each is the mean of; 0: the word is not known."""


@dataclass(frozen=True)
class WordTable:
    """A table of words: a vector for each of its own, and for others as it can."""

    name: str
    """Where it was read from; of a model, and which of its tables."""
    words: tuple[str, ...]
    """Its own, as many as it has rows, in the order of the file or of the tokenizer's ids."""
    vectors_WD: np.ndarray
    """float32[W, D], as they are in the table."""
    about: str
    """How it has vectors, in words."""
    others: Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]] | None = None
    """Vectors of words that are not its own, float32[N, D], and how many rows each is the mean
    of, 0 where it is none; None: others are not known."""

    @cached_property
    def row(self) -> Mapping[str, int]:
        """The row of each word; of a word that is there twice the first."""
        return {word: row for row, word in reversed(list(enumerate(self.words)))}

    def find(self, words: Sequence[str]) -> FoundVectors:
        """The vectors of words: as they are written, or else in lower case, of length 1.

        >>> table = WordTable("t", ("a", "b"), np.eye(2, dtype=np.float32), "")
        >>> found = table.find(["B", "c"])
        >>> found.vectors_ND.tolist(), found.tokens_N.tolist()
        ([[0.0, 1.0], [0.0, 0.0]], [1, 0])
        """
        rows = [self.row.get(word, self.row.get(word.lower(), -1)) for word in words]
        vectors_ND = np.zeros((len(words), self.vectors_WD.shape[1]), np.float32)
        own_N = np.array(rows, int) >= 0
        vectors_ND[own_N] = self.vectors_WD[[row for row in rows if row >= 0]]
        tokens_N = own_N.astype(int)
        if self.others is not None and not own_N.all():
            left = np.flatnonzero(~own_N).tolist()
            vectors_ND[left], tokens_N[left] = self.others([words[at] for at in left])
        return FoundVectors(unit(vectors_ND), tokens_N)

    def candidates(self, most: int) -> tuple[tuple[str, ...], np.ndarray]:
        """Its first words, each once, and their vectors of length 1."""
        words = tuple(dict.fromkeys(self.words[:most]))
        return words, unit(self.vectors_WD[[self.row[word] for word in words]])


def unit(vectors_ND: np.ndarray) -> np.ndarray:
    """The vectors with length 1; those that are 0 stay so.

    >>> unit(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)).round(1).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    length_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return vectors_ND / np.where(length_N1 > 0, length_N1, 1)


def read_word_tables(path: Path) -> list[WordTable]:
    """The tables of a path: GloVe's text format, a folder of vectors, or any model.

    A model has one of its inputs, and one of its outputs where the two are not tied. Raises
    UserError where the path holds none, or is damaged.
    """
    check_exists(path)
    if path.is_file():
        return [read_text_table(path)]
    if (path / VECTORS).is_file():
        return [read_folder_table(path)]
    return tables_of(load_model(path))


def read_text_table(path: Path) -> WordTable:
    """GloVe's format: a line is a word and its numbers; word2vec's first line is passed over.

    A word may hold spaces, as some of GloVe's do. Raises UserError, naming the line, where one
    is another.
    """
    words, rows = [], []
    size: int | None = None
    for place, line in _lines(path):
        parts = line.rstrip().split(" ")
        if size is None:
            if len(parts) == 2 and all(part.isdigit() for part in parts):
                size = int(parts[1])
                continue
            size = len(parts) - 1
        word = " ".join(parts[:-size]) if size else ""
        try:
            row = np.array(parts[-size:], np.float32) if word else None
        except ValueError:
            row = None
        if row is None or not np.isfinite(row).all():
            raise UserError(
                f"{place}: {line[:40]!r} is no word with {max(size, 1)} numbers after it, as a"
                " table of words has in each line; a model is a folder"
            )
        words.append(word)
        rows.append(row)
    if not words:
        raise UserError(f"{path}: holds no words")
    return _of_files(str(path), words, np.stack(rows))


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Where each line of a file is, and the line; UserError for what cannot be read."""
    try:
        with path.open("rb") as file:
            for number, content in enumerate(file, 1):
                place = f"{path}:{number}"
                try:
                    line = content.decode()
                except UnicodeDecodeError:
                    raise UserError(f"{place}: not UTF-8, and so no table of words") from None
                if line.strip():
                    yield place, line
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def read_folder_table(folder: Path) -> WordTable:
    """A folder with vectors.npy and words.txt; raises UserError where they do not fit."""
    try:
        vectors_WD = np.load(folder / VECTORS, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{folder / VECTORS}: {next(iter(str(error).splitlines()))}") from None
    if vectors_WD.ndim != 2 or not vectors_WD.size or vectors_WD.dtype.kind != "f":
        shape = list(vectors_WD.shape)
        raise UserError(f"{folder / VECTORS}: {vectors_WD.dtype}{shape}; must be float[W, D]")
    if not np.isfinite(vectors_WD).all():
        raise UserError(f"{folder / VECTORS}: holds what is no number")
    check_exists(folder / WORDS, ": a word a line, in the order of the vectors")
    words = [line.rstrip("\n") for _, line in _lines(folder / WORDS)]
    if len(words) != len(vectors_WD):
        raise UserError(
            f"{folder}: {len(words):,} words in {WORDS}, and {len(vectors_WD):,} vectors"
        )
    return _of_files(str(folder), words, vectors_WD.astype(np.float32))


def _of_files(name: str, words: Sequence[str], vectors_WD: np.ndarray) -> WordTable:
    about = f"{len(words):,} words in {vectors_WD.shape[1]} numbers; others are not known"
    return WordTable(name, tuple(words), vectors_WD, about)


# Models


def tables_of(model: LoadedModel) -> list[WordTable]:
    """What a model looks up for its tokens, and what its states are held against if that is
    another table, as tables of words.

    A word is spelled as within a sentence, after a space, where that takes no more tokens. Its
    own words are those of one token; the vector of another is the mean of its tokens' rows.
    Nothing else of the model is asked: no positions, no norm, no layer.
    """
    tokenizer, params = model.tokenizer, by_name(model.params)
    axes = model.run.model.axes()
    words, ids = _whole_words(tokenizer)
    if not words:
        raise UserError(f"{model.path}: no token of its tokenizer is a word by itself")
    found = []
    for parameter, which in TABLES.items():
        if axes.get(parameter) != ("vocab", "embed"):
            continue
        table_VD = np.asarray(hosts.fetch(params[parameter]), np.float32)
        about = (
            f"{len(words):,} tokens may be words by themselves, in {table_VD.shape[1]} numbers;"
            " of others the mean of their tokens' rows"
        )
        name = f"{model.path} ({which})"
        others = _mean_of_rows(tokenizer, table_VD)
        found.append(WordTable(name, words, table_VD[ids], about, others))
    if not found:
        raise UserError(
            f"{model.path}: model.type={model.run.model.kind} has no table of tokens"
        )
    return found


def spelled(tokenizer: Tokenizer, words: Sequence[str]) -> list[np.ndarray]:
    """The ids of each word as within a sentence; none, where it has a special one.

    >>> from lm.data import Bytes
    >>> [ids.tolist() for ids in spelled(Bytes().open(), ["ab"])]
    [[101, 102]]
    """
    is_ordinary_V = tokenizer.vocabulary.is_ordinary
    after_space = tokenizer.encode_all([f" {word}" for word in words])
    alone = tokenizer.encode_all(list(words))
    found = []
    for within, bare in zip(after_space, alone, strict=True):
        ids = within if len(within) <= len(bare) else bare
        found.append(ids if is_ordinary_V[ids].all() else ids[:0])
    return found


def _whole_words(tokenizer: Tokenizer) -> tuple[tuple[str, ...], np.ndarray]:
    """Words that are one token, and its id, in the order of ids."""
    texts = []
    for token in dict.fromkeys(tokenizer.tokens):
        try:
            word = token.decode().strip()
        except UnicodeDecodeError:  # a part of a character
            continue
        if word.isprintable() and word and " " not in word:
            texts.append(word)
    texts = list(dict.fromkeys(texts))
    one = {
        int(ids[0]): word
        for word, ids in zip(texts, spelled(tokenizer, texts), strict=True)
        if len(ids) == 1
    }
    ids = sorted(one)
    return tuple(one[id] for id in ids), np.array(ids, int)


def _mean_of_rows(
    tokenizer: Tokenizer, table_VD: np.ndarray
) -> Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]:
    def others(words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        vectors_ND = np.zeros((len(words), table_VD.shape[1]), np.float32)
        tokens_N = np.zeros(len(words), int)
        for number, ids in enumerate(spelled(tokenizer, words)):
            if len(ids):
                vectors_ND[number], tokens_N[number] = table_VD[ids].mean(axis=0), len(ids)
        return vectors_ND, tokens_N

    return others
