"""Masking in units and at rates that change, by its statistics over a million positions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import UserError
from lm.example import Batch
from lm.objectives import AnyOrder, Diffusion, Drawn, Masked, Scheduled, Shifted

LENGTH = 257
ROWS = 4096  # x 256 tokens of content: 1,048,576 positions


def masked_of(example, rows):
    """What an example asks for, bool[B, L]."""
    hidden = np.zeros(rows[0].shape, bool)
    row, slot = np.nonzero(np.asarray(example.weights) > 0)
    hidden[row, np.asarray(example.target_positions)[row, slot]] = True
    return hidden


SELECTIONS = {
    "token": Masked(select="token"),
    "token, 40%": Masked(rate=0.4),
    "word": Masked(select="word"),
    "span": Masked(select="span", span=3),
    "span, 40%": Masked(rate=0.4, select="span", span=5),
    "long spans": Masked(select="span", span=12),
    "ngram": Masked(select="ngram", span=4),
}


@pytest.mark.parametrize("objective", SELECTIONS.values(), ids=SELECTIONS)
def test_a_million_positions_are_masked_at_the_rate_and_shown_by_the_split(
    objective, ask, whole_rows, vocabulary
):
    """Fails if units are cut short at the rate (biased down) or always finished (biased up), if
    a place in the row is masked more often, or if mask and random change places."""
    given = tokens, _ = whole_rows(ROWS, LENGTH)
    example = ask(objective, given)
    hidden = masked_of(example, given)
    content = hidden[:, 1:]
    unit = 1 if objective.select == "token" else objective.span
    rate = round(objective.rate * 256) / 256 if unit == 1 else objective.rate
    if unit == 1:
        assert (content.sum(1) == round(objective.rate * 256)).all()
    # Only the last unit of a row is left to chance, so the fraction is known to a few in
    # 10,000; of the longest ones, which find no room, one in a hundred tokens is missing.
    error = 4 * unit / (256 * ROWS**0.5)
    assert content.mean() == pytest.approx(rate, abs=error, rel=0.01)
    assert not hidden[:, 0].any()
    by_place = content.mean(0)
    # The first and the last units of a row are cut off, so they are not like the others.
    within = by_place[16:-16]
    assert abs(within - rate).max() < 5 * (rate * (1 - rate) / ROWS) ** 0.5 + 0.01 * rate

    shown, true = np.asarray(example.inputs)[hidden], np.asarray(tokens)[hidden]
    size = 4 * (0.25 / len(true)) ** 0.5
    assert (shown == vocabulary.mask).mean() == pytest.approx(0.8, abs=size)
    assert (shown == true).mean() == pytest.approx(0.1 + 0.1 / 46, abs=size)
    drawn = shown[(shown != vocabulary.mask) & (shown != true)]
    assert drawn.min() == vocabulary.first_ordinary and drawn.max() == vocabulary.size - 1
    untouched = ~hidden
    assert (np.asarray(example.inputs)[untouched] == np.asarray(tokens)[untouched]).all()


def test_random_tokens_are_ordinary_wherever_special_ones_stand(ask, rows, vocabulary):
    """Fails if a special id amid the others is shown, or an ordinary one never is."""
    there = dataclasses.replace(vocabulary, first_ordinary=0, special=(*range(20), 40, 65))
    given = rows(512)
    example = ask(Masked(rate=0.5, mask=0, random=1), given, vocabulary=there)
    shown = set(np.asarray(example.inputs)[masked_of(example, given)].tolist())
    assert shown == set(range(20, 65)) - {40}


def test_an_end_that_is_told_is_shown_and_no_target(ask, rows, vocabulary):
    """Fails if the eos token is masked or scored where a document's end is told."""
    told = dataclasses.replace(vocabulary, eos_counts=False)
    example = ask(Masked(rate=0.9, mask=1, random=0), rows(64), vocabulary=told)
    used = np.asarray(example.weights) > 0
    assert vocabulary.eos not in np.asarray(example.targets)[used]
    assert (np.asarray(example.inputs) == vocabulary.eos).sum() == 128


def test_oneline_a_vocabulary_without_a_mask_token_masks_nothing(rows, vocabulary):
    """Fails if None is shown for a masked token, or jax complains of it."""
    none = dataclasses.replace(vocabulary, mask=None)
    tokens, segments = rows(4)
    with pytest.raises(UserError, match=r"^the tokenizer has no mask token[^\n]*$"):
        Masked()(Batch(tokens, segments), none, jax.random.key(0))


@pytest.mark.parametrize("select", ["token", "word", "span", "ngram"])
def test_every_row_masks_its_count_within_one_unit(select, ask, rows, vocabulary):
    """Fails if a count is drawn for each position, or if a row may stop two units early."""
    given = tokens, segments = rows(64)
    example = ask(Masked(rate=0.3, select=select, span=3), given)
    hidden = masked_of(example, given)
    content = ((np.asarray(segments) > 0) & (np.asarray(tokens) != vocabulary.bos)).sum(1)
    wanted = np.floor(0.3 * content + 0.5)
    longest = {"token": 0, "word": 20, "span": 20, "ngram": 3}[select]
    difference = np.abs(hidden.sum(1) - wanted)
    assert (difference <= longest).all()
    assert (hidden.sum(1) == (np.asarray(example.weights) > 0).sum(1)).all()


def test_words_are_masked_whole(ask, rows, vocabulary):
    """Fails if a word is cut where the rate is reached, or runs on into the next document."""
    given = rows(64)
    hidden = masked_of(ask(Masked(rate=0.4, select="word"), given), given)
    tokens, segments = map(np.asarray, given)
    begins = np.array(vocabulary.begins_word)[tokens]
    seen = {True: 0, False: 0}
    for row, place in np.argwhere((segments > 0) & (tokens != vocabulary.bos)):
        before = tokens[row, place - 1]
        if not begins[row, place] and before != vocabulary.bos:
            assert hidden[row, place] == hidden[row, place - 1]
            seen[bool(hidden[row, place])] += 1
    assert min(seen.values()) > 100


def test_ngrams_are_masked_whole_and_from_any_start(ask, whole_rows, vocabulary):
    """Fails if n-grams always start at a multiple of n, or a run is not made of whole ones."""
    given = whole_rows(512, 65)
    hidden = masked_of(ask(Masked(rate=0.2, select="ngram", span=4), given), given)
    starts = hidden & ~np.pad(hidden[:, :-1], ((0, 0), (1, 0)))
    places = np.argwhere(starts)[:, 1]
    inner = places[(places > 4) & (places < 60)]
    assert (np.bincount(inner % 4, minlength=4) > 0.15 * len(inner)).all()
    ends = np.argwhere(hidden & ~np.pad(hidden[:, 1:], ((0, 0), (0, 1))))[:, 1]
    length = (ends - places + 1)[(places > 4) & (ends < 60)]
    assert (length % 4 == 0).all()


def test_spans_have_the_mean_length_that_is_asked_for(ask, whole_rows, vocabulary):
    """Fails if spans are one token long, or cut with another probability than 1/mean."""
    given = whole_rows(2048, LENGTH)
    hidden = masked_of(ask(Masked(rate=0.02, select="span", span=5), given), given)
    starts = hidden & ~np.pad(hidden[:, :-1], ((0, 0), (1, 0)))
    # Few spans a row, so that hardly any touch; the crossing span makes long ones rarer.
    assert 3.5 < hidden.sum() / starts.sum() < 5.5


def test_h13_spans_are_cut_at_four_times_their_mean(whole_rows, vocabulary):
    """Fails if they are not cut, as one in fifty is longer, or are at another length."""
    tokens, _ = whole_rows(512, LENGTH)
    spans = Masked(select="span", span=3)
    starts = spans._unit_starts(tokens, jnp.zeros(512), vocabulary, jax.random.key(0))
    sizes = np.concatenate([np.diff(np.flatnonzero(row)) for row in np.asarray(starts)])
    assert sizes.max() == 12
    # What is left of those that were cut begins anew, and so has the same mean.
    assert (sizes == 12).mean() == pytest.approx((2 / 3) ** 11, abs=0.003)


def test_a_schedule_goes_from_start_to_end(ask, whole_rows, vocabulary):
    """Fails if progress is ignored, or the ends change places; P is the largest's."""
    given = whole_rows(4, LENGTH)
    objective = Masked(rate=Scheduled(start=0.5, end=0.25))
    counts = [
        masked_of(ask(objective, given, progress=fraction), given).sum(1).tolist()
        for fraction in (0.0, 0.5, 1.0)
    ]
    assert counts == [[128] * 4, [96] * 4, [64] * 4]
    assert objective.target_count(LENGTH) == 128


def test_a_drawn_rate_is_uniform_over_rows(ask, whole_rows, vocabulary):
    """Fails if all rows share a draw, or if a bound is not reached."""
    given = whole_rows(4096, 101)
    hidden = masked_of(ask(Masked(rate=Drawn(low=0.2, high=0.6)), given), given)
    fractions = hidden.sum(1) / 100
    assert fractions.min() == pytest.approx(0.2, abs=0.01)
    assert fractions.max() == pytest.approx(0.6, abs=0.01)
    assert fractions.std() == pytest.approx(0.4 / 12**0.5, rel=0.05)


def test_diffusion_spreads_its_rates_and_weighs_by_their_inverse(ask, whole_rows, vocabulary):
    """Fails if rates are drawn independently for each row, or the weight is 1 or t."""
    batch, length = 64, 1025
    given = whole_rows(batch, length)
    example = ask(Diffusion(), given)
    hidden = masked_of(example, given)
    fractions = hidden.sum(1) / (length - 1)
    drawn = np.sort(fractions)
    assert (np.abs(drawn * batch - np.arange(batch) - 0.5) < 0.5 + 4 * 0.5 * 64 / 32).all()
    assert (np.diff(fractions) < -0.1).any(), "which row has which rate is drawn"
    sums = [float(ask(Diffusion(), given, seed=s).weights.sum()) for s in range(20)]
    assert np.mean(sums) == pytest.approx(batch * (length - 1), rel=0.03)
    assert (np.asarray(example.inputs)[hidden] == vocabulary.mask).all()


def test_a_rate_that_masks_nothing_is_refused_with_the_least_that_does():
    """Fails if training may begin on an objective that never asks for anything."""
    assert Masked(rate=0.1).check(length=6, sentinels=0) is None
    for rate in (0.05, Scheduled(start=0.5, end=0.05), Drawn(low=0.01, high=0.09)):
        why = Masked(rate=rate).check(length=6, sentinels=0)
        assert why is not None and "at least 0.1" in why


def test_the_number_masked_is_the_number_of_slots(ask, whole_rows):
    """Fails if one of the two is rounded in float32, where 0.35 x 90 is 31.5, not less."""
    objective, given = Masked(rate=0.35), whole_rows(4, 91)
    assert objective.target_count(91) == 31
    assert masked_of(ask(objective, given), given).sum(1).tolist() == [31] * 4


def test_rows_of_padding_take_no_rates_from_diffusion(ask, whole_rows):
    """Fails if parts of [0, 1] go by the row's number: padding comes last in validation."""
    tokens, segments = whole_rows(32, 257)
    empty = np.arange(32)[:, None] >= 8
    given = np.where(empty, 0, tokens), np.where(empty, 0, segments)
    fractions = np.concatenate(
        [masked_of(ask(Diffusion(), given, seed=s), given)[:8].sum(1) / 256 for s in range(12)]
    )
    assert fractions.mean() == pytest.approx(0.5, abs=4 * (1 / 12 / 96) ** 0.5)


def test_diffusion_and_any_order_estimate_the_same_number(ask, whole_rows, vocabulary):
    """Fails if one of the two weighs a token by something else than its inverse chance.

    A made-up loss of a masked token, which depends on how many are masked and where it stands,
    takes the place of a model.
    """
    given = whole_rows(64, 33)
    place = np.linspace(0.5, 1.5, 33)

    def estimate(objective, seed):
        example = ask(objective, given, seed=seed)
        count = masked_of(example, given).sum(1, keepdims=True)
        loss = place[np.asarray(example.target_positions)] * (1 + count / 32)
        return float((np.asarray(example.weights) * loss).sum())

    found = {
        type(o): np.array([estimate(o, s) for s in range(60)])
        for o in (Diffusion(), AnyOrder())
    }
    means = [values.mean() for values in found.values()]
    error = sum(values.var(ddof=1) / 60 for values in found.values()) ** 0.5
    assert abs(means[0] - means[1]) < 4 * error
    assert error < 0.02 * means[0]


def test_shifted_asks_one_place_early_and_masks_the_same(ask, rows):
    """Fails if the place is not moved, moved twice, or if what is masked moves along."""
    given = tokens, segments = rows()
    plain, example = ask(Masked(), given), ask(Shifted(), given)
    used = np.asarray(example.weights) > 0
    assert (np.asarray(example.inputs) == np.asarray(plain.inputs)).all()
    predict = np.asarray(example.target_positions)
    assert (predict[used] == np.asarray(plain.target_positions)[used] - 1).all()
    row = np.broadcast_to(np.arange(len(predict))[:, None], predict.shape)
    target = np.asarray(tokens)[row[used], predict[used] + 1]
    assert (target == np.asarray(example.targets)[used]).all()
    same = np.asarray(segments)
    assert (same[row[used], predict[used] + 1] == same[row[used], predict[used]]).all()
