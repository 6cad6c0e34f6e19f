"""Both sides of a mixture of orders, against every order by hand and on known sources."""

import itertools
import json
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.cli import main
from lm.config import UserError, override
from lm.data import Bytes, Hmm, open_tokenizer
from lm.evaluate import both_sides as sides
from lm.evaluate.both_sides import ends_of
from lm.evaluate.oracle import Oracle
from lm.evaluate.scorers.all_orders import AllOrders, OneOrder
from lm.evaluate.scorers.base import score
from lm.example import BidirectionalMask, Example, positions_of
from lm.train.load import load_run
from lm.train.train import train_run

MASK, BOS = 1, 2


def row_of(*tokens):
    """A row of one document after its bos token."""
    row = np.array([[BOS, *tokens]], np.int32)
    return row, np.ones_like(row)


def by_hand(module, params, row, segments, blocks):
    """-log of the mean over all orders within the blocks, by every one of them."""
    places = [place for block in blocks for place in block]
    masks = {
        tuple(sorted(set(places) - set(known)))
        for r in range(len(places))
        for known in itertools.combinations(places, r)
    }
    masks = sorted(masks)
    inputs = np.repeat(row, len(masks), axis=0)
    for i, masked in enumerate(masks):
        inputs[i, list(masked)] = MASK
    inputs, segments = jnp.asarray(inputs), jnp.repeat(jnp.asarray(segments), len(masks), 0)
    example = Example(
        inputs=inputs,
        target_positions=None,
        targets=inputs,
        weights=jnp.zeros(inputs.shape),
        segments=segments,
        positions=positions_of(segments),
        attention_mask=BidirectionalMask(),
    )
    hidden, table, *_ = module.apply({"params": params}, example)
    logs = np.asarray(jax.nn.log_softmax(hidden @ table.T, axis=-1), np.float64)
    log_of = dict(zip(masks, logs, strict=True))
    total = 0.0
    left = list(places)
    for block in blocks:
        chances = []
        for order in itertools.permutations(block):
            masked, log = list(left), 0.0
            for place in order:
                log += log_of[tuple(sorted(masked))][place, row[0, place]]
                masked.remove(place)
            chances.append(log)
        total -= np.logaddexp.reduce(chances) - math.log(len(chances))
        left = [place for place in left if place not in block]
    return total


@pytest.mark.parametrize(
    ("size", "blocks"),
    [(5, [(1, 2, 3, 4, 5)]), (2, [(1, 2), (3, 4), (5,)])],
    ids=["whole", "blocks"],
)
def test_all_orders_are_every_order_by_hand(size, blocks, module, params, vocabulary):
    """Fails if an order is missing from the subsets, one is weighted by its size, a later
    block is shown, or one of fewer tokens than others waits for more.
    """
    row, segments = row_of(4, 6, 5, 5, 3)
    found = score(AllOrders(size), module, params, [(row, segments)], vocabulary=vocabulary)
    expected = by_hand(module, params, row, segments, blocks)
    assert found[0, 0, 0, 1:].sum() == pytest.approx(expected, abs=1e-4)
    assert found[0, 0, 0, 0] == 0


def test_blocks_end_with_documents_and_rows_end_where_they_do(module, params, vocabulary):
    """Fails if a block holds tokens of two documents, or padding is asked for."""
    tokens = np.array([[BOS, 4, 6, 3, BOS, 5, 4, 0]], np.int32)
    segments = np.array([[1, 1, 1, 1, 2, 2, 2, 0]], np.int32)
    found = score(AllOrders(4), module, params, [(tokens, segments)], vocabulary=vocabulary)
    expected = by_hand(module, params, tokens, segments, [(1, 2, 3), (5, 6)])
    assert found[0, 0, 0].sum() == pytest.approx(expected, abs=1e-4)
    assert (found[0, 0, 0] > 0).tolist() == [False, True, True, True, False, True, True, False]


def test_orders_that_are_drawn_average_to_all_of_them(module, params, vocabulary):
    """Fails if orders leave their blocks, replicates are one order, or some are never drawn."""
    row, segments = row_of(4, 6, 5, 3)
    drawn = score(
        OneOrder(2), module, params, [(row, segments)], vocabulary=vocabulary, replicates=64
    )[:, 0, 0].sum(axis=1)
    expected = by_hand(module, params, row, segments, [(1, 2), (3, 4)])
    assert len(np.unique(drawn.round(4))) == 4
    # The four orders are known: their mean is theirs, whatever was drawn how often.
    chances = np.exp(-np.unique(drawn.round(5)))
    assert -math.log(chances.mean()) == pytest.approx(expected, abs=1e-3)


def test_of_a_source_all_orders_agree():
    """Fails if the mixture is not the source's own probability: a factor n! for instance."""
    source = Hmm(states=4, symbols=6, length=9, concentration=0.3)
    tokenizer = open_tokenizer(Bytes())
    symbols = source.draw(0, 6)[1]
    vocabulary = tokenizer.vocabulary
    letters = vocabulary.first_ordinary + ord("a") + symbols
    ends = [[vocabulary.bos]] * 6, [[vocabulary.eos, vocabulary.bos]] * 6
    tokens = np.concatenate([ends[0], letters, ends[1]], axis=1).astype(np.int32)
    segments = np.ones_like(tokens)
    segments[:, -1] = 2
    oracle = Oracle(source, vocabulary)
    found = score(AllOrders(5), oracle, {}, [(tokens, segments)], vocabulary=vocabulary)
    exact = -source.source().log_probability(symbols)
    assert found[0, 0].sum(axis=1) == pytest.approx(exact, abs=1e-3)


SPREADS = {"little": 0.4, "some": 1.0}


@pytest.mark.parametrize("spread", SPREADS.values(), ids=SPREADS)
@pytest.mark.parametrize("units", [1, 40])
def test_the_ends_hold_as_often_as_they_say(spread, units):
    """Fails if psi is the estimate's own replicate (its ends then miss often), an end is
    turned, or the margin is that of a smaller second moment.
    """
    random = np.random.default_rng(0)
    orders = 256 if units == 1 else 32
    misses, resolved = [0, 0], 0
    for _ in range(200):
        log_KU = spread * random.normal(size=(orders, units)) - 14
        exact = units * (14 - spread**2 / 2)
        found = ends_of(-log_KU)
        misses[0] += found.at_most < exact
        if found.at_least is not None:
            resolved += 1
            misses[1] += found.at_least > exact
            assert found.at_least < found.at_most
    assert resolved >= 190
    assert max(misses) <= 200 * sides.MISS + 5


def test_a_tail_that_the_sample_lacks_is_reckoned_with():
    """Fails if the second moment is the sample's alone: 24 of 197 windows then miss."""
    random = np.random.default_rng(0)
    spread, resolved, misses = 1.4, 0, 0
    for _ in range(400):
        found = ends_of(14 - spread * random.normal(size=(64, 1)))
        if found.at_least is not None:
            resolved += 1
            misses += found.at_least > 14 - spread**2 / 2
    assert resolved > 40
    assert misses <= sides.MISS * resolved + 4


def test_psi_is_of_other_orders_than_the_estimate(monkeypatch):
    """Fails if psi is chosen from the replicate that estimates: the tangent is then the log of
    a mean, which is below log p on average, as if the bound were no bound.
    """
    monkeypatch.setattr(sides, "MISS", 1.0)  # the estimates, without margins
    random = np.random.default_rng(1)
    spread, units = 1.0, 4000
    found = ends_of(14 - spread * random.normal(size=(8, units)))
    exact = units * (14 - spread**2 / 2)
    assert found.at_least is not None
    assert found.at_least < exact - 0.05 * units  # E[log psi + p/psi - 1] > log p by a quarter
    assert found.at_most > exact + 0.05 * units
    assert found.bound == pytest.approx(14 * units, rel=0.01)


def test_a_spread_that_is_too_large_is_not_resolved():
    """Fails if a heavy tail, which the sample does not hold, is taken for none."""
    random = np.random.default_rng(2)
    assert ends_of(30 - 2.5 * random.normal(size=(256, 10))).at_least is None
    assert ends_of(30 - 1.4 * random.normal(size=(8, 1))).at_least is None
    with pytest.raises(ValueError, match="at least 8"):
        ends_of(np.zeros((7, 3)))


@pytest.fixture(scope="module")
def trained(run, tmp_path_factory):
    """BERTs at all rates of the made-up text and of a source, in rows of at most 14 tokens."""
    run = override(run, ["objective.type=any_order", "data.length=12"])
    source = ["data.corpus.type=hmm", "data.corpus.length=9", "data.corpus.documents=900"]
    found = {}
    for name, each in {"text": run, "hmm": override(run, source)}.items():
        found[name] = tmp_path_factory.mktemp("runs") / name
        train_run(each, found[name])
    return found


@pytest.mark.parametrize("of", ["text", "hmm"])
def test_the_exact_mean_of_a_trained_model_lies_within(of, trained):
    """Fails if the exact sum and the orders are of different models, bytes or layouts."""
    model = load_run(trained[of])
    exact = sides.exact_side(model, rows=24, block=11)
    found = sides.both_sides(model, rows=24, block=11, orders=32)
    assert found.at_least is not None
    assert found.at_least < exact.bits_per_byte < found.at_most
    assert found.layout_bits == pytest.approx(exact.layout_bits)
    assert found.bytes == exact.bytes
    assert exact.bits_per_byte < found.bound + 0.05


def test_the_command_prints_an_interval_or_that_there_is_none(trained, capsys, monkeypatch):
    """Fails if an end is printed where it is not resolved, or the block is not named."""
    ask = ["score", str(trained["text"]), "--orders", "8", "--rows", "24", "--block", "11"]
    main(ask)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "all orders of blocks of 11 tokens, from left to right"
    assert [line[:16].strip() for line in said[1:4]] == [
        "at least",
        "at most",
        "any-order bound",
    ]
    monkeypatch.setattr(sides, "SPREAD", 0.0)
    main(ask)
    assert "not resolved: log p spreads by" in capsys.readouterr().out
    main([*ask, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["at_least"] is None and found["at_most"] < found["bound"] + 0.05


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--orders", "7"], "--orders 7: must be `all`, or 8 to 4096"),
        (["--orders", "few"], "--orders few: must be `all`"),
        (
            ["--orders", "all", "--block", "15"],
            "--block 15: all orders are summed of at most 14",
        ),
        (["--orders", "8", "--scorer", "pseudo"], "--scorer: not with --orders"),
        (["--orders", "8", "--rows", "0"], "--rows 0: must be > 0"),
    ],
)
def test_what_cannot_be_is_refused(options, says, capsys):
    """Fails if 2^15 subsets are begun, or an option is ignored."""
    with pytest.raises(SystemExit) as ended:
        main(["score", "nowhere", *options])
    assert ended.value.code == 2 and says in capsys.readouterr().err


def test_a_gpt_is_refused(trained):
    """Fails if a GPT is asked what is masked."""
    model = load_run(trained["text"])
    causal = replace(model, run=override(model.run, ["objective.type=causal"]))
    with pytest.raises(UserError, match="which tokens are masked"):
        sides.both_sides(causal, rows=2, block=8, orders=8)
