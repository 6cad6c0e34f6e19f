"""What a token store costs does not grow with it, and what is read by range is the same."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
import tensorstore as ts

from lm.config import UserError
from lm.data import (
    Batches,
    Bytes,
    Component,
    Data,
    Document,
    Split,
    Text,
    TextMixture,
    Tokens,
    most_content,
    n_rows,
    open_tokenizer,
    open_tokens,
    store,
)
from lm.data.split import BLOCK, Names, OnDisk
from lm.data.store import open_store

TOKENIZER = open_tokenizer(Bytes())
SIZES = (10**6, 10**9, 10**12)


class Computed:
    """The store of so many tokens in documents of about 1,000, none of which exists.

    `read` is how many numbers were computed to be read.
    """

    def __init__(self, size: int) -> None:
        documents, self.read = size // 1000, 0

        def offset(n: np.ndarray) -> np.ndarray:
            """1000 each, but for up to 500 that come and go."""
            return np.where(n < documents, 1000 * n + n * 7919 % 500 * (n > 0), size)

        def holds(block: np.ndarray) -> np.ndarray:
            token = np.minimum(block * BLOCK, size - 1)
            document = np.minimum(token // 1000, documents - 1)
            return document - (offset(document) > token)

        def array(count: int, value: Callable, dtype: str = "int64") -> ts.TensorStore:
            def fill(domain: ts.IndexDomain, found: np.ndarray, _: object) -> None:
                found[...] = value(np.arange(domain.inclusive_min[0], domain.exclusive_max[0]))
                self.read += found.size

            layout = ts.ChunkLayout(chunk_shape=[256])
            return ts.virtual_chunked(fill, dtype=dtype, shape=[count], chunk_layout=layout)

        ends = OnDisk(array(documents + 1, lambda n: 8 * n))
        self.offset = offset
        self.split = Split(
            array(size, lambda n: 4 + n * 31 % 251, "int32"),
            OnDisk(array(documents + 1, offset)),
            OnDisk(array(documents, lambda n: offset(n + 1) - offset(n))),
            Names(OnDisk(array(8 * documents, lambda n: 97 + n % 8, "uint8")), ends),
            TOKENIZER,
            blocks=OnDisk(array(-(-size // BLOCK) + 1, holds)),
            known_bytes=size,
        )


def test_what_is_read_and_held_is_the_same_for_a_trillion_tokens() -> None:
    """Fails if anything is made for all documents or rows, or a search takes longer steps."""
    read, held = [], []
    for size in SIZES:
        computed = Computed(size)
        batches = Batches(computed.split, TOKENIZER.vocabulary, 512, 8, seed=5)
        n = n_rows(computed.split, 512)
        assert n == -(-(size - 1) // 511)
        batches(0)  # what is loaded once
        tracemalloc.start()
        computed.read = 0
        for step in (1, 10**9, n // 8):  # an epoch ends in the last one
            found = batches(step)
            assert found.tokens_BL[:, 1:].min() >= 4
            assert (np.diff(found.segments_BL) >= 0).mean() > 0.99
        read.append(computed.read)
        held.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert computed.split.ids[len(computed.split.ids) - 1] == "abcdefgh"
        most = most_content(computed.split, 512)
        assert most in (510, 511)
    # Rows of the smallest one share chunks; how many chunks a window touches is drawn.
    small, large, huge = read
    assert small < huge < 1.1 * large < 3 * 8 * 20 * 256
    assert max(held) < 1.5 * min(held) < 2_000_000


@pytest.mark.parametrize("size", SIZES)
def test_segments_of_a_trillion_tokens_are_those_of_their_documents(size: int) -> None:
    """Fails if a document's beginning is lost, or one of another window is counted."""
    computed = Computed(size)
    split, length = computed.split, 3 * BLOCK + 7
    last = (n_rows(split, length) - 1) * (length - 1)
    starts_B = np.array([0, 1, 997, size // 2, size // 2, last])
    near = split.offsets_near(starts_B, length)
    assert near[-1] == size and (np.diff(near) > 0).all()
    assert len(near) < 6 * (length + 2 * BLOCK) / 501
    for start in starts_B.tolist():
        stop = min(start + length, size)
        documents = np.arange(max(0, start // 1000 - 2), min(stop // 1000 + 2, size // 1000))
        offsets = computed.offset(documents)
        inside = offsets[(offsets >= start) & (offsets < stop)]
        assert set(inside) == set(near[(near >= start) & (near < stop)])


def test_opening_reads_the_same_of_a_trillion_tokens(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a store's numbers or names, or all of its files, are read to open it."""
    documents = [Document(str(n), "text " * 9) for n in range(40)]
    key = {"test": 1}
    open_store(key, documents, TOKENIZER, 0.5)
    (folder,) = (path for path in (cache / "tokens").iterdir() if path.name[0] != ".")
    held = []
    for size in SIZES:
        for name in ("tokens", "offsets", "blocks", "bytes", "id_ends", "ids"):
            path = folder / "train" / name / "zarr.json"
            metadata = json.loads(path.read_bytes())
            metadata["shape"] = [size if name == "tokens" else size // 10]
            path.write_text(json.dumps(metadata))
        manifest = json.loads((folder / "manifest.json").read_bytes())
        manifest["bytes"] = 2 * size + (1 << 30)
        (folder / "manifest.json").write_text(json.dumps(manifest))
        with monkeypatch.context() as patch:
            patch.setattr(store, "_sha_file", lambda path: pytest.fail("read whole"))
            tracemalloc.start()
            split = open_store(key, iter(()), TOKENIZER, 0.5)["train"]
            held.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert split.size == size and isinstance(split.offsets, OnDisk)
    assert max(held) < 1.5 * min(held) < 2_000_000


def mixed(corpus: Text, folder: Path) -> TextMixture:
    first = Text(paths=(f"{folder}/0*.txt",))
    parts = (("all", corpus, 2.0), ("some", first, 1.0))
    return TextMixture(
        components=tuple(Component(name=n, corpus=c, weight=w) for n, c, w in parts)
    )


def said(tokens: Tokens, data: Data) -> list[object]:
    """All that a run asks of its training text."""
    found = [tokens.batches(data, 3)(step) for step in (0, 7, 500)]
    found += [Batches(tokens.train, TOKENIZER.vocabulary, 32, 8, 1)(step) for step in (0, 9)]
    split = tokens.train
    return [
        *(array.tolist() for batch in found for array in jax.tree.leaves(batch)),
        most_content(split, 32),
        tokens.lengths,
        list(split.ids),
        [split.ids[n] for n in (0, 5, -1)],
        split.ids[1:-1:3],
        split.text_bytes,
        split.ends,
        np.asarray(split.offsets).tolist(),
        [split.text(n) for n in (0, len(split.ids) - 1)],
        [(list(part.ids), part.offsets[[0, -1]].tolist()) for part in split.parts],
    ]


@pytest.mark.parametrize("mixture", [False, True])
@pytest.mark.parametrize("packing", ["stream", "whole"])
def test_what_is_read_by_range_is_what_was_in_memory(
    corpus: Text, folder: Path, monkeypatch: pytest.MonkeyPatch, mixture: bool, packing: str
) -> None:
    """Fails if a batch, a name or a length of a large store is another than of a small one."""
    data = Data(
        corpus=mixed(corpus, folder) if mixture else corpus,
        tokenizer=Bytes(),
        length=32 if packing == "stream" else 600,
        batch=8,
        validation=0.2,
        packing=packing,  # type: ignore[arg-type]
    )
    monkeypatch.setattr("lm.data.store.BLOCK", 64)
    monkeypatch.setattr("lm.data.split.BLOCK", 64)
    monkeypatch.setattr("lm.data.split._RUN", 5)
    expected = said(open_tokens(data), data)
    monkeypatch.setattr("lm.data.store._AT_ONCE", 0)
    tokens = open_tokens(data)
    assert isinstance(tokens.train.offsets, OnDisk)
    assert isinstance(tokens.validation.offsets, np.ndarray)
    assert said(tokens, data) == expected


def test_lengths_of_very_many_documents_are_of_some() -> None:
    """Fails if all are read, or those at the end are not among them."""
    computed = Computed(10**12)
    sizes = computed.split.sizes(most=1 << 15)
    first, last = np.split(sizes, 2)
    every = np.arange(10**9 - (1 << 14), 10**9 + 1)
    assert last.tolist() == np.diff(computed.offset(every)).tolist()
    assert first.tolist() == np.diff(computed.offset(np.arange((1 << 14) + 1))).tolist()


@pytest.mark.parametrize("version", [1, 3])
def test_oneline_a_store_of_another_version_is_refused(
    corpus: Text, cache: Path, version: int
) -> None:
    """Fails if it is read as if it were this one's, or removed to be made again."""
    data = Data(corpus=corpus, tokenizer=Bytes(), validation=0.2)
    open_tokens(data)
    (folder,) = (path for path in (cache / "tokens").iterdir() if path.name[0] != ".")
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert manifest.pop("version") == 2
    if version > 1:  # the first had none
        manifest["version"] = version
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=rf"^token store [^\n]*: version {version}; must be 2"):
        open_tokens(data)
    assert (folder / "train" / "tokens").exists()


@pytest.mark.parametrize("damaged", ["missing", "flipped"])
def test_oneline_damage_to_a_large_store_is_seen_where_it_is_read(
    corpus: Text, cache: Path, monkeypatch: pytest.MonkeyPatch, damaged: str
) -> None:
    """Fails if a chunk that is missing reads as zeros, or a traceback is what a user sees."""
    monkeypatch.setattr("lm.data.store._CHECKED", 0)
    data = Data(corpus=corpus, tokenizer=Bytes(), length=32, batch=8, validation=0.2)
    open_tokens(data)
    (folder,) = (path for path in (cache / "tokens").iterdir() if path.name[0] != ".")
    chunk = folder / "train" / "tokens" / "c" / "0"
    content = bytearray(chunk.read_bytes())
    content[100] ^= 1
    chunk.unlink()
    if damaged == "flipped":
        chunk.write_bytes(content)
    tokens = open_tokens(data)
    with pytest.raises(UserError, match=r"^token store: [^\n]*delete it, and it is made again"):
        tokens.batches(data, 0)(0)


def test_building_holds_no_more_of_more_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if names, lengths or tokens are kept until the end."""
    monkeypatch.setattr("lm.data.store._SHARD", 1 << 10)
    monkeypatch.setattr("lm.data.store._CHUNK", 1 << 8)
    monkeypatch.setattr("lm.data.store._BATCH", 1 << 7)
    monkeypatch.setattr("lm.data.store._AT_ONCE", 0)
    held = []
    for count in (10, 2000, 6000):
        documents = (Document(f"{n:06}", "a") for n in range(count))
        tracemalloc.start()
        open_store({"test": count}, documents, TOKENIZER, 0.001)
        held.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert held[2] < 1.2 * held[1] < 1_000_000
