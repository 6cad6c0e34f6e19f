"""What holds for every objective alike, whatever it hides."""

from dataclasses import replace
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import UserError, dump, parse
from lm.data import Bytes, Data
from lm.example import CausalMask, Output
from lm.model import Transformer
from lm.numerics import Einsum
from lm.objectives import (
    AnyOrder,
    Base,
    Causal,
    Classify,
    Contrastive,
    Curriculum,
    Diffusion,
    Distil,
    Drawn,
    Masked,
    Mixture,
    Objective,
    Orpo,
    Part,
    Plain,
    PolicyGradient,
    Preference,
    Prefix,
    Reconstruct,
    Regress,
    Response,
    Reward,
    Scheduled,
    Shifted,
    Spans,
    StatesOnly,
    Tag,
)
from lm.run import Run, validate

UL2 = Mixture(
    mixed=(
        Part(objective=Prefix(), weight=2),
        Part(objective=Spans()),
        Part(objective=Spans(rate=0.5, span=8)),
    )
)
CASES = {
    "causal": Causal(),
    "causal, input masked": Causal(masked=0.3),
    "causal, input masked, drawn": Causal(masked=Drawn(low=0.1, high=1.0)),
    "masked": Masked(),
    "masked, scheduled": Masked(rate=Scheduled(start=0.5, end=0.1)),
    "masked, drawn": Masked(rate=Drawn(low=0.1, high=0.6)),
    "masked words": Masked(rate=0.3, select="word"),
    "masked spans": Masked(rate=0.3, select="span"),
    "masked n-grams": Masked(rate=0.3, select="ngram"),
    "any order": AnyOrder(),
    "diffusion": Diffusion(),
    "shifted": Shifted(),
    "shifted diffusion": Shifted(of=Diffusion()),
    "prefix": Prefix(),
    "spans": Spans(),
    "spans, encoder and decoder": Spans(stack="encoder_decoder"),
    "GPT-BERT": Mixture(),
    "UL2": UL2,
    "UL2 by steps": Mixture(mixed=UL2.mixed, draw="step"),
    "classify": Classify(),
    "classify, causal": Classify(classes=3, attention="causal", pool="last"),
    "preference": Preference(),
    "preference, without a reference": Preference(method=Orpo()),
    "reward": Reward(),
    "reward, bidirectional": Reward(attention="bidirectional", pool="mean"),
    "classify, attention": Classify(pool="attention"),
    "regress": Regress(center=2, scale=0.5),
    "tag": Tag(classes=3),
    "response": Response(),
    "policy gradient": PolicyGradient(group=2),
    "reconstruct": Reconstruct(masked=0.5),
    "distil": Distil(of=Masked(), temperature=2.0),
    "contrastive": Contrastive(),
    "contrastive, causal": Contrastive(attention="causal", pool="last", direction="first"),
    "curriculum": Curriculum(),
    "curriculum of mixtures": Curriculum(first=Mixture(), then=UL2, switch=0.3),
}


def parts_of(objective):
    return list(objective.parts(20, 0))


def test_every_objective_has_a_case():
    """Fails if an objective is added and none of these tests sees it."""
    assert set(get_args(Plain)) <= set(get_args(Objective))
    # StatesOnly predict nothing, and are refused in training.
    assert {type(case) for case in CASES.values()} == set(get_args(Objective)) - {StatesOnly}


@pytest.mark.parametrize("objective", CASES.values(), ids=CASES)
def test_shapes_are_those_that_are_announced(objective, rows, channels, vocabulary):
    """Fails if `slots`, `positions` or `heads`, by which FLOPs are counted, are not its own."""
    tokens, segments = rows()
    batch, length = tokens.shape
    for part in parts_of(objective):
        example = jax.eval_shape(
            lambda *rows: part(channels(part, *rows), vocabulary, jax.random.key(0)),  # noqa: B023 - called at once
            tokens,
            segments,
        )
        assert (
            example.targets.shape == example.weights.shape == (batch, part.target_count(length))
        )
        assert example.inputs.shape == (batch, part.positions(length))
        assert example.segments.shape == example.positions.shape == example.inputs.shape
        if example.target_positions is not None:
            assert example.target_positions.shape == example.targets.shape
        assert part.heads == (() if example.head is None else (example.head,))
        # Attention computes no fewer pairs than the ledger counts.
        if isinstance(part.attention_mask, CausalMask):
            assert isinstance(example.attention_mask, CausalMask)


@pytest.mark.parametrize("objective", CASES.values(), ids=CASES)
def test_what_counts_is_content_and_in_its_own_document(objective, rows, ask, vocabulary):
    """Fails if padding, a bos token or an unused target position counts, or a weight is not
    finite.
    """
    tokens, segments = rows()
    for part in parts_of(objective):
        example = ask(part, (tokens, segments))
        used = np.asarray(example.weights) > 0
        assert np.isfinite(np.asarray(example.weights)).all() and used.any()
        targets = np.asarray(example.targets)[used]
        if example.head is not None:
            if example.head.outputs > 1:
                assert ((targets >= 0) & (targets < example.head.outputs)).all()
            real = np.asarray(segments) > 0
            most = real.sum(1) if example.head.pool is None else np.asarray(segments).max(1)
            most = most * 2 if isinstance(part, Contrastive) else most  # texts of a pair
            assert (used.sum(1) <= most).all() and not used.all(1).any()
            continue
        assert not np.isin(targets, [vocabulary.pad, vocabulary.mask, vocabulary.bos]).any()
        predict = example.target_positions
        if predict is None:
            predict = jnp.broadcast_to(
                jnp.arange(example.inputs.shape[1])[None], example.weights.shape
            )
        asked = np.take_along_axis(np.asarray(example.segments), np.asarray(predict), axis=1)
        assert (asked[used] > 0).all()


@pytest.mark.parametrize("objective", CASES.values(), ids=CASES)
def test_rows_of_padding_ask_for_nothing(objective, ask):
    """Fails if a count of at least one is forced on an empty row."""
    zeros = jnp.zeros((8, 64), int)
    for part in parts_of(objective):
        example = ask(part, (zeros, zeros))
        assert float(example.weights.sum()) == 0
        assert (np.asarray(example.inputs) == 0).all()
        assert (np.asarray(example.segments) == 0).all()


NO_DRAW = Causal | Classify | Regress | Tag | Preference | Reward | PolicyGradient | Contrastive
DRAWS = {
    name: case
    for name, case in CASES.items()
    if not isinstance(case, NO_DRAW) or getattr(case, "masked", 0)
}


@pytest.mark.parametrize("objective", DRAWS.values(), ids=DRAWS)
def test_the_key_decides_what_is_drawn(objective, rows, ask):
    """Fails if the key is ignored, or if anything else than the key is drawn from."""
    tokens, segments = rows()
    part = parts_of(objective)[-1]
    one, same, other = (
        jax.tree.leaves(ask(part, (tokens, segments), seed=seed)) for seed in (0, 0, 1)
    )
    assert all((a == b).all() for a, b in zip(one, same, strict=True))
    assert any((a != b).any() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("objective", CASES.values(), ids=CASES)
def test_settings_survive_json_and_are_valid(objective):
    """Fails if a union within an objective loses its tag, or `check` finds fault with these."""
    data = Data(tokenizer=Bytes(sentinels=16), length=64)
    run = Run(data=data, objective=objective, model=Transformer(depth=1, width=8, heads=1))
    assert parse(Run, dump(run), "here").objective == objective
    if not objective.source:
        assert validate(run) == run
    else:
        with pytest.raises(UserError, match="reads none"):
            validate(run)


SUMS = {name: case for name, case in CASES.items() if not case.couples_rows}
PLAIN = [name for name, case in SUMS.items() if type(parts_of(case)[-1]).loss is Base.loss]
"""All of one loss, which is given nothing of the objective: all but the first are `slow`."""


@pytest.mark.parametrize(
    "objective",
    [
        pytest.param(case, id=name, marks=pytest.mark.slow if name in PLAIN[1:] else ())
        for name, case in SUMS.items()
    ],
)
def test_a_loss_is_divided_once_by_its_own_weight(objective, rows, ask):
    """Fails if a term is a mean of means: parts of a batch must add up to the whole."""
    given = rows()
    part = parts_of(objective)[-1]
    example = ask(part, given)
    number, width = example.head.outputs if example.head else 66, 8
    keys = jax.random.split(jax.random.key(1))
    states = jax.random.normal(keys[0], (*example.targets.shape, width))
    table = jax.random.normal(keys[1], (number, width))

    @jax.jit  # one program for the whole and its parts, which differ in weights alone
    def terms(rows_B):
        one = replace(example, weights=example.weights * rows_B[:, None])
        return part.loss(Output(states, table), one, einsum=Einsum("float32"))

    first_B = jnp.arange(len(states)) < 3
    whole, first, second = terms(first_B | True), terms(first_B), terms(~first_B)
    assert "loss" in whole
    for name, term in whole.items():
        assert np.isfinite(float(term.mean))
        for each in ("total", "count"):
            both = getattr(first[name], each) + getattr(second[name], each)
            assert float(both) == pytest.approx(float(getattr(term, each)), rel=1e-4)
