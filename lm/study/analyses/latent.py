"""What a narrow code holds: what documents cost given it, what comes back, who is near whom."""

import ast
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import msgspec
import numpy as np

from lm.data import Stdlib, rows
from lm.data.packing import table_of
from lm.data.sources.digits import SIDE, image_of_text
from lm.data.sources.jsonl import LABEL
from lm.distributed import hosts
from lm.evaluate.tasks.metrics import Estimate, estimate, mean, ratio
from lm.example import Batch, Example, Output, Source, Vocabulary, unanswered
from lm.loss import logits, token_nats
from lm.model import EncoderDecoder, Module, build
from lm.model.code import Code, codes_given, codes_of
from lm.objectives import Objective, Reconstruct
from lm.output.files import write_whole
from lm.results.record import Record
from lm.study.grid import STUDY, StudyRun, variant_of
from lm.train.load import ModelWithText, load_run

FILE = "latent.json"
"""Beside each run."""
TEXTS = f"{STUDY}/sentences.jsonl"
"""Where the short texts are."""
SHORTEST, LONGEST = 12, 48
"""Their bytes."""
MOST, SAID = 512, 64
"""How many held-out documents are asked, and of how many it is asked what comes back."""
ROUNDINGS = (1, 2, 3, 4, 5, 6, 8)
"""Bits of a number of the code, as which it is sent."""
GRID = 13
"""Codes on each side of the plane whose images are shown."""


def write_sentences(directory: Path, most: int | None = None) -> None:
    """Writes short texts into a study's directory: how Python's documentation begins."""
    texts = itertools.islice(_sentences(), most)
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    directory.mkdir(parents=True, exist_ok=True)
    write_whole(directory / Path(TEXTS).name, "".join(lines))


def _sentences() -> Iterator[str]:
    """First paragraphs of docstrings on one line each, once each, if they are short."""
    seen = set()
    for _, _, content in Stdlib().contents():
        for node in ast.walk(ast.parse(content)):
            if not isinstance(
                node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
            ):
                continue
            first = (ast.get_docstring(node) or "").split("\n\n")[0]
            text = " ".join(first.split())
            short = SHORTEST <= len(text) <= LONGEST and text.isascii()
            if short and text not in seen:
                seen.add(text)
                yield text


class Latent(Record):
    """What a run was found to know of held-out documents."""

    nats: tuple[float, ...]
    """Of each document, its end among it, given its code as it is."""
    bytes: tuple[int, ...]
    rounded: dict[int, tuple[float, ...]]
    """The same given its code with each number as so many bits; none: there is no code."""
    codes: tuple[tuple[float, ...], ...]
    """Of each document; empty: there is no code."""
    labels: tuple[int, ...]
    """Of each document its class; empty: they have none."""
    texts: tuple[str, ...]
    said: tuple[str, ...]
    """What comes back of the first ones, by the likeliest token at each place."""
    plane: tuple[str, ...]
    """What comes of codes of two numbers on a grid, row by row from the top left."""
    ends: tuple[tuple[float, float], ...]
    """From where to where the grid goes, by number of the code."""


def ask_latent(cells: Sequence[StudyRun]) -> None:
    """Asks every finished run, and keeps what it says beside it."""
    for cell in cells:
        kept, trained = cell.directory / FILE, cell.directory / "result.json"
        if cell.result is None:
            continue
        if kept.exists() and kept.stat().st_mtime >= trained.stat().st_mtime:
            continue
        found = msgspec.json.encode(latent_of(load_run(cell.directory)))
        if hosts.is_first():
            write_whole(kept, found)


def latent_of(trained: ModelWithText) -> Latent:
    """What a run says of the first held-out documents of its text, one a row."""
    split, length = trained.tokens.validation, trained.run.data.length
    documents = table_of(split, length, "single").documents[:MOST]
    vocabulary = split.tokenizer.vocabulary
    batch = rows(split, np.arange(len(documents)), length, vocabulary, "single")
    labels = batch.channels[LABEL][:, 1].tolist() if LABEL in batch.channels else []
    how = _How.of(trained)
    params = jax.tree.map(hosts.fetch, trained.params)

    def nats(codes_BE: np.ndarray | None) -> tuple[float, ...]:
        return tuple(np.asarray(_nats(how, params, batch, codes_BE), float).tolist())

    def said(codes_NE: np.ndarray) -> tuple[str, ...]:
        found = []
        for first in range(0, len(codes_NE), SAID):
            part_NE = codes_NE[first : first + SAID]
            filled_NE = np.pad(part_NE, ((0, SAID - len(part_NE)), (0, 0)))  # one program
            for tokens_L in np.asarray(_said(how, params, filled_NE))[: len(part_NE)]:
                ends = np.flatnonzero(tokens_L == vocabulary.eos)
                found.append(
                    split.tokenizer.decode(tokens_L[: ends[0]] if len(ends) else tokens_L)
                )
        return tuple(found)

    codes_BE: np.ndarray | None = None
    plane: tuple[str, ...] = ()
    ends: tuple[tuple[float, float], ...] = ()
    if how.code is not None:
        codes_BE = np.asarray(_codes(how, params, batch))
        if how.code.size == 2 and labels:
            low_E, high_E = np.quantile(codes_BE, [0.01, 0.99], axis=0)
            ends = tuple(zip(low_E.tolist(), high_E.tolist(), strict=True))
            across, up = np.linspace(low_E, high_E, GRID).T
            grid = np.stack(np.meshgrid(across, up[::-1]), axis=-1).reshape(-1, 2)
            plane = said(grid.astype(np.float32))
    return Latent(
        nats=nats(codes_BE),
        bytes=tuple(split.bytes[documents].tolist()),
        rounded={bits: nats(as_bits(codes_BE, bits)) for bits in ROUNDINGS}
        if codes_BE is not None
        else {},
        codes=() if codes_BE is None else tuple(map(tuple, codes_BE.tolist())),
        labels=tuple(labels),
        texts=tuple(split.text(int(document)) for document in documents),
        said=() if codes_BE is None else said(codes_BE[:SAID]),
        plane=plane,
        ends=ends,
    )


def as_bits(codes: np.ndarray, bits: int) -> np.ndarray:
    """Numbers between -1 and 1, each as the middle of one of 2^bits equal parts.

    >>> as_bits(np.array([-1.0, -0.1, 0.3, 1.0]), 1).tolist()
    [-0.5, -0.5, 0.5, 0.5]
    """
    parts = 2**bits
    part = np.clip(np.floor((codes + 1) / 2 * parts), 0, parts - 1)
    return ((part + 0.5) / parts * 2 - 1).astype(codes.dtype)


class _How(NamedTuple):
    """What decides the programs that ask a run: those of another seed are the same."""

    module: Module
    objective: Objective
    vocabulary: Vocabulary
    length: int
    code: Code | None

    @classmethod
    def of(cls, trained: ModelWithText) -> Self:
        """On the host's own device, for rows of one document each."""
        run, vocabulary = trained.run, trained.tokens.tokenizer.vocabulary
        module = build(run.model, vocabulary.size, mesh=None, precision=run.precision)
        code = run.model.code if isinstance(run.model, EncoderDecoder) else None
        return cls(module, run.objective, vocabulary, run.data.length, code)

    def output(self, params: Any, example: Example, codes_BE: jax.Array | None) -> Output:
        """What the model answers, by these codes in place of its own."""
        if codes_BE is None:
            own: Output = self.module.apply({"params": params}, example)
            return own
        assert example.source is not None
        segments = example.source.segments_BM.shape[1] + 1
        codes_BSE = jnp.zeros((len(codes_BE), segments, codes_BE.shape[1]))
        with codes_given(codes_BSE.at[:, 1].set(codes_BE)):
            given: Output = self.module.apply({"params": params}, example)
            return given


@partial(jax.jit, static_argnums=0)
def _codes(how: _How, params: Any, batch: Batch) -> jax.Array:
    """The code of each row's document, float32[B, E]."""
    example = how.objective(batch, how.vocabulary, jax.random.key(0))
    _, kept = how.module.apply({"params": params}, example, mutable=["intermediates"])
    return codes_of(kept)[:, 1]


@partial(jax.jit, static_argnums=0)
def _nats(how: _How, params: Any, batch: Batch, codes_BE: jax.Array | None) -> jax.Array:
    """The nats of each row given its code, if there is one, float32[B]."""
    example = how.objective(batch, how.vocabulary, jax.random.key(0))
    output = how.output(params, example, codes_BE)
    nats_BP = token_nats(output, example.targets, einsum=how.module.einsum)
    return (nats_BP * example.weights).sum(axis=1)


@partial(jax.jit, static_argnums=0)
def _said(how: _How, params: Any, codes_NE: jax.Array) -> jax.Array:
    """The likeliest token at each place, one by one; all at once, if no other is seen."""
    count, length = len(codes_NE), how.length
    blind = isinstance(how.objective, Reconstruct) and how.objective.masked == 1
    begun_N1 = jnp.full((count, 1), how.vocabulary.bos)
    rest = how.vocabulary.mask_token if blind else how.vocabulary.pad
    inputs_NL = jnp.concatenate([begun_N1, jnp.full((count, length - 1), rest)], axis=1)
    ones_N1 = jnp.ones((count, 1), jnp.int32)
    source = Source(begun_N1, ones_N1, 0 * ones_N1)

    def likeliest(inputs_NL: jax.Array) -> jax.Array:
        mask, segments_NL = how.objective.attention_mask, jnp.ones_like(inputs_NL)
        example = unanswered(inputs_NL, segments_NL, mask, source=source)
        output = how.output(params, example, codes_NE)
        answers: jax.Array = logits(output, einsum=how.module.einsum).argmax(axis=2)
        return answers

    def step(place: jax.Array, inputs_NL: jax.Array) -> jax.Array:
        return inputs_NL.at[:, place + 1].set(likeliest(inputs_NL)[:, place])

    if blind:
        return likeliest(inputs_NL)[:, :-1]
    return jax.lax.fori_loop(0, length - 1, step, inputs_NL)[:, 1:]


# What the report says of it


class DocumentKind(NamedTuple):
    """What documents are, and the unit of what they cost."""

    title: str
    unit: str


class DecoderKind(NamedTuple):
    """What a decoder is told, in words, what it is trained for, and its colour."""

    label: str
    objective: Objective
    colour: str


class CodeFamily(NamedTuple):
    """Runs that differ in the width of the code and the seed alone."""

    name: str
    """That of its runs, without the width."""
    documents: DocumentKind
    kind: DecoderKind
    by_width: dict[int, list[Latent]]
    """By the numbers of the code; 0: there is none."""

    @property
    def widest(self) -> tuple[int, Latent]:
        """The most numbers, and what the first seed was found to know by them."""
        most = max(self.by_width)
        return most, self.by_width[most][0]

    def bits(self, width: int) -> Estimate:
        """Bits per byte given the code, with an interval over documents and seeds."""
        return estimate(ratio(0, 1), _bits(self.by_width[width]))

    def paid(self, width: int) -> tuple[int, Estimate]:
        """Bits per byte with the code among them, at the bits a number that make it least."""
        found = {
            bits: estimate(ratio(0, 1), _bits(self.by_width[width], rounding=bits))
            for bits in ROUNDINGS
        }
        best = min(found, key=lambda bits: found[bits].value)
        return best, found[best]

    def right(self, width: int) -> Estimate:
        """Which fraction of the letters comes back where it was."""
        columns = [
            [
                [sum(a == b for a, b in zip(text, said, strict=False)), len(text)]
                for text, said in zip(each.texts, each.said, strict=False)
            ]
            for each in self.by_width[width]
        ]
        return estimate(ratio(0, 1), np.array(columns, float))

    def alike(self, width: int) -> Estimate | None:
        """How often the document with the nearest code is of the same class."""
        latents = self.by_width[width]
        if not latents[0].labels or not latents[0].codes:
            return None
        found = [same_class(each.labels, np.array(each.codes)) for each in latents]
        return estimate(mean(0), np.stack(found))


def families(
    cells: Sequence[StudyRun],
    documents: Mapping[str, DocumentKind],
    kinds: Mapping[str, DecoderKind],
) -> dict[str, CodeFamily]:
    """What was kept of runs whose variants are CONTENTS_KIND_WIDTH, by CONTENTS_KIND."""
    found: dict[str, CodeFamily] = {}
    for cell in cells:
        file = cell.directory / FILE
        if cell.result is None or not file.exists():
            continue
        name, _, width = variant_of(cell).rpartition("_")
        content, kind = name.split("_")
        new = CodeFamily(name, documents[content], kinds[kind], {})
        latent = msgspec.json.decode(file.read_bytes(), type=Latent)
        found.setdefault(name, new).by_width.setdefault(int(width), []).append(latent)
    return found


def _bits(latents: Sequence[Latent], rounding: int | None = None) -> np.ndarray:
    """Bits and bytes of each document, float64[seeds, documents, 2]."""
    columns = []
    for each in latents:
        nats = each.nats if rounding is None else each.rounded[rounding]
        code = 0 if rounding is None else rounding * len(each.codes[0])
        columns.append(np.stack([np.array(nats) / math.log(2) + code, each.bytes], axis=1))
    return np.stack(columns)


def nearest_documents(vectors_ND: np.ndarray, count: int) -> np.ndarray:
    """The nearest others of each document by Euclidean distance, int[N, count].

    >>> nearest_documents(np.array([[0.0], [1.0], [1.5]]), 1).tolist()
    [[1], [2], [1]]
    """
    square_N = (vectors_ND**2).sum(axis=1)
    far_NN = square_N[:, None] + square_N[None, :] - 2 * vectors_ND @ vectors_ND.T
    np.fill_diagonal(far_NN, np.inf)
    return np.argsort(far_NN, axis=1, kind="stable")[:, :count]


def same_class(labels: Sequence[int], vectors_ND: np.ndarray) -> np.ndarray:
    """Whether each document's nearest is of its class, float64[N, 1]."""
    labels_N = np.array(labels)
    nearest_N = nearest_documents(vectors_ND, 1)[:, 0]
    return (labels_N[nearest_N] == labels_N).astype(float)[:, None]


def principal(vectors_ND: np.ndarray) -> np.ndarray:
    """The two directions of most variance, float64[N, 2]; of two numbers these themselves."""
    if vectors_ND.shape[1] == 2:
        return vectors_ND
    centred_ND = vectors_ND - vectors_ND.mean(axis=0)
    _, _, directions_DD = np.linalg.svd(centred_ND, full_matrices=False)
    return np.asarray(centred_ND @ directions_DD[:2].T)


def pixels(texts: Sequence[str]) -> np.ndarray:
    """Images that are texts as vectors, float64[N, 64]."""
    return np.stack([image_of_text(text).reshape(SIDE**2) for text in texts]).astype(float)
