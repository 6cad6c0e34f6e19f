"""Studies of mixtures, of cleaning and of copies: their texts, and that reports follow them."""

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from experiments import clean_or_raw, duplicates, mixture
from lm.config import UserError
from lm.data import open_tokens
from lm.data.mixture import Official, TextMixture
from lm.evaluate import bits as scores
from lm.study import library, runner
from lm.study.analyses.mixing import MixingLaw, fit_mixing
from lm.study.dirt import WAYS
from lm.study.grid import StudyRun
from lm.study.made_up import FOLDER
from lm.study.report import write as report
from lm.study.report.figures import svg_of
from lm.study.sentences import NO_ANSWER, NO_LAW
from tests.experiments.results import result_of

Bits = Callable[[StudyRun, str], float]
"""Bits per byte of a run on a part of the held-out pages."""


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    monkeypatch.setattr(scores, "RESAMPLES", 40)


def finished(
    study: ModuleType, directory: Path, pages: Mapping[str, int], bits: Bits
) -> list[StudyRun]:
    """All laptop runs, with what each page is hard by, the same for all."""
    draw, cells = np.random.default_rng(0), []
    hard = {part: draw.normal(0, 0.1, count) for part, count in pages.items()}
    for name, run in study.runs("laptop").items():
        cell = StudyRun(name, run, None, directory / "laptop" / name)
        noise = 0.002 * draw.normal()
        nats = [
            1000 * math.log(2) * (bits(cell, part) + noise + float(more - hard[part].mean()))
            for part in pages
            for more in hard[part]
        ]
        held = {"document_nats": nats, "document_bytes": [1000] * len(nats)}
        total = sum(nats) / math.log(2) / 1000 / len(nats)
        cells.append(cell._replace(result=result_of(run, total, **held)))
    return cells


def unfinished(cells: list[StudyRun]) -> list[StudyRun]:
    """The same, but that one run alone is finished."""
    return [cell if at < 1 else cell._replace(result=None) for at, cell in enumerate(cells)]


def texts(directory: Path, name: str) -> list[dict[str, str]]:
    lines = (directory / FOLDER / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What each study writes before its smallest scale."""
    there = {}
    for study in (mixture, clean_or_raw, duplicates):
        name = study.__name__.rpartition(".")[2]
        there[name] = tmp_path_factory.mktemp(name)
        assert study.before("smoke", there[name])
    return there


# The library's texts


SOURCE = """\"\"\"It says in so many words what file {0} is all about.\"\"\"
# It goes on and on about what file {0} is, for as long as it takes.
def function_{0}():
    "It is no use at all, and returns what file {0} is about."
    return {{"key": {0}}}
"""


def test_prose_and_code_are_parted_and_a_file_is_on_one_side(tmp_path, monkeypatch):
    """Fails if words are left in code, code in prose, or a file is on both sides."""
    files = []
    for number in range(40):
        files.append((f"{number}.py", tmp_path / f"{number}.py"))
        files[-1][1].write_text(
            SOURCE.format(number)
            + '"""One and the same sentence stands in each and every file."""'
        )
    monkeypatch.setattr(library.Stdlib, "files", lambda self: files)
    prose, code = [*library.prose_pages(10)], [*library.code_pages(10)]
    assert len(prose) == 3 * 40 + 1 and all(library.is_prose(page.text) for page in prose)
    assert not any("It " in page.text or "#" in page.text for page in code)
    assert any("return" in page.text for page in code)
    sides: dict[str, set[bool]] = {}
    for page in (*prose, *code):
        for number in re.findall(r"\d+", page.text):
            sides.setdefault(number, set()).add(page.held_out)
    assert len(sides) == 40 and all(len(side) == 1 for side in sides.values())
    assert 1 <= sum(side == {True} for side in sides.values()) <= 12


def test_too_small_a_library_is_said_in_one_line():
    """Fails if a study begins with less text than its plan says."""
    pages = [library.LibraryPage("some text", held_out=False)]
    with pytest.raises(UserError, match=r"has 9 bytes to train on and 0 pages to hold out, of"):
        library.take(pages, train=9, held_out=1)


# mixture


def test_every_weight_is_scored_on_the_same_pages(written):
    """Fails if an end of the grid holds out one text, or parts are in another order."""
    plan, found = mixture.PLANS["smoke"], set()
    runs = runner.at_hand(mixture.runs("smoke"), written["mixture"])
    for name, run in runs.items():
        if name.startswith("causal-"):
            split = open_tokens(run.data).validation
            found.add(tuple(split.text(number) for number in range(len(split.ids))))
            if isinstance(run.data.corpus, TextMixture):
                weights = [each.weight for each in run.data.corpus.components]
                assert name.split("-")[1] == f"p{100 * weights[0]:g}" and sum(weights) == 1
            else:
                assert isinstance(run.data.corpus, Official)
    (pages,) = found
    assert len(pages) == 2 * plan.held_out
    assert all("\n" not in page or library.is_prose(page.split("\n")[0]) for page in pages[:4])
    assert [page["text"] for page in texts(written["mixture"], "held-out")] == list(pages)


TRUTH = {"prose": (2.0, 1.5, -5.0), "code": (1.5, 1.0, -12.0)}


def by_law(cell: StudyRun, part: str) -> float:
    weight = float(cell.name.split("-")[1][1:]) / 100
    c, k, t = TRUTH[part]
    more = 0.6 if cell.name.startswith("any_order") else 0.0
    return more + c + k * math.exp(t * (weight if part == "prose" else 1 - weight))


def test_the_mixtures_law_and_the_weight_that_it_chooses_are_found(tmp_path):
    """Fails if a source's fraction is the other's, its pages are, or the mean is of one, or if
    what differs between mixtures is warned of.
    """
    pages = dict.fromkeys(mixture.SOURCES, mixture.PLANS["laptop"].held_out)
    cells = finished(mixture, tmp_path, pages, by_law)
    for cell in cells:
        cell.directory.mkdir(parents=True)
        about = {"components": {"prose": {"of_rows": cell.name}}}
        (cell.directory / "data.json").write_text(json.dumps(about))
    drawn = mixture.report(cells)
    assert drawn.warnings == ()
    fraction = np.linspace(0, 1, 1001)
    total = sum(
        c + k * np.exp(t * (fraction if part == "prose" else 1 - fraction))
        for part, (c, k, t) in TRUTH.items()
    )
    best = float(fraction[total.argmin()])
    assert drawn.answer.count("of prose, where it has") == 2
    chosen = [float(part.split(" (95%")[0]) for part in drawn.answer.split("both at ")[1:]]
    assert chosen == pytest.approx([best, best], abs=0.02)
    last = drawn.sections[-1]
    assert last.heading == "What this does and does not show"
    assert "the best of the grid is 0.75" in last.blocks[-1]
    (laws,) = (s for s in drawn.sections if s.heading == "The law")
    for row in laws.blocks[0].rows:
        _, k, t = TRUTH[row["source"]]
        assert float(row["t"].split()[0]) == pytest.approx(t, rel=0.1)
        assert float(row["k"].split()[0]) == pytest.approx(k, rel=0.05)
        low, high = map(float, row["t"].split("(")[1].strip(")").split(" to "))
        assert low < t < high or abs(low - t) < 0.3
    assert len(drawn.plots) == 2 and all(svg_of(plot.figure) for plot in drawn.plots)
    report.table(drawn)
    few = mixture.report(unfinished(cells))
    assert few.answer == NO_LAW and few.plots == ()


def test_draws_of_a_law_are_as_wide_as_its_rows_are_noisy():
    """Fails if draws are of other residuals than the rows', or none."""
    fraction_R = np.repeat([0.0, 0.1, 0.25, 0.5, 0.75, 1.0], 2)
    exact_R = 2.0 + 1.5 * np.exp(-4.0 * fraction_R)
    noise_R = np.random.default_rng(1).normal(0, 1, len(fraction_R))

    def width(size: float) -> float:
        law: MixingLaw = fit_mixing(fraction_R, exact_R * np.exp(size * noise_R), draws=200)
        ends = law.interval_of("t")
        assert ends is not None
        return ends[1] - ends[0]

    assert width(0.02) == pytest.approx(10 * width(0.002), rel=0.5)


# clean_or_raw


def test_raw_text_is_dirty_in_known_ways_and_cleaned_of_them(written):
    """Fails if nothing is dirty, cleaning is not asked or asked again, or counts lie."""
    there = written["clean_or_raw"]
    raw, cleaned = texts(there, "raw"), texts(there, "cleaned")
    assert {page["id"].split("-", 1)[1] for page in raw} <= {*WAYS}
    assert sum("function track" in page["text"] for page in raw) > 0
    assert not any("function track" in page["text"] for page in cleaned)
    assert not any("cookies" in page["text"] and " | " in page["text"] for page in cleaned)
    held = [page["text"] for page in texts(there, "held-out")]
    count = clean_or_raw.PLANS["smoke"].held_out
    assert len(held) == 2 * count
    original = {page["text"] for page in texts(there, "original")}
    assert not original & {*held}
    ways = json.loads((there / FOLDER / clean_or_raw.COUNTED).read_text())["ways"]
    assert sum(way["pages"] for way in ways) == len(raw)
    assert sum(way["left"] for way in ways) == sum(len(p["text"].encode()) for p in cleaned)
    stamp = (there / FOLDER / "raw.jsonl").stat().st_mtime_ns
    clean_or_raw.before("smoke", there)
    assert (there / FOLDER / "raw.jsonl").stat().st_mtime_ns == stamp
    assert texts(there, "cleaned") == cleaned


def test_equal_source_and_equal_tokens_are_what_they_say():
    """Fails if fewer tokens are read again, or what is read again is not what was read once."""
    runs = {name.split("-")[0]: run for name, run in clean_or_raw.runs("laptop").items()}
    raw, fewer, again, more = (runs[f"{t}_causal"] for t in ("raw", "fewer", "again", "more"))
    assert again.tokens == more.tokens == raw.tokens
    assert fewer.tokens == again.data.unique == round(clean_or_raw.KEPT * raw.tokens)
    assert fewer.data.corpus == again.data.corpus == more.data.corpus != raw.data.corpus


def test_a_report_on_cleaning_says_where_it_is_ahead(tmp_path):
    """Fails if clean pages pass for dirty ones, or a plan that is off is not warned of."""

    def bits(cell: StudyRun, part: str) -> float:
        cleaned = not cell.name.startswith("raw")
        return 2.5 + (-0.2 if part == "clean" else 0.3) * cleaned

    pages = dict.fromkeys(clean_or_raw.HELD, clean_or_raw.PLANS["laptop"].held_out)
    cells = finished(clean_or_raw, tmp_path, pages, bits)
    drawn = clean_or_raw.report(cells)
    assert drawn.warnings == ()
    assert "GPTs, clean pages: the errors do not tell" in drawn.answer
    assert "GPTs, dirty pages: best is raw, beyond the error." in drawn.answer
    rows = {(row["contrast"], row["what"]): row["above"] for row in drawn.table.rows}
    less = rows["BERTs, clean pages", "cleaned (more)"].partition(" ")[0]
    assert float(less.replace("−", "-")) == pytest.approx(-0.2, abs=0.01)
    assert len(drawn.plots) == 1 and svg_of(drawn.plots[0].figure)
    report.table(drawn)
    folder = tmp_path / "laptop" / FOLDER
    folder.mkdir(parents=True)
    way: dict[str, Any] = {"way": "menu", "pages": 9, "kept": 9, "bytes": 1000, "left": 900}
    (folder / clean_or_raw.COUNTED).write_text(json.dumps({"ways": [way]}))
    assert "cleaning left 90.0% of the raw bytes" in clean_or_raw.report(cells).warnings[0]
    assert NO_ANSWER in clean_or_raw.report(unfinished(cells)).answer


# duplicates


def test_copies_are_planted_and_cleaning_takes_the_near_ones(written):
    """Fails if texts differ in size, copies are of other pages, or far ones are removed."""
    there, plan = written["duplicates"], duplicates.PLANS["smoke"]
    found = {text: texts(there, text) for text in duplicates.TEXTS}
    size = {text: sum(len(p["text"].encode()) for p in of) for text, of in found.items()}
    assert max(size.values()) - min(size.values()) < 4 * duplicates.PAGE
    assert min(size.values()) >= plan.text
    counted = json.loads((there / FOLDER / duplicates.COUNTED).read_text())["groups"]
    near = {each.part for each in plan.planted if each.near}
    for each in plan.planted:
        group = counted[each.part]
        assert group["copies"] == each.copies * each.pages
        assert (group["similarity"] > 0.7) == (each.part in near)
    assert sum(counted[part]["left"] for part in near) <= 0.3 * sum(
        counted[part]["copies"] for part in near
    )
    (far,) = (each.part for each in plan.planted if not each.near)
    assert counted[far]["left"] == counted[far]["copies"]
    assert not any(page["id"].startswith("copy") for page in found["without"])
    held = [page["text"] for page in texts(there, "held-out")]
    assert len(held) == sum(plan.pages.values())
    copied = {page["id"]: page["text"] for page in found["planted"]}
    first = plan.untouched.pages
    pairs = zip(copied["copy-1x50-0-0"].split(), held[first].split(), strict=True)
    assert 0 < sum(ours != theirs for ours, theirs in pairs) < 6


def test_leakage_is_beyond_what_other_pages_gain(tmp_path):
    """Fails if a general gain counts, groups of pages are mixed up, or the sign is turned."""
    plan = duplicates.PLANS["laptop"]

    def bits(cell: StudyRun, part: str) -> float:
        if cell.name.startswith("without"):
            return 2.5
        often = cell.run.tokens > plan.text
        leak = 0.5 * often if part == "16x50" and cell.name.startswith("planted") else 0.0
        return 2.4 - leak / (2 if "masked" in cell.name else 1)

    cells = finished(duplicates, tmp_path, plan.pages, bits)
    drawn = duplicates.report(cells)
    assert drawn.warnings == ()
    rows = {(r["what"], r["epochs"], r["pages"]): r for r in drawn.table.rows}
    assert rows["GPT", "3 times", "16 near-copies"]["planted"].startswith("+0.5")
    assert rows["GPT", "3 times", "16 near-copies"]["planted"].endswith("*")
    assert rows["BERT, all rates", "3 times", "16 near-copies"]["planted"].startswith("+0.25")
    for key in (("GPT", "once", "16 near-copies"), ("GPT", "3 times", "4 near-copies")):
        assert not rows[key]["planted"].endswith("*")
    assert not rows["GPT", "3 times", "16 near-copies"]["cleaned"].endswith("*")
    assert "The GPT that read it 3 times needs 0.50" in drawn.answer
    assert "cleaning takes away" in drawn.details[0] and "for the GPT" in drawn.details[0]
    assert len(drawn.plots) == 1 and svg_of(drawn.plots[0].figure)
    report.table(drawn)
    assert duplicates.report(unfinished(cells)).answer == NO_ANSWER
