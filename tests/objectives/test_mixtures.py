"""What is drawn by row or by step, and what changes in the course of training."""

import json
from collections import Counter

import jax
import numpy as np
import pytest

from lm.config import UserError, override
from lm.cost import ledger
from lm.data import Bytes, Data
from lm.example import Batch, UntilMask
from lm.objectives import Causal, Curriculum, Masked, Mixture, Part, Prefix, Shifted, Spans
from lm.run import Run

PARTS = (
    Part(objective=Causal(), weight=3),
    Part(objective=Masked(rate=0.25, mask=1.0, random=0.0), weight=1),
)


def test_rows_draw_their_objective_in_the_given_proportion(whole_rows, ask):
    """Fails if weights are ignored, or one draw serves the whole batch."""
    example = ask(Mixture(mixed=PARTS), whole_rows(4000, 17))
    causal = np.asarray(example.weights).sum(1) == 16
    assert causal.mean() == pytest.approx(0.75, abs=4 * (0.25 * 0.75 / 4000) ** 0.5)
    assert (np.asarray(example.weights).sum(1)[~causal] == 4).all()


def test_a_rows_example_is_that_of_its_part(rows, ask, vocabulary):
    """Fails if targets, attention masks or inputs of one part reach a row of another."""
    tokens, segments = rows(32)
    mixture = Mixture(mixed=(*PARTS, Part(objective=Spans(rate=0.4))))
    example = ask(mixture, (tokens, segments), seed=5)
    keys = jax.random.split(jax.random.key(5), 4)[1:]
    alone = [
        jax.jit(lambda *given, o=part.objective: o(Batch(*given[:2]), vocabulary, given[2]))(
            tokens, segments, k
        )
        for part, k in zip(mixture.mixed, keys, strict=True)
    ]
    assert isinstance(example.attention_mask, UntilMask)
    found = []
    for row in range(32):
        for number, one in enumerate(alone):
            length = one.inputs.shape[1]
            same = (
                (np.asarray(example.inputs)[row, :length] == np.asarray(one.inputs)[row]).all()
                and not np.asarray(example.segments)[row, length:].any()
                and float(example.weights[row].sum()) == float(one.weights[row].sum())
            )
            if same:
                found.append(number)
                break
        else:
            pytest.fail(f"row {row} is none of its parts'")
        until = np.asarray(example.attention_mask.until_BL)[row, : one.inputs.shape[1]]
        expected = {
            0: np.arange(length),
            1: np.full(length, length - 1),
            2: np.asarray(alone[2].attention_mask.until_BL)[row],
        }[number]
        assert (until == expected).all()
    assert set(found) == {0, 1, 2}


def test_steps_draw_the_same_part_on_every_host_and_the_ledger_counts_them():
    """Fails if the draw depends on more than seed and step, or the ledger on weights alone."""
    mixture = Mixture(mixed=PARTS, draw="step")
    drawn = [mixture.at(step, 400, 7) for step in range(400)]
    assert drawn == [mixture.at(step, 400, 7) for step in range(400)]
    assert drawn != [mixture.at(step, 400, 8) for step in range(400)]
    counts = mixture.parts(400, 7)
    assert counts == {o: drawn.count(o) for o in (PARTS[0].objective, PARTS[1].objective)}
    assert counts[PARTS[0].objective] == pytest.approx(300, abs=4 * 75**0.5)


def test_a_curriculum_switches_once_and_counts_both():
    """Fails if the switch is rounded otherwise than `at`, or either end leaves a step over."""
    for switch, expected in ((0.0, 0), (0.25, 3), (0.5, 5), (1.0, 10)):  # 2.5 rounds to even
        curriculum = Curriculum(switch=switch)
        first = [curriculum.at(step, 10, 0) == Causal() for step in range(10)]
        assert sum(first) in (expected, int(switch * 10))
        assert first == sorted(first, reverse=True)
        assert curriculum.parts(10, 0).get(Causal(), 0) == sum(first)
    # However few steps there are, the objective that names the model has trained it.
    assert Curriculum(switch=0.96).at(9, 10, 0) == Masked()
    assert Curriculum(switch=1.0).predictions == Causal().predictions
    assert Curriculum(switch=0.5).predictions == Masked().predictions


@pytest.mark.parametrize("switch", [0.0, 0.3, 1.0])
def test_a_curriculum_of_mixtures_counts_the_draws_of_its_own_steps(switch):
    """Fails if a part is counted from step 0 on, or draws of the other phase are."""
    drawing = Mixture(mixed=(*PARTS, PARTS[0]), draw="step")
    for first, then in ((Causal(), drawing), (drawing, drawing), (drawing, Masked())):
        curriculum = Curriculum(first=first, then=then, switch=switch)
        walked = Counter(curriculum.at(step, 50, 3) for step in range(50))
        assert curriculum.parts(50, 3) == walked


def test_a_curriculums_cost_is_that_of_its_steps():
    """Fails if the ledger takes the last objective, or the first, for all steps."""
    data = Data(tokenizer=Bytes(), length=64, batch=4)

    def cost(objective):
        return ledger.cost(Run(objective=objective, data=data, tokens=64 * 4 * 20), 260)

    first, then = cost(Causal()), cost(Masked())
    both = cost(Curriculum(switch=0.25))
    targets = [found.target_positions for found in (first, both, then)]
    assert targets[1] == (targets[0] * 5 + targets[2] * 15) // 20
    assert both.flops == pytest.approx((first.flops * 5 + then.flops * 15) / 20, rel=1e-9)
    assert targets[0] > targets[1] > targets[2]


def test_a_prefix_is_seen_whole_and_not_predicted(rows, ask):
    """Fails if the first token after the prefix is not predicted, or nothing comes after it."""
    example, causal = ask(Prefix(), rows(64)), ask(Causal(), rows(64))
    until = np.asarray(example.attention_mask.until_BL)
    last = until[:, 0]
    assert last.min() < 8 and last.max() > 54 and last.max() <= 62
    for row in range(64):
        assert (until[row] == np.maximum(np.arange(64), last[row])).all()
        asked = np.nonzero(np.asarray(example.weights)[row])[0]
        expected = np.nonzero(np.asarray(causal.weights)[row])[0]
        assert asked.tolist() == [place for place in expected if place >= last[row]]


def test_gpt_bert_is_trained_to_predict_both():
    """Fails if a mixture predicts what its first part does only."""
    assert Mixture().predictions == {"next", "masked before"}
    assert Mixture().mixed[1].objective == Shifted(of=Masked(mask=1.0, random=0.0))


@pytest.mark.parametrize("weight", [1e-50, 1e39])
def test_h13_weights_that_32_bits_cannot_hold_are_refused(weight):
    """Fails if equal weights of extreme size train the first part alone."""
    mixed = [{"objective": {"type": "causal"}, "weight": weight}] * 2
    with pytest.raises(UserError, match=r"objective.mixed\[0\].weight=.*must be"):
        override(Run(), ["objective.type=mixture", f"objective.mixed={json.dumps(mixed)}"])
