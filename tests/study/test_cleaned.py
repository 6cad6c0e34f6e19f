"""The page of a cleaned text says what its manifest says."""

import html
import json
import re
from pathlib import Path

import fsspec
import pytest

from experiments.benchmarks.cleaning import write
from lm.cli import main
from lm.data.cleaning import Manifest, read_manifest
from lm.data.cleaning.tally import total_of
from lm.study.cleaned import report_of
from lm.study.report.values import Excerpts, Report, Table


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cleaned folder: two sources, of which one is the other again, with a damaged line."""
    folder = tmp_path_factory.mktemp("cleaned")
    write(folder, 60)
    dirty = folder / "dirty.jsonl"
    lines = dirty.read_text().splitlines(keepends=True)
    (folder / "again.jsonl").write_text("".join(lines[:20]) + "<b>no JSON</b>\n")
    recipe = json.loads((folder / "recipe.json").read_text())
    again = {"type": "shards", "paths": [str(folder / "again.jsonl")], "damaged": "skip"}
    recipe["sources"].append({"name": "<again>", "corpus": again})
    (folder / "recipe.json").write_text(json.dumps(recipe))
    arguments = [str(folder / "recipe.json"), str(folder / "out"), "--workers", "1"]
    main(["data", "prepare", *arguments])
    return folder / "out"


@pytest.fixture(scope="module")
def manifest(out: Path) -> Manifest:
    return read_manifest(out)


def tables_of(report: Report) -> list[Table]:
    blocks = [block for section in report.sections for block in section.blocks]
    return [report.table, *(block for block in blocks if isinstance(block, Table))]


def test_the_pages_numbers_are_the_manifests(out, manifest) -> None:
    """Fails if a number on the page is of another rule or source, rounded away or left out."""
    report = report_of(manifest)
    sources, removed, by_source, *_ = tables_of(report)
    assert [
        (row["documents"], row["kept"], row["bytes"], row["left"]) for row in sources.rows
    ] == [
        (each.documents, each.kept_documents, each.bytes, each.kept_bytes)
        for each in manifest.sources.values()
    ]
    found = [
        (rule, total.documents or None, total.bytes or None, total.changed or None)
        for step in manifest.steps
        for rule in step.about
        if (total := total_of(step.tally.rules.get(rule, {}))).documents or total.changed
    ]
    assert [
        (row["rule"], row["documents"], row["bytes"], row["changed"]) for row in removed.rows
    ] == found
    assert len(found) > 6
    again = manifest.sources["<again>"].documents
    (copies,) = (row for row in by_source.rows if row["rule"] == "same document")
    exact = next(step for step in manifest.steps if step.type == "exact")
    assert copies["<again>"] == exact.tally.rules["same document"]["<again>"].documents / again
    left = sum(each.kept_documents for each in manifest.sources.values())
    assert report.answer.startswith(f"{left} of 80 documents are left")


def test_duplicates_are_told_by_source(manifest) -> None:
    """Fails if the source that lost its documents is not named, or the splits are not."""
    report = report_of(manifest)
    (section,) = (each for each in report.sections if each.heading == "Duplicates")
    sentence, table = section.blocks
    assert isinstance(table, Table) and isinstance(sentence, str)
    exact = next(step for step in manifest.steps if step.type == "exact")
    count = exact.tally.rules["same document"]["<again>"].twins["dirty"]
    assert ("<again>", "dirty", count) in [
        (row["source"], row["twin"], row["count"]) for row in table.rows
    ]
    total = total_of(exact.tally.rules["same document"])
    assert f"same document: {total.across} of {sum(total.twins.values())} documents" in sentence


def test_the_page_stands_alone_and_escapes_what_it_shows(capsys, out, manifest) -> None:
    """Fails if a name or a sample is taken for HTML, or the page fetches something."""
    main(["data", "report", str(out)])
    assert capsys.readouterr().out == f"{out / 'report.html'}\n"
    page = (out / "report.html").read_text()
    assert "<again>" not in page and "&lt;again&gt;" in page and "<b>no JSON" not in page
    assert "1 places held no document" in page and "again.jsonl:21" in page
    assert not re.search(r"(src|href)=\"(?!#)", page) and "@import" not in page
    shown = [
        excerpt.text
        for section in report_of(manifest).sections
        for block in section.blocks
        if isinstance(block, Excerpts)
        for excerpt in block.excerpts
    ]
    assert len(shown) > 10
    assert all(str(html.escape(text, quote=False)) in page.replace("&#39;", "'").replace(
        "&#34;", '"') for text in shown)  # fmt: skip


def test_the_page_of_a_text_in_a_bucket_is_written_there(capsys, out) -> None:
    """Fails if it is written into a local folder of that name."""
    bucket = fsspec.filesystem("memory")
    bucket.pipe("/page/manifest.json", (out / "manifest.json").read_bytes())
    main(["data", "report", "memory://page/"])
    assert capsys.readouterr().out == "memory://page/report.html\n"
    assert b"&lt;again&gt;" in bucket.cat("/page/report.html")


def test_bytes_that_are_lost_would_be_said(manifest) -> None:
    """Fails if a page hides that its accounts do not add up."""
    import msgspec

    broken = msgspec.convert(msgspec.to_builtins(manifest), Manifest)
    assert not any("this page is wrong" in text for text in report_of(broken).warnings)
    broken.sources["dirty"].bytes += 7
    assert "7 bytes are neither left nor counted" in " ".join(report_of(broken).warnings)


def test_the_command_says_what_it_did(capsys, out, manifest) -> None:
    """Fails if a finished folder is cleaned again, or the table leaves out a rule."""
    recipe = str(out.parent / "recipe.json")
    capsys.readouterr()
    main(["data", "prepare", recipe, str(out)])
    said = capsys.readouterr()
    for step in manifest.steps:
        for rule, by_source in step.tally.rules.items():
            total = total_of(by_source)
            line = rf"{step.type} +{re.escape(rule)} +{total.documents} +{total.changed} "
            assert re.search(line, said.out)
    assert "warning: <again>: 1 places held no document" in said.out
    main(["data", "prepare", recipe, str(out), "--json"])
    assert json.loads(capsys.readouterr().out)["sources"]["<again>"]["damaged"] == 1


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["report", "nowhere"], "lm data prepare writes it when it is done"),
        (["prepare", "nowhere.json", "out"], "nowhere.json: no such file"),
        (["prepare", "recipe.json", "recipe.json"], "there is a file of this name"),
        (["prepare", "recipe.json", "new", "--workers", "0"], "--workers 0: must be >= 1"),
        (["prepare", "recipe.json", "new", "seeds=1"], "did you mean seed?"),
        (["prepare", "recipe.json", "."], "holds other files; name a new folder"),
        (["prepare"], "arguments are required: RECIPE.json, OUT"),
        (["clean"], "invalid choice: 'clean'"),
        ([], "arguments are required"),
    ],
)
def test_what_cannot_be_done_is_one_line(capsys, out, monkeypatch, arguments, part) -> None:
    """Fails if an error is a traceback, or leaves a folder behind."""
    monkeypatch.chdir(out.parent)
    there = sorted(out.parent.rglob("*"))
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main(["data", *arguments])
    said = capsys.readouterr()
    assert exit_.value.code == 2 and said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("lm: ") and part in line
    assert sorted(out.parent.rglob("*")) == there
