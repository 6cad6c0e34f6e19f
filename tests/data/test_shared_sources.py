"""Texts as others share them: compressed lines, parquet, data sets, buckets, and token files.

Token files are written here by the layouts that their makers publish.
"""

import gzip
import json
import struct
from pathlib import Path

import fsspec
import numpy as np
import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from lm.config import UserError
from lm.data import Bytes, Data, Official, open_tokenizer, open_tokens, survey
from lm.data.sources import (
    Damaged,
    Document,
    Empty,
    HuggingFaceData,
    Parquet,
    Shards,
    TokenFiles,
)

ROWS = [{"meta": {"text": f"text {n}"}, "name": f"n{n}", "other": "x" * n} for n in range(30)]
TOKENIZER = open_tokenizer(Bytes())
EOT = TOKENIZER.vocabulary.eos


def found(corpus) -> list[tuple[str, str]]:
    return [(document.id, document.text) for document in corpus.read()]


def test_lines_are_the_same_however_they_are_compressed(tmp_path: Path) -> None:
    """Fails if an ending is not known, a frame is lost, or a path is no field."""
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    half = len(lines) // 2
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "a.gz").write_bytes(gzip.compress(lines[:half]) + gzip.compress(lines[half:]))
    pack = zstandard.ZstdCompressor().compress
    (tmp_path / "a.zst").write_bytes(pack(lines[:half]) + pack(lines[half:]))
    expected = [(row["name"], row["meta"]["text"]) for row in ROWS]
    for ending in ("jsonl", "gz", "zst"):
        paths = (f"{tmp_path}/a.{ending}",)
        assert found(Shards(paths=paths, text="meta.text", id="name")) == expected
    (tmp_path / "cut.zst").write_bytes(pack(lines)[:-9])
    cut = Shards(paths=(f"{tmp_path}/cut.zst",), text="meta.text")
    with pytest.raises(UserError, match=r"cut.zst:\d+: the rest of the file is damaged"):
        found(cut)


BAD = [
    {"text": "good"},
    {"text": 7},
    {"txt": "no"},
    {"text": ""},
    {"text": "long " * 9},
    {"text": "better"},
    {"text": ""},
]


@pytest.mark.parametrize("kind", ["lines", "parquet"])
def test_what_is_no_document_is_counted_with_the_first_place(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Fails if anything is left out in silence, or is refused as something else."""
    if kind == "lines":
        (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in BAD))
        corpus = Shards(paths=(f"{tmp_path}/a.jsonl",), damaged="skip", longest=20)
        first = "a.jsonl:2: text is no text: 7"
    else:
        texts = [text if isinstance(text := row.get("text"), str) else None for row in BAD]
        parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet")
        corpus = Parquet(paths=(f"{tmp_path}/a.parquet",), damaged="skip", longest=20)
        first = "a.parquet:2: text is no text: None"
    kinds = [type(each) for each in corpus.read_all()]
    expected = [Document, Damaged, Damaged, Empty, Damaged, Document, Empty]
    assert kinds == expected
    counted = survey(corpus, 0.84)
    assert (counted.damaged, counted.first_damaged, counted.empty) == (3, first, 2)
    assert counted.first_empty.endswith(":4")
    open_tokens(Data(corpus=corpus, tokenizer=Bytes(), validation=0.84))
    assert f"3 places hold no document, first {first}" in caplog.text
    refused = type(corpus)(paths=corpus.paths)
    with pytest.raises(UserError, match=rf"{first}; damaged=skip leaves it out"):
        found(refused)


def test_parquet_reads_the_columns_that_it_is_asked_for(tmp_path: Path, monkeypatch) -> None:
    """Fails if row groups come in another order, or a column is read that nobody needs."""
    parquet.write_table(
        pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet", row_group_size=7
    )
    asked = []
    read = parquet.ParquetFile.read_row_group
    monkeypatch.setattr(
        parquet.ParquetFile,
        "read_row_group",
        lambda self, group, columns, **more: (
            asked.append(columns),
            read(self, group, columns, **more),
        )[1],
    )
    corpus = Parquet(paths=(f"{tmp_path}/*.parquet",), text="meta.text")
    assert found(corpus) == [(f"a.parquet:{n + 1}", f"text {n}") for n in range(30)]
    assert asked == [["meta"]] * 5
    with pytest.raises(
        UserError, match="no field meat; one of meta, name, other; did you mean me"
    ):
        found(Parquet(paths=corpus.paths, text="meat"))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match=r"bad.parquet: no parquet file"):
        found(Parquet(paths=(f"{tmp_path}/bad.parquet",), text="name"))


def test_data_sets_of_a_folder(tmp_path: Path, monkeypatch) -> None:
    """Fails if a split is another one, or what was saved to disk is taken for files."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("train", "test"):
        lines = "".join(json.dumps({"text": f"{name} {n}", "n": n}) + "\n" for n in range(5))
        (folder / f"{name}.jsonl").write_text(lines)
    train = HuggingFaceData(path=str(folder))
    assert found(train) == [(f"folder/train:{n}", f"train {n}") for n in range(5)]
    test = HuggingFaceData(path=str(folder), split="test", streaming=True)
    assert [text for _, text in found(test)] == [f"test {n}" for n in range(5)]
    whole = datasets.load_dataset(str(folder))
    whole.save_to_disk(tmp_path / "saved")
    saved = HuggingFaceData(path=str(tmp_path / "saved"), split="test")
    assert [text for _, text in found(saved)] == [f"test {n}" for n in range(5)]
    tokens = open_tokens(Data(corpus=Official(train=train, held_out=saved), tokenizer=Bytes()))
    assert tokens.validation.text(4) == "test 4" and len(tokens.train.ids) == 5
    with pytest.raises(UserError, match=r"^data.corpus.path: [^\n]*valid[^\n]*$"):
        found(HuggingFaceData(path=str(folder), split="valid"))


def test_files_of_a_bucket_are_read_as_those_of_a_folder(monkeypatch) -> None:
    """Fails if a changed file is not copied again, or an unchanged one is."""
    bucket = fsspec.filesystem("memory")
    for name in "ab":
        bucket.pipe(f"/texts/{name}.jsonl", b'{"text": "%s"}\n' % name.encode())
    corpus = Shards(paths=("memory://texts/*.jsonl",))
    assert found(corpus) == [("a.jsonl:1", "a"), ("b.jsonl:1", "b")]
    copied = []
    get = type(bucket).get_file
    monkeypatch.setattr(
        type(bucket),
        "get_file",
        lambda self, path, *more: (copied.append(path), get(self, path, *more)),
    )
    assert len(found(corpus)) == 2 and not copied
    bucket.pipe("/texts/b.jsonl", b'{"text": "bb"}\n')
    assert found(corpus)[1] == ("b.jsonl:1", "bb") and copied == ["/texts/b.jsonl"]
    with pytest.raises(UserError, match=r"memory://nothing/\* matches no file"):
        found(Shards(paths=("memory://nothing/*",)))


TEXTS = [f"document {n}, " * (n + 1) for n in range(12)]
IDS = [TOKENIZER.encode(text) for text in TEXTS]


def llm_c(path: Path, tokens: np.ndarray, dtype: str = "<u2") -> None:
    """As `write_datafile` of llm.c's dev/data/data_common.py."""
    magic, version = {"<u2": (20240520, 1), "<u4": (20240801, 7)}[dtype]
    header = np.zeros(256, "<i4")
    header[:3] = magic, version, len(tokens)
    path.write_bytes(header.tobytes() + tokens.astype(dtype).tobytes())


def megatron(path: Path, sequences: list[np.ndarray], documents: list[int]) -> None:
    """As `_IndexWriter` of Megatron-LM's indexed_dataset.py."""
    path.write_bytes(b"".join(each.astype("<i4").tobytes() for each in sequences))
    lengths = np.array([len(each) for each in sequences], "<i4")
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype("<i8") * 4
    index = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 4, len(sequences), len(documents))
    index += lengths.tobytes() + starts.tobytes() + np.array(documents, "<i8").tobytes()
    path.with_suffix(".idx").write_bytes(index)


def shared(folder: Path, layout: str) -> TokenFiles:
    """The documents as files of tokens."""
    if layout == "llm.c" or layout == "llama":
        dtype = "<u2" if layout == "llm.c" else "<u4"
        stream = np.concatenate([part for ids in IDS for part in ([EOT], ids)])
        half = len(stream) // 2  # in the middle of a document, as shards are cut
        llm_c(folder / "text_000000.bin", stream[:half], dtype)
        llm_c(folder / "text_000001.bin", stream[half:], dtype)
    elif layout == "nanogpt":
        stream = np.concatenate([part for ids in IDS for part in (ids, [EOT])])
        (folder / "train.bin").write_bytes(stream.astype("<u2").tobytes())
    else:
        cut = [part for ids in IDS for part in (ids[:5], np.append(ids[5:], EOT))]
        megatron(folder / "text_document.bin", cut, list(range(0, 2 * len(IDS) + 1, 2)))
    return TokenFiles(paths=(f"{folder}/*.bin",), end=EOT)


@pytest.mark.parametrize("layout", ["llm.c", "llama", "nanogpt", "megatron"])
def test_files_of_tokens_are_the_text_that_they_were_made_of(
    tmp_path: Path, layout: str
) -> None:
    """Fails if a header is read as tokens, a document is cut by a file's end, or ends stay."""
    corpus = shared(tmp_path, layout)
    tokens = open_tokens(Data(corpus=corpus, tokenizer=Bytes(), validation=0.3))
    splits = tokens.train, tokens.validation
    texts = {split.text(n): split.bytes[n] for split in splits for n in range(len(split.ids))}
    assert texts == {text: len(text) for text in TEXTS}
    for split in splits:
        for start, end in zip(split.offsets[:-1], split.offsets[1:], strict=True):
            ids = split.read([start], end - start)[0]
            assert ids[0] == TOKENIZER.vocabulary.bos and ids[-1] == EOT
    with pytest.raises(UserError, match=r"data.tokenizer: the corpus is tokens, and only what"):
        open_tokens(Data(corpus=corpus))


def test_token_files_that_are_none_are_refused(tmp_path: Path) -> None:
    """Fails if a damaged file trains on what is in it."""
    corpus = shared(tmp_path, "llm.c")
    path = tmp_path / "text_000001.bin"
    whole = path.read_bytes()
    cases = {
        "which are not .* tokens by its header": whole[:-2],
        "items of a task": struct.pack("<i", 20240522) + whole[4:],
        "version 9; must be": whole[:4] + struct.pack("<i", 9) + whole[8:],
    }
    for why, content in cases.items():
        path.write_bytes(content)
        with pytest.raises(UserError, match=why):
            list(corpus.read())
    path.write_bytes(np.array([5, 60000, EOT], "<u2").tobytes())
    data = Data(corpus=corpus, tokenizer=Bytes(), validation=0.5)
    with pytest.raises(UserError, match="its token 1 is 60000, and the tokenizer has 260"):
        open_tokens(data)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    corpus = shared(tmp_path / "a", "megatron")
    index = tmp_path / "a" / "text_document.idx"
    (tmp_path / "a" / "text_document.bin").write_bytes(b"\0" * 8)
    with pytest.raises(UserError, match=r"of another file than text_document.bin, or damaged"):
        list(corpus.read())
    index.write_bytes(b"MMIDIDX\x00\x01" + index.read_bytes()[9:])
    with pytest.raises(UserError, match="no index of Megatron's"):
        list(corpus.read())
