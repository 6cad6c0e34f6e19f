"""What a model says, against doing it by hand."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import UserError
from lm.example import BidirectionalMask, CausalMask, Example, positions_of
from lm.generate import Sampling, fill, generate, likeliest

BEGIN, END, MASK = 2, 3, 1
LENGTH = 12


def probabilities(module, params, row, visible):
    """p [L, V] at all positions of a row, by the plainest way."""
    inputs = np.pad(row, (0, 16 - len(row)))[None]
    segments = (np.arange(16) < len(row)).astype(int)[None]
    return np.array(_probabilities(module, params, inputs, segments, visible))[: len(row)]


@partial(jax.jit, static_argnums=0)
def _probabilities(module, params, inputs, segments, visible):
    example = Example(
        inputs=inputs,
        target_positions=None,
        targets=inputs,
        weights=jnp.zeros(inputs.shape),
        segments=segments,
        positions=positions_of(segments),
        attention_mask=visible,
    )
    hidden, unembedding, *_ = module.apply({"params": params}, example)
    return jax.nn.softmax(hidden[0] @ unembedding.T, axis=-1)


def continue_(module, params, tokens, *, temperature=1.0, top_k=None, seed=0, **settings):
    sampling = Sampling(temperature=temperature, top_k=top_k, seed=seed)
    (said,) = generate(module, params, [tokens], sampling=sampling, **settings)
    return said


@pytest.fixture
def settings(vocabulary):
    return {"vocabulary": vocabulary, "length": LENGTH}


def test_temperature_zero_continues_with_the_likeliest(tiny, settings):
    """Fails when the model speaks at the wrong position or does not see what it said."""
    module = tiny(end=-1e9)
    varied = False
    for seed in range(3):
        params = module.init(seed)
        row = [BEGIN, 5, 4]
        for _ in range(6):
            row.append(int(probabilities(module, params, row, CausalMask())[-1].argmax()))
        said = continue_(module, params, [5, 4], count=6, temperature=0, **settings)
        assert said == row[3:]
        assert said == continue_(module, params, [5, 4], count=6, top_k=1, seed=9, **settings)
        varied |= len(set(said)) > 1
    assert varied


def test_draws_follow_the_tempered_distribution(tiny, settings):
    """Fails when scores are multiplied by the temperature, or the seed is not used."""
    module = tiny(end=2.0)
    params = module.init(0)
    p = probabilities(module, params, [BEGIN, 5], CausalMask())[-1]
    tempered = np.sqrt(p) / np.sqrt(p).sum()
    draws = [
        continue_(module, params, [5], count=1, temperature=2.0, seed=seed, **settings)
        for seed in range(500)
    ]
    found = np.bincount([d[0] if d else END for d in draws], minlength=7)
    assert (np.abs(found - 500 * tempered) < 4.5 * np.sqrt(500 * tempered) + 1e-9).all()
    assert np.abs(tempered - p).max() > 0.1  # and these are told apart


def test_small_one_likeliest_token_is_temperature_zero_on_ties(module, params, settings):
    """Fails if all tokens of equal score are drawn from, however few are asked for."""
    equal = jax.tree.map(jnp.zeros_like, params)
    likeliest = continue_(module, equal, [5], count=4, temperature=0, **settings)
    for seed in range(4):
        drawn = continue_(module, equal, [5], count=4, top_k=1, seed=seed, **settings)
        assert drawn == likeliest
    two = [
        continue_(module, equal, [5], count=1, top_k=2, seed=s, **settings) for s in range(30)
    ]
    assert len({tuple(drawn) for drawn in two}) == 2


def test_only_the_likeliest_k_are_drawn(module, params, settings):
    """Fails when top_k keeps one more or one less."""
    p = probabilities(module, params, [BEGIN, 5], CausalMask())[-1]
    best = set(np.argsort(-p)[:2])
    draws = [
        continue_(module, params, [5], count=1, temperature=9, top_k=2, seed=s, **settings)
        for s in range(60)
    ]
    assert {d[0] if d else END for d in draws} == best


def test_special_tokens_are_never_said(tiny, settings):
    """Fails when a model that believes in mask tokens may say them."""
    module = tiny(special=50.0, end=-1e9)
    params = module.init(0)
    said = continue_(module, params, [5], count=8, temperature=3.0, **settings)
    assert said and min(said) >= 4
    assert min(fill(module, params, [MASK, 5, MASK], **settings)) >= 4
    for prediction in ("next", "masked", "masked before"):
        ids, fraction = likeliest(
            module, params, [5, MASK], [1], count=3, prediction=prediction, **settings
        )
        # All that there is to say, but for the last bit.
        assert sorted(ids[0]) == [4, 5, 6] and fraction.sum() == pytest.approx(1)


def test_the_end_token_ends_the_text(tiny, settings):
    """Fails when the eos token is not possible, or is handed out."""
    module = tiny(end=1e3)
    assert continue_(module, module.init(0), [5], count=4, **settings) == []


def test_a_long_text_is_seen_through_its_last_half_whenever_a_row_is_full(tiny, settings):
    """Fails when the row overflows, too much is forgotten, or the bos token is."""
    module = tiny(end=-1e9)
    for seed in range(3):
        params = module.init(seed)
        text = np.random.default_rng(seed).integers(4, 7, size=40).tolist()
        row, said = [BEGIN, *text[-(LENGTH // 2) :]], []
        for _ in range(9):
            if len(row) > LENGTH:
                row = [BEGIN, *row[-(LENGTH // 2) :]]
            said.append(int(probabilities(module, params, row, CausalMask())[-1].argmax()))
            row.append(said[-1])
        assert continue_(module, params, text, count=9, temperature=0, **settings) == said


def test_rows_of_two_tokens_continue_with_one_at_a_time(tiny, settings):
    """Fails when nothing is forgotten of a row that is full: then it never ends."""
    module = tiny(end=-1e9)
    assert (
        len(continue_(module, module.init(0), [5, 4], count=3, **settings | {"length": 2})) == 3
    )


def test_rows_of_a_batch_are_continued_as_each_alone(tiny, settings):
    """Fails if padding is seen, a row's positions are shifted, or an ended row goes on."""
    module = tiny(end=1.0)
    params = module.init(1)
    prompts = [[5], [4, 6, 5, 5, 4], [], [6, 6, 4]]
    ask = {"count": 20, **settings}
    together = generate(module, params, prompts, sampling=Sampling(temperature=0), **ask)
    alone = [continue_(module, params, prompt, temperature=0, **ask) for prompt in prompts]
    assert together == alone
    assert len({len(said) for said in together}) > 1


@pytest.mark.parametrize(("prediction", "before"), [("masked", 0), ("masked before", 1)])
def test_blanks_are_filled_the_most_confident_first(module, settings, prediction, before):
    """Fails when they are filled from left to right, or all at once, or asked elsewhere."""
    in_order = at_once = True
    for seed in range(6):
        params = module.init(seed)
        row = [BEGIN, MASK, 5, MASK, MASK, 4]
        first = np.roll(probabilities(module, params, row, BidirectionalMask()), before, 0)[
            :, 4:
        ]
        first = first.argmax(-1) + 4
        by_hand = list(row)
        turns = []
        while MASK in by_hand:
            p = np.roll(probabilities(module, params, by_hand, BidirectionalMask()), before, 0)[
                :, 4:
            ]
            p /= p.sum(-1, keepdims=True)
            at = max((i for i, t in enumerate(by_hand) if t == MASK), key=lambda i: p[i].max())
            by_hand[at] = int(p[at].argmax()) + 4
            turns.append(at)
        assert fill(module, params, row[1:], prediction=prediction, **settings) == by_hand[1:]
        in_order &= turns == sorted(turns)
        at_once &= all(by_hand[i] == first[i] for i in turns)
    assert not in_order and not at_once


def test_filling_is_drawn_with_a_seed(module, params, settings):
    """Fails when the seed or the temperature of `fill` is not used."""
    blanks = [MASK] * 8
    one, again, other = (
        fill(module, params, blanks, temperature=2.0, seed=s, **settings) for s in (1, 1, 2)
    )
    assert one == again != other
    assert fill(module, params, [5, 6], **settings) == [5, 6]
    coldest = fill(module, params, blanks, temperature=0, **settings)
    assert fill(module, params, blanks, temperature=1e-40, **settings) == coldest


def test_the_likeliest_tokens_are_in_order(module, params, settings):
    """Fails when a causal model is asked at the token itself, or a masked one before it."""
    text = [5, MASK, 6, 4]
    asked = (
        ("next", CausalMask(), 1),
        ("masked", BidirectionalMask(), 2),
        ("masked before", BidirectionalMask(), 1),
    )
    for prediction, visible, at in asked:
        p = probabilities(module, params, [BEGIN, *text], visible)[at]
        ids, fraction = likeliest(
            module, params, text, [1], count=2, prediction=prediction, **settings
        )
        expected = [i for i in np.argsort(-p) if i >= 4][:2]
        assert ids.tolist() == [expected]
        np.testing.assert_allclose(fraction[0], p[expected], rtol=1e-4)


def test_a_text_that_does_not_fit_is_the_users_error(module, params, settings):
    """Fails when it is cut silently."""
    for ask in (
        lambda: fill(module, params, [MASK] * LENGTH, **settings),
        lambda: likeliest(module, params, [5] * LENGTH, [1], prediction="masked", **settings),
    ):
        with pytest.raises(UserError, match="at most 11"):
            ask()


def test_an_end_that_is_told_stands_after_the_text(module, params, vocabulary):
    """Fails if a masked model of such a vocabulary does not see it, or if it is handed out."""
    told = replace(vocabulary, eos_counts=False)
    text = [5, MASK, 6, 4]
    p = probabilities(module, params, [BEGIN, *text, END], BidirectionalMask())[2]
    ids, _ = likeliest(
        module, params, text, [1], vocabulary=told, length=6, prediction="masked", count=1
    )
    best = 4 + int(p[4:].argmax())
    assert ids[0, 0] == best
    assert fill(module, params, text, vocabulary=told, length=6) == [5, best, 6, 4]
    with pytest.raises(UserError, match="at most 4"):
        fill(module, params, [*text, 4], vocabulary=told, length=6)


def test_what_fits_is_seen_whole(tiny, settings):
    """Fails if of a text that fits with what is added, to the last position, a part is
    forgotten, whether the bos token is given or not."""
    module = tiny(end=-1e9)
    params = module.init(0)
    text = np.random.default_rng(1).integers(4, 7, size=LENGTH - 4).tolist()
    row = [BEGIN, *text]
    for _ in range(3):
        row.append(int(probabilities(module, params, row, CausalMask())[-1].argmax()))
    for begin, given in (("bos", text), ("given", [BEGIN, *text])):
        said = continue_(module, params, given, begin=begin, count=3, temperature=0, **settings)
        assert said == row[-3:]
