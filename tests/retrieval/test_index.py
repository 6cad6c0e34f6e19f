"""An index that is made, added to, killed, gone on with, and searched."""

import os
import random
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from lm.config import UserError
from lm.retrieval import store
from lm.retrieval.index import Indexed, building
from lm.retrieval.search import TextIndex, fuse, open_index
from lm.retrieval.store import IndexFolder
from lm.retrieval.texts import find_texts

SMALL = {"tokens": 8, "overlap": 2, "shard": 3}


def add(folder: Path, *paths: Path, **options) -> Indexed:
    """Adds files to an index, and finishes it."""
    with building(folder, **options) as builder:
        builder.add(find_texts(paths))
        builder.finish()
    return builder.done


def many(folder: Path, count: int = 12, words: int = 40) -> Path:
    """Files of made-up words."""
    random_ = random.Random(1)
    folder.mkdir()
    for number in range(count):
        found = random_.choices("abcdefghijklmnop", k=words * 3)
        text = " ".join("".join(found[at : at + 3]) for at in range(0, len(found), 3))
        (folder / f"{number:02}.txt").write_text(f"only{number} {text}")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """The files of an index, but for the lock."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != store.LOCK
    }


class Killed(Exception):
    """What ends a process."""


@contextmanager
def killed(monkeypatch, method: str, after: int):
    """The index's folder refuses a method after so many calls, of which the last was done."""
    called, done = getattr(IndexFolder, method), 0

    def counted(self, *given, **named):
        nonlocal done
        if done == after:
            raise Killed
        called(self, *given, **named)
        done += 1

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(IndexFolder, method, counted)
        yield


def test_passages_are_found_with_their_lines(files, tmp_path):
    """Fails if words are not found, or a passage has another's place."""
    done = add(tmp_path / "i", files, words_only=True, tokens=5, overlap=0, shard=3)
    assert (done.added, done.passages) == (3, len(open_index(tmp_path / "i")))
    index = open_index(tmp_path / "i")
    (found,) = index.search("what does a keel do?")
    assert found.passage.place == f"{files / 'water.txt'}:3"
    assert found.passage.text == "A keel keeps ships upright."
    assert found.similarity is None and found.words == found.score > 0
    (found,) = index.search("soil")
    assert found.passage.place == f"{files / 'earth.html'}:3"
    assert index.search("worms")[0].passage.place == f"{files / 'earth.html'}:1-2"
    assert index.search("nowhere") == []
    with pytest.raises(UserError, match="words alone"):
        index.search("soil", by="vectors")


def test_vectors_are_those_of_the_passages(files, tmp_path, models, embedder):
    """Fails if a vector is another passage's, or rounded where it was not asked."""
    add(tmp_path / "i", files, model=models / "bert", tokens=25, shard=2)
    index = open_index(tmp_path / "i")
    texts = [index.passage(number).text for number in range(len(index))]
    assert len(index.shards) > 2
    assert np.allclose(index.vectors(range(len(index))), embedder(texts), atol=1e-6)
    for number, text in enumerate(texts):
        numbers, similar = index.nearest(embedder([text])[0], 2)
        assert numbers[0] == number and abs(similar[0] - 1) < 1e-5 and similar[1] < similar[0]
    add(tmp_path / "h", files, model=models / "bert", tokens=25, dtype="float16")
    half = open_index(tmp_path / "h")
    assert half.shards[0].vectors is not None and half.shards[0].vectors.dtype == np.float16
    assert np.allclose(half.vectors(range(len(index))), embedder(texts), atol=1e-3)


def test_the_nearest_of_all_shards_are_those_of_one_sorting(tmp_path, models):
    """Fails if a shard's best are lost, or their numbers are those in the shard."""
    folder = many(tmp_path / "t", 4)
    add(tmp_path / "i", folder, model=models / "bert", tokens=20, shard=5)
    index = open_index(tmp_path / "i")
    all_ND = index.vectors(range(len(index)))
    for query_D in all_ND[::7]:
        order = np.argsort(-(all_ND @ query_D), kind="stable")
        for k in (1, 6, len(index) + 3):
            numbers, similar = index.nearest(query_D, k)
            assert len(numbers) == min(k, len(index))
            assert np.allclose(similar, (all_ND @ query_D)[order[:k]], atol=1e-6)


def test_both_kinds_of_search_are_fused_by_rank(files, tmp_path, models):
    """Fails if scores are added, or one kind is left out."""
    add(tmp_path / "i", files, model=models / "bert", tokens=25, shard=2)
    index, query = open_index(tmp_path / "i"), "a keel in the wind"
    kinds = [[f.number for f in index.search(query, 99, by=by)] for by in ("vectors", "words")]
    assert len(kinds[0]) == len(index) > len(kinds[1]) > 1
    found = index.search(query, 4)
    assert [(f.number, f.score) for f in found] == fuse(kinds)[:4]
    similar = {f.number: f.similarity for f in index.search(query, 99, by="vectors")}
    for each in found:
        assert each.similarity == pytest.approx(similar[each.number], abs=1e-6)
        assert each.words == pytest.approx(float(index.words.scores(query)[each.number]))


@pytest.mark.parametrize("method", ["write_shard", "keep"])
def test_what_was_killed_goes_on_to_what_it_would_have_been(
    tmp_path, monkeypatch, models, method
):
    """Fails if a passage is lost or there twice, or what was half written counts."""
    folder, options = (
        many(tmp_path / "t", 5),
        {"model": models / "bert", "tokens": 25, "shard": 4},
    )
    add(tmp_path / "whole", folder, **options)
    for after in (1, 3, 6):
        index = tmp_path / f"{method}{after}"
        with killed(monkeypatch, method, after):
            add(index, folder, **options)
        before = TextIndex(index, None)
        assert len(before) % 4 == 0
        done = add(index, folder)
        assert done.passages == len(before) + done.passages_added
        assert done.passages_added > 0
        assert contents(index) == contents(tmp_path / "whole")


def test_files_are_added_replaced_and_passed_over(files, tmp_path):
    """Fails if a file that changed is there twice, or one that did not is read again."""
    index = tmp_path / "i"
    add(index, files / "water.txt", words_only=True, **SMALL)
    kept = contents(index)
    done = add(index, files / "water.txt")
    assert (done.added, done.unchanged) == (0, 1) and contents(index) == kept
    done = add(index, files)
    assert (done.added, done.unchanged, done.replaced) == (2, 1, 0)
    (files / "water.txt").write_text("A rudder steers.\n")
    done = add(index, files)
    assert (done.added, done.unchanged, done.replaced) == (1, 2, 1)
    found = open_index(index)
    assert found.search("keel") == []
    assert [f.passage.text for f in found.search("rudder")] == ["A rudder steers."]
    assert len(found.search("smoke")) == 1
    # In the order that they came in, without what was replaced.
    places = {p.file.rpartition("/")[2]: None for shard in found.shards for p in shard}
    assert [*places] == ["earth.html", "fire.md", "water.txt"]


def test_files_are_deleted_all_at_once_or_not_at_all(tmp_path, monkeypatch):
    """Fails if a passage stays, one of another file goes, or a half of it counts."""
    folder = many(tmp_path / "t", 4)
    add(tmp_path / "i", folder, words_only=True, **SMALL)
    before = contents(tmp_path / "i")
    gone = [folder / "01.txt", folder / "03.txt"]
    with (
        killed(monkeypatch, "keep", 0),
        building(tmp_path / "i") as builder,
    ):
        builder.delete(gone)
    assert all(contents(tmp_path / "i")[name] == content for name, content in before.items())
    with building(tmp_path / "i") as builder:
        builder.delete(gone)
        builder.finish()
    assert builder.done.deleted == 2
    index = open_index(tmp_path / "i")
    assert [len(index.search(f"only{number}")) for number in range(4)] == [1, 0, 1, 0]
    alone = tmp_path / "alone"
    add(alone, folder / "00.txt", folder / "02.txt", words_only=True, **SMALL)
    texts = [p.text for shard in index.shards for p in shard]
    assert texts == [p.text for shard in open_index(alone).shards for p in shard]
    with (
        building(tmp_path / "i") as builder,
        pytest.raises(UserError, match=r"01\.txt: not in the index"),
    ):
        builder.delete([folder / "01.txt"])
    with building(tmp_path / "i") as builder:
        builder.delete([folder])
        builder.finish()
    assert len(open_index(tmp_path / "i")) == 0 and open_index(tmp_path / "i").search("a") == []


def test_many_passages_have_neighbours_that_go_with_them(tmp_path, models, embedder):
    """Fails if what is added has no neighbours, or what is deleted still is one."""
    folder = many(tmp_path / "t", 8)
    options = {"model": models / "bert", "tokens": 25, "shard": 16, "approximate": 40}
    add(tmp_path / "i", *sorted(folder.iterdir())[:1], **options)
    assert open_index(tmp_path / "i").manifest.near is None
    add(tmp_path / "i", *sorted(folder.iterdir())[:5])
    first = open_index(tmp_path / "i").manifest.near
    assert first is not None
    add(tmp_path / "i", folder)
    with building(tmp_path / "i") as builder:
        builder.delete([folder / "02.txt"])
        builder.finish()
    index = open_index(tmp_path / "i")
    assert index.manifest.near is not None and index.manifest.near != first
    assert len(index) > 40
    agreed = 0
    for number in range(len(index)):
        vector_D = index.vectors([number])[0]
        near, similar = index.nearest(vector_D, 5)
        exact, wanted = index.nearest(vector_D, 5, exact=True)
        agreed += len({*near.tolist()} & {*exact.tolist()})
        assert np.all(np.diff(similar) <= 0) and similar[0] == pytest.approx(
            wanted[0], abs=1e-6
        )
    assert agreed > 0.95 * 5 * len(index)
    assert len([*tmp_path.glob("i/near-*")]) == 1


def test_another_model_is_refused_and_nothing_changes(files, tmp_path, models):
    """Fails if vectors of two models stand side by side."""
    index = tmp_path / "i"
    add(index, files / "water.txt", model=models / "bert", tokens=25)
    kept = contents(index)
    for options, why in (
        ({"model": models / "gpt"}, "its vectors are of the model with the digest"),
        ({"pooling": "first"}, "its pooling is mean, and --pooling first is another"),
        ({"tokens": 24}, "its tokens is 25"),
        ({"words_only": True}, "an index of vectors"),
    ):
        (files / "water.txt").write_text("changed")
        with pytest.raises(UserError, match=why):
            add(index, files, **options)
        assert contents(index) == kept
    with pytest.raises(UserError, match="the model with the digest"):
        open_index(index, model=models / "gpt")


def test_what_cannot_be_leaves_nothing_behind(files, tmp_path, models):
    """Fails if a folder stays where an index could not be made."""
    for options, why in (
        ({}, "an index is of --model MODEL or --bm25"),
        ({"words_only": True, "model": models / "bert"}, "not of both"),
        ({"words_only": True, "dtype": "float16"}, "an index of words has no vectors"),
        ({"model": models / "bert", "tokens": 32}, "the model sees 31 of a text"),
        ({"words_only": True, "tokens": 8, "overlap": 5}, "from 0 to 4"),
        ({"words_only": True, "shard": 0}, "must be from 1"),
    ):
        with pytest.raises(UserError, match=why):
            add(tmp_path / "i", files, **options)
        assert not (tmp_path / "i").exists()
    (files / "noise.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8"):
        add(tmp_path / "i", files, words_only=True)
    assert not (tmp_path / "i").exists()
    with pytest.raises(UserError, match="it is there, and no index"):
        add(files, files / "water.txt", words_only=True)


def test_one_process_writes_at_a_time(files, tmp_path):
    """Fails if two write one index."""
    add(tmp_path / "i", files, words_only=True, **SMALL)
    with (
        building(tmp_path / "i"),
        pytest.raises(UserError, match="another process is writing it"),
    ):
        add(tmp_path / "i", files)


def test_damage_is_a_line(files, tmp_path, models):
    """Fails if a file that is cut short is searched all the same."""
    index = tmp_path / "i"
    add(index, files, model=models / "bert", tokens=25)
    path = index / "shards" / "000000" / "vectors.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="000000: damaged"):
        open_index(index)
    path.write_bytes(whole)
    np.save(path, np.load(path)[1:])
    with pytest.raises(UserError, match="of different lengths"):
        open_index(index)
    os.truncate(index / "manifest.json", 40)
    with pytest.raises(UserError, match=r"manifest\.json: damaged"):
        open_index(index)
    with pytest.raises(UserError, match="no index: there is no such folder"):
        open_index(tmp_path / "nowhere")
