"""The study of models from anywhere: who stands in its table, and who is refused."""

import math

import msgspec
import pytest

from experiments import published
from lm.evaluate.given_text import RowPrefix, TextScore
from lm.model import Transformer
from lm.objectives import Causal, Classify
from lm.study.analyses.given import read_scores, score_models
from lm.study.grid import StudyRun
from tests.makers import result, save_untrained


def score(nats, **changes):
    """A score of two documents of 10 bytes, of so many nats each."""
    usual = {
        "bits_per_byte": sum(nats) / math.log(2) / 20, "layout_bits": None, "mc_se": 0.0,
        "text_se": 0.1, "kind": "exact", "tokens": 20, "bytes": 20, "nats": sum(nats),
        "document_nats": nats, "document_bytes": (10, 10),
        "prefix": RowPrefix(id=1, token="<s>"), "length": 63, "stride": None, "lossy": None,
    }  # fmt: skip
    return TextScore(**usual | changes)


@pytest.fixture
def cells(tmp_path):
    return [
        StudyRun(name, run, result(bits_per_byte=2.0), tmp_path / name)
        for name, run in published.runs("smoke").items()
    ]


def test_the_report_ranks_what_has_a_number_and_says_why_others_have_none(cells, tmp_path):
    """Fails if a refusal is lost, a gap is not paired, or a bound is called exact."""
    found = {
        "GPT": {"chain_rule": score((10.0, 30.0))},
        "BERT": {"any_order": score((15.0, 35.0), kind="bound", mc_se=0.01)},
        "other": {"chain_rule": score((5.0, 25.0), lossy="letters are lower-cased")},
        "MiniLM-L6": "it predicts no tokens, as it has no masked or causal head",
    }
    (tmp_path / published.SCORES).write_bytes(msgspec.json.encode(found))
    drawn = published.report(cells)
    assert drawn.answer.index("other needs") < drawn.answer.index("GPT needs")
    assert "Of 20 bytes in 2 documents" in drawn.answer and "(bound)" in drawn.answer
    rows = {row["model"]: row for row in drawn.table.rows}
    assert rows["GPT"]["above"] == pytest.approx(10 / math.log(2) / 20)
    assert rows["GPT"]["above_se"] == pytest.approx(0, abs=1e-9)
    assert "above" not in rows["other"] and rows["other"]["lossy"]
    (refused, last) = drawn.sections
    assert refused.blocks == (
        "MiniLM-L6: it predicts no tokens, as it has no masked or causal head.",
    )
    assert last.heading == "What this does and does not show" and not drawn.warnings


def test_models_that_read_other_bytes_are_warned_of(cells, tmp_path):
    found = {"a": {"chain_rule": score((1.0, 2.0))}}
    found["b"] = {"chain_rule": score((1.0, 2.0), document_bytes=(10, 9))}
    (tmp_path / published.SCORES).write_bytes(msgspec.json.encode(found))
    assert "did not read the same bytes" in " ".join(published.report(cells).warnings)


def test_nothing_scored_is_no_answer(cells):
    assert published.report(cells).answer == published.NO_ANSWER


def test_models_are_scored_and_refusals_are_kept_in_words(tmp_path):
    """Fails if one folder that has no score keeps the others from theirs, or says no reason."""
    model = Transformer(depth=1, width=16, heads=2)
    for name, objective in (("gpt", Causal()), ("encoder", Classify())):
        save_untrained(tmp_path / name, objective, model, length=32)
    (tmp_path / "a.txt").write_text("one two three")
    models = {name: tmp_path / name for name in ("encoder", "gone", "gpt")}
    file = tmp_path / "scores.json"
    score_models(models, [tmp_path / "a.txt"], length=8, file=file)
    scores, refused = read_scores(file)
    assert refused["gone"] == "no such file or directory"
    assert "predicts no tokens" in refused["encoder"] and len(refused) == 2
    (found,) = scores["gpt"].values()
    assert (found.bytes, found.length, found.document_bytes) == (13, 8, (13,))


def test_the_text_is_paragraphs_beside_the_training_text(tmp_path, monkeypatch):
    """Fails if headings are read, the training text is, or paths know no environment."""
    folder = tmp_path / "wikitext-2"
    folder.mkdir()
    (folder / "valid.txt").write_text("trained on")
    long = ["é" * (published.LEAST // 2), "b" * published.LEAST]
    (folder / "test.txt").write_text(f" = Title = \n \n{long[0]}\n \n{long[1]}\n")
    monkeypatch.setenv("YARDSTICK_CORPORA", str(tmp_path))
    assert published.VALID.files() == [("valid.txt", folder / "valid.txt")]
    name, run = next(iter(published.runs("laptop").items()))
    files = published._texts(StudyRun(name, run, None, tmp_path / name), tmp_path / "text")
    assert [file.read_text() for file in files] == [f"{each}\n" for each in long]
