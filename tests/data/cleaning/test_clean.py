"""A recipe from end to end: accounts that add up, the same bytes after any end, errors."""

import gzip
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fsspec
import msgspec
import pytest

from experiments.benchmarks.cleaning import FOUND, write
from lm.config import UserError, parse
from lm.data import Bytes, Data, open_tokens
from lm.data.cleaning import (
    MANIFEST,
    Cleaning,
    Manifest,
    clean,
    clean_to_bucket,
    pipeline,
    reading,
    stages,
)
from lm.data.corpora import fraction_of
from lm.data.remote import Folder
from lm.data.sources import Shards

DIRTY = 150
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def dirty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """A folder with documents dirty in known ways, in two sources, and a recipe."""
    folder = tmp_path_factory.mktemp("dirty")
    counts = dict(write(folder, DIRTY))
    lines = (folder / "dirty.jsonl").read_text().splitlines(keepends=True)
    (folder / "one.jsonl").write_text("".join(lines[:100]))
    with gzip.open(folder / "two.jsonl.gz", "wt") as file:
        file.write("".join(lines[100:120]) + "not JSON\n\n[1]\n" + "".join(lines[120:]))
        file.write('{"txet": "a"}\n{"text": 3}\n{"text": ""}\n{"text": "\\ud800"}\n')
    recipe = json.loads((folder / "recipe.json").read_text())
    recipe["sources"] = [
        {
            "name": name,
            "corpus": {"type": "shards", "paths": [str(folder / file)], "damaged": "skip"},
        }
        for name, file in (("one", "one.jsonl"), ("two", "two.jsonl.gz"))
    ]
    recipe["shards"] = 3
    (folder / "recipe.json").write_text(json.dumps(recipe))
    return folder, counts


def recipe_of(dirty: tuple[Path, Any]) -> Cleaning:
    return parse(Cleaning, (dirty[0] / "recipe.json").read_bytes(), "recipe.json")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "DOCUMENTS", 12)


@pytest.fixture(scope="module")
def reference(dirty, tmp_path_factory) -> tuple[Path, Manifest]:
    """The same recipe, from beginning to end without a break."""
    out = tmp_path_factory.mktemp("reference") / "out"
    documents = reading.DOCUMENTS
    try:
        reading.DOCUMENTS = 12
        return out, clean(recipe_of(dirty), out)
    finally:
        reading.DOCUMENTS = documents


def bytes_in(folder: Path) -> dict[str, str]:
    """The digest of every file."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_what_is_planted_is_found_by_its_rule(dirty, reference) -> None:
    """Fails if a step is left out, or its counts are another's."""
    _, counts = dirty
    steps = {step.type: step for step in reversed(reference[1].steps)}
    for way, (step, rule) in FOUND.items():
        by_source = steps[step].tally.rules.get(rule, {})
        found = sum(each.documents + each.changed for each in by_source.values())
        slack = 2 if way == "near-copy" else 0  # what LSH may miss
        assert counts.get(way, 0) - slack <= found <= counts.get(way, 0), way


def test_the_accounts_add_up(dirty, reference) -> None:
    """Fails if bytes or documents are lost, or counted twice, anywhere on the way."""
    out, manifest = reference
    assert manifest.unaccounted() == 0
    for name, source in manifest.sources.items():
        removed = sum(
            by_source[name].documents
            for step in manifest.steps
            for by_source in step.tally.rules.values()
            if name in by_source
        )
        assert source.documents == source.kept_documents + removed
    assert sum(source.documents for source in manifest.sources.values()) == DIRTY
    read = list(Shards(paths=(f"{out}/*.gz",), id="id").read())
    sources = manifest.sources.values()
    assert len(read) == sum(source.kept_documents for source in sources)
    sizes = [len(document.text.encode()) for document in read]
    assert sum(sizes) == sum(source.kept_bytes for source in sources)
    held = [fraction_of(document.text.encode()) < 0.08 for document in read]
    assert sum(held) == sum(source.held_documents for source in sources)
    assert [shard.documents for shard in manifest.shards] == [
        gzip.decompress((out / shard.name).read_bytes()).count(b"\n")
        for shard in manifest.shards
    ]
    digests = bytes_in(out)
    assert all(digests[shard.name] == shard.sha256 for shard in manifest.shards)
    assert set(digests) == {MANIFEST, *(shard.name for shard in manifest.shards)}
    assert len(manifest.shards) == 3


def test_damaged_lines_are_counted_and_the_first_is_named(dirty, reference) -> None:
    """Fails if they are skipped in silence, or an empty text counts as damage."""
    source = reference[1].sources["two"]
    assert source.damaged == 5 and source.documents == DIRTY - 100
    assert source.first_damaged.startswith("two.jsonl.gz:21: not JSON")
    assert reference[1].sources["one"].damaged == 0


def test_a_file_that_ends_too_early_is_damage(dirty, tmp_path) -> None:
    """Fails if what came before is lost, or the end is a traceback."""
    whole = (dirty[0] / "two.jsonl.gz").read_bytes()
    (tmp_path / "half.gz").write_bytes(whole[: len(whole) // 2])
    for damaged in ("refuse", "skip"):
        source = {"type": "shards", "paths": [f"{tmp_path}/half.gz"], "damaged": damaged}
        recipe = json.dumps({"sources": [{"name": "half", "corpus": source}]})
        cleaning = parse(Cleaning, recipe, "recipe.json")
        if damaged == "refuse":
            with pytest.raises(UserError, match=r"half: .*half.gz:\d+: .*damaged=skip leaves"):
                clean(cleaning, tmp_path / "out")
            continue
        found = clean(cleaning, tmp_path / "out2").sources["half"]
        # Two lines before it are no documents either.
        assert found.documents == 25 and found.damaged == 3


class Killed(BaseException):
    """Ends a process wherever it is."""


def test_killed_before_any_write_it_goes_on_to_the_same_bytes(
    dirty, reference, tmp_path, monkeypatch
) -> None:
    """Fails if anything that was cut short counts as done, or is counted twice."""
    expected, out = bytes_in(reference[0]), tmp_path / "out"
    written = pipeline.write_whole
    left, ends = 0, 0
    draw = random.Random(0)

    def write_or_die(path: Path, content: bytes) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            # Half of a file may be there, under another name.
            path.with_name("cut-short.tmp").write_bytes(content[: len(content) // 2])
            raise Killed
        written(path, content)

    monkeypatch.setattr(pipeline, "write_whole", write_or_die)
    monkeypatch.setattr(stages, "write_whole", write_or_die)
    while True:
        left = draw.randrange(1, 25)
        try:
            clean(recipe_of(dirty), out)
            break
        except Killed:
            ends += 1
    assert ends > 8
    assert bytes_in(out) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_real_processes_are_stopped_and_killed_and_end_the_same(
    dirty, reference, tmp_path
) -> None:
    """Fails if SIGTERM is no 75, killed ones leave workers, or workers change the bytes."""
    code = (
        "from lm.cli import main\n"
        "from lm.data.cleaning import reading\n"
        "reading.DOCUMENTS = 12\n"
        "main()"
    )
    command = [sys.executable, "-c", code, "data", "prepare"]
    command += [str(dirty[0] / "recipe.json"), "out", "--workers", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for request, code_of in ((signal.SIGTERM, 75), (signal.SIGKILL, -signal.SIGKILL)):
        before = set(tmp_path.rglob("stage-*/*.json"))
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        while process.poll() is None and not set(tmp_path.rglob("stage-*/*.json")) - before:
            time.sleep(0.005)
        process.send_signal(request)
        _, said = process.communicate(timeout=30)
        assert process.returncode == code_of, said
        if request == signal.SIGTERM:
            assert said.startswith(b"lm: stopped; the same command goes on")
        deadline = time.monotonic() + 10
        while (alive := session_of(process.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not alive
    clean(recipe_of(dirty), tmp_path / "out", workers=2)
    assert bytes_in(tmp_path / "out") == bytes_in(reference[0])


def session_of(leader: int) -> list[str]:
    """The processes of a session that have not ended."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            state, *fields = (process / "stat").read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            continue
        if int(fields[2]) == leader and state != "Z":
            found.append(process.name)
    return found


def test_chunks_of_another_size_give_the_same_text(
    dirty, reference, tmp_path, monkeypatch
) -> None:
    """Fails if what is removed depends on where chunks end."""
    monkeypatch.setattr(reading, "DOCUMENTS", 31)
    found = clean(recipe_of(dirty), tmp_path / "out")

    assert texts(tmp_path / "out") == texts(reference[0])
    assert found.steps == reference[1].steps and found.sources == reference[1].sources


def texts(out: Path, ending: str = "gz") -> list[tuple[str, str]]:
    read = Shards(paths=(f"{out}/*.{ending}",), id="id").read()
    return [(document.id, document.text) for document in read]


def test_zstd_files_hold_the_same_lines(dirty, reference, tmp_path) -> None:
    """Fails if frames depend on kills, or a file is named as what it is not."""
    pytest.importorskip("zstandard", reason="needs the extra data")
    recipe = msgspec.structs.replace(recipe_of(dirty), compression="zstd")
    whole = clean(recipe, tmp_path / "whole")
    left = 50

    def kill(stage: str, done: int, total: int | None) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise Killed

    with pytest.raises(Killed):
        clean(recipe, tmp_path / "killed", progress=kill)
    assert clean(recipe, tmp_path / "killed") == whole
    assert bytes_in(tmp_path / "killed") == bytes_in(tmp_path / "whole")
    assert [shard.name for shard in whole.shards] == [
        f"part-0000{number}-of-00003.jsonl.zst" for number in range(3)
    ]
    assert texts(tmp_path / "whole", "zst") == texts(reference[0])
    assert whole.steps == reference[1].steps


def test_a_bucket_gets_what_a_folder_would(dirty, reference, tmp_path, monkeypatch) -> None:
    """Fails if half of the files count as all, or what others put there is written over."""
    bucket = fsspec.filesystem("memory")
    monkeypatch.setenv("LM_CACHE", str(tmp_path / "cache"))
    uploaded = 0
    upload = Folder.upload

    def upload_or_die(self: Folder, *what: Any) -> None:
        nonlocal uploaded
        uploaded += 1
        if uploaded == 2:
            raise Killed
        upload(self, *what)

    monkeypatch.setattr(Folder, "upload", upload_or_die)
    recipe, out = recipe_of(dirty), "memory://cleaned/one/"
    with pytest.raises(Killed):
        clean_to_bucket(recipe, out)
    assert not bucket.exists("/cleaned/one/" + MANIFEST)
    assert clean_to_bucket(recipe, out) == reference[1]
    bucket.get("/cleaned/one/", str(tmp_path / "got"), recursive=True)
    assert bytes_in(tmp_path / "got") == bytes_in(reference[0])
    assert not list((tmp_path / "cache" / "cleaned").iterdir())
    assert clean_to_bucket(recipe, out) == reference[1] and uploaded == 5
    other = msgspec.structs.replace(recipe, seed=1)
    with pytest.raises(UserError, match="holds the text of another recipe"):
        clean_to_bucket(other, out)
    bucket.pipe("/cleaned/mine/file", b"")
    with pytest.raises(UserError, match="holds other files; name a new folder"):
        clean_to_bucket(recipe, "memory://cleaned/mine")


def test_what_is_done_is_not_done_again(dirty, reference, monkeypatch) -> None:
    """Fails if a finished folder is read anew, or written over."""
    before = bytes_in(reference[0])
    monkeypatch.setattr(pipeline, "_read", None)
    assert clean(recipe_of(dirty), reference[0]) == reference[1]
    assert bytes_in(reference[0]) == before


def test_another_recipe_and_other_files_are_refused(dirty, reference, tmp_path) -> None:
    """Fails if two recipes mix in a folder, or what others put there is taken for ours."""
    other = parse(Cleaning, json.dumps({"sources": json.loads(
        (dirty[0] / "recipe.json").read_text())["sources"]}), "recipe.json")  # fmt: skip
    with pytest.raises(UserError, match="holds the text of another recipe"):
        clean(other, reference[0])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(UserError, match="holds other files; name a new folder"):
        clean(other, tmp_path / "mine")
    begun = tmp_path / "begun"
    (begun / "work").mkdir(parents=True)
    with pytest.raises(Killed):
        clean(other, begun, progress=_kill)
    with pytest.raises(UserError, match="was begun with another recipe"):
        clean(recipe_of(dirty), begun)


def _kill(stage: str, done: int, total: int | None) -> None:
    raise Killed


@pytest.mark.parametrize(
    ("recipe", "part"),
    [
        ({}, "sources: missing"),
        ({"sources": []}, "must have at least 1"),
        ({"sources": "all"}, "sources=all: expected"),
        ({"steps": [{"type": "nears"}]}, "did you mean near?"),
        ({"steps": [{"type": "near", "band": 3}]}, "did you mean steps[0].bands?"),
        ({"steps": [{"type": "c4", "without": ["policies"]}]}, "policy or sentences"),
        ({"steps": [{"type": "near", "similarity": 2}]}, "steps[0].similarity=2"),
        ({"steps": [{"type": "decontaminate"}]}, "steps[0].against: missing"),
        ({"shards": 0}, "shards=0"),
        ({"compression": "zip"}, "did you mean gzip?"),
    ],
)
def test_a_wrong_recipe_is_one_line(recipe: dict, part: str) -> None:
    """Fails if an error names no place, or not the nearest."""
    sources = [{"name": "a", "corpus": {"type": "stdlib"}}]
    if recipe and "sources" not in recipe:
        recipe = {"sources": sources} | recipe
    with pytest.raises(UserError) as error:
        parse(Cleaning, json.dumps(recipe), "recipe.json")
    assert part in str(error.value) and "\n" not in str(error.value)


def test_nothing_may_be_left(tmp_path) -> None:
    """Fails if a step that compares is undone by no documents, or no manifest is written."""
    (tmp_path / "a.txt").write_text("{ a }\n\n{ b }")
    corpus = {"type": "text", "paths": [str(tmp_path / "a.txt")], "documents": "paragraph"}
    steps = [
        {"type": "c4"},
        {"type": "exact"},
        {"type": "near"},
        {"type": "exact", "by": "line"},
    ]
    recipe = {"sources": [{"name": "a", "corpus": corpus}], "steps": steps}
    manifest = clean(parse(Cleaning, json.dumps(recipe), "recipe.json"), tmp_path / "out")
    assert manifest.sources["a"].documents == 2 and manifest.sources["a"].kept_documents == 0
    assert [shard.documents for shard in manifest.shards] == [0] and not manifest.unaccounted()


def test_what_is_cleaned_is_trained_on_as_it_was_counted(reference) -> None:
    """Fails if a run splits the files in another way than the manifest says."""
    out, manifest = reference
    tokens = open_tokens(Data(corpus=Shards(paths=(f"{out}/*.gz",)), tokenizer=Bytes()))
    sources = manifest.sources.values()
    held = sum(source.held_documents for source in sources)
    assert len(tokens.validation.ids) == held
    assert len(tokens.train.ids) == sum(source.kept_documents for source in sources) - held


def test_sources_of_one_name_or_with_labels_are_refused() -> None:
    """Fails if counts of two sources mix, or labels are lost in silence."""
    stdlib = {"name": "a", "corpus": {"type": "stdlib"}}
    labelled = {"type": "jsonl", "paths": ["x"], "label": "y", "classes": ["0", "1"]}
    for sources, part in (
        ([stdlib, stdlib], "two are called a"),
        ([{"name": "b", "corpus": labelled}], "b has channels (label)"),
    ):
        with pytest.raises(UserError, match="sources: ") as error:
            parse(Cleaning, json.dumps({"sources": sources}), "recipe.json")
        assert part in str(error.value)


def test_examples_show_no_address(tmp_path) -> None:
    """Fails if a page that is meant for others shows what was to be masked."""
    lines = [f"Write to somebody{n}@example.org at once" for n in range(5)]
    (tmp_path / "a.txt").write_text("\n\n".join(lines))
    corpus = {"type": "text", "paths": [str(tmp_path / "a.txt")], "documents": "paragraph"}
    recipe = {"sources": [{"name": "a", "corpus": corpus}], "steps": [{"type": "pii"}]}
    for steps in ([{"type": "pii"}], [{"type": "c4"}]):
        cleaning = parse(Cleaning, json.dumps(recipe | {"steps": steps}), "recipe.json")
        out = tmp_path / steps[0]["type"]
        manifest = clean(cleaning, out)
        assert "somebody" not in (out / MANIFEST).read_text()
        assert any(step.tally.rules for step in manifest.steps)
