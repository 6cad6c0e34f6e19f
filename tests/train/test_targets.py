"""Runs whose text leaves an objective little or nothing to predict."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import UserError, override
from lm.data import Bytes, Data, Text, most_content, n_rows, open_tokens, rows
from lm.data.corpora import fraction_of
from lm.example import Batch, content_of
from lm.model import Transformer
from lm.objectives import Masked
from lm.run import Run
from lm.train.trackers.jsonl import read_metrics
from lm.train.train import train_run

HELD_OUT = 0.2


def texts(size: int, *, validation: bool):
    """Different hexadecimal texts of one split."""
    for number in itertools.count():
        text = (f"{number:x}" * size)[:size]
        if (fraction_of(text.encode()) < HELD_OUT) == validation:
            yield text


@pytest.fixture
def run_of(tmp_path):
    def run_of(train: int, validation: int, *overrides: str, batch: int = 1) -> Run:
        """A run on a training and a validation document of so many bytes."""
        for name, size in (("train", train), ("validation", validation)):
            path = tmp_path / f"{name}.txt"
            path.write_text(next(texts(size, validation=name == "validation")))
        data = Data(
            corpus=Text(paths=(f"{tmp_path}/*.txt",)),
            tokenizer=Bytes(),
            length=16,
            batch=batch,
            validation=HELD_OUT,
        )
        run = Run(
            data=data,
            model=Transformer(depth=1, width=8, heads=1),
            objective=Masked(rate=0.05, select="ngram", span=2),
            precision="float32",
            tokens=16 * 12,
            evaluations=1,
        )
        return override(run, overrides)

    return run_of


@pytest.mark.parametrize("select", ["token", "ngram"])
@pytest.mark.parametrize("short", ["training", "validation"])
def test_m3_text_too_short_for_a_target_is_refused(run_of, tmp_path, short, select):
    """Fails if a run begins of which no row, or no validation row, can have a target."""
    sizes = (3, 400) if short == "training" else (400, 3)
    run = run_of(*sizes, f"objective.select={select}")
    with pytest.raises(UserError, match=rf"rate=0.05 .* 4 tokens .* 0.12 .*{short} text"):
        train_run(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_m3_steps_without_a_target_have_no_loss(run_of, tmp_path, capfd):
    """Fails if their loss is 0, if they count as a fault, or if the fraction that is really
    masked is not in the metrics."""
    run = run_of(404, 404, "faults.policy=skip")
    result = train_run(run, tmp_path / "run")
    records = [r for r in read_metrics(tmp_path / "run") if "predicted" in r]
    empty = [r["step"] for r in records if not r["predicted"]]
    assert 0 < len(empty) < len(records) == 12
    assert [r["step"] for r in records if "loss" not in r] == empty
    assert all(r["loss"] > 1 for r in records if r["predicted"])
    assert not any(r["skipped"] for r in records) and result["skipped"] == 0
    assert all(r["target_fraction"] == pytest.approx(r["predicted"] / 15) for r in records)
    said = capfd.readouterr().err
    assert all(f"step {step} has no target" in said for step in empty)
    assert result["validation_loss"] > 1
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()
    json.loads((tmp_path / "run" / "result.json").read_text(), parse_constant=pytest.fail)


def test_m3_training_that_never_has_a_target_is_refused(run_of, tmp_path):
    """Fails if a prefix model trains on a byte, all of which the prefix shows."""
    run = run_of(1, 404, "objective.type=prefix", "data.length=256", "tokens=3000")
    with pytest.raises(UserError, match="none of 8 steps had a target"):
        train_run(run, tmp_path / "run")
    assert not list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))


def test_m3_validation_rows_without_a_target_are_refused(run_of, tmp_path):
    """Fails if their loss is 0, or if it is found after training only."""

    def targets(batch: int) -> float:
        # The evaluation's own key: whether it hides anything depends on the batch's size.
        row = jnp.arange(16) < 15
        tokens = jnp.zeros((batch, 16), int).at[0].set(jnp.where(row, 50, 0))
        segments = (tokens > 0).astype(int)
        key = jax.random.fold_in(jax.random.key(0), 0)
        vocabulary = open_tokens(run_of(400, 13).data).tokenizer.vocabulary
        batch_ = Batch(tokens.at[0, 0].set(vocabulary.bos), segments)
        return float(run_of(400, 13).objective(batch_, vocabulary, key).weights.sum())

    batch = next(batch for batch in range(1, 30) if not targets(batch))
    run = run_of(400, 13, batch=batch)
    with pytest.raises(UserError, match="none of the 1 validation rows has a target"):
        train_run(run, tmp_path / "run")
    assert not [r for r in read_metrics(tmp_path / "run") if "loss" in r]


def test_m3_content_is_counted_from_where_documents_lie(run_of, tmp_path):
    """Fails if a bos token counts as content, or padding does."""
    run = run_of(400, 3)
    for number, text in zip(range(9), texts(2, validation=False), strict=False):
        (tmp_path / f"{number}.txt").write_text(text)
    tokens = open_tokens(run.data)
    for split in (tokens.train, tokens.validation):
        vocabulary = tokens.tokenizer.vocabulary
        for length in (2, 3, 16, 1000):
            given = rows(split, np.arange(n_rows(split, length)), length, vocabulary)
            content = content_of(*jax.tree.leaves(given), vocabulary).sum(1)
            assert most_content(split, length) == content.max()
