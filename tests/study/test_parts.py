"""Studies of parts: who is named, against whom, and what is asked beyond the usual."""

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest

from lm.evaluate import bits as scores
from lm.evaluate.effort import Effort
from lm.evaluate.scorers.base import ScoredRows
from lm.evaluate.scorers.chain_rule import ChainRule
from lm.evaluate.scoring import nats_by
from lm.evaluate.windows import Windows
from lm.example import Batch, Vocabulary, mask_array
from lm.model import Transformer
from lm.model.positions import Learned
from lm.objectives import Causal, Prefix, Spans
from lm.results import Score
from lm.run import Run
from lm.study.analyses import longer_rows, parts
from lm.study.analyses.longer_rows import TIMES, changes
from lm.study.analyses.parts import Contrast
from lm.study.analyses.second_half import MEASURE, NAME, SecondHalf, second_half
from lm.study.checks import checks_of, violations
from lm.study.grid import StudyRun, Variant
from lm.study.groups import groups_of
from lm.train.load import load_run
from tests.experiments.results import result_of

LABELS = {"usual": "the usual", "other": "another", "third": "a third"}
VARIANTS = {name: Variant(label, label, Causal(), "k") for name, label in LABELS.items()}


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    monkeypatch.setattr(scores, "RESAMPLES", 40)


def cells_of(directory: Path, bits: dict[str, tuple[float, ...]]) -> list[StudyRun]:
    """A run of each variant for each seed that has a number, each of a model of its own."""
    cells = []
    for at, (name, values) in enumerate(bits.items()):
        model = Transformer(depth=1, width=16, heads=2, mlp_width=32 + at)
        for seed, value in enumerate(values):
            run = Run(model=model, seed=seed, tokens=10_000)
            cell = f"{name}-1k-d10k-seed{seed}"
            cells.append(StudyRun(cell, run, result_of(run, value), directory / cell))
    return cells


def contrast_of(cells: list[StudyRun]) -> Contrast:
    return Contrast("GPTs", list(groups_of(cells, VARIANTS).values()), VARIANTS["usual"])


def test_only_what_is_beyond_the_error_is_named(tmp_path):
    """Fails if seeds are not paired, a sign is turned, or the least is named in a tie."""
    cells = cells_of(
        tmp_path, {"usual": (2.0, 3.0), "other": (1.899, 2.901), "third": (2.101, 3.099)}
    )
    said = parts.contrasts_answer([contrast_of(cells)])
    assert said == (
        "GPTs: best is another, beyond the error. Against the usual, in bits per byte, better:"
        " another by −0.100 (95%: −0.106 to −0.094); worse: a third by +0.100 (95%: +0.094 to"
        " +0.106)."
    )
    tied = cells_of(tmp_path, {"usual": (2.0, 3.0), "other": (1.9, 3.09), "third": (3.0, 4.1)})
    said = parts.contrasts_answer([contrast_of(tied)])
    assert "do not tell who is best of the usual and another." in said
    assert "better" not in said and "worse: a third" in said
    alone = [cell for cell in cells if cell.name.startswith("other")]
    assert "There is no answer yet" in parts.contrasts_answer([contrast_of(alone)])


def test_the_table_and_the_figure_have_the_interval_and_the_star(tmp_path):
    """Fails if the star is at what is within the error, or a filled mark is."""
    cells = cells_of(tmp_path, {"usual": (2.0, 3.0), "other": (1.9, 3.09), "third": (3.0, 4.1)})
    contrast = contrast_of(cells)
    rows = {row["what"]: row for row in parts.contrasts_table([contrast], "part").rows}
    assert rows["the usual"]["above"] is None
    assert "*" not in rows["another"]["above"] and rows["a third"]["above"].endswith("*")
    assert rows["another"]["params"] > rows["the usual"]["params"]
    figure = parts.contrasts_figure([contrast, contrast._replace(title="again")])
    assert figure is not None and len(figure.axes) == 2
    faces = [
        line.get_markerfacecolor() for line in figure.axes[0].lines if line.get_marker() == "o"
    ]
    assert [face == "k" for face in faces] == [False, True]


def test_what_is_varied_need_not_be_equal_and_the_rest_must(tmp_path):
    """Fails if a setting beside those varied may differ, or what follows from them may not."""
    cells = cells_of(tmp_path, {"usual": (2.0,), "other": (2.1,)})
    rows = parts.contrast_rows([contrast_of(cells)])
    assert {why.split(": ")[1].split(" (")[0] for why in violations(rows)} == {
        "parameters",
        "all other settings",
    }
    assert violations(rows, ("model",)) == ()
    verdicts = {check["what"]: check["verdict"] for check in checks_of(rows, ("model",))}
    assert verdicts["parameters"] == "no, it is varied" and verdicts["tokens"] == "yes"
    run = msgspec.structs.replace(cells[1].run, precision="float32")
    other = [cells[0], cells[1]._replace(run=run)]
    (broken,) = violations(parts.contrast_rows([contrast_of(other)]), ("model",))
    assert "differ: precision" in broken


def test_what_is_asked_is_kept_until_the_run_is_another(tmp_path, monkeypatch):
    """Fails if a run is asked twice, an old answer stands for a new run, or is not read."""
    asked = []
    monkeypatch.setattr(parts, "load_run", lambda path: asked.append(path) or path)
    cell = StudyRun("usual-1k-d10k-seed0", Run(), {"bits_per_byte": 2.0}, tmp_path)
    (tmp_path / "result.json").write_text("{}")
    nats, sizes = (2 * math.log(2), math.log(2)), (1, 1)
    score = msgspec.convert(
        {"bits_per_byte": 1.5, "layout_bits": 0, "mc_se": 0, "text_se": None, "kind": "exact",
         "nats": sum(nats), "tokens": 2, "bytes": 2, "document_nats": nats,
         "document_bytes": sizes}, Score
    )  # fmt: skip
    for _ in range(2):
        parts.ask([cell, cell._replace(result=None)], "more", lambda trained: {"extra": score})
    assert asked == [tmp_path]
    (found, none) = parts.with_scores([cell, cell._replace(result=None)], "more")
    assert none.result is None and found.result is not None
    assert found.result["extra"] == 1.5
    bits, of = parts.asked("extra").by_document(found.result)
    assert bits == pytest.approx([2.0, 1.0]) and of == [1, 1]
    later = (tmp_path / "more.json").stat().st_mtime + 10
    os.utime(tmp_path / "result.json", (later, later))
    parts.ask([cell], "more", lambda trained: {"extra": score})
    assert len(asked) == 2


# Longer rows


def test_longer_windows_hold_the_same_text(finished_run):
    """Fails if windows of other lengths begin elsewhere, or the last one's padding counts."""
    trained = load_run(finished_run)
    found = longer_rows.longer_rows(trained, effort=Effort(), rows=3)
    assert list(found) == ["bits_at_1x", "bits_at_2x", "bits_at_4x"]
    sizes = [score.document_bytes for score in found.values()]
    assert sizes[0] == sizes[1] == sizes[2]
    tokens = {score.tokens for score in found.values()}
    # All but the first position of each of three windows, and beginnings of documents.
    most = 3 * 4 * (trained.run.data.length - 1)
    assert len(tokens) == 1 and most - 12 <= tokens.pop() <= most


def test_a_table_of_places_is_not_asked_beyond_its_end(finished_run):
    """Fails if a learned table is asked for places that it has not got."""
    trained = load_run(finished_run)
    model = msgspec.structs.replace(
        trained.run.model, positions=Learned(length=2 * trained.run.data.length)
    )
    run = msgspec.structs.replace(trained.run, model=model)
    found = longer_rows.longer_rows(replace(trained, run=run), effort=Effort(), rows=3)
    assert list(found) == ["bits_at_1x", "bits_at_2x"]


def with_lengths(cell: StudyRun, by_times: dict[int, float]) -> StudyRun:
    """The run with bits per byte at each length, which are the same in both documents."""
    more: dict[str, Any] = {}
    for times, bits in by_times.items():
        nats = [1000 * bits * math.log(2)] * 2
        more |= {
            f"bits_at_{times}x": bits,
            f"bits_at_{times}x_documents": (nats, [1000, 1000]),
        }
    return cell._replace(result={**cell.result, **more})


def test_a_change_is_paired_with_the_same_run_in_short_rows(tmp_path):
    """Fails if the change is of means of other runs, or its sign is turned."""
    cells = cells_of(tmp_path, {"usual": (2.0, 3.0), "other": (2.0, 3.0), "third": (2.0, 3.0)})
    grow = {"usual": (-0.1, -0.102), "other": (0.4, 0.41), "third": (0.01, -0.01)}
    changed = []
    for cell in cells:
        by = grow[cell.name.split("-")[0]][cell.run.seed]
        first = 2.0 + cell.run.seed
        changed.append(with_lengths(cell, {1: first, 2: first + by / 2, 4: first + by}))
    contrast = contrast_of(longer_rows.with_changes(changed))
    found = changes(contrast.groups, TIMES[-1])
    means = {name.split("-")[0]: gap.value for name, gap in found.items()}
    assert means == pytest.approx({"usual": -0.101, "other": 0.405, "third": 0.0})
    assert [gap.beyond for gap in found.values()] == [True, True, False]
    assert all(gap.text == pytest.approx(0, abs=1e-12) for gap in found.values())
    said = longer_rows.changes_answer([contrast])
    assert "better with the usual (−0.101" in said and "worse with another (+0.405" in said
    assert "a third" not in said
    assert longer_rows.changes_figure([contrast]) is not None
    assert longer_rows.changes_figure([contrast_of(cells)]) is None
    assert longer_rows.changes_answer([contrast_of(cells)]) == ""


# Second halves

VOCABULARY = Vocabulary(
    size=40, pad=0, mask=1, bos=2, eos=3, first_ordinary=6,
    begins_word=(True,) * 40, sentinels=(4, 5),
)  # fmt: skip


def rows_of(length: int) -> ScoredRows:
    tokens_BL = jnp.arange(6, 6 + 2 * length).reshape(2, length) % 34 + 6
    tokens_BL = tokens_BL.at[:, 0].set(VOCABULARY.bos)
    return ScoredRows(tokens_BL, jnp.ones_like(tokens_BL), tokens_BL != VOCABULARY.bos)


def example_of(scorer: Any, rows: ScoredRows) -> Any:
    keys = jax.random.split(jax.random.key(0), 2)
    return scorer.build_example(rows, vocabulary=VOCABULARY, key_B=keys, sample=0)


@pytest.mark.parametrize("stack", ["single", "encoder_decoder"])
def test_a_span_model_is_shown_what_it_was_trained_on(stack):
    """Fails if the half is cut elsewhere than training cuts it, or is laid out otherwise."""
    rows = rows_of(16)
    objective = Spans(rate=0.5, span=4096, stack=stack)
    trained = objective(Batch(rows.tokens_BL, rows.segments_BL), VOCABULARY, jax.random.key(0))
    asked, _ = example_of(SecondHalf(objective), rows)
    shown = [each.inputs[each.segments > 0].tolist() for each in (asked, trained)]
    said = [each.targets[each.weights > 0].tolist() for each in (asked, trained)]
    assert shown[0] == shown[1] and said[0] == said[1]
    if asked.source is not None:
        sources = [each.source for each in (asked, trained)]
        read = [each.inputs_BM[each.segments_BM > 0].tolist() for each in sources]
        assert read[0] == read[1]


def test_all_are_asked_for_the_same_tokens_and_see_the_first_half():
    """Fails if a token of the first half is asked for, or one of the second is seen."""
    rows, asked = rows_of(16), {}
    for objective in (Causal(), Prefix(), Spans(rate=0.5, span=4096)):
        example, at_BP = example_of(SecondHalf(objective), rows)
        used_BP = np.asarray(example.weights) > 0
        places = zip(np.asarray(at_BP), used_BP, strict=True)
        at = [sorted(p for p in row[used].tolist() if p < 16) for row, used in places]
        asked[type(objective).__name__] = at
    assert all(found == [list(range(8, 16))] * 2 for found in asked.values())
    example, _ = example_of(SecondHalf(Prefix()), rows)
    seen_LM = np.asarray(mask_array(example.attention_mask, example.segments))[0]
    assert seen_LM[:8, :8].all() and not seen_LM[:8, 8:].any()
    assert not seen_LM[8, 9:].any() and seen_LM[8, :9].all()


def test_the_second_half_of_a_gpt_is_that_of_the_chain_rule(finished_run):
    """Fails if bytes of the first half count, or another window or token is asked for."""
    trained = load_run(finished_run)
    ((name, found),) = second_half(trained, rows=None).items()
    assert name == NAME and MEASURE.key == NAME
    windows = Windows.of(trained, trained.tokens.validation, None)
    nats_RL = nats_by(trained, ChainRule(), windows, 1)[0, 0]
    segments_RL = windows.segments_RL
    one_R = (segments_RL == 1).all(axis=1)
    half = segments_RL.shape[1] // 2
    assert 0 < one_R.sum() < len(one_R)
    bits = nats_RL[one_R, half:].sum() / math.log(2)
    assert found.bytes == windows.text.bytes_RL[one_R, half:].sum()
    assert found.bits_per_byte == pytest.approx(bits / found.bytes, rel=1e-5)
