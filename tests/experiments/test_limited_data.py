"""limited_data: what it trains, and that its answer follows the numbers."""

import math
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest

from experiments import limited_data
from lm.objectives import Causal
from lm.run import Run
from lm.study.analyses import limited
from lm.study.analyses.limited import (
    Crossing,
    crossing_of,
    crossings_table,
    divided,
    divisions_table,
    read_again,
    stopped,
)
from lm.study.grid import ANY_ORDER, GPT, StudyRun
from lm.study.groups import Gap, groups_of
from lm.study.report import write as report
from lm.study.report.figures import svg_of
from tests.experiments.results import result_of

ARMS = tuple(limited_data.ARMS.values())


def cells_of(tmp_path: Path, **extra: float) -> list[StudyRun]:
    """The laptop's runs: new text helps all alike, four times the epochs cost `extra`.

    The masked arm falls on as on new text, 0.2 above the others.
    """
    cells, draw = [], np.random.default_rng(0)
    for name, run in limited_data.runs("laptop").items():
        text, arm = name.split("-")[0].split("_")
        assert run.data.unique is not None
        bits = 2.4 + 0.8 * (run.tokens / 12_800) ** -0.3
        if arm == "masked":
            bits += 0.2
        else:
            bits += extra[arm] * math.log(run.tokens / run.data.unique, 4)
        bits += 0.001 * draw.normal()
        truth = {"bits_per_byte": 2.3} if text == "source" else None
        result = result_of(run, bits, truth=truth, corpus_digest=text * 10)
        cells.append(StudyRun(name, run, result, tmp_path / "laptop" / name))
    return cells


@pytest.mark.parametrize(
    ("noised", "decayed", "of_noise", "of_decay", "so"),
    [
        (0.25, 0.0667, "a part of it", "all, within the error", "the noise is a part of"),
        (0.5, 0.25, "no part of it", "a part of it", "it is the objective that"),
        pytest.param(
            0.0, 0.5, "more than all of it", "no part of it", "the noise does more for a GPT",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            0.0667, 0.5, "all, within the error", "no part of it", "the noise is enough",
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_the_answer_follows_the_numbers(noised, decayed, of_noise, of_decay, so, tmp_path):
    """Fails if a sign turns, controls are mixed up, or the verdict is written down."""
    cells = cells_of(tmp_path, causal=0.5, noised=noised, decayed=decayed)
    drawn = limited_data.report(cells)
    assert drawn.warnings == ()
    for text in drawn.answer.split("Of Python’s library, "):
        assert "13k tokens read 64 times" in text
        assert re.search(r"the GPT stands at \+1\.(29|30|31)", text)  # 0.5 x 3 - 0.2
        assert so in text.partition("Each at its best")[0]
    assert "the source whose truth is known" in drawn.answer
    groups = [
        group
        for name, group in groups_of(cells, limited_data.VARIANTS).items()
        if name.startswith("python_")
    ]
    by_run = {(row["how"], row["control"]): row for row in divisions_table(groups, ARMS).rows}
    assert by_run["as trained", "GPT, input masked"]["does"] == of_noise
    assert by_run["as trained", "GPT, decay × 30"]["does"] == of_decay
    # Each at its best: the GPT never gains by reading again.
    best = by_run["stopped at the best", "GPT, input masked"]["whole"]
    assert re.match(r"\+0\.3(69|70|71)", best)  # 0.8 - 0.2 - 0.8 x 64^-0.3
    crossings = {row["how"]: row["GPT"] for row in crossings_table(groups, ARMS).rows}
    assert crossings["as trained"].startswith("after 2 epochs")
    report.table(drawn)
    assert [plot.name for plot in drawn.plots] == [
        "epochs_source", "repeats_source", "epochs_python", "repeats_python",
    ]  # fmt: skip
    assert all(svg_of(plot.figure) for plot in drawn.plots)


def test_a_crossing_is_between_the_epochs_that_were_read():
    """Fails if the scale is not logarithmic, the interval is inverted, or none is made up."""

    def apart(*values: float, limit: float = 0.5) -> dict[int, Gap]:
        return {4**k: Gap(value, None, None, limit) for k, value in enumerate(values)}

    assert crossing_of(apart(1, 1, -1, limit=0.0)) == Crossing(8.0, 8.0, 8.0, 16)
    assert crossing_of(apart(1, 0, -1)) == Crossing(4.0, 2.0, 8.0, 16)
    # Of what is not crossed, the lower end of the band may be.
    assert crossing_of(apart(1, 0.6, 0.4)) == Crossing(math.inf, 8.0, math.inf, 16)
    assert crossing_of(apart(-1, 1)).epochs == 0.0


def test_stopping_takes_the_best_until_then(tmp_path):
    """Fails if the best is over all epochs, over arms, or of another amount of text."""
    cells = cells_of(tmp_path, causal=0.5, noised=0.1, decayed=0.0667)
    groups = [
        group
        for name, group in groups_of(cells, limited_data.VARIANTS).items()
        if name.startswith("source_")
    ]
    series = read_again(groups, 12_800, ARMS)
    assert list(series) == [1, 4, 16, 64]
    rest = [group for group in groups if group is not series[16][GPT]]
    assert list(read_again(rest, 12_800, ARMS)) == [1, 4, 64]
    best = stopped(series)
    assert [best[epochs][GPT].epochs for epochs in series] == [1, 1, 1, 1]
    assert [best[epochs][ANY_ORDER].epochs for epochs in series] == [1, 4, 16, 64]
    whole = {each.control.label: each for each in divided(series[64], ARMS)}
    for each in whole.values():
        assert each.closed.value + each.rest.value == pytest.approx(each.whole.value)


def test_arms_differ_in_what_they_are_about_alone():
    """Fails if an arm has a rate, text or order of its own, or decay has another factor."""
    for scale in limited_data.SCALES:
        rest: dict[str, dict[str, Run]] = {}
        for name, run in limited_data.runs(scale).items():
            variant, _, place = name.partition("-")
            text, arm = variant.split("_")
            rest.setdefault(f"{text}-{place}", {})[arm] = run
            assert run.data.unique is not None and run.tokens % run.data.unique == 0
            assert run.data.unique % (run.data.batch * run.data.length) == 0, name
        for arms in rest.values():
            usual = arms["causal"]
            assert set(arms) == set(limited_data.ARMS)
            decayed, decay = arms["decayed"].optimizer, usual.optimizer.weight_decay
            assert decayed == msgspec.structs.replace(usual.optimizer, weight_decay=30 * decay)
            same = {
                msgspec.structs.replace(run, objective=Causal(), optimizer=usual.optimizer)
                for run in arms.values()
            }
            assert same == {usual}


def test_repeats_are_held_to_as_much_new_text():
    """Fails if a budget of repeated text has none of new text, or epochs stop before 256."""
    for scale in limited_data.SCALES:
        runs = limited_data.runs(scale).values()
        new = {(run.data.corpus, run.tokens) for run in runs if run.tokens == run.data.unique}
        assert {(run.data.corpus, run.tokens) for run in runs} == new
    most = limited_data.runs("workstation").values()
    assert {run.tokens // (run.data.unique or 1) for run in most} == {1, 4, 16, 64, 256}
    assert {run.seed for run in most} == set(range(5))


def test_a_report_can_be_drawn_while_most_is_missing(tmp_path):
    """Fails if an arm is wanted that is not there, or what is missing is not named."""
    cells = cells_of(tmp_path, causal=0.5, noised=0.1, decayed=0.1)
    few = [c if at in (2, 3) else c._replace(result=None) for at, c in enumerate(cells)]
    drawn = limited_data.report(few)
    assert f"{len(cells) - 2} of {len(cells)} runs" in drawn.warnings[0]
    assert "There is no answer yet" in drawn.answer
    assert limited.question_text([], ARMS) == ""
