"""Corpora: every outcome of reading text, good and bad."""

import os
import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import pytest

from lm.config import UserError
from lm.data import Document, Stdlib, Text, Tfds
from lm.data.corpora import Digest, fraction_of, survey


def test_stdlib_is_sources_without_tests_or_near_duplicates() -> None:
    """Fails if the exclusions are dropped, or files come in the order of the disk."""
    ids = [document.id for document in Stdlib().read()]
    assert ids == sorted(set(ids)) and len(ids) > 300
    assert {"json/decoder.py", "argparse.py", "unittest/case.py"} <= set(ids)
    parts = {part for id in ids for part in id.split("/")}
    assert not parts & {"test", "tests", "idle_test", "encodings", "lib2to3", "site-packages"}
    assert not any(id.startswith(("/", "_sysconfigdata", "config-")) for id in ids)


def test_documents_are_the_files_as_they_are(tmp_path: Path) -> None:
    """Fails if line ends are translated, a byte order mark is dropped, or empty files kept."""
    contents = {"a.txt": "one\r\ntwo\rthree\n", "b/c.txt": "\ufeffmark\0\n", "d.txt": " \n"}
    (tmp_path / "b").mkdir()
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content.encode())
    (tmp_path / "empty.txt").touch()
    found = list(Text(paths=(f"{tmp_path}/*.txt", f"{tmp_path}/**/*.txt")).read())
    assert found == [Document(*item) for item in contents.items()]


def test_paragraphs_are_runs_of_lines_between_blank_ones(tmp_path: Path) -> None:
    """Fails if a blank line with spaces does not separate, or the last paragraph is dropped."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"\n\none\r\n two\n \t\r\n\nthree\n\n\nfour")
    found = list(Text(paths=(str(path),), documents="paragraph").read())
    assert found == [
        Document("a.txt:3", "one\r\n two\n"),
        Document("a.txt:7", "three\n"),
        Document("a.txt:10", "four"),
    ]


def test_small_files_of_carriage_returns_have_paragraphs(tmp_path: Path) -> None:
    """Fails if they are one paragraph, or a carriage return elsewhere becomes a line's end."""
    path = tmp_path / "a.txt"
    for content, expected in [
        (b"one\r two\r\r\rthree\r", [("a.txt:1", "one\r two\r"), ("a.txt:5", "three\r")]),
        (
            b"10%\r\r\n20%\r\n\r\n3\r\r4",
            [("a.txt:1", "10%\r\r\n20%\r\n"), ("a.txt:4", "3\r\r4")],
        ),
    ]:
        path.write_bytes(content)
        found = Text(paths=(str(path),), documents="paragraph").read()
        assert list(found) == [Document(*each) for each in expected]


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: path.symlink_to("nowhere"), r"x\.txt is a link to nothing"),
        (os.mkfifo, r"x\.txt is a pipe"),
        (_socket, r"x\.txt is a socket"),
        (lambda path: path.symlink_to("/dev/zero"), r"x\.txt is a device"),
        (lambda path: path.with_name("caf\udce9.txt").touch(), r"caf.udce9\.txt.* not UTF-8"),
    ],
    ids=["link", "pipe", "socket", "device", "name"],
)
def test_oneline_what_is_no_file_is_named(folder: Path, monkeypatch, make, why: str) -> None:
    """Fails if it is opened, which may wait for ever, or its name is written as text."""
    monkeypatch.chdir(folder)  # a socket's path is short
    make(Path("x.txt"))
    with pytest.raises(UserError, match=rf"^data\.corpus\.paths: [^\n]*{why}[^\n]*$"):
        survey(Text(paths=(f"{folder}/*.txt",)), 0.2)


@pytest.mark.parametrize("kind", ["file", "paragraph"])
def test_invalid_utf8_is_named_by_file_and_byte(tmp_path: Path, kind: str) -> None:
    """Fails if it is replaced, or counted from the paragraph's start."""
    (tmp_path / "good.txt").write_text("fine\n")
    (tmp_path / "bad.txt").write_bytes(b"first\n\nsecond \xff\n")
    corpus = Text(paths=(f"{tmp_path}/*",), documents=kind)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"bad\.txt.*byte 14 "):
        list(corpus.read())


def test_no_match_names_what_is_near(folder: Path) -> None:
    """Fails if a pattern without files is skipped."""
    for path, hint in [
        (f"{folder}/*.text", r"nearest in .*/corpus: \d\d\.txt"),
        (f"{folder}/07.txd", r"07\.txt"),
        (f"{folder.parent}/corpsu/sub/*.txt", r"nearest in .*: corpus"),
        (str(folder), r"is a folder: .*/corpus/\*\*/\*"),
    ]:
        with pytest.raises(UserError, match=hint) as caught:
            list(Text(paths=(f"{folder}/*.txt", path)).read())
        assert str(caught.value).startswith("data.corpus.paths: ")
        assert "\n" not in str(caught.value)


def test_a_name_that_reads_as_a_glob_is_a_name(tmp_path: Path) -> None:
    """Fails if paths only go through glob."""
    (tmp_path / "a[1].txt").write_text("x")
    assert [id for id, *_ in Text(paths=(f"{tmp_path}/a[1].txt",)).read()] == ["a[1].txt"]


def test_digest_is_of_ids_and_contents_wherever_the_files_are(
    corpus: Text, folder: Path
) -> None:
    """Fails if ids hold the folder's own path, or if the digest leaves out ids or contents."""
    first = survey(corpus, 0.2)
    moved = shutil.copytree(folder, folder.parent / "elsewhere")
    assert survey(Text(paths=(f"{moved}/*",)), 0.2) == first
    (moved / "00.txt").rename(moved / "00 renamed.txt")
    renamed = survey(Text(paths=(f"{moved}/*",)), 0.2)
    assert renamed.digest != first.digest
    with (moved / "00 renamed.txt").open("a") as file:
        file.write("more")
    assert survey(Text(paths=(f"{moved}/*",)), 0.2).digest != renamed.digest


def test_digest_parts_cannot_flow_into_each_other() -> None:
    """Fails if lengths are left out of what is hashed."""
    digests = set()
    for id, content in [("ab", b"c"), ("a", b"bc"), ("abc", b"")]:
        digest = Digest()
        digest.add(id, content)
        digests.add(digest.hex())
    assert len(digests) == 3


def test_survey_is_kept_until_a_file_changes(
    corpus: Text, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if every start reads the whole corpus, or if a damaged survey is believed."""
    first = survey(corpus, 0.2)
    with monkeypatch.context() as patch:
        patch.setattr(Text, "read", lambda _: pytest.fail("read again"))
        assert survey(corpus, 0.2) == first
    (kept,) = (cache / "corpora").iterdir()
    kept.write_bytes(kept.read_bytes().replace(b'"train_documents":', b'"train_documents":1'))
    assert survey(corpus, 0.2) == first
    text = (folder / "00.txt").read_text()
    (folder / "00.txt").write_text(text[::-1])
    os.utime(folder / "00.txt", (0, 0))
    second = survey(corpus, 0.2)
    assert second.digest != first.digest
    (folder / "00.txt").write_text(text + "more")
    os.utime(folder / "00.txt", (0, 0))
    assert survey(corpus, 0.2).digest not in (first.digest, second.digest)


def test_copies_fall_on_the_same_side(folder: Path, corpus: Text) -> None:
    """Fails if the split depends on the id or on the order."""
    for path in sorted(folder.iterdir()):
        shutil.copy(path, folder / f"copy of {path.name}")
    sides: dict[str, set[bool]] = {}
    for id, text, *_ in corpus.read():
        sides.setdefault(id[-6:], set()).add(fraction_of(text.encode()) < 0.3)
    assert len(sides) == 40 and all(len(side) == 1 for side in sides.values())
    assert {True} in sides.values() and {False} in sides.values()


def test_an_empty_split_says_which_share_would_do(corpus: Text) -> None:
    """Fails if an empty split passes, or if the bound in the message is the wrong one."""
    with pytest.raises(
        UserError, match=r"no document for validation.*above ([\d.]+)"
    ) as caught:
        survey(corpus, 1e-9)
    lowest = float(str(caught.value).split()[-1])
    assert survey(corpus, lowest + 2e-6).validation_documents == 1
    with pytest.raises(
        UserError, match=r"no document for training.*at most ([\d.]+)"
    ) as caught:
        survey(corpus, 0.999999)
    highest = float(str(caught.value).split()[-1])
    assert survey(corpus, highest - 2e-6).train_documents == 1


def test_a_corpus_without_text_is_an_error(tmp_path: Path) -> None:
    """Fails if an empty corpus goes on to the split."""
    (tmp_path / "empty.txt").touch()
    with pytest.raises(UserError, match="holds no text"):
        survey(Text(paths=(f"{tmp_path}/*.txt",)), 0.1)


@pytest.fixture
def fables(tmp_path: Path) -> Path:
    """A real data set in array_record files, written by TFDS itself."""
    import tensorflow_datasets as tfds

    class Fables(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {"text": tfds.features.Text(), "number": tfds.features.Scalar(np.int64)}
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, _):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for number in range(300):
                text = f"Fable {number}: the fóx\n" if number else ""
                yield number, {"text": text, "number": number}

    Fables(data_dir=tmp_path / "tfds", file_format="array_record").download_and_prepare()
    # The class would stand in for a data set that is only files, as users have them.
    tfds.core.registered._DATASET_REGISTRY.pop("fables")
    return tmp_path / "tfds"


def test_tfds_reads_array_records_without_tensorflow(fables: Path) -> None:
    """Fails if records are lost between reads, or empty ones are kept, or ids move."""
    corpus = Tfds(name="fables", data_dir=str(fables))
    found = list(corpus.read())
    assert {text for _, text, *_ in found} == {f"Fable {n}: the fóx\n" for n in range(1, 300)}
    assert len(found) == 299 and found == list(corpus.read())
    assert all(id.startswith("fables/train:") for id, *_ in found)
    part = list(Tfds(name="fables", split="train[:10%]", data_dir=str(fables)).read())
    assert 29 <= len(part) <= 30
    assert survey(corpus, 0.1).train_documents + survey(corpus, 0.1).validation_documents == 299
    assert "tensorflow" not in sys.modules


def test_tfds_mistakes_are_one_line_with_what_is_there(fables: Path) -> None:
    """Fails if TFDS's own exceptions come through."""
    for settings, message in [
        ({"name": "fabels"}, r"data\.corpus\.name: .*nearest: .*fables"),
        ({"split": "test"}, r"data\.corpus\.split: test is none of train"),
        ({"text": "txt"}, r"data\.corpus\.text: no feature txt; it has number, text"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            list(Tfds(**({"name": "fables", "data_dir": str(fables)} | settings)).read())
        assert "\n" not in str(caught.value)
