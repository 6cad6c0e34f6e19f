"""Typed results: one file both ways, columns from the fields, one line where it is damaged."""

import json
import math
import re

import msgspec
import pytest

from lm.config import UserError
from lm.results import (
    Costs,
    Evaluation,
    Score,
    Training,
    columns,
    compared,
    leading,
    read_result,
)
from lm.scaling.compare import BUDGETS
from tests import makers


def test_a_result_reads_back_as_it_was_written(tmp_path):
    """Fails if a part or a nested record is lost, or comes back as a dict."""
    score = makers.score(mc_se=None, block=4)
    whole = makers.result(flops=10**24, scores={"left_to_right": score}, text_se=0.25)
    for found in (whole, makers.result(seed=7)):
        (tmp_path / "result.json").write_text(found.to_json())
        assert read_result(tmp_path / "result.json") == found
    assert read_result(tmp_path / "result.json").evaluation is None
    assert whole.headline.scores["left_to_right"].block == 4


def test_the_files_keys_are_the_columns(tmp_path):
    """Fails if parts are nested in the file, or two parts have a field of one name."""
    found = json.loads(makers.result(bits_per_byte=3.0).to_json())
    parts = [*Costs.__struct_fields__, *Training.__struct_fields__]
    assert list(found) == [*parts, *Evaluation.__struct_fields__, "evaluated"]
    assert found["bits_per_byte"] == 3.0
    assert "evaluated" in json.loads(makers.result().to_json())
    assert "bits_per_byte" not in json.loads(makers.result().to_json())


def test_a_result_is_a_mapping_of_its_columns():
    """Fails if a table cannot ask for a column by name, or has one that is not there."""
    found = makers.result(tokens=5, bits_per_byte=2.5)
    assert (found["tokens"], found["bits_per_byte"], found["evaluated"]) == (5, 2.5, True)
    assert {**found, "epochs": 2}["tokens"] == 5 and len(found) == len(list(found))
    assert makers.result().get("bits_per_byte") is None and "probe" not in makers.result()
    with pytest.raises(ValueError, match="not scored"):
        _ = makers.result().headline


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"flops": "many"}, "Expected `int`, got `str` - at `$.flops`"),
        ({"flop": 5}, "no such field: flop"),
        ({"text_se": [1]}, "Expected `float | null`, got `array` - at `$.text_se`"),
        ({"seed": None}, "Expected `int`, got `null` - at `$.seed`"),
    ],
)
def test_oneline_a_damaged_result_says_what_is_wrong(tmp_path, changes, why):
    """Fails if it is a traceback, or a wrong or unknown field is read past."""
    path = tmp_path / "result.json"
    whole = json.loads(makers.result(bits_per_byte=2.0).to_json())
    path.write_text(json.dumps(whole | changes))
    line = f"{path}: damaged: {why}; remove it and train again"
    with pytest.raises(UserError, match=f"^{re.escape(line)}$"):
        read_result(path)


def test_what_is_no_number_is_null():
    """Fails if NaN, which is no JSON, is written; nested ones too."""
    found = makers.evaluation(text_se=math.nan, scores={"a": makers.score(mc_se=math.inf)})
    text = msgspec.structs.replace(makers.result(), evaluation=found).to_json()
    plain = json.loads(text, parse_constant=pytest.fail)
    assert plain["text_se"] is plain["scores"]["a"]["mc_se"] is None


def test_columns_are_those_that_studies_have_shown():
    """Fails if a field loses what derives the columns of results.csv or of comparisons."""
    assert leading() == (
        "params_total", "params_non_embedding", "tokens", "predicted_targets", "flops",
        "device_seconds", "bits_per_byte", "layout_bits", "mc_se", "text_se", "scorer",
        "probe_accuracy", "validation_loss", "seed", "corpus_digest", "batches_digest",
    )  # fmt: skip
    assert list(compared("equal")) == [
        "params_total", "steps", "tokens",
        "seed", "corpus_digest", "tokenizer_digest", "batches_digest",
    ]  # fmt: skip
    assert all(column.error in (None, *columns()) for column in columns().values())


def test_laws_and_comparisons_name_columns_that_are_there():
    """Fails if a column is renamed here and not where laws look for it."""
    assert set(BUDGETS) - {"params"} <= set(columns())  # others call them so


def test_a_brief_score_is_without_documents():
    """Fails if a result holds every scorer's sums by document, or a reader wants them."""
    score = makers.score(document_nats=(1.0,), document_bytes=(2,))
    assert "document_nats" not in msgspec.to_builtins(score.brief())
    assert msgspec.convert(msgspec.to_builtins(score.brief()), Score) == score.brief()
