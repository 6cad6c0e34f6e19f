"""instruct: what its report says of stages, and of pairs by hand."""

import re
from pathlib import Path

import msgspec
import numpy as np
import pytest

from experiments import instruct
from lm.data import Chat
from lm.evaluate.tasks import metrics
from lm.evaluate.tasks.base import Completion
from lm.evaluate.tasks.sitting import sit
from lm.study import made_up, planted
from lm.study.analyses import answering, on_tasks
from lm.study.analyses.answering import Answering
from lm.study.analyses.on_tasks import Sitting
from lm.study.grid import StudyRun, placed, variant_of
from tests.experiments.results import result_of

BITS = {"text": 20.0, "more": 19.0, "instruct": 10.0, "dpo": 12.0, "alone": 21.0}
"""Of each answer of ten bytes."""


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch):
    monkeypatch.setattr(metrics, "RESAMPLES", 40)


def cells_of(directory: Path, *, finished: bool = True) -> list[StudyRun]:
    cells = []
    for name, run in instruct.runs("smoke").items():
        run = placed(run, directory)
        result = result_of(run, 2.0, start=None, params_trainable=None) if finished else None
        cells.append(StudyRun(name, run, result, directory / name))
        cells[-1].directory.mkdir(parents=True)
    return cells


def test_stages_are_told_against_the_model_of_text(tmp_path):
    """Fails if a change is against another stage, or what costs is told as what is gained."""
    cells = cells_of(tmp_path)
    found = [
        Answering(
            cell.name,
            tuple(
                (BITS[variant] + n % 2, 10.0, float(n < 5), n * (1 + (variant == "dpo")))
                for n in range(10)
            ),
            ((30.0 + (variant == "dpo"), 10.0), (40.0, 20.0)),
        )
        for cell in cells
        for variant in [variant_of(cell)]
    ]
    (tmp_path / answering.FILE).write_bytes(msgspec.json.encode(found))
    report = instruct.report(cells)
    # (10 - 20) / 10 bits per byte of answers, and 1 bit of 30 bytes of text.
    assert (
        "2.050 bits per byte, by −1.000 (−1.000 to −1.000) and text by +0.000" in report.answer
    )
    assert "with DPO after it these are −0.800 (−0.800 to −0.800) and +0.033" in report.answer
    # Nine of ten margins are twice what they were, one was 0; five chosen ones are likelier.
    assert "in 95% (" in report.answer and "is the likelier one in 50% (" in report.answer
    assert report.table.rows[0]["who"] == "text"
    assert [plot.name for plot in report.plots] == ["stages"]


class _Parrot:
    """Says what it is given for a message, or nothing."""

    digest, scorer, kind, around = "d", "greedy", "no likelihood", ""

    def __init__(self, said) -> None:
        self.said = said

    def answered(self, messages, *, count, stop, note):
        found = [Completion(self.said.get(message, "")) for message in messages]
        note(range(len(found)), found)
        return found


def test_planted_requests_are_told_by_stage(tmp_path):
    """Fails if a stage has another's answers, what is harmless counts as secret, or a form is
    taken for another.
    """
    directory = tmp_path / "smoke"
    instruct.before("smoke", directory)
    rows = [row for kind in planted.KINDS for row in planted.asked(kind)]
    right = {row["instruction"]: row["output"] for row in rows}
    all_declined = dict.fromkeys(right, planted.REFUSAL)
    said = {"text": {}, "more": {}, "instruct": right, "dpo": all_declined, "alone": {}}
    cells = cells_of(directory)
    found = [
        Sitting(cell.name, sheet.name, "greedy", sit(_Parrot(said[variant_of(cell)]), sheet))
        for cell in cells
        for sheet in planted.sheets(directory, items=12)
    ]
    (directory / on_tasks.TASKS).write_bytes(msgspec.json.encode(found))
    report = instruct.report(cells)
    (section,) = [s for s in report.sections if s.heading.startswith("Control")]
    text, table = section.blocks
    percents = re.findall(r"(\d+)%", text)
    told = [percents[at : at + 3] for at in range(0, len(percents), 3)]
    secret, harmless, others = ["0", "100", "100"], ["0", "0", "100"], ["0", "100", "0"]
    assert told == [secret, harmless, others, others, others]
    assert "a model of 12k parameters" in text
    first, second, *_ = table.rows
    assert first["items"] == second["items"] == 6 and first["instruct"].startswith("100% (")
    assert second["instruct"].startswith("0% (0% to 3") and second["alone"][0] == "0"


def test_a_report_of_nothing_says_so(tmp_path):
    """Fails if a study that was not trained has an answer, or no page."""
    report = instruct.report(cells_of(tmp_path, finished=False))
    assert report.answer == instruct.NO_ANSWER


@pytest.mark.parametrize("scale", instruct.SCALES)
def test_stages_of_a_seed_are_one_model_and_as_many_tokens(scale):
    """Fails if a stage has another model, or starts from another seed's."""
    runs = instruct.runs(scale)
    for name, run in runs.items():
        variant, _, rest = name.partition("-")
        text = runs[f"text-{rest}"]
        assert run.model == text.model and run.data.tokenizer == text.data.tokenizer
        if variant in instruct.STARTS:
            assert run.start.path.endswith(f"/{instruct.STARTS[variant]}-{rest}")
            assert run.tokens == instruct.PLANS[scale].tokens[variant in ("dpo", "alone")]
            assert run.seed != text.seed


def test_the_same_questions_are_held_out_of_both_files(tmp_path):
    """Fails if a question whose answer was read is asked as held out."""
    made_up.write_questions(tmp_path)
    groups = []
    for path, use in zip(made_up.QUESTIONS, ("conversation", "pair"), strict=True):
        corpus = placed(Chat(paths=(path,), use=use), tmp_path)
        groups.append([document.split_by for document in corpus.read()])
    assert groups[0] == groups[1] and len(set(groups[0])) == made_up.TRAIN


def test_pairs_are_summed_by_side_with_their_end(monkeypatch):
    """Fails if prompts count, sides are mixed, an end is left out, or ends have bytes."""
    split = _Split()
    trained = _Trained(split)
    log_p = -np.arange(12, dtype=np.float32)
    monkeypatch.setattr(answering, "token_log_p", lambda *given: {"": log_p})
    found = answering.pair_scores(trained)
    # Tokens 1 and 2 were chosen (3 nats), 4 and 5 rejected (9); then 7 and 8, and 10 (10).
    assert found[:, 0] * np.log(2) == pytest.approx([3, 15])
    assert found[:, 1].tolist() == [1, 2]
    assert found[:, 2].tolist() == [1, 0]
    assert found[:, 3] * np.log(2) == pytest.approx([6, -5])


class _Split:
    """Two pairs of a byte-sized alphabet; token 9 ends answers."""

    size, offsets = 12, np.array([0, 6, 12])

    class tokenizer:
        @staticmethod
        def decode(ids):
            return "".join("x" for id in ids if id != 9)

    def read(self, starts, length):
        return np.array([[1, 2, 9, 1, 3, 9, 1, 2, 3, 1, 9, 9]])

    def read_channels(self, starts, length):
        return {
            "loss": np.array([[0, 1, 1, 0, 1, 1, 0, 1, 1, 0, 1, 0]]),
            "choice": np.array([[0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1]]),
        }


class _Trained:
    def __init__(self, split) -> None:
        self.tokens = type("Tokens", (), {"validation": split})
        self.run = instruct.runs("smoke")["text-12k-d8.2k-seed0"]
        self.program = self.params = None
