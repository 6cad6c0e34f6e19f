"""The token store gives back what was read, or is built again."""

import logging
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from lm.config import UserError
from lm.data import (
    Bytes,
    Channel,
    Data,
    Document,
    SentencePiece,
    Stretch,
    Text,
    Tokenizer,
    Tokens,
    open_tokenizer,
    open_tokens,
)
from lm.data.cache import unfinished
from lm.data.corpora import fraction_of, survey
from lm.data.store import open_store
from lm.distributed.process import one_line_errors


def content(tokens: Tokens) -> list[object]:
    return [
        (
            split.read([0], split.size).tolist(),
            split.offsets.tolist(),
            split.bytes.tolist(),
            split.ids,
        )
        for split in (tokens.train, tokens.validation)
    ]


@pytest.fixture
def data(corpus: Text) -> Data:
    return Data(corpus=corpus, tokenizer=SentencePiece(size=340), validation=0.2)


def store_folder(cache: Path) -> Path:
    (folder,) = (path for path in (cache / "tokens").iterdir() if path.name[0] != ".")
    return folder


def test_a_store_holds_the_documents_between_begin_and_end(data: Data) -> None:
    """Fails if a document is lost, moved to the other split, or its tokens are shifted."""
    tokens = open_tokens(data)
    special = tokens.tokenizer.vocabulary
    found: dict[str, tuple[bool, str]] = {}
    counts = survey(data.corpus, 0.2)
    assert counts.train_bytes == tokens.train.bytes.sum()
    assert counts.validation_documents == len(tokens.validation.ids)
    for split in (tokens.train, tokens.validation):
        assert len(split.ids) == len(split.bytes) == len(split.offsets) - 1
        for number, (id, size) in enumerate(zip(split.ids, split.bytes, strict=True)):
            text = split.text(number)
            assert size == len(text.encode())
            found[id] = (split is tokens.validation, text)
        stream = split.read([0], split.size)[0]
        assert np.all(stream[split.offsets[:-1]] == special.bos)
        assert np.all(stream[split.offsets[1:] - 1] == special.eos)
        assert np.sum(stream < special.first_ordinary) == 2 * len(split.ids)
    assert found == {
        id: (fraction_of(text.encode()) < 0.2, text) for id, text, *_ in data.corpus.read()
    }


def test_reads_past_the_end_are_padding(data: Data) -> None:
    """Fails if a window is cut short or wraps round."""
    split = open_tokens(data).validation
    window = split.read([split.size - 2], 5)[0]
    assert window[1:].tolist() == [3, 0, 0, 0] and window[0] != 0


def test_a_store_is_used_again(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if every start encodes the corpus, or reads it."""
    first = open_tokens(data)
    monkeypatch.setattr(Tokenizer, "encode_all", lambda *_: pytest.fail("encoded again"))
    monkeypatch.setattr(Text, "read", lambda _: pytest.fail("read again"))
    again = open_tokens(data)
    assert content(again) == content(first)
    assert (again.corpus_digest, again.tokenizer_digest) == (
        first.corpus_digest,
        first.tokenizer_digest,
    )


def test_shards_and_chunks_do_not_show(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a shard's end is lost, or written over."""
    whole = content(open_tokens(data))
    monkeypatch.setenv("LM_CACHE", f"{os.environ['LM_CACHE']}-small")
    monkeypatch.setattr("lm.data.store._SHARD", 64)
    monkeypatch.setattr("lm.data.store._CHUNK", 16)
    assert content(open_tokens(data)) == whole
    shards = store_folder(Path(os.environ["LM_CACHE"])) / "train" / "tokens" / "c"
    assert len(list(shards.iterdir())) > 5


def flip(folder: Path) -> None:
    path = folder / "train" / "tokens" / "c" / "0"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


def truncate(folder: Path) -> None:
    path = folder / "train" / "bytes" / "c" / "0"
    path.write_bytes(path.read_bytes()[:-1])


def swap_splits(folder: Path) -> None:
    (folder / "train").rename(folder / "other")
    (folder / "validation").rename(folder / "train")
    (folder / "other").rename(folder / "validation")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a flipped bit": flip,
    "a missing chunk, which would read as zeros": lambda folder: (
        folder / "validation" / "tokens" / "c" / "0"
    ).unlink(),
    "a truncated file": truncate,
    "changed ids": lambda folder: (folder / "train" / "ids" / "c" / "0").write_bytes(b""),
    "swapped splits": swap_splits,
    "no manifest: the build was killed": lambda folder: (folder / "manifest.json").unlink(),
    "half a manifest": lambda folder: os.truncate(folder / "manifest.json", 40),
    "an empty manifest": lambda folder: (folder / "manifest.json").write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_store_is_built_again(
    damage: Callable[[Path], object],
    data: Data,
    cache: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Fails if lengths, digests or presence are not checked, or the user is not told."""
    whole = content(open_tokens(data))
    damage(store_folder(cache))
    with caplog.at_level(logging.WARNING):
        assert content(open_tokens(data)) == whole
    (record,) = caplog.records
    assert "building it again" in record.getMessage() and "\n" not in record.getMessage()
    caplog.clear()
    assert content(open_tokens(data)) == whole and not caplog.records
    assert len(list((cache / "tokens").iterdir())) == 1


def test_a_store_under_another_key_is_built_again(
    data: Data, cache: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Fails if the manifest does not hold the key: every file of a copied store is whole."""
    open_tokens(data)
    before = store_folder(cache)
    (folder / "00.txt").write_text("quite another text\n")
    whole = content(open_tokens(data))
    (after,) = (path for path in (cache / "tokens").iterdir() if path != before)
    shutil.rmtree(after)
    shutil.copytree(before, after)
    assert content(open_tokens(data)) == whole
    assert "another corpus" in caplog.text


def test_a_corpus_that_changes_while_it_is_read_is_an_error(
    data: Data, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a store may hold other documents than its digest says, or the error stays."""
    changed = [Document(id, text + "!") for id, text, *_ in data.corpus.read()]
    with monkeypatch.context() as patch:
        patch.setattr(Text, "read", lambda _: iter(changed))
        survey(data.corpus, data.validation)
    with pytest.raises(UserError, match="changed while they were read; run again"):
        open_tokens(data)
    assert not list((cache / "tokens").iterdir())
    open_tokens(data)


@pytest.fixture
def full_disk() -> Iterator[Callable[[int], None]]:
    """Lets no file grow above so many bytes: to a program it is a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda most: resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("folder_", ["corpora", "tokens"])
def test_oneline_a_full_disk_under_the_cache_is_named_and_leaves_nothing(
    data: Data,
    cache: Path,
    full_disk: Callable[[int], None],
    capsys: pytest.CaptureFixture[str],
    folder_: str,
) -> None:
    """Fails if tensorstore's own error gets through, or half a store stays."""
    if folder_ == "tokens":
        open_tokens(data)
        shutil.rmtree(store_folder(cache))
    full_disk(100)
    with pytest.raises(SystemExit) as refused, one_line_errors():
        open_tokens(data)
    assert refused.value.code == 2
    assert capsys.readouterr().err == f"lm: {cache / folder_}: File too large\n"
    assert not list((cache / folder_).iterdir()) or folder_ == "corpora"
    assert not list(cache.rglob(".unfinished-*"))


BUILDING = """
import sys, time
from pathlib import Path
from lm.data import cache
with cache.unfinished(Path(sys.argv[1])) as folder:
    (folder / "half").touch()
    print(folder, flush=True)
    time.sleep(60)
"""


def test_small_what_a_killed_build_left_is_removed_by_the_next(cache: Path) -> None:
    """Fails if leftovers stay, or one of a process that is still at work is taken from it."""
    command = [sys.executable, "-c", BUILDING, str(cache / "tokens")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as builder:
        assert builder.stdout
        killed = Path(builder.stdout.readline().strip())
        builder.kill()
    assert (killed / "half").exists()
    with unfinished(cache / "tokens") as first, unfinished(cache / "tokens") as second:
        assert set((cache / "tokens").iterdir()) == {first, second}


def test_ids_beyond_two_bytes_are_kept(cache: Path) -> None:
    """Fails if tokens are always stored as 16 bits."""
    big = Tokenizer(
        [b"%d " % n for n in range(70_000)],
        "big",
        lambda texts: [np.array([int(n) for n in text.split()]) for text in texts],
    )
    splits = open_store({"test": 1}, [Document("a", "69999 1 65536 ")], big, 0.0)
    assert splits["train"].text(0) == "69999 1 65536 "
    assert splits["validation"].size == 0


def test_channels_of_any_type_and_shape_are_stored_like_tokens(cache, monkeypatch) -> None:
    """Fails if a shard of a channel is lost, its type is the tokens', or a fill is left out."""
    monkeypatch.setattr("lm.data.store._SHARD", 64)
    monkeypatch.setattr("lm.data.store._CHUNK", 16)
    channels = (
        Channel("scale", "float32", (2, 3), fill=0.5),
        Channel("kind", "uint8", fill=9),
        Channel("counts", "bool"),
    )
    texts = [("a" * n, "b" * (n % 7 + 1)) for n in range(1, 40)]
    documents = [
        Document(
            str(n), a + b, (Stretch(a, {"kind": n, "counts": True}), Stretch(b, {"scale": n}))
        )
        for n, (a, b) in enumerate(texts)
    ]
    tokenizer = open_tokenizer(Bytes())
    for _ in ("built", "found"):
        split = open_store({"test": 2}, documents, tokenizer, 0.0, channels)["train"]
        found = {k: v[0] for k, v in split.read_channels([0], split.size + 4).items()}
        assert found["scale"].shape == (split.size + 4, 2, 3)
        assert [found[c.name].dtype for c in channels] == ["float32", "uint8", "bool"]
        first = [1 + len(a) + 1 for a, _ in texts]
        second = [len(b) + 1 for _, b in texts]
        runs = np.ravel(np.column_stack([first, second]))
        numbers = np.arange(len(texts))
        kind = np.column_stack([numbers, np.full_like(numbers, 9)]).ravel()
        scale = np.column_stack([np.full(len(texts), 0.5), numbers]).ravel()
        assert found["kind"].tolist() == [*np.repeat(kind, runs), *[9] * 4]
        counts = np.tile([True, False], len(texts))
        assert found["counts"].tolist() == [*np.repeat(counts, runs), *[False] * 4]
        assert (found["scale"][:-4] == np.repeat(scale, runs)[:, None, None]).all()
    assert len(list((store_folder(cache) / "train/channels/scale/c").iterdir())) > 5


PROGRAM = """
import sys, time
from lm.data import *
corpus = Text(paths=(sys.argv[1],))
data = Data(corpus=corpus, tokenizer=SentencePiece(size=340), validation=0.2)
time.sleep(max(0, float(sys.argv[2]) - time.time()))
tokens = open_tokens(data)
total = tokens.train.read([0], tokens.train.size).sum()
print(tokens.corpus_digest, tokens.tokenizer_digest, total)
"""


def test_processes_that_build_at_once_all_end_well(
    data: Data, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if two builders share a folder, or tokens depend on the process (hash seeds)."""
    arguments = [sys.executable, "-c", PROGRAM, f"{folder}/*.txt", str(time.time() + 4)]
    together = [
        subprocess.Popen(
            arguments,
            env=os.environ | {"PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2", "3")
    ]
    outputs = {process.communicate(timeout=60)[0] for process in together}
    assert [process.returncode for process in together] == [0, 0, 0]
    assert len(list((cache / "tokens").iterdir())) == 1
    monkeypatch.setenv("LM_CACHE", f"{cache}-another")
    tokens = open_tokens(data)
    total = tokens.train.read([0], tokens.train.size).sum()
    assert outputs == {f"{tokens.corpus_digest} {tokens.tokenizer_digest} {total}\n"}


@pytest.mark.parametrize(
    "megabytes", [5, pytest.param(100, marks=pytest.mark.slow)], ids=["5 MB", "100 MB"]
)
@pytest.mark.parametrize("documents", ["file", "paragraph"])
def test_one_very_long_line(folder: Path, documents: str, megabytes: int) -> None:
    """Fails if anything takes time or memory that is not in proportion to the line."""
    word = "a line without an end, "
    line = word * (megabytes * 1_000_000 // len(word))
    (folder / "long.txt").write_text(line)
    corpus = Text(paths=(f"{folder}/*",), documents=documents)  # type: ignore[arg-type]
    start = time.monotonic()
    tokens = open_tokens(Data(corpus=corpus, tokenizer=SentencePiece(size=310), validation=0.3))
    assert time.monotonic() - start < 5 + megabytes
    (split, number), *_ = (
        (split, number)
        for split in (tokens.train, tokens.validation)
        for number, id in enumerate(split.ids)
        if id.startswith("long.txt")
    )
    assert split.text(number) == line and split.bytes[number] == len(line)
