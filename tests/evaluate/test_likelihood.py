"""Scorers against brute force on a tiny alphabet: every string, every order, every subset."""

import itertools
import math
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lm.evaluate.bits import WindowText, measure
from lm.evaluate.scorers import base as scorers
from lm.evaluate.scorers.any_order import AnyOrderBound
from lm.evaluate.scorers.base import refuses
from lm.evaluate.scorers.chain_rule import ChainRule
from lm.evaluate.scorers.curve import MaskFractions
from lm.evaluate.scorers.fixed_order import FixedOrder
from lm.evaluate.scorers.pseudo import Pseudo, PseudoOfAll
from lm.evaluate.scorers.spans import BehindSentinel
from lm.example import BidirectionalMask, CausalMask, Example, UntilMask, positions_of

BOS, END, MASK = 2, 3, 1
ORDERS = ("left to right", "random", "most confident first")
SCORERS = [
    ChainRule(),
    BehindSentinel(),
    AnyOrderBound(samples=2),
    Pseudo(samples=2),
    MaskFractions((0.5, 0.5), prediction="masked before"),
    FixedOrder("random"),
    FixedOrder("most confident first"),
    PseudoOfAll(within_words=True),
]


def score(*arguments, **settings):
    """The estimate: the mean over samples."""
    return scorers.score(*arguments, **settings).mean(axis=1)


def strings(length):
    """Every row of `length` content tokens, and its segments."""
    texts = list(itertools.product([END, 4, 5, 6], repeat=length))
    tokens = np.array([[BOS, *text] for text in texts], np.int32)
    return tokens, np.ones_like(tokens)


def log_probabilities(module, params, inputs, segments, visible):
    """log p [R, L, V] of a module at all positions, by the plainest way."""
    return np.asarray(_log_probabilities(module, params, inputs, segments, visible))


@partial(jax.jit, static_argnums=0)
def _log_probabilities(module, params, inputs, segments, visible):
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
    return jax.nn.log_softmax(hidden @ unembedding.T, axis=-1)


def subset_logs(module, params, row, prediction="masked"):
    """log p [L, V] of what stands at each place, given the tokens outside a masked subset."""
    places = range(1, len(row))
    subsets = [s for m in places for s in itertools.combinations(places, m)]
    inputs = np.array([[MASK if i in s else t for i, t in enumerate(row)] for s in subsets])
    logs = log_probabilities(module, params, inputs, np.ones_like(inputs), BidirectionalMask())
    logs = np.roll(logs, 1 if prediction == "masked before" else 0, axis=1)
    return dict(zip(subsets, logs, strict=True))


def subset_nats(module, params, row, prediction="masked"):
    """nats[subset][i]: -log p(row[i] | tokens outside the subset) for i in the subset."""
    logs = subset_logs(module, params, row, prediction)
    return {s: {i: -of[i, row[i]] for i in s} for s, of in logs.items()}


def by_hand(logs, row, order, block):
    """Nats and turn of each token when `order` or, if that is None, confidence has its way."""
    hidden, turn = list(range(1, len(row))), 0
    nats, turns = np.zeros(len(row)), np.zeros(len(row), int)
    while hidden:
        of, turn = logs[tuple(hidden)], turn + 1
        rank = order.index if order else lambda i, of=of: -of[i].max()
        for i in sorted(hidden, key=rank)[:block]:
            nats[i], turns[i] = -of[i, row[i]], turn
            hidden.remove(i)
    return nats, turns


def rows_of(tokens, segments):
    """Rows of which all content is scored."""
    tokens, segments = jnp.asarray(tokens), jnp.asarray(segments)
    return scorers.ScoredRows(tokens, segments, (segments > 0) & (tokens != BOS))


def unmask(scorer, module, params, tokens, vocabulary):
    """Turns and nats of rows that all have the same decoding order."""
    keys = jnp.broadcast_to(jax.random.key(5), len(tokens))

    @jax.jit
    def compute(tokens, keys):
        rows = rows_of(tokens, jnp.ones_like(tokens))
        return scorer.unmask(module, params, rows, vocabulary=vocabulary, key_B=keys)

    turns, (nats, _) = compute(tokens, keys)
    return np.asarray(turns), np.asarray(nats)


def order_mean(nats, length):
    """Mean over all orders of the nats of each token when the tokens are revealed in turn."""
    total = np.zeros(length)
    orders = list(itertools.permutations(range(1, length)))
    for order in orders:
        for k, i in enumerate(order):
            total[i] += nats[tuple(sorted(order[k:]))][i]
    return total / len(orders)


def test_chain_rule_sums_to_one_over_all_strings(module, params, vocabulary):
    """Fails when the model sees what it predicts (a bidirectional mask for a causal one)
    or skips a token.
    """
    nats = score(ChainRule(), module, params, [strings(4)], vocabulary=vocabulary)
    assert nats.shape == (1, 256, 5)
    assert np.exp(-nats[0].sum(1)).sum() == pytest.approx(1, abs=1e-4)


def test_chain_rule_attributes_nats_to_the_token_itself(module, params, vocabulary):
    """Fails when nats are kept at the position that speaks, one too early."""
    row = np.array([[BOS, 4, 6, 5, END]], np.int32)
    nats = score(ChainRule(), module, params, [(row, np.ones_like(row))], vocabulary=vocabulary)
    prefix = np.tri(5, dtype=np.int32)  # row j holds j + 1 tokens, the rest is padding
    logs = log_probabilities(module, params, prefix * row, prefix, CausalMask())
    expected = [0.0, *(-logs[j - 1, j - 1, row[0, j]] for j in range(1, 5))]
    np.testing.assert_allclose(nats[0, 0], expected, rtol=1e-4)


def test_spans_behind_a_sentinel_are_the_chain_rule_after_it(module, params, vocabulary):
    """Fails if nats are kept at the wrong token, the sentinel's count, or the text is seen."""
    tokens, segments = strings(3)
    nats = score(BehindSentinel(), module, params, [(tokens, segments)], vocabulary=vocabulary)
    assert np.exp(-nats[0].sum(1)).sum() == pytest.approx(1, abs=1e-5)
    row, sentinel = tokens[27], vocabulary.sentinels[0]
    said = [BOS, sentinel, BOS, sentinel, *row[1:]]
    ones = np.ones((1, len(said)), int)
    # The text before the spans sees itself whole.
    until = jnp.maximum(jnp.arange(len(said)), 1)[None]
    logs = log_probabilities(module, params, np.array([said]), ones, UntilMask(until))
    expected = [-logs[0, 2 + i, row[i]] for i in range(1, 4)]
    np.testing.assert_allclose(nats[0, 27, 1:], expected, rtol=1e-4)


def test_spans_of_any_number_of_documents_find_room(module, params, vocabulary):
    """Fails if the capacity is that of one document: the last tokens would cost nothing."""
    tokens = np.array([[BOS, 5] * 4, [BOS, 5, END, BOS, 4, 6, END, BOS]], np.int32)
    segments = np.array([[1, 1, 2, 2, 3, 3, 4, 4], [1, 1, 1, 2, 2, 2, 2, 3]], np.int32)
    nats = score(BehindSentinel(), module, params, [(tokens, segments)], vocabulary=vocabulary)
    np.testing.assert_array_equal(nats[0] > 0, tokens != BOS)


@pytest.mark.parametrize(("block", "prediction"), [(1, "masked"), (2, "masked before")])
@pytest.mark.parametrize("order", ORDERS)
def test_a_decoding_order_is_an_exact_likelihood(module, vocabulary, order, block, prediction):
    """Fails if a block sees its own tokens, order or places are others, or a token is left.

    Each string has the nats done by hand, and over all strings probabilities sum to one.
    """
    params = module.init(2)
    tokens, _ = strings(4)
    scorer = FixedOrder(order, block, prediction)
    turns, nats = unmask(scorer, module, params, tokens, vocabulary)
    assert np.exp(-nats.sum(1, dtype=np.float64)).sum() == pytest.approx(1, abs=1e-5)
    assert (np.bincount(turns.ravel())[1:] == block * len(tokens)).all()
    known = {"left to right": [1, 2, 3, 4], "most confident first": None}
    if order == "random":
        assert (turns == turns[0]).all()
        # Within a block, any order is the same.
        known["random"] = sorted(range(1, 5), key=lambda i: turns[0, i])
        assert block > 1 or known["random"] != [1, 2, 3, 4]
    for string in range(0, 256, 17):
        row = tokens[string].tolist()
        logs = subset_logs(module, params, row, prediction)
        expected, turn = by_hand(logs, row, known[order], block)
        assert turns[string].tolist() == turn.tolist()
        np.testing.assert_allclose(nats[string], expected, rtol=1e-4)
    if order == "most confident first" and block == 1:
        assert len(np.unique(turns, axis=0)) > 3  # strings differ in it


def test_what_is_written_next_does_not_depend_on_what_is_still_masked(module, vocabulary):
    """Fails if confidence is the true token's probability: that is a look at what is masked."""
    tokens, _ = strings(4)
    order = FixedOrder("most confident first")
    turns, _ = unmask(order, module, module.init(2), tokens, vocabulary)
    for i in range(1, 5):
        same = np.delete(tokens, i, axis=1)
        for row, turn in zip(tokens, turns, strict=True):
            others = turns[(same == np.delete(row, i)).all(1)]
            assert len(others) == 4
            before = turn <= turn[i]
            assert (others[:, before] == turn[before]).all()


def test_orders_of_writing_of_short_rows_and_padding(module, params, vocabulary):
    """Fails if a block reaches beyond what a row has left, or rows wait for each other."""
    tokens = np.array([[BOS, 5, 4, 6, END], [BOS, 6, 6, 0, 0]], np.int32)
    segments = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int32)
    for order in ("left to right", "most confident first"):
        both, alone = (
            score(FixedOrder(order, 3), module, params, [window], vocabulary=vocabulary)
            for window in ((tokens, segments), (tokens[[1, 1]], segments[[1, 1]]))
        )
        assert (both[0, 1, 3:] == 0).all() and (both[0, 0, 1:] > 0).all()
        np.testing.assert_allclose(both[0, 1], alone[0, 0], rtol=1e-5)


def test_a_random_order_is_the_row_s_own_and_the_same_for_all_models(module, vocabulary):
    """Fails if all rows share an order, or parameters or the replicate decide it."""
    tokens = np.tile(np.array([BOS, 4, 5, 6, 4, 5], np.int32), (6, 1))
    keys = jax.vmap(lambda r: jax.random.fold_in(jax.random.key(0), r))(jnp.arange(6))
    rows = rows_of(tokens, np.ones_like(tokens))
    scorer = FixedOrder("random")
    turns = [
        np.asarray(
            scorer.unmask(module, module.init(s), rows, vocabulary=vocabulary, key_B=keys)[0]
        )
        for s in (0, 1)
    ]
    np.testing.assert_array_equal(*turns)
    assert len(np.unique(turns[0], axis=0)) > 3


@pytest.mark.parametrize("scorer", SCORERS, ids=lambda s: f"{s.name}, {s.prediction}")
def test_a_scorer_is_refused_by_a_model_that_was_taught_something_else(scorer):
    """Fails if any scorer takes any model, or the reason does not say which it is."""
    others = {"next", "masked", "masked before", "spans"} - {scorer.prediction}
    assert refuses(scorer, {scorer.prediction}) is None
    why = refuses(scorer, others)
    assert why.startswith(
        f"the {scorer.name} needs a model that was trained to predict which token"
    )
    assert "\n" not in why


@pytest.mark.parametrize(("samples", "prediction"), [(1, "masked"), (3, "masked before")])
def test_any_order_expectation_is_the_mean_over_orders(
    module, params, vocabulary, samples, prediction
):
    """Fails when m is drawn from 0..n-1, n/m is left out, sets are not uniform, or it is asked
    at the wrong place."""
    row, copies = [BOS, 5, 4, 6, END], 4096
    nats = subset_nats(module, params, row, prediction)
    exact = order_mean(nats, 5)
    spread = max(n[i] for n in nats.values() for i in n) / exact[1:].min()
    assert spread > 3  # the orders disagree, so that a wrong weighting shows
    tokens = np.tile(np.array(row, np.int32), (copies, 1))
    estimate = score(
        AnyOrderBound(samples, prediction),
        module,
        params,
        [(tokens, np.ones_like(tokens))],
        vocabulary=vocabulary,
    )[0]
    error = (estimate.mean(0) - exact)[1:]
    se = estimate.std(0, ddof=1)[1:] / math.sqrt(copies)
    assert (np.abs(error) < 4.5 * se).all()
    assert (se < 0.05 * exact[1:]).all()


def test_any_order_bounds_the_mixture_over_orders(module, params, vocabulary):
    """Fails when the estimate is of one masked token only (the pseudo-likelihood), or random
    orders are not those that it is the mean of."""
    row = [BOS, 5, 4, 6, END]
    nats = subset_nats(module, params, row)
    codes = [
        sum(nats[tuple(sorted(order[k:]))][i] for k, i in enumerate(order))
        for order in itertools.permutations(range(1, 5))
    ]
    mixture = -math.log(np.mean(np.exp(-np.array(codes))))
    tokens = np.tile(np.array(row, np.int32), (2048, 1))
    windows = [(tokens, np.ones_like(tokens))]
    bound, written = (
        score(scorer, module, params, windows, vocabulary=vocabulary)[0].sum(1)
        for scorer in (AnyOrderBound(), FixedOrder("random"))
    )
    for found in (bound, written):
        se = found.std(ddof=1) / math.sqrt(len(found))
        assert abs(found.mean() - np.mean(codes)) < 4.5 * se < 0.1 * np.mean(codes)
    assert mixture < bound.mean() * 0.99
    assert set(written.round(3)) == set(np.array(codes, np.float32).round(3))


def test_mask_error_is_calibrated(module, params, vocabulary):
    """Fails when the variance is not divided by the replicates, or replicates share masks."""
    random = np.random.default_rng(1)
    tokens = np.pad(random.integers(3, 7, size=(48, 3)), ((0, 0), (1, 0)), constant_values=2)
    tokens = tokens.astype(np.int32)
    truth = sum(
        order_mean(subset_nats(module, params, row), 4).sum() for row in tokens.tolist()
    )
    content = tokens != BOS
    text = WindowText(bytes_RL=content.astype(int), documents_RL=np.where(content, 0, -1))
    z = []
    for seed in range(40):
        nats = score(
            AnyOrderBound(samples=1),
            module,
            params,
            [(tokens, np.ones_like(tokens))],
            vocabulary=vocabulary,
            replicates=6,
            seed=seed,
        )
        found = measure(nats, text, kind="bound")
        z.append((found.bits_per_byte - truth / math.log(2) / content.sum()) / found.mc_se)
    assert 19 < np.square(z).sum() < 70  # chi-square with 40 degrees of freedom, 0.2% each side
    assert abs(np.mean(z)) < 3.5 / math.sqrt(40)


@pytest.mark.parametrize("prediction", ["masked", "masked before"])
def test_pseudo_with_a_sample_for_each_token_is_exact(module, params, vocabulary, prediction):
    """Fails when samples mask the same token twice, or when a token is counted 1 and not n."""
    tokens = np.array([[BOS, 5, 4, 6, END], [BOS, 6, 6, 0, 0]], np.int32)
    segments = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int32)
    windows = [(tokens, segments)]
    nats = score(Pseudo(4, prediction), module, params, windows, vocabulary=vocabulary)[0]
    rows = [2, 5, 4, 6, 3], [2, 6, 6]
    long, short = (subset_nats(module, params, row, prediction) for row in rows)
    np.testing.assert_allclose(nats[0, 1:], [long[(i,)][i] for i in range(1, 5)], rtol=1e-4)
    np.testing.assert_allclose(nats[1, 1:3], [short[(i,)][i] for i in range(1, 3)], rtol=1e-4)
    assert (nats[1, 3:] == 0).all()


@pytest.mark.parametrize("fraction", [0.01, 0.15, 1.0])
def test_a_fraction_masks_exactly_that_fraction(vocabulary, fraction):
    """Fails when the number is rounded in float32 or target positions run out."""
    length = 41
    content = np.arange(length)[None, :] <= np.arange(length)[:, None]  # n = 0 .. 40
    tokens = jnp.asarray(np.where(content, 5, 0)).at[:, 0].set(BOS)
    build = jax.jit(MaskFractions((fraction,)).build_example, static_argnames="vocabulary")
    keys = jax.random.split(jax.random.key(0), length)
    segments = content.astype(np.int32)
    rows = rows_of(tokens, segments)
    example, at = build(rows, vocabulary=vocabulary, key_B=keys, sample=2)
    number = np.array([max(1, math.floor(fraction * n + 0.5)) for n in range(length)])
    number[0] = 0
    masked = np.asarray(example.inputs == MASK)
    assert (masked.sum(1) == number).all() and not (masked & ~content).any()
    used = np.asarray(example.weights > 0)
    assert (used.sum(1) == number).all()
    for row in range(length):
        assert set(np.flatnonzero(masked[row])) == set(np.asarray(at)[row][used[row]].tolist())
    np.testing.assert_allclose(example.weights.sum(1), np.arange(length), rtol=1e-5)


def test_samples_take_turns_around_the_row(vocabulary):
    """Fails when each sample draws a permutation of its own: it would miss some tokens."""
    tokens = jnp.array([[BOS, *[5] * 12]])
    build = jax.jit(MaskFractions((0.25,) * 4).build_example, static_argnames="vocabulary")
    key = jax.random.key(3)[None]
    samples = [
        build(
            rows_of(tokens, jnp.ones_like(tokens)), vocabulary=vocabulary, key_B=key, sample=k
        )[0]
        for k in range(4)
    ]
    masked = sum(np.asarray(example.inputs == MASK).astype(int) for example in samples)
    assert masked.tolist() == [[0] + [1] * 12]


@pytest.mark.parametrize("scorer", SCORERS, ids=lambda s: f"{s.name}, {s.prediction}")
def test_documents_of_a_row_do_not_see_each_other(module, params, vocabulary, scorer):
    """Fails when the example's segments are all ones."""
    tokens = np.array([[BOS, 5, 4, END, BOS, 4, 6, END]], np.int32)
    segments = np.array([[1, 1, 1, 1, 2, 2, 2, 2]], np.int32)
    first_edited, second_edited = tokens.copy(), tokens.copy()
    first_edited[0, 1:3], second_edited[0, 5:7] = (6, 5), (5, 5)
    plain, first, second = (
        score(scorer, module, params, [(t, segments)], vocabulary=vocabulary, replicates=3)
        for t in (tokens, first_edited, second_edited)
    )
    np.testing.assert_array_equal(plain[..., 4:], first[..., 4:])
    np.testing.assert_array_equal(plain[..., :4], second[..., :4])
    assert (plain[..., :4] != first[..., :4]).any()
    assert (plain[..., 4:] != second[..., 4:]).any()


@pytest.mark.parametrize("scorer", SCORERS, ids=lambda s: f"{s.name}, {s.prediction}")
def test_batch_size_and_padding_change_nothing(module, params, vocabulary, scorer):
    """Fails when masks depend on the place in the batch, NaN from padding gets through, or
    later replicates draw the first one's masks."""
    random = np.random.default_rng(0)
    tokens = random.integers(3, 7, size=(7, 6)).astype(np.int32)
    tokens[:, 0] = BOS
    segments = np.ones_like(tokens)
    tokens[6, 3:], segments[6, 3:] = 0, 0

    def batches(size):
        return [(tokens[i : i + size], segments[i : i + size]) for i in range(0, 7, size)]

    whole, parts = (
        score(scorer, module, params, batches(size), vocabulary=vocabulary, replicates=2)
        for size in (7, 3)
    )
    assert whole.shape == (2, 7, 6) and np.isfinite(whole).all()
    np.testing.assert_allclose(whole, parts, rtol=1e-5)
    assert (whole[:, 6, 3:] == 0).all() and (whole[:, :, 0] == 0).all()
    later = score(scorer, module, params, batches(7), vocabulary=vocabulary, first=1)
    np.testing.assert_array_equal(later, whole[1:])
    same = (whole[0] == whole[1]).all()
    assert same != scorer.draws  # replicates are independent


@pytest.mark.eight_devices
def test_rows_may_be_spread_over_devices(module, params, vocabulary):
    """Fails when `place` is not asked for every array of rows."""
    mesh = Mesh(np.array(jax.devices()), ("rows",))
    sharding = NamedSharding(mesh, PartitionSpec("rows"))
    placed = []

    def place(array):
        placed.append(array.shape)
        return jax.device_put(array, sharding)

    tokens, segments = strings(2)
    windows = [(tokens, segments)]
    there = score(AnyOrderBound(), module, params, windows, vocabulary=vocabulary, place=place)
    here = score(AnyOrderBound(), module, params, windows, vocabulary=vocabulary)
    np.testing.assert_allclose(there, here, rtol=1e-5)
    assert placed == [(16, 3), (16, 3), (16,)]


@pytest.mark.parametrize("within_words", [False, True])
def test_pseudo_likelihood_masks_each_token_in_its_turn(
    module, params, vocabulary, within_words
):
    """Fails if a token sees itself, one is left out, or, within words, the rest of its word is
    seen or what stands before it in its word is not.
    """
    row = [BOS, 4, 5, 6, 5]
    word = [0, 1, 1, 2, 2]
    vocabulary = replace(vocabulary, begins_word=tuple(i not in (5,) for i in range(7)))
    nats = subset_nats(module, params, row)
    asked = {
        i: (i, *(j for j in range(i + 1, 5) if within_words and word[j] == word[i]))
        for i in range(1, 5)
    }
    expected = [0.0, *(nats[subset][i] for i, subset in asked.items())]
    tokens = np.array([row], np.int32)
    found = score(
        PseudoOfAll(within_words=within_words),
        module,
        params,
        [(tokens, np.ones_like(tokens))],
        vocabulary=vocabulary,
    )
    np.testing.assert_allclose(found[0, 0], expected, atol=1e-4)


@pytest.mark.parametrize(
    "scorer",
    [ChainRule(), BehindSentinel(), FixedOrder("left to right"), PseudoOfAll()],
    ids=lambda s: s.name,
)
def test_what_is_context_is_seen_and_not_scored(module, params, vocabulary, scorer):
    """Fails if context is masked or counted, or if what is scored does not depend on it."""
    tokens = jnp.array([[BOS, 4, 5, 6, 5], [BOS, 6, 5, 6, 5]])
    scored = jnp.arange(5)[None, :] >= jnp.array([[3], [3]])
    rows = scorers.ScoredRows(tokens, jnp.ones_like(tokens), scored)
    keys = jax.random.split(jax.random.key(0), 2)

    @jax.jit
    def compute(rows):
        return scorer.nats(module, params, rows, vocabulary=vocabulary, key_B=keys, sample=0)

    nats, likeliest = map(np.asarray, compute(rows))
    assert (nats[:, :3] == 0).all() and likeliest[:, :3].all()
    assert (nats[:, 3:] > 0).all() and (abs(nats[0, 3:] - nats[1, 3:]) > 1e-4).all()
    if isinstance(scorer, FixedOrder):
        by_subset = subset_nats(module, params, tokens[0].tolist())
        expected = by_subset[3, 4][3], by_subset[4,][4]
        np.testing.assert_allclose(nats[0, 3:], expected, atol=1e-4)


@pytest.mark.parametrize("scorer", [ChainRule(), FixedOrder("left to right")])
def test_likeliest_is_what_no_other_token_beats(module, params, vocabulary, scorer):
    """Fails if the comparison is turned around, or taken where another token was predicted."""
    tokens, segments = strings(2)
    keys = jax.random.split(jax.random.key(0), len(tokens))

    @jax.jit
    def compute(rows):
        return scorer.nats(module, params, rows, vocabulary=vocabulary, key_B=keys, sample=0)

    likeliest = np.asarray(compute(rows_of(tokens, segments)).likeliest_BL)
    # All ids compete, the special ones too: none of these strings need be the likeliest.
    for row in range(len(tokens)):
        if isinstance(scorer, ChainRule):
            logs = log_probabilities(
                module, params, tokens[[row]], segments[[row]], CausalMask()
            )[0]
            expected = [logs[i - 1].argmax() == tokens[row, i] for i in (1, 2)]
        else:
            logs = subset_logs(module, params, tokens[row].tolist())
            expected = [
                logs[1, 2][1].argmax() == tokens[row, 1],
                logs[2,][2].argmax() == tokens[row, 2],
            ]
        assert likeliest[row].tolist() == [True, *expected]
