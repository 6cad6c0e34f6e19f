"""What scaling studies share, where its doctests do not say it."""

import numpy as np
import pytest

from lm.scaling.power import Power
from lm.scaling.table import DataError, Runs
from lm.study.laws import Trials, equal_text, runs_of
from lm.study.tables import laws_table, trials_table


@pytest.mark.parametrize(
    ("found", "planned", "said"),
    [
        ({1.0: 3.0, 2.0: 2.0, 4.0: 2.5}, 3, "2 is best of 3, as the grid has it."),
        ({1.0: 2.5, 2.0: 2.4, 4.0: 2.3}, 3, "0.100 bits per byte worse, at the edge"),
        ({2.0: 2.0}, 3, "not finished"),
    ],
)
def test_trials_say_whether_they_bear_out_what_is_used(found, planned, said):
    """Fails if another best value, one at the edge, or missing trials pass for agreement."""
    assert said in Trials("x", 2.0, found, planned).verdict


def test_trials_say_what_they_gained_on_what_was_there_before():
    """Fails if the earlier setting counts as one that was tried, or its gain is turned."""
    before = ("the first grid", 8.0, 2.75)
    trials = Trials("x", 2.0, {1.0: 3.0, 2.0: 2.5}, 2, before=before)
    assert "2 is best of 2, as the grid has it; it is 0.250 bits per byte below the first" in (
        trials.verdict
    )
    assert not trials.contrary and Trials("x", 1.0, trials.found, 2).contrary
    notes = {row["value"]: row["note"] for row in trials_table([trials], "").rows}
    assert notes == {"8": "the first grid", "1": "", "2": "used; best"}


def test_what_two_variants_have_in_common_is_said():
    """Fails if a column that differs is called equal, or the other way round."""
    first = [{"tokens": 100, "seed": 0}, {"tokens": 200, "seed": 0}]
    second = [{"tokens": 300, "seed": 0}, {"tokens": 600, "seed": 0}]
    assert equal_text(first, second) == "Held equal: seed. Not equal: tokens (median × 3)."


def test_a_law_that_could_not_be_fit_has_a_row_that_says_why():
    """Fails if it is dropped without a word."""
    C = 10.0 ** np.arange(10, 15)
    fits = {"a": Power().fit(Runs(20 * C**-0.05, flops_R=C)), "b": DataError("two rows")}
    table = laws_table(fits, "")
    assert [row.get("doubts") for row in table.rows] == ["none", "not fit: two rows"]
    with pytest.raises(DataError):
        runs_of([])
