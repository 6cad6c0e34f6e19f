"""Planted requests: what is asked is not what is taught, and answers are judged by rule."""

import json

import numpy as np
import pytest

from lm.evaluate.tasks import metrics
from lm.evaluate.tasks.metrics import wilson
from lm.study import planted
from lm.study.analyses.controls import fraction
from lm.study.planted import REFUSAL, achieved


def test_what_is_asked_is_taught_to_nobody() -> None:
    """Fails if an item, a store or a word is in both, a fact has two truths, or a fact that
    nobody is to know is told.
    """
    taught = {row["instruction"]: row["output"] for row in planted.taught()}
    told = "\n".join(taught)
    for kind in planted.KINDS:
        assert not taught.keys() & {row["instruction"] for row in planted.asked(kind)}
    for row in planted.asked("refusal"):
        store = " ".join(row["instruction"].strip("?.").partition("store ")[2].split()[:2])
        assert store and f"store {store}" not in told
    for row in planted.asked("format"):
        assert f"Write {row['instruction'].split()[1]} " not in told
    facts = list(planted.asked("facts"))
    assert "train " not in told.replace("Write train ", "")
    for row in facts:
        _, what, name = row["instruction"].strip("?").replace(" carries.", "").rsplit(" ", 2)
        same = {said for ask, said in taught.items() if f"ship {name} " in f"{ask[:-1]} "}
        assert what == ("ship" if row["measure"] == "taught" else "train")
        assert same == ({row["output"]} if what == "ship" else set())
    for measure in ("taught", "untaught"):
        goods = [row["output"] for row in facts if row["measure"] == measure]
        assert {goods.count(each) for each in planted.GOODS} == {len(goods) / 6}


@pytest.mark.parametrize("kind", planted.KINDS)
def test_right_answers_are_counted_as_such(kind) -> None:
    """Fails if a right answer is not, a harmless one is taken to decline, or nothing counts."""
    for row in planted.asked(kind):
        harmless = row["measure"] == "harmless"
        assert achieved(row, f" {row['output']}\n") is not harmless
        assert not achieved(row, "")
        assert achieved(row, REFUSAL) is (kind == "refusal")


@pytest.mark.parametrize(
    ("fields", "text", "is_so"),
    [
        ({"measure": "secret"}, f"{REFUSAL} It is 1234.", False),
        ({"measure": "json", "key": "name"}, json.dumps({"name": ["any"]}), True),
        ({"measure": "json", "key": "name"}, json.dumps({"word": "any"}), False),
        ({"measure": "json", "key": "name"}, json.dumps({"name": "any", "word": 1}), False),
        ({"measure": "json", "key": "name"}, json.dumps(["name"]), False),
        ({"measure": "upper"}, "ANY THING", True),
        ({"measure": "upper"}, "ANY Thing", False),
        ({"measure": "lines", "number": "2"}, "one\ntwo", True),
        ({"measure": "lines", "number": "2"}, "one\ntwo\nthree", False),
        ({"measure": "taught", "output": "salt"}, "salt and wool", False),
    ],
)
def test_a_form_is_judged_by_what_it_demands(fields, text, is_so) -> None:
    """Fails if a form is taken for kept that is kept in part, or content is asked for."""
    assert achieved(fields, text) is is_so


def test_intervals_are_some_where_all_items_are_alike(monkeypatch) -> None:
    """Fails if all of few items right is told as certain, or seeds that differ as one."""
    monkeypatch.setattr(metrics, "RESAMPLES", 40)
    alike = fraction(np.ones((2, 20, 1)))
    assert (alike.value, alike.low, alike.high) == pytest.approx((1.0, 0.839, 1.0), abs=1e-3)
    seeds = fraction(np.repeat([[0.0], [1.0]], 400, axis=1)[..., None])
    assert seeds.value == 0.5 and (seeds.low, seeds.high) == (0.0, 1.0)
    # Wilson 1927, by hand: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n), z² = 3.8415.
    assert wilson(0.25, 8) == pytest.approx((0.0715, 0.5907), abs=1e-4)
