"""The table of scorers: all that is asked, named or refused comes from it."""

from dataclasses import dataclass
from typing import ClassVar

import pytest

from lm.evaluate.effort import Effort
from lm.evaluate.scorers import SCORERS, described
from lm.evaluate.scorers.base import refuses
from lm.evaluate.scorers.chain_rule import ChainRule
from lm.evaluate.scoring import scorers, valid
from lm.objectives import AnyOrder, Causal, Masked, Shifted, Spans
from lm.run import Run


@dataclass(frozen=True)
class Slow(ChainRule):
    """A scorer of somebody else's."""

    name: ClassVar[str] = "slow chain rule"
    only_by_name: ClassVar[bool] = True

    def rows(self, effort: Effort) -> int | None:
        return effort.orders


def test_a_new_scorer_is_a_line(monkeypatch):
    """Fails if a list of scorers, or a class of theirs, is matched outside the table."""
    monkeypatch.setitem(SCORERS, "slow", Slow())
    assert list(valid(Run(objective=Causal()))) == ["chain_rule", "slow"]
    assert "slow" not in valid(Run(objective=Masked()))
    why = refuses(scorers(Run())["slow"], Masked().predictions)
    assert (
        why
        == "the slow chain rule needs a model that was trained to predict which token is next"
    )
    assert described().endswith("pseudo-words, slow")


@pytest.mark.parametrize("name", SCORERS)
def test_a_scorer_declares_all_that_is_owed(name):
    """Fails if one lacks a member that others are asked for, or is a new one each time."""
    scorer = SCORERS[name]
    effort = Effort(rows=3, curve_rows=3, orders=3)
    for objective in (Causal(), Masked(), AnyOrder(), Shifted(), Spans()):
        fitted, again = (scorer.fitted(objective, length=33, effort=effort) for _ in "ab")
        assert fitted == again and hash(fitted) == hash(again)
        assert fitted.kind in ("exact", "bound", "no likelihood")
        assert fitted.samples >= 1 and fitted.name and fitted.layout_given
        assert (fitted.block is not None) == (fitted.only_by_name and fitted.kind == "exact")
        assert fitted.rows(effort) == 3


def test_scorers_are_asked_as_the_effort_and_the_model_say():
    """Fails if samples, the block or the place of the answer go astray."""
    effort = Effort(samples=3, orders=2)
    found = scorers(Run(objective=Shifted()), effort)
    assert found["any_order"].samples == 3 and found["pseudo"].samples == 8
    assert found["any_order"].prediction == found["left_to_right"].prediction == "masked before"
    assert found["left_to_right"].block == -(-(Run().data.length - 1) // 32)
    block = scorers(Run(), Effort(orders=2, block=5))["random_order"].block
    assert block == 5
