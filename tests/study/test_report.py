import csv
import html
import io
import json
import math
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import bert_vs_gpt
from lm.run import Run, same_result, steps, validate
from lm.study.grid import StudyRun, parameters
from lm.study.report import write as report
from lm.study.report.page import LONG_TABLE, page_of
from lm.study.report.values import Column, Guesses, Place, Report, Section, Table
from tests.experiments.results import BYTES, result_of

COLUMNS = [
    "run",
    "objective",
    "params_total",
    "params_non_embedding",
    "tokens",
    "predicted_targets",
    "flops",
    "device_seconds",
    "bits_per_byte",
    "layout_bits",
    "mc_se",
    "text_se",
    "scorer",
    "probe_accuracy",
    "validation_loss",
    "seed",
    "corpus_digest",
    "batches_digest",
]
ROLES = [
    "keyword",
    "operator",
    "string",
    "docstring",
    "number",
    "comment",
    "layout",
    "function",
    "class",
    "parameter",
    "argument",
    "called",
    "attribute",
    "local",
    "global",
    "assigned",
    "imported",
]
SCRIPT = "<script>alert(1)</script>"


class Page(HTMLParser):
    """What a page refers to, its ids, its elements and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.hits: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name.endswith(("href", "src", "srcset")) or name in ("data", "action", "poster"):
                self.references.append(value or "")
            if name == "style" and value:
                self.references += re.findall(r"url\(([^)]*)\)", value)
            if name == "clip-path" and value:
                self.references += re.findall(r"url\(([^)]*)\)", value)
            if name == "id":
                self.ids.append(value or "")

    def handle_data(self, data: str) -> None:
        if self.lasttag != "style":
            self.text += data


def finished(name: str, run: Run) -> dict[str, Any]:
    """A finished run, with numbers and texts like those of a real one."""
    variant, big = name.split("-")[0], parameters(run.model) > 500_000
    bits = {"causal": 2.31, "masked15": 4.44, "any_order": 2.87}[variant] - 0.25 * big
    accuracy = {"causal": 0.861, "masked15": 0.908, "any_order": 0.915}[variant] + 0.02 * big
    own = {"causal": 0.0, "masked15": 0.04, "any_order": -0.02}[variant] * np.array(
        [1, -1, 0.5, 0]
    )
    found = result_of(run, bits, probe=accuracy, hard=np.array([0.3, -0.2, 0.05, -0.135]) + own)
    random = np.random.default_rng(len(name))
    recall = {
        role: float(np.clip(accuracy - 0.02 * place + random.normal(0, 0.02), 0.2, 1))
        for place, role in enumerate(ROLES)
    }
    if variant != "causal":
        low, high = (1.3, 8.5) if variant == "masked15" else (1.55, 4.4)
        found["scores"]["pseudo"] = {"bits_per_byte": 1.123, "kind": "no likelihood"}
        found["error_by_fraction"] = {
            str(part): {
                "bits_per_byte": low + (high - low) * part**1.6 - 0.2 * big,
                "mc_se": 0.02 + 0.05 * (1 - part) ** 4,
            }
            for part in (0.05, 0.15, 0.3, 0.5, 0.7, 0.85, 1.0)
        }
    hits = [
        {
            "before": f'def parse(self, text):\n    """{SCRIPT}"""\n    for line in',
            "truth": " text",
            "likeliest": [
                [" text", 0.41], [" self", 0.2234], ["\n", 0.1], [SCRIPT, 0.05], [" s", 0.004],
            ],
        },
        {
            "before": ".splitlines():\n        name, value = line.",
            "truth": "split",
            "likeliest": [
                ["strip", 0.31], ["split", 0.3], ["group", 0.06], ["\t\t", 0.02], ["get", 0.01],
            ],
        },
    ]  # fmt: skip
    return found | {
        "flops": 6e13 if big else 3e13,
        "device_seconds": 79.0 if big else 31.0,
        "probe": {
            "majority_accuracy": 0.243,
            "token_accuracy": 0.762,
            "recall": recall,
            "document_right": [round(1000 * accuracy) + 20 * (at % 3 - 1) for at in range(21)],
            "document_tokens": [1000] * 21,
        },
        "baselines": {
            "uniform": 3.93,
            "unigram": 3.11,
            "gzip, whole text": 2.02,
            "gzip, by document": 2.01,
            "gzip, by window": 3.21,
            "xz, whole text": 1.75,
            "xz, by document": 1.533,
            "xz, by window": 3.26,
        },
        "says": {
            "document": f"email/{SCRIPT}.py",
            "after": "\n    return headers\n",
            "tokens": hits,
        },
    }


def cells_of(
    directory: Path, *, unfinished: Iterable[str] = (), scale: str = "laptop"
) -> list[StudyRun]:
    cells = []
    for name, run in bert_vs_gpt.runs(scale).items():
        folder = directory / scale / name
        folder.mkdir(parents=True, exist_ok=True)
        ended = not any(name.startswith(start) for start in unfinished)
        result = finished(name, run) if ended else None
        random = np.random.default_rng(0)
        last = 4.4 if result is None else result["validation_loss"]
        total = steps(run) if ended else steps(run) // 2
        records: list[dict[str, float]] = []
        for step in range(1, total + 1):
            loss = last + 3.4 * math.exp(-step / 18) + 0.9 / (1 + step / 12) - 0.08
            records.append({"step": step, "loss": loss + random.normal(0, 0.12)})
            if step % 15 == 0:
                records.append({"step": step, "validation_loss": loss + 0.05})
        (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        about = {"python": "3.11.9", "devices": "1 x cpu", "jax": "0.10.2", "commit": None}
        (folder / "environment.json").write_text(json.dumps(about))
        cells.append(StudyRun(name, run, result, folder))
    return cells


def text_of(drawn: Report) -> str:
    """The page's text, without drawing the figures."""
    blank = '<svg viewBox="0 0 1 1"></svg>'
    return Page(page_of(drawn, {plot.name: blank for plot in drawn.plots})).text.replace(
        "\u00a0", " "
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Report]]:
    directory = tmp_path_factory.mktemp("study")
    drawn = bert_vs_gpt.report(cells_of(directory))
    yield report.write(drawn, directory), drawn


def test_csv_leads_with_the_agreed_columns_and_has_a_row_a_cell(written):
    # mutations: sort all columns by name; leave out unfinished runs; write nested values
    rows = list(csv.reader(io.StringIO((written[0].parent / "results.csv").read_text())))
    assert rows[0][: len(COLUMNS)] == COLUMNS
    assert "steps" in rows[0] and "scores" not in rows[0] and "baselines" not in rows[0]
    assert len(rows) == 1 + 6
    first = dict(zip(rows[0], rows[1], strict=True))
    assert (
        first["run"] == next(iter(bert_vs_gpt.runs("laptop")))
        and first["objective"] == "causal"
    )
    assert float(first["bits_per_byte"]) == 2.31 and first["scorer"] == "chain_rule"


def test_the_answer_is_computed_with_paired_errors(written):
    # mutations: add the errors instead of pairing them; subtract the other way round;
    # answer from the smallest size; take the best variant by the largest number
    answer = written[1].answer
    assert answer.startswith(
        "The GPT predicts better, as far as a BERT can be measured: the GPT needs"
    )
    assert (
        "2.060 ± 0.081 bits" in answer
        and "the BERT trained at all rates at most 2.620" in answer
    )
    paired = re.search(r"0\.560 ± (0\.\d+) more", answer)
    assert paired and float(paired[1]) < 0.05  # 0.110 if it were not paired
    assert "The BERT trained at all rates represents better" in answer
    assert "93.5 ± 0.4%" in answer and "88.1 ± 0.4%" in answer


@pytest.mark.parametrize(
    ("bits", "wobble", "start"),
    [
        (1.2, 0.0, "The BERT trained at all rates predicts better"),
        (2.1, 0.5, "Neither predicts better"),
    ],
)
def test_the_answer_follows_the_numbers(tmp_path, bits, wobble, start):
    # mutations: a fixed verdict; no look at the error
    cells = cells_of(tmp_path, unfinished=["masked15"])
    for cell in cells:
        if cell.name.startswith("any_order") and cell.result:
            sign = np.array([1, 1, -1, 1]) * wobble
            nats = np.array(BYTES) * (bits + sign) * math.log(2)
            cell.result["bits_per_byte"] = bits
            cell.result["document_nats"] = nats.tolist()
    assert bert_vs_gpt.report(cells).answer.startswith(start)


def test_each_section_and_number_is_on_the_page(written):
    # mutation: drop any block of the report
    text = Page(written[0].read_text()).text.replace("\u00a0", " ")
    headings = (
        "Who predicts better", "What training cost", "What the numbers mean: gzip, xz and PPM",
        "What a fixed-rate BERT's bound says, and what it does not", "Who represents better",
        "What was held equal, and what was not", "The models at work", "How this was made",
    )  # fmt: skip
    for heading in headings:
        assert heading in text
    # the GPT at 2.060 against gzip 2.01 and xz 1.533 by document, 3.21 and 3.26 by window
    assert (
        "lies 0.050 above gzip by document, 0.527 above xz by document, 1.150 below gzip by"
        " window"
        " and 1.200 below xz by window" in text
    )
    # the BERT at 15% with everything masked (8.5 - 0.2), and its pseudo-likelihood
    assert "8.300 when 100% are, worse than guessing all tokens alike (3.930)" in text
    assert "1.123 bits per byte. That is no likelihood" in text
    assert "most frequent role is right in 24.3%" in text and "role in 76.2%" in text
    assert "python -m experiments.bert_vs_gpt --scale laptop" in text and "0.10.2" in text
    for number in ("2.060", "4.190", "0.092", "+2.130 ± 0.013*", "0.011", "6.0×10¹³", "1:19"):
        assert number in text
    assert [plot.name for plot in written[1].plots] == [
        "bits_per_byte", "loss", "by_fraction", "probe",
    ]  # fmt: skip
    for plot in written[1].plots:
        files = [
            written[0].parent / "figures" / f"{plot.name}.{kind}" for kind in ("svg", "png")
        ]
        assert all(file.stat().st_size > 5000 for file in files)


def test_where_a_gpt_loses_to_ppm_is_said(tmp_path):
    # mutations: the first result's PPM for all; ask bounds too; turn the sign
    cells = cells_of(tmp_path)
    assert "pip install" in text_of(bert_vs_gpt.report(cells))
    after = {"causal-0.2M": 2.2, "causal-0.8M": 2.1}
    for cell in cells:
        assert cell.result is not None
        near = next((ppm for name, ppm in after.items() if cell.name.startswith(name)), 0.5)
        name = "ppm, after the training text"
        cell.result["baselines"] = {**cell.result["baselines"], name: near}
    drawn = bert_vs_gpt.report(cells)
    text = text_of(drawn)
    assert "0.040 below ppm after the training text" in text and "pip install" not in text
    (lost,) = (each for each in drawn.sections if each.heading.endswith("loses to PPM"))
    told, table = lost.blocks
    assert isinstance(told, str) and isinstance(table, Table)
    assert "needs fewer bits per byte than 1 of 2 models whose number is exact" in told
    assert [(row["model"], row["ppm"], row["gap"]) for row in table.rows] == [
        ("GPT, 0.2M", 2.2, "0.110")
    ]


def test_text_from_outside_is_escaped(written):
    # mutation: leave `escape` out of a passage, a token, a paragraph, a caption or a title
    page = written[0].read_text()
    assert "<script" not in page
    assert (
        page.count("&lt;script&gt;") >= 1 + 1 + 3
    )  # document, passage, a token of three models
    hostile = Report(
        SCRIPT, SCRIPT, SCRIPT,
        Table((Column("a", SCRIPT),), [{"a": SCRIPT}], SCRIPT), [],
        details=(SCRIPT,), warnings=(SCRIPT,), made={SCRIPT: SCRIPT},
        sections=(Section(SCRIPT, (SCRIPT, Guesses(
            (Place(SCRIPT, SCRIPT),), SCRIPT, {SCRIPT: [[(SCRIPT, 1.0)]]}, SCRIPT)),),),
    )  # fmt: skip
    assert "script" not in Page(page_of(hostile, {})).tags


def test_white_space_in_tokens_is_visible_and_the_truth_is_marked(written):
    # mutations: show tokens as they are; mark the likeliest token instead of the true one
    page = written[0].read_text()
    assert "<s>␣</s>text" in page and "<s>↵</s>" in page and "<s>⇥⇥</s>" in page
    assert page.count("<li class=hit><code>split</code>") == 3
    assert page.count("class=hit") == 3 * 2


def test_the_page_needs_nothing_from_elsewhere(written):
    # mutations: keep matplotlib's DOCTYPE or metadata; link a font; forget to rename ids
    page = written[0].read_text()
    parsed = Page(page)
    assert len(parsed.references) > 50
    assert all(reference.startswith("#") for reference in parsed.references)
    assert {reference[1:] for reference in parsed.references} <= set(parsed.ids)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert not {"script", "link", "iframe", "img", "object"} & set(parsed.tags)
    assert "http:" not in page and "https:" not in page and "@import" not in page


def test_figures_on_the_page_follow_the_readers_mode(written):
    # mutation: inline the figures with the colours of their files
    drawings = re.findall(r"<svg.*?</svg>", written[0].read_text(), re.DOTALL)
    assert len(drawings) == 4
    for drawing in drawings:
        assert set(re.findall(r"#[0-9a-f]{6}", drawing)) == set()
        assert "var(--ink)" in drawing and "var(--green)" in drawing


def test_the_same_results_give_the_same_bytes(written, tmp_path):
    # mutations: no svg.hashsalt; keep the date in the metadata
    again = report.write(bert_vs_gpt.report(cells_of(tmp_path)), tmp_path)
    names = ["report.html", "results.csv", "figures/loss.svg", "figures/probe.png"]
    for name in names:
        assert (again.parent / name).read_bytes() == (written[0].parent / name).read_bytes()
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    # mutation: write to the path itself
    drawn = Report("title", "question", "old", Table((), []), [])
    report.write(drawn, tmp_path)
    whole = {path: path.read_bytes() for path in tmp_path.glob("re*.*")}
    assert len(whole) == 2

    def torn(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:10])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", torn)
    with pytest.raises(OSError, match="disk full"):
        report.write(Report("title", "question", "new", Table((), []), []), tmp_path)
    assert {path: path.read_bytes() for path in whole} == whole


@pytest.mark.parametrize(
    ("unfinished", "says"),
    [
        (["any_order-0.8M"], "The GPT predicts better"),
        (["causal-0.8M"], "2.310 ± 0.081"),  # the answer moves to the size that has a GPT
        (["masked15", "any_order"], "There is no answer yet: no size has both"),
        (["causal"], "There is no answer yet: no size has both"),
        (["causal", "masked15", "any_order"], "There is no answer yet: no run is finished"),
    ],
)
def test_a_report_on_some_cells_names_the_others(tmp_path, unfinished, says):
    # mutations: report only on whole grids; forget the warning; index a missing variant
    cells = cells_of(tmp_path, unfinished=unfinished)
    drawn = bert_vs_gpt.report(cells)
    text = text_of(drawn)
    assert says in drawn.answer
    missing = [cell.name for cell in cells if cell.result is None]
    assert f"{len(missing)} of 6 runs" in drawn.warnings[0]
    assert all(name in drawn.warnings[0] and name in text for name in missing)
    assert len(drawn.table.rows) == 6 - len(missing) and len(drawn.rows) == 6


def test_corpora_without_labels_and_single_documents_are_reported(tmp_path):
    # mutations: index the probe of a run that has none; print NaN as an error
    cells = cells_of(tmp_path)
    for cell in cells:
        assert cell.result is not None
        nats = cell.result["document_nats"]
        cell.result.update(
            probe=None,
            probe_accuracy=None,
            probe_se=None,
            text_se=math.nan,
            document_bytes=[sum(BYTES)],
            document_nats=[sum(nats)],
        )
    drawn = bert_vs_gpt.report(cells)
    text = text_of(drawn)
    assert "so nothing was probed" in text and "nan" not in text.lower()
    assert (
        drawn.answer.startswith("The GPT predicts better") and "represents" not in drawn.answer
    )


def test_an_equality_that_does_not_hold_is_said_at_the_top(written, tmp_path):
    # mutations: state equality without looking; compare between sizes rather than variants
    assert written[1].warnings == ()
    cells = cells_of(tmp_path)
    assert cells[1].result is not None
    cells[1].result["batches_digest"] = "ba7c4e5d" * 3 + "d1ffe4e2"
    warnings = bert_vs_gpt.report(cells).warnings
    assert len(warnings) == 1 and "batches" in warnings[0]


@pytest.mark.parametrize("scale", bert_vs_gpt.SCALES)
def test_the_variants_of_a_size_differ_in_the_objective_alone(scale):
    # mutations: a seed, learning rate or budget of its own for a variant; two sizes of one name
    plan, runs = bert_vs_gpt.PLANS[scale], bert_vs_gpt.runs(scale)
    assert len(runs) == 3 * len(plan.sizes) * plan.seeds
    assert len(plan.sizes) >= (1 if scale == "overnight" else 2)
    for first in range(0, len(runs), 3):
        variants = [validate(run) for run in list(runs.values())[first : first + 3]]
        assert len({run.objective for run in variants}) == 3
        assert all(same_result(variants[0], run) in ([], ["objective"]) for run in variants)


def test_a_long_table_stands_behind_the_figures(written):
    # mutations: always first; always last; twice; left out
    made = written[1]
    drawings = {plot.name: '<svg viewBox="0 0 1 1"></svg>' for plot in made.plots}
    for rows, behind in ((LONG_TABLE, False), (LONG_TABLE + 1, True)):
        table = replace(made.table, rows=[made.table.rows[0]] * rows)
        page = page_of(replace(made, table=table), drawings)
        caption = page.index(html.escape(table.caption[:40]))
        assert (caption > page.index("Figure 1.")) == behind
        assert page.count(html.escape(table.caption[:40])) == 1


def test_the_terminal_shows_the_table(written):
    # mutations: another table; drop the errors
    from rich.console import Console

    console = Console(width=160, file=io.StringIO())
    console.print(report.table(written[1]))
    shown = console.file.getvalue()
    assert "2.060" in shown and "BERT, 15%" in shown and "+0.560 ± 0.006*" in shown


def test_r3_two_may_write_a_report_at_once(tmp_path):
    """Fails if they share a temporary file: runs of a study may be trained side by side."""
    drawn = Report(title="a", question="b?", answer="c", table=Table((), ()), rows=())

    def write(_) -> None:
        for _ in range(100):
            report.write(drawn, tmp_path)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, range(2)))
    assert not list(tmp_path.glob("*.tmp"))
