"""Cleaning by Apache Beam: what one machine leaves and counts, wherever files are."""

import gzip
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import msgspec
import numpy as np
import pytest

from experiments.benchmarks.cleaning import Maker, write
from lm.cli import main
from lm.config import UserError, parse
from lm.data.cleaning import MANIFEST, Cleaning, Manifest, Near, clean, read_manifest, reading
from lm.data.cleaning import beam as by_beam
from lm.data.cleaning.beam import clean_by_beam
from lm.data.cleaning.cleaner import stages_of
from lm.data.cleaning.shards import manifest_of
from lm.data.sources import Shards


@pytest.fixture(autouse=True)
def many_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small chunks, each file read by itself, and few groups, as each costs a millisecond."""
    monkeypatch.setattr(reading, "DOCUMENTS", 12)
    monkeypatch.setattr(reading, "PART", 1)
    monkeypatch.setattr(by_beam, "BITS", 3)


@pytest.fixture
def beam() -> None:
    pytest.importorskip("apache_beam", reason="needs the extra beam")


@pytest.fixture(scope="module")
def dirty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with documents dirty in known ways, in files of two sources, and a recipe."""
    folder = tmp_path_factory.mktemp("dirty")
    write(folder, 150)
    lines = (folder / "dirty.jsonl").read_text().splitlines(keepends=True)
    (folder / "one" / "deep").mkdir(parents=True)
    (folder / "one" / "b[1].jsonl").write_text("".join(lines[:50]))
    (folder / "one" / "b1.jsonl").write_text("".join(lines[140:]))
    (folder / "one" / "deep" / "a.jsonl").write_text("[1]\n" + "".join(lines[50:100]))
    with gzip.open(folder / "two.jsonl.gz", "wt") as file:
        # Copies of the first source, and of its own in capitals, whose ids are the same, too:
        # which of two stays then the order says.
        named = []
        for n in (*range(90, 140), *range(20), *range(100, 140)):
            text = json.loads(lines[n])["text"]
            text = text.upper() if len(named) >= 70 else text
            named.append(json.dumps({"text": text, "id": f"n{n % 7}"}))
        file.write("not JSON\n" + "\n".join(named) + "\n")
    recipe = json.loads((folder / "recipe.json").read_text())
    one = {"type": "shards", "paths": [str(folder / "one/**/*.jsonl")], "damaged": "skip"}
    two = one | {"paths": [str(folder / "two.jsonl.gz")], "id": "id"}
    recipe["sources"] = [{"name": "one", "corpus": one}, {"name": "two", "corpus": two}]
    recipe["shards"] = 3
    (folder / "recipe.json").write_text(json.dumps(recipe))
    return folder


def recipe_of(folder: Path, **more: object) -> Cleaning:
    content = json.loads((folder / "recipe.json").read_text()) | more
    return parse(Cleaning, json.dumps(content), "recipe.json")


def texts(out: Path, ending: str = "gz") -> list[tuple[str, str]]:
    found = Shards(paths=(f"{out}/*.{ending}",), id="id").read()
    return sorted((document.id, document.text) for document in found)


class Tagged(NamedTuple):
    """What stands for Beam's own where it is not installed."""

    tag: str
    value: Any


def grouped(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, list[Any]]:
    """The values of each key, in no order that anybody may rely on."""
    found: dict[Any, list[Any]] = {}
    for key, value in pairs:
        found.setdefault(key, []).insert(0, value)
    return found


def test_what_workers_do_is_what_one_machine_does(dirty, tmp_path, monkeypatch) -> None:
    """Fails if ids, order, a group, an edge or a count is another's; it needs no Beam."""
    monkeypatch.setattr(by_beam, "_tagged", Tagged)
    cleaning = recipe_of(dirty)
    recipe, expected = msgspec.json.encode(cleaning), clean(cleaning, tmp_path / "one")
    flow = {
        element[0]: element[1]
        for number, each in enumerate(cleaning.sources)
        for part in reversed(reading.parts_of(each))
        for element in by_beam._read((number, part))
        if not isinstance(element, Tagged)
    }
    tallies = []
    for stage in stages_of(cleaning.steps):
        items = reversed(flow.items())
        out = [each for item in items for each in by_beam._clean(item, recipe, stage)]
        tagged = grouped(each for each in out if isinstance(each, Tagged))
        flow = dict(each for each in out if not isinstance(each, Tagged))
        tallies.append(by_beam._sum(tally for _, tally in tagged["tally"]))
        if stage.observed is None:
            break
        after, groups = (recipe, stage.observed), grouped(tagged["hashes"]).items()
        if isinstance(cleaning.steps[stage.observed], Near):
            rows = grouped(pair for item in groups for pair in by_beam._meeting(item))
            seen = [
                (name, {"rows": rows.get(name, []), "observed": [each]})
                for name, each in tagged["observed"]
            ]
            met = [pair for item in seen for pair in by_beam._choose(item, *after)]
            assert met and {key for key, _ in met} == {0}
            decided = grouped(by_beam._decide((0, [each for _, each in met]), *after))
        else:
            decided = grouped(
                pair for item in groups for pair in by_beam._decide_apart(item, *after)
            )
        flow = {
            name: {"chunk": [chunk], "decided": decided.get(name, [])}
            for name, chunk in flow.items()
        }
    found = manifest_of(cleaning, expected.read, tallies, {}, [])
    assert found.steps == expected.steps and found.kept == expected.kept
    lines = [json.loads(line) for *_, member in flow.values()
             for line in gzip.decompress(member).splitlines()]  # fmt: skip
    assert sorted((line["id"], line["text"]) for line in lines) == texts(tmp_path / "one")


def test_beam_leaves_and_counts_what_one_machine_does(beam, dirty, tmp_path) -> None:
    """Fails if ids, order, a group, an edge, an example, a note or damage is another's."""
    recipe = recipe_of(dirty)
    expected = clean(recipe, tmp_path / "one")
    found = clean_by_beam(recipe, str(tmp_path / "beam"))
    assert texts(tmp_path / "beam") == texts(tmp_path / "one")
    assert (found.sources, found.steps) == (expected.sources, expected.steps)
    assert (found.kept, found.read, found.recipe) == (
        expected.kept,
        expected.read,
        expected.recipe,
    )
    rules = {rule for step in found.steps for rule in step.tally.rules}
    assert {"near-duplicate", "same document", "same part"} <= rules
    assert found.sources["one"].first_damaged.startswith("deep/a.jsonl:1: ")
    assert len(found.shards) == 3 and found == read_manifest(tmp_path / "beam")
    assert {path.name for path in (tmp_path / "beam").iterdir()} == {
        MANIFEST,
        *(shard.name for shard in found.shards),
    }
    assert sum(shard.documents for shard in found.shards) == len(texts(tmp_path / "beam"))
    # What is done is not done again, and not taken for another's.
    assert clean_by_beam(recipe, str(tmp_path / "beam")) == found
    assert clean(recipe, tmp_path / "beam") == found
    with pytest.raises(UserError, match="holds the text of another recipe"):
        clean_by_beam(recipe_of(dirty, seed=1), str(tmp_path / "beam"))


def test_chains_and_full_bands_are_decided_in_one_place(beam, tmp_path) -> None:
    """Fails if a band's group decides by itself, a note is lost, or bands in two are one."""
    draw = np.random.default_rng(4)
    stream = [f"w{number}" for number in draw.integers(0, 1_000_000, 300 + 30 * 29)]
    chain = [" ".join(stream[30 * n : 30 * n + 300]) for n in range(30)]
    few = [f"word{n} the same seven words stand in all" for n in range(30)]
    for name, some, near in (
        ("chain", chain, {"bands": 60}),
        ("few", few, {"words": 1, "bands": 2, "rows": 1, "similarity": 0.8, "most": 1}),
    ):
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps({"text": text}) + "\n" for text in some)
        )
        corpus = {"type": "shards", "paths": [str(tmp_path / f"{name}.jsonl")]}
        recipe = {
            "sources": [{"name": "all", "corpus": corpus}],
            "steps": [{"type": "near"} | near],
        }
        cleaning = parse(Cleaning, json.dumps(recipe), "recipe.json")
        expected = clean(cleaning, tmp_path / f"{name}-one")
        found = clean_by_beam(cleaning, str(tmp_path / f"{name}-beam"))
        assert found.steps == expected.steps
        # One file is cut into chunks as one machine cuts it, so that bytes are the same.
        assert found.shards == expected.shards
        assert bool(found.steps[0].notes) == (name == "few")


def test_what_is_refused_is_one_line_and_nothing_may_be_left(beam, tmp_path, caplog) -> None:
    """Fails if an error is a traceback, half of the files count, or no document is no end."""
    (tmp_path / "a.jsonl").write_text('{"text": "{ a }"}\n[1]\n')
    corpus = {"type": "shards", "paths": [str(tmp_path / "a.jsonl")]}
    recipe = {"sources": [{"name": "a", "corpus": corpus}], "steps": [{"type": "c4"}]}
    out = str(tmp_path / "out")
    with pytest.raises(
        UserError, match=r"^sources: a: data.corpus: a.jsonl:2: [^\n]*leaves it out$"
    ):
        clean_by_beam(parse(Cleaning, json.dumps(recipe), "recipe.json"), out)
    assert not (tmp_path / "out" / MANIFEST).exists() and "Traceback" not in caplog.text
    corpus["damaged"] = "skip"
    skipping = parse(Cleaning, json.dumps(recipe), "recipe.json")
    with pytest.raises(UserError, match="was begun with another recipe"):
        clean_by_beam(skipping, out)
    with pytest.raises(UserError, match="was begun with another recipe"):
        clean(skipping, Path(out))
    found = clean_by_beam(skipping, f"{out}2")
    assert [shard.documents for shard in found.shards] == [0] and not found.unaccounted()
    assert found.sources["a"].damaged == 1


def test_sources_and_files_may_be_in_a_bucket(beam, dirty, tmp_path, monkeypatch) -> None:
    """Fails if files of a bucket are copied by whom they are handed out, or written in part."""
    bucket = fsspec.filesystem("memory")
    for path in dirty.rglob("*.jsonl"):
        if path.parent != dirty:
            bucket.put_file(str(path), f"/texts/{path.relative_to(dirty / 'one')}")
    monkeypatch.setenv("LM_CACHE", str(tmp_path / "cache"))
    here = recipe_of(dirty).sources[0].corpus
    assert isinstance(here, Shards)
    there = {"type": "shards", "paths": ["memory://texts/**/*.jsonl"], "damaged": "skip"}
    steps = [{"type": "c4"}, {"type": "exact"}]
    one = clean(
        recipe_of(dirty, sources=[{"name": "one", "corpus": {**there, "paths": here.paths}}],
                  steps=steps), tmp_path / "one")  # fmt: skip
    recipe = recipe_of(
        dirty, sources=[{"name": "one", "corpus": there}], steps=steps, compression="zstd"
    )
    assert [part.files[0][0] for part in reading.parts_of(recipe.sources[0])] == [
        "b1.jsonl",
        "b[1].jsonl",
        "deep/a.jsonl",
    ]
    assert not (tmp_path / "cache").exists()
    found = clean_by_beam(recipe, "memory://cleaned/beam")
    assert (found.sources, found.steps) == (one.sources, one.steps)
    names = [name.rpartition("/")[2] for name in bucket.ls("/cleaned/beam", detail=False)]
    assert sorted(names) == sorted([MANIFEST, *(shard.name for shard in found.shards)])
    bucket.get("/cleaned/beam/", str(tmp_path / "got"), recursive=True)
    assert texts(tmp_path / "got", "zst") == texts(tmp_path / "one")


def test_options_are_passed_on(beam, monkeypatch) -> None:
    """Fails if a runner is asked for by default that has to be downloaded, or none may be."""
    from apache_beam.options.pipeline_options import DirectOptions, StandardOptions

    options = by_beam._options(["direct_num_workers=2"])
    assert options.view_as(StandardOptions).runner == "FnApiRunner"
    assert options.view_as(DirectOptions).direct_num_workers == 2
    assert by_beam._options(["runner=X"]).view_as(StandardOptions).runner == "X"


def test_the_command_runs_it(beam, dirty, tmp_path, capsys) -> None:
    """Fails if --beam is not passed on."""
    maker = Maker()
    lines = [json.dumps({"text": text}) for _, text in maker.documents(20)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    corpus = {"type": "shards", "paths": [str(tmp_path / "a.jsonl")]}
    recipe = {"sources": [{"name": "a", "corpus": corpus}], "steps": [{"type": "exact"}]}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    out = str(tmp_path / "out")
    main(["data", "prepare", str(tmp_path / "recipe.json"), out, "shards=2", "--beam",
          "direct_num_workers=1"])  # fmt: skip
    assert "documents are left" in capsys.readouterr().out
    found: Manifest = read_manifest(out)
    assert len(found.shards) == found.recipe["shards"] == 2


def test_without_beam_its_extra_is_named(dirty, tmp_path, capsys, monkeypatch) -> None:
    """Fails if who has not installed it sees a traceback, or a folder is left."""
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    out = tmp_path / "out"
    for arguments, part in (
        (["--beam"], "pip install 'yardstick-lm[beam]'"),
        (["--workers", "2", "--beam", "runner=X"], "--workers: of --beam its runner's options"),
    ):
        with pytest.raises(SystemExit) as exit_:
            main(["data", "prepare", str(dirty / "recipe.json"), str(out), *arguments])
        said = capsys.readouterr().err
        assert exit_.value.code == 2 and part in said and said.count("\n") == 1
        assert not out.exists()
