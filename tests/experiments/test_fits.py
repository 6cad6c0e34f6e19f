"""What scaling studies share, where its doctests do not say it."""

import numpy as np
import pytest

from lm.scaling.power import fit_power
from lm.scaling.table import DataError, Runs
from lm.study.fits import Trials, equal_text, laws_table, runs_of


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


def test_what_two_arms_have_in_common_is_said():
    """Fails if a column that differs is called equal, or the other way round."""
    first = [{"tokens": 100, "seed": 0}, {"tokens": 200, "seed": 0}]
    second = [{"tokens": 300, "seed": 0}, {"tokens": 600, "seed": 0}]
    assert equal_text(first, second) == "Held equal: seed. Not equal: tokens (median × 3)."


def test_a_law_that_could_not_be_fit_has_a_row_that_says_why():
    """Fails if it is dropped without a word."""
    C = 10.0 ** np.arange(10, 15)
    fits = {"a": fit_power(Runs(20 * C**-0.05, flops_R=C)), "b": DataError("two rows")}
    table = laws_table(fits, "")
    assert [row.get("doubts") for row in table.rows] == ["none", "not fit: two rows"]
    with pytest.raises(DataError):
        runs_of([])
