"""Students in training: who teaches them, what it costs, and what is left of it."""

import json
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from lm.config import UserError, override
from lm.cost import ledger, memory
from lm.data import Bytes, vocabulary_size
from lm.model import Transformer
from lm.objectives import Causal, Classify, Distil, Masked
from lm.objectives.rollout import Named
from lm.run import Run, Start, identity
from lm.train.companions import companion_settings
from lm.train.load import load_model
from lm.train.train import train_run
from tests import makers

WIDE = Transformer(depth=1, width=32, heads=4)
KINDS = {"causal": Causal(), "masked": Masked(rate=0.3)}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory) -> dict[str, Path]:
    """Artifacts that nobody trained, one with tokens of its own."""
    folder = tmp_path_factory.mktemp("teachers")
    for name, objective in KINDS.items():
        makers.save_untrained(folder / name, objective, WIDE, length=32, tokenizer=Bytes())
    makers.save_untrained(folder / "other", Causal(), WIDE, length=32)
    makers.save_untrained(folder / "judge", Classify(), WIDE, length=32, tokenizer=Bytes())
    return {name: folder / name for name in (*KINDS, "other", "judge")}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    made = makers.small_run(makers.text(tmp_path_factory.mktemp("corpus")))
    return replace(made, tokens=4 * 8 * 32, evaluations=1, trackers=())


def taught(run: Run, of, teacher: Path | None, **fields) -> Run:
    named = None if teacher is None else Named(path=str(teacher))
    return replace(run, objective=Distil(of=of, teacher=named, **fields))


def metrics(folder: Path) -> list[dict]:
    return [*map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())]


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_that_is_its_teacher_has_nothing_to_learn(run, teachers, tmp_path, kind):
    """Fails if teacher and student are shown different masks, or the teacher is trained."""
    start = replace(run, start=Start(path=str(teachers[kind])), model=WIDE)
    run = taught(start, KINDS[kind], None, hard=0.0)
    with makers.one_device():
        train_run(run, tmp_path / "student")
    first = metrics(tmp_path / "student")[0]
    assert abs(first["kl"]) < 1e-5 and first["gradient_norm"] < 1e-3
    assert abs(first["loss"]) < 1e-5
    assert first["cross_entropy"] > 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_learns_from_another(run, teachers, tmp_path, kind):
    """Fails if the teacher's pass costs nothing, or is in the backward pass; if the path is in
    the identity and not the digest; if what is left of a student asks for its teacher; or if
    microbatches are taught by others.
    """
    objective = KINDS[kind]
    run = taught(run, objective, teachers[kind], temperature=2.0, hard=0.2)
    with makers.one_device():
        result = train_run(run, tmp_path / "whole")
        train_run(replace(run, microbatches=2), tmp_path / "parts")
        model = load_model(tmp_path / "whole")
    lines = metrics(tmp_path / "whole")
    first, last = lines[0], [line for line in lines if "kl" in line][-1]
    assert first["kl"] > 1e-5
    for line in (first, last):
        wanted = 0.8 * 4 * line["kl"] + 0.2 * line["cross_entropy"]
        assert line["loss"] == pytest.approx(wanted, rel=1e-4)
    for one, other in zip(lines, metrics(tmp_path / "parts"), strict=True):
        if "kl" in one:
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
            assert one["kl"] == pytest.approx(other["kl"], rel=1e-3)

    assert result.training.validation_loss > 3  # of the text alone, at temperature 1
    assert set(result.training.validation_terms) <= {"validation_loss"}
    assert model.card.objective == objective and model.predicts == objective.predictions
    found = identity(model.run)["objective"]
    assert found["teacher"] == {"digest": load_model(teachers[kind]).digest}

    size, named = vocabulary_size(run.data.tokenizer), companion_settings(run)
    alone = ledger.cost(replace(run, objective=objective), size)
    theirs = ledger.cost(replace(run, objective=objective, model=WIDE), size)
    cost = ledger.cost(run, size, named)
    teaching = sum(theirs.flops_forward.values())
    assert cost.flops_forward == alone.flops_forward | {"companions": teaching}
    assert cost.flops == alone.flops + cost.steps * teaching == result.costs.flops
    assert model.origin.consumed.flops == cost.flops
    parameters = ledger.parameters(replace(run, model=WIDE), size).total
    assert memory.least(run, "cpu", named)[memory.COMPANIONS] == 4 * parameters


def test_oneline_who_cannot_teach(run, teachers, tmp_path):
    """Fails if ids of another vocabulary are learnt, or a teacher is asked what it never
    learnt, without a word.
    """
    for objective, teacher, why in (
        (Causal(), "other", "has another tokenizer than the run"),
        (Causal(), "masked", "predicts masked, and the student is asked for next"),
        (Masked(), "causal", "predicts next, and the student is asked for masked"),
        (Causal(), "judge", "predicts nothing, and the student"),
    ):
        with pytest.raises(UserError, match=f"^[^\n]*{why}[^\n]*$"):
            train_run(taught(run, objective, teachers[teacher]), tmp_path / "run")
        assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="its teacher is what the run starts from"):
        train_run(taught(run, Causal(), None), tmp_path / "run")
    start = replace(run, start=Start(path=str(teachers["causal"])), model=WIDE)
    with pytest.raises(UserError, match="predicts next, and the student is asked for masked"):
        train_run(taught(start, Masked(), None), tmp_path / "run")
    for bad in ("objective.temperature=0", "objective.hard=1"):
        with pytest.raises(UserError, match=bad.split("=")[0]):
            override(taught(run, Causal(), None), [bad])
    assert not np.any([*tmp_path.iterdir()])
