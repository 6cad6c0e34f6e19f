"""README.md and docs/ claim what kept results say, and no finding is written by hand."""

import csv
import re
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from tests.docs import claims
from tests.docs.claims import bare_numbers, places_of, rewritten, sentences_of
from tests.docs.kept import ClaimError, Results

TEXTS = claims.page_texts()
HELD = (
    "README.md",
    "docs/studies.md",
    "experiments/results/isoflop/README.md",
    "experiments/results/kaplan_or_chinchilla/README.md",
)
"""Pages of which every measured number is held; of others, where they tell of kept results."""
STUDIES = "|".join({path.parents[1].name for path in claims.KEPT.glob("*/*/results.csv")})


@pytest.fixture(scope="module")
def sentences() -> list[claims.Sentence]:
    return [each for path in claims.FILES for each in sentences_of(path)]


# The pages as they are


@pytest.mark.parametrize(
    "path", claims.FILES, ids=lambda path: str(path.parent.relative_to(claims.KEPT))
)
def test_pages_say_what_results_say(path: Path):
    """Fails if results are kept again, or a sentence is changed, and the other is not."""
    wrong = list(claims.disagreements(TEXTS, sentences_of(path)))
    assert not wrong, "\n".join([*wrong, "`python -m tests.docs.claims --write` mends numbers"])


@pytest.mark.parametrize("name", TEXTS)
def test_no_measured_number_is_bare(name: str, sentences):
    """Fails if a finding is written by hand: its number is in no claims.toml."""
    text = TEXTS[name]
    bare = [
        f"{name}:{line}: {words}"
        for line, words in bare_numbers(text, places_of(text, sentences))
        if name in HELD or _tells_of_results(text, line)
    ]
    assert not bare, "\n".join([*bare, "put it into a claims.toml beside the results"])


def _tells_of_results(text: str, line: int) -> bool:
    """Whether a line's paragraph names a study with kept results, or links to some."""
    lines = text.splitlines()
    start = max((at for at in range(line) if not lines[at].strip()), default=0)
    end = next((at for at in range(line, len(lines)) if not lines[at].strip()), len(lines))
    paragraph = "\n".join(lines[start:end])
    named = rf"`(python -m experiments\.)?({STUDIES})`|\]\([^)]*experiments/results/"
    return bool(re.search(named, paragraph))


def test_a_paragraph_that_names_a_study_tells_of_results():
    """Fails if a finding can be written by hand beside a study's name, or beside a link."""
    text = "At 0.4.\n\nBut `isoflop` has\n0.5.\n\n[Here](experiments/results/x) 0.6.\n\nAt 0.7."
    assert [_tells_of_results(text, line) for line in (1, 3, 4, 6, 8)] == [0, 1, 1, 1, 0]


def of_runs(folder: Path) -> tuple[list[str], list[str]]:
    """Bits per byte in a report's tables of its runs, and those that results.csv has not.

    They are of one row, or the mean of rows that differ in the seed alone. Tables of other
    scores, as of a part of the text, have nothing of results.csv and are passed over.
    """
    seeds = defaultdict(list)
    with (folder / "results.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["bits_per_byte"]:
                name = re.sub(r"-seed\d+", "", row["run"])
                seeds[name].append(float(row["bits_per_byte"]))
    known = {f"{bits:.3f}" for each in seeds.values() for bits in [*each, np.mean(each)]}
    told, unknown = [], []
    for above, rows in Results(folder).report.tables:
        if re.match(r"Table \d+\. (All finished runs|Means over seeds)", above):
            cells = [row[title] for row in rows for title in row if title in BITS]
            strange = [cell for cell in cells if cell.partition(" ")[0] not in known]
            if len(strange) < len(cells):
                told, unknown = told + cells, unknown + strange
    return told, unknown


BITS = ("bits per byte", "bits per byte ± seeds")


def test_reports_and_rows_are_of_the_same_runs():
    """Fails if results.csv is kept again and report.html is not, or a row is changed."""
    folders = [path.parent for path in claims.FILES if (path.parent / "report.html").exists()]
    found = {folder.parent.name: of_runs(folder) for folder in folders}
    assert not {name: unknown for name, (_, unknown) in found.items() if unknown}
    assert sum(bool(told) for told, _ in found.values()) > 15


def test_a_row_that_is_not_the_reports_is_seen(tmp_path):
    """Fails if the test before cannot fail."""
    shutil.copytree(claims.KEPT / "experts" / "laptop", tmp_path, dirs_exist_ok=True)
    rows = (tmp_path / "results.csv").read_text().splitlines()
    bits = rows[1].split(",")[rows[0].split(",").index("bits_per_byte")]
    changed(tmp_path / "results.csv", bits, f"{float(bits) + 0.01}")
    assert of_runs(tmp_path)[1]


# How they are held

REPORT = """
<p>The GPT needs 2.033\u00a0±\u00a00.090 bits per byte, the BERT 0.715\u00a0±\u00a00.019 more.
For the GPT as C^0.57 (95%: 0.33 to 0.90); errors do not tell a from b.</p>
<figure><figcaption>Table 1.</figcaption><table>
<thead><tr><th>of</th><th>weights</th><th>above (95%)</th></tr></thead>
<tbody><tr><td>GPT</td><td>int4</td><td>−0.0540 (−0.0749 to −0.0330)*</td></tr>
<tr><td>GPT</td><td>int8</td><td>–</td></tr>
<tr><td>BERT</td><td>int4</td><td>+0.003 (−0.017 to +0.023)</td></tr></tbody></table></figure>
"""
ROWS = "run,flops\nteacher-seed0,26\nteacher-seed1,28\nalone-seed0,2\nbare-seed0,\n"
CLAIMS = """
sentences = [
    "lies {gap} bits per byte above it",
    "as C^{size.value} (95%: {size.low} to {size.high})",
    "gains {gain.value:.3f} ({gain.low:.3f} to {gain.high:.3f}), a BERT {bert:+}",
    "{times:.1f} times as much",
]
holds = ['says("errors do not tell a from b")']

[numbers]
gap = 'quote("the BERT # more")'
size = 'quote("GPT as C^#; errors")'
gain = '-cell("GPT", "int4", "above (95%)")'
bert = 'cell("BERT", "int4", "above (95%)")'
spent = 'column("flops", run="teacher-*").mean()'
times = 'spent / column("flops", run="alone-*").mean()'

[printed]
"make demo" = ["takes 4 minutes"]
"""
PAGE = """It grows as C^0.57 (95%: 0.33
to 0.90); the bound lies 0.715 ±
0.019 bits per byte above it. A GPT gains 0.054 (0.033 to 0.075), a BERT
+0.003 (−0.017 to +0.023), for 13.5 times as much, and takes 4 minutes.
"""


@pytest.fixture
def kept(tmp_path) -> Path:
    """A folder of kept results, of which PAGE tells."""
    (tmp_path / "report.html").write_text(REPORT)
    (tmp_path / "results.csv").write_text(ROWS)
    (tmp_path / "claims.toml").write_text(CLAIMS)
    return tmp_path


def wrong_in(page: str, kept: Path) -> list[str]:
    return list(claims.disagreements({"page": page}, sentences_of(kept / "claims.toml")))


def changed(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_a_page_that_says_what_results_say_is_left_as_it_is(kept):
    """Fails if a page is blamed for its line ends, or rewritten where nothing is wrong."""
    assert wrong_in(PAGE, kept) == []
    assert rewritten(PAGE, places_of(PAGE, sentences_of(kept / "claims.toml"))) == PAGE


@pytest.mark.parametrize(
    ("file", "old", "new", "said", "says"),
    [
        (
            "report.html",
            "0.715\u00a0±\u00a00.019",
            "0.815 ± 0.020",
            "0.715 ±\n0.019",
            "0.815 ±\n0.020",
        ),
        (
            "report.html",
            "0.57 (95%: 0.33 to",
            "1.2 (95%: 0.05 to",
            "0.57 (95%: 0.33",
            "1.2 (95%: 0.05",
        ),
        (
            "report.html",
            "−0.0540 (−0.0749",
            "−0.0549 (−0.1",
            "0.054 (0.033 to 0.075)",
            "0.055 (0.033 to 0.100)",
        ),
        (
            "report.html",
            "−0.0540 (−0.0749 to −0.0330)",
            "+0.01 (−0.02 to +0.03)",
            "0.054 (0.033 to 0.075)",
            "−0.010 (−0.030 to 0.020)",
        ),
        ("report.html", "+0.003 (−0.017", "+0.004 (+0.001", "+0.003 (−0.017", "+0.004 (+0.001"),
        ("results.csv", "seed1,28", "seed1,30", "13.5 times", "14.0 times"),
    ],
)
def test_what_results_say_anew_is_noticed_and_written(kept, file, old, new, said, says):
    """Fails if a page may tell of results that are no more, or --write leaves it so."""
    changed(kept / file, old, new)
    (wrong,) = wrong_in(PAGE, kept)
    assert wrong.startswith("page:") and str(kept / "claims.toml") in wrong
    written = rewritten(PAGE, places_of(PAGE, sentences_of(kept / "claims.toml")))
    assert written == PAGE.replace(said, says)
    assert wrong_in(written, kept) == []


@pytest.mark.parametrize(
    ("said", "typed", "line"),
    [
        ("0.57", "0.75", 1),
        ("0.019 bits", "0.19 bits", 2),
        ("0.075", "75", 3),
        ("13.5", "1,135", 4),
        ("−0.017", "0.017", 3),
        ("0.033 to 0.075", "0.075 to 0.033", 3),
    ],
)
def test_a_number_changed_in_a_page_is_noticed_where_it_stands(kept, said, typed, line):
    """Fails if a digit or a sign may be mistyped in a page."""
    (wrong,) = wrong_in(PAGE.replace(said, typed), kept)
    assert wrong.startswith(f"page:{line}: ")


def test_every_place_of_a_sentence_is_held(kept):
    """Fails if only the first of two pages, or of two places in a page, is read."""
    assert len(wrong_in(PAGE + PAGE.replace("13.5 times", "12.5 times"), kept)) == 1


@pytest.mark.parametrize(
    ("said", "instead"),
    [
        ("bits per byte above it", "bits above it"),
        ("4 minutes", "5 minutes"),
        ("above it", "above items"),
        ("lies 0.715", "belies 0.715"),
    ],
)
def test_a_sentence_that_no_page_has_is_named(kept, said, instead):
    """Fails if a page's sentence can be reworded so that nothing holds it any more."""
    (wrong,) = wrong_in(PAGE.replace(said, instead), kept)
    assert "no page says" in wrong and said in wrong


@pytest.mark.parametrize(
    ("file", "old", "new", "named"),
    [
        ("report.html", "do not tell a from b", "tell a from b", "does not hold"),
        ("report.html", "the BERT 0.7", "a BERT 0.7", "gap"),
        ("report.html", "<td>int4</td><td>−", "<td>int3</td><td>−", "gain"),
        ("report.html", "+0.003 (−0.017 to +0.023)", "–", "bert"),
        ("report.html", "<td>int8</td>", "<td>int4</td>", "more than once"),
        ("results.csv", "alone-seed0", "single-seed0", "times"),
        ("claims.toml", "{gap}", "0.715 ± 0.019", "0.715"),
        ("claims.toml", "{gap}", "{gape}", "gape"),
        ("claims.toml", "{times:.1f}", "ten", "times"),
    ],
)
def test_claims_that_rest_on_nothing_are_refused(kept, file, old, new, named):
    """Fails if a number may be read where it is not, twice, of nothing, or be used nowhere."""
    changed(kept / file, old, new)
    with pytest.raises(ClaimError, match=re.escape(named)):
        sentences_of(kept / "claims.toml")


def test_a_cell_is_of_the_table_that_is_named(kept):
    """Fails if a row that stands in two tables is taken from the other."""
    report = (kept / "report.html").read_text()
    again = report.replace("Table 1.", "Table 2.").replace("−0.0540 (−0.0749", "+0.1 (+0.05")
    (kept / "report.html").write_text(report + again)
    of_gpt = Results(kept).cell("GPT", "int4", "above (95%)", table="Table 2.")
    assert (of_gpt.value, of_gpt.low) == (0.1, 0.05)
    with pytest.raises(ClaimError, match="more than once"):
        Results(kept).cell("GPT", "int4", "above (95%)")


def test_a_column_is_of_the_rows_that_match_all_that_is_asked(kept):
    """Fails if one of two conditions is enough."""
    (kept / "results.csv").write_text("run,seed,flops\na,0,1\na,1,2\nb,1,4\n")
    assert Results(kept).column("flops", run="a", seed="1").tolist() == [2.0]


@pytest.mark.parametrize(
    "text",
    [
        "It lies 0.7 above",
        "| `study` | costs 7 points of the probe |",
        "40 to 50% of them",
        "grows as C^0.57",
        "| names 68% (62 to",
        "about ±2 of it",
        "at 2,936 tokens/s",
        "took 12 min 38 s",
        "3 or 4\ntimes as much",
        "95 points",
    ],
)
def test_numbers_that_look_measured_are_found(text):
    """Fails if a finding with such a number can be written by hand."""
    assert next(line for line, _ in bare_numbers(f"Text\n{text}", [])) == 2


@pytest.mark.parametrize(
    "text",
    [
        "a GPT of 0.8M parameters at 15%, on SST-2 (95%: ",
        "Python 3.11 or 3.11.7 and 2 cores",
        "after 16 examples, 4-bit weights, 2,048 tokens",
        "`rate=0.5` [here](docs/0.5.md) <!-- 0.5 -->",
        "```sh\nlm train 0.5\n```\n",
    ],
)
def test_sizes_settings_and_code_are_no_findings(text):
    """Fails if prose about settings has to be held to results."""
    assert not list(bare_numbers(text, []))


def test_a_number_in_a_sentence_is_not_bare(kept):
    """Fails if a number beside a sentence counts as held by it, or one in it does not."""
    places = places_of(PAGE, sentences_of(kept / "claims.toml"))
    assert not list(bare_numbers(PAGE, places))
    assert len(list(bare_numbers(PAGE + "It takes 5 minutes.", places))) == 1


def test_write_mends_the_pages_and_a_second_time_does_nothing(kept, monkeypatch, capsys):
    """Fails if the command writes no page, or says nothing of what it cannot mend."""
    (kept / "README.md").write_text(PAGE.replace("13.5", "1.35"))
    for name, value in {
        "ROOT": kept,
        "FILES": [kept / "claims.toml"],
        "PAGES": [kept / "README.md"],
    }.items():
        monkeypatch.setattr(claims, name, value)
    assert claims.main([]) == 1
    assert claims.main(["--write"]) == 0
    assert (kept / "README.md").read_text() == PAGE
    assert claims.main([]) == 0
    changed(kept / "results.csv", "alone-seed0", "single-seed0")
    assert claims.main(["--write"]) == 1
    assert "no row of results.csv" in capsys.readouterr().out
