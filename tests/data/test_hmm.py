"""The hidden Markov source: what it draws, and that its truths equal sums over all paths."""

import hashlib
import itertools
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from lm.config import UserError, override, validate_fields
from lm.data import Bytes, Data, Hmm, n_rows, open_tokens, rows
from lm.data.corpora import fraction_of, survey
from lm.data.sources.hmm import (
    ALPHABET,
    HmmSource,
    bayes_accuracy,
    index_of,
    stationary,
    symbols_of,
)


def tables(states: int, symbols: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.RandomState(seed)
    return draw.dirichlet([0.5] * states, states), draw.dirichlet([0.5] * symbols, states)


WITH_ZEROS = HmmSource.of(
    np.array([[0.0, 1, 0], [0.3, 0.3, 0.4], [0.5, 0.5, 0]]),
    np.array([[1.0, 0], [0.4, 0.6], [0, 1]]),
)
NOT_STATIONARY = HmmSource(np.array([0.9, 0.1]), *tables(2, 3, 5))
SOURCES = {
    "2 states, 3 symbols": HmmSource.of(*tables(2, 3)),
    "3 states, 2 symbols": HmmSource.of(*tables(3, 2, 1)),
    "3 states, 3 symbols": HmmSource.of(*tables(3, 3, 2)),
    "with zeros": WITH_ZEROS,
    "not stationary": NOT_STATIONARY,
}


@pytest.fixture(params=SOURCES.values(), ids=SOURCES)
def source(request: pytest.FixtureRequest) -> HmmSource:
    return request.param


def every(values: int, length: int) -> np.ndarray:
    return np.array(list(itertools.product(range(values), repeat=length)))


def joint(source: HmmSource, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every path, every text, and p(path, text) by the definition, [paths, texts]."""
    paths = every(len(source.initial_S), length)
    texts = every(source.emission_SK.shape[1], length)
    found = np.empty((len(paths), len(texts)))
    for row, path in enumerate(paths):
        prior = source.initial_S[path[0]]
        for state, following in itertools.pairwise(path):
            prior *= source.transition_SS[state, following]
        found[row] = prior * source.emission_SK[path[None, :], texts].prod(axis=1)
    return paths, texts, found


@pytest.mark.parametrize("length", [1, 2, 5])
def test_probabilities_are_sums_over_all_paths(source: HmmSource, length: int) -> None:
    """Fails if a state emits before it is entered, or the transition is transposed."""
    _, texts, together = joint(source, length)
    found = np.exp(source.log_probability(texts))
    np.testing.assert_allclose(found, together.sum(axis=0), rtol=1e-10, atol=1e-15)
    assert found.sum() == pytest.approx(1, abs=1e-10)


def test_predictions_are_ratios_of_prefixes(source: HmmSource) -> None:
    """Fails if a prediction has seen its own symbol, or only the one before it."""
    _, texts, together = joint(source, 4)
    weight = together.sum(axis=0)
    texts, weight = texts[weight > 0], weight[weight > 0]
    nats = source.prediction_nats(texts)
    for text, found, whole in zip(texts, nats, weight, strict=True):
        prefixes = [
            weight[(texts[:, :t] == text[:t]).all(axis=1)].sum() for t in range(len(text) + 1)
        ]
        np.testing.assert_allclose(found, -np.diff(np.log(prefixes)), rtol=1e-10, atol=1e-10)
        assert np.exp(-found.sum()) == pytest.approx(whole, rel=1e-10)


def test_conditionals_are_sums_over_all_completions(source: HmmSource) -> None:
    """Fails if what is hidden is seen, hidden ones are not summed out, or one side is lost."""
    _, texts, together = joint(source, 4)
    weight = together.sum(axis=0)
    texts, weight = texts[weight > 0], weight[weight > 0]
    for hidden in every(2, 4).astype(bool):
        nats = source.conditional_nats(texts, np.broadcast_to(hidden, texts.shape))
        assert np.all(nats[:, ~hidden] == 0)
        for text, found in zip(texts, nats, strict=True):
            fits = (texts == text)[:, ~hidden].all(axis=1)
            for i in np.flatnonzero(hidden):
                fraction = weight[fits & (texts[:, i] == text[i])].sum() / weight[fits].sum()
                assert found[i] == pytest.approx(-np.log(fraction), rel=1e-10, abs=1e-10)


def test_each_text_has_the_mask_that_it_came_with() -> None:
    """Fails if the first text's mask is used for all."""
    source = SOURCES["3 states, 3 symbols"]
    texts, hidden = every(3, 4), np.random.RandomState(0).random_sample((81, 4)) < 0.5
    together = source.conditional_nats(texts, hidden)
    alone = [source.conditional_nats(texts[i : i + 1], hidden[i : i + 1])[0] for i in range(81)]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


def test_every_order_of_conditionals_gives_the_probability() -> None:
    """Fails if conditionals are of no one source: the any-order bound is then not tight."""
    source = Hmm(length=12).source()
    _, texts = Hmm(length=12).draw(0, 5)
    draw = np.random.RandomState(0)
    for order in (np.arange(12)[::-1], draw.permutation(12), draw.permutation(12)):
        total = np.zeros(len(texts))
        for known in range(12):
            hidden = np.ones(texts.shape, bool)
            hidden[:, order[:known]] = False
            total += source.conditional_nats(texts, hidden)[:, order[known]]
        np.testing.assert_allclose(total, -source.log_probability(texts), rtol=1e-10)


def test_posteriors_are_sums_over_all_paths(source: HmmSource) -> None:
    """Fails if filtering sees later symbols or not its own, or smoothing only one side."""
    length = 4
    paths, texts, together = joint(source, length)
    possible = together.sum(axis=0) > 0
    texts, together = texts[possible], together[:, possible]
    smoothed = source.state_posterior(texts, given="all")
    filtered = source.state_posterior(texts, given="so far")
    for n, text in enumerate(texts):
        for t in range(length):
            same = (texts[:, : t + 1] == text[: t + 1]).all(axis=1)
            for weight, found in (
                (together[:, n], smoothed[n, t]),
                (together[:, same].sum(axis=1), filtered[n, t]),
            ):
                expected = np.bincount(paths[:, t], weight, minlength=len(found))
                np.testing.assert_allclose(found, expected / expected.sum(), atol=1e-10)


def test_an_impossible_text_has_no_probability_and_does_not_spoil_others() -> None:
    """Fails if scaling divides by zero: NaN, or a warning, which is an error here."""
    source = HmmSource.of(np.array([[0.0, 1], [1, 0]]), np.eye(2))
    texts = np.array([[0, 0, 1], [0, 1, 0]])
    found = source.log_probability(texts)
    assert found[0] == -np.inf and found[1] == pytest.approx(np.log(0.5))
    assert source.prediction_nats(texts)[0].tolist() == [np.log(2), np.inf, np.inf]
    for given in ("all", "so far"):
        posterior = source.state_posterior(texts, given=given)  # type: ignore[arg-type]
        assert posterior[1].argmax(axis=1).tolist() == [0, 1, 0]
        assert not np.isnan(posterior).any()


def test_long_texts_do_not_underflow() -> None:
    """Fails without scaling: 0.1^3000 is no float64."""
    config = Hmm(length=3000)
    source, (_, texts) = config.source(), config.draw(0, 2)
    nats = source.prediction_nats(texts)
    assert np.isfinite(nats).all() and np.all(nats.sum(axis=1) > 3000)
    np.testing.assert_allclose(-source.log_probability(texts), nats.sum(axis=1))
    hidden = np.arange(3000)[None, :] % 5 == 0
    assert np.isfinite(source.conditional_nats(texts, hidden)).all()


def test_stationary_is_what_a_step_leaves() -> None:
    """Fails if it is of the transposed table, or loses digits where states are rarely left."""
    for seed in range(20):
        table = np.random.RandomState(seed).dirichlet([0.05] * 6, 6) + 1e-9
        table /= table.sum(axis=1, keepdims=True)
        fraction = stationary(table)
        assert fraction.sum() == pytest.approx(1, abs=1e-14)
        np.testing.assert_allclose(fraction @ table, fraction, rtol=1e-7)
    slow = np.array([[1 - 1e-13, 1e-13], [3e-13, 1 - 3e-13]])
    np.testing.assert_allclose(stationary(slow), [0.75, 0.25], rtol=1e-10)


def test_drawn_texts_have_the_frequencies_of_the_source() -> None:
    """Fails if the first state is uniform, or a state emits with another's probabilities."""
    config = Hmm(length=12, documents=20_000)
    source, (states, texts) = config.source(), config.draw(0, 20_000)
    pair = source.initial_S[:, None] * source.transition_SS
    fractions = {
        "states": (source.initial_S, states),
        "symbols": (source.initial_S @ source.emission_SK, texts),
        "pairs of states": (pair.ravel(), states[:, :-1] * 8 + states[:, 1:]),
        "bigrams": (
            (source.emission_SK.T @ pair @ source.emission_SK).ravel(),
            texts[:, :-1] * 16 + texts[:, 1:],
        ),
        "emissions": (
            (source.initial_S[:, None] * source.emission_SK).ravel(),
            states * 16 + texts,
        ),
    }
    for name, (expected, found) in fractions.items():
        for t in (0, found.shape[1] - 1):  # at one place the draws are independent
            counts = np.bincount(found[:, t], minlength=len(expected))
            se = np.sqrt(expected * (1 - expected) / len(found))
            error = np.abs(counts / len(found) - expected)
            assert np.all(error <= 4.5 * se + 1e-4), (name, t)


def test_prediction_meets_the_draws() -> None:
    """Fails if the truth is of another source than the one that draws: 0.3 bits apart."""
    config = Hmm()
    source, (states, texts) = config.source(), config.draw(0, 3000)
    nats = source.prediction_nats(texts)
    before, _ = source._forward(source._evidence(texts), source.initial_S[None, :])
    fraction = before @ source.emission_SK
    entropy = -(fraction * np.log(fraction)).sum(axis=2)
    surplus = (nats - entropy).sum(axis=1)  # a martingale's end: its mean is 0
    assert abs(surplus.mean()) < 4 * surplus.std() / np.sqrt(len(surplus))
    for given in ("all", "so far"):
        posterior = source.state_posterior(texts, given=given)  # type: ignore[arg-type]
        accuracy = bayes_accuracy(posterior, states)
        assert abs(accuracy.value - posterior.max(axis=2).mean()) < 4 * accuracy.se
        assert 0 < accuracy.se < 0.005


def test_knowing_more_never_hurts() -> None:
    """Fails if smoothing and filtering are swapped, or the accuracy is of the wrong state."""
    config = Hmm()
    source, (states, texts) = config.source(), config.draw(0, 2000)
    smoothed, filtered = (
        bayes_accuracy(source.state_posterior(texts, given=given), states)
        for given in ("all", "so far")  # type: ignore[arg-type]
    )
    assert source.initial_S.max() + 0.3 < filtered.value < smoothed.value - 0.03 < 1


def test_entropy_rate_of_a_markov_chain_is_the_closed_form() -> None:
    """Fails if it is in nats, or of symbols under the stationary distribution alone."""
    table = np.array([[0.9, 0.05, 0.05], [0.2, 0.3, 0.5], [0.6, 0.2, 0.2]])
    rows_S = -(table * np.log2(table)).sum(axis=1)
    expected = stationary(table) @ rows_S
    found = HmmSource.of(table, np.eye(3)).entropy_rate()
    assert 0 < found.se < 0.004
    assert abs(found.bits - expected) < 4 * found.se
    assert found.lower == pytest.approx(found.upper, abs=1e-12)


def test_entropy_rate_of_independent_symbols_is_their_entropy() -> None:
    """Fails if anything but the predicted distribution enters: there is nothing to sample."""
    fraction = np.array([0.5, 0.3, 0.2])
    source = HmmSource.of(np.array([[0.3, 0.7], [0.6, 0.4]]), np.stack([fraction, fraction]))
    found = source.entropy_rate(texts=10, length=10)
    np.testing.assert_allclose(found[:2], -(fraction * np.log2(fraction)).sum(), rtol=1e-12)
    assert found.se < 1e-12


def test_entropy_rate_lies_between_bounds_that_meet() -> None:
    """Fails if the bounds are swapped, or never meet. The numbers are in a docstring."""
    source = Hmm().source()
    early, late = source.entropy_rate(length=4), source.entropy_rate()
    assert early.lower < late.bits - 4 * late.se < late.bits + 4 * late.se < early.upper
    assert 0 <= late.upper - late.lower < 1e-9 and late.se < 0.003
    assert round(late.bits, 2) == 2.26
    symbol = source.initial_S @ source.emission_SK
    pair = source.emission_SK.T @ (source.initial_S[:, None] * source.transition_SS)
    bigram = pair @ source.emission_SK
    assert round(-(symbol * np.log2(symbol)).sum(), 2) == 3.17
    assert round(-(bigram * np.log2(bigram / symbol[:, None])).sum(), 2) == 2.61


def test_entropy_bounds_are_those_of_every_text() -> None:
    """Fails if the lower bound does not know the first state, or n is off by one."""
    small = SOURCES["3 states, 3 symbols"]

    def block(source: HmmSource, length: int) -> float:
        nats = -source.log_probability(every(3, length))
        return (np.exp(-nats) * nats).sum() / np.log(2)

    def rate(source: HmmSource) -> float:
        """Mean of H(x_3 | x_1 x_2) and H(x_4 | x_1 x_2 x_3): the second half of four."""
        return (block(source, 4) - block(source, 2)) / 2

    begun = [HmmSource(start, small.transition_SS, small.emission_SK) for start in np.eye(3)]
    lower = small.initial_S @ [rate(source) for source in begun]
    found = small.entropy_rate(texts=100_000, length=4)
    assert rate(small) - lower > 10 * found.se
    assert abs(found.upper - rate(small)) < 4 * found.se
    assert abs(found.lower - lower) < 4 * found.se


def digest(config: Hmm) -> str:
    total = hashlib.sha256()
    for id, text, *_ in config.read():
        total.update(f"{id} {text}\n".encode())
    return total.hexdigest()[:16]


def test_documents_are_pinned() -> None:
    """Fails if a release of NumPy draws otherwise, or a change does: a truth without texts."""
    assert digest(Hmm(documents=500)) == "6f10f3fed6b07246"
    another = Hmm(states=3, symbols=64, length=7, documents=500, seed=3)
    assert digest(another) == "190d32454355e117"


PROGRAM = """
from lm.data import Hmm
import hashlib
print(hashlib.sha256(b"".join(text for _, _, text in Hmm(documents=99).contents())).hexdigest())
"""


def test_processes_draw_the_same() -> None:
    """Fails if the draws depend on the process: hash seeds, or a global generator."""
    children = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    ]
    here = "".join(text for _, text, *_ in Hmm(documents=99).read())
    assert children == [hashlib.sha256(here.encode()).hexdigest() + "\n"] * 2


def test_a_document_is_drawn_from_its_index_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a text depends on the ones before it, or on how many there are."""
    for length in (1, 2, 5, 61):
        config = Hmm(length=length, documents=3000)
        states, texts = config.draw(0, 3000)
        found = list(config.read())
        assert [index_of(id) for id, *_ in found] == list(range(3000))
        assert found[123].id == "hmm:000123"
        for index in (0, 1, 123, 2999):
            text = found[index].text
            assert len(text) == len(text.encode()) == length
            np.testing.assert_array_equal(symbols_of(text), texts[index])
            alone = Hmm(length=length, documents=7).draw(index, index + 1)
            np.testing.assert_array_equal(alone[0][0], states[index])
            np.testing.assert_array_equal(alone[1][0], texts[index])
    assert len({text for _, text, *_ in found}) == 3000


def test_seeds_choose_other_tables_and_other_texts() -> None:
    """Fails if a seed is left out of either, or concentration does nothing."""
    first, second = Hmm(seed=0).source(), Hmm(seed=1).source()
    assert not np.allclose(first.emission_SK, second.emission_SK)
    even = Hmm(concentration=1000).source()
    assert even.emission_SK.max() < 0.1 < first.emission_SK.max()
    twins = [Hmm(seed=seed, concentration=1000).draw(0, 50)[1] for seed in (0, 1)]
    assert (twins[0] == twins[1]).mean() < 0.2


def test_nothing_is_impossible() -> None:
    """Fails if a table may hold a 0: a validation text could then cost infinitely many bits."""
    config = Hmm(states=64, symbols=64, concentration=0.05, length=50)
    source = config.source()
    for table in (source.transition_SS, source.emission_SK):
        assert table.min() > 9e-7
        np.testing.assert_allclose(table.sum(axis=1), 1, atol=1e-12)
    assert np.isfinite(
        source.log_probability(np.random.RandomState(0).randint(64, size=(9, 50)))
    ).all()


def test_a_row_is_a_document() -> None:
    """Fails if the row length is off by one: a window would cut documents."""
    config = Hmm(length=9, documents=300)
    tokens = open_tokens(
        Data(corpus=config, tokenizer=Bytes(), length=config.row_length, validation=0.2)
    )
    texts = {id: text for id, text, *_ in config.read()}
    assert len(tokens.train.ids) + len(tokens.validation.ids) == 300
    special = tokens.tokenizer.vocabulary
    for split in (tokens.train, tokens.validation):
        number = len(split.ids)
        assert n_rows(split, config.row_length) == number > 30
        found = rows(split, np.arange(number), config.row_length, special)
        assert np.all(found.segments_BL[:, :11] == 1)
        assert found.segments_BL[:, 11].tolist() == [2] * (number - 1) + [0]
        assert np.all(found.tokens_BL[:, 0] == special.bos)
        assert np.all(found.tokens_BL[:, 10] == special.eos)
        assert found.tokens_BL[:, 11].tolist() == [special.bos] * (number - 1) + [special.pad]
        for id, row in zip(split.ids, found.tokens_BL[:, 1:10], strict=True):
            assert tokens.tokenizer.decode(row) == texts[id]
            index = index_of(id)
            np.testing.assert_array_equal(
                symbols_of(texts[id]), config.draw(index, index + 1)[1][0]
            )


def test_the_split_is_by_content_and_copies_fall_together() -> None:
    """Fails if documents are split by index: the same text would be on both sides."""
    config = Hmm(states=2, symbols=2, length=6, documents=400)
    tokens = open_tokens(Data(corpus=config, tokenizer=Bytes(), validation=0.3))
    sides = [
        {split.text(n) for n in range(len(split.ids))}
        for split in (tokens.train, tokens.validation)
    ]
    assert all(sides) and not sides[0] & sides[1]
    assert all(fraction_of(text.encode()) < 0.3 for text in sides[1])


def test_another_source_is_another_corpus() -> None:
    """Fails if the survey that is kept is of the kind of corpus alone."""
    first = survey(Hmm(documents=100), 0.2)
    assert survey(Hmm(documents=100), 0.2) == first
    assert survey(Hmm(documents=101), 0.2).digest != first.digest
    assert survey(Hmm(documents=100, seed=1), 0.2).digest != first.digest


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("corpus.symbols=65", r"corpus\.symbols=65: must be <= 64"),
        ("corpus.symbols=1", r"corpus\.symbols=1: must be >= 2"),
        ("corpus.states=0", r"corpus\.states=0: must be >= 1"),
        ("corpus.length=0", r"corpus\.length=0: must be >= 1"),
        ("corpus.concentration=0", r"corpus\.concentration=0: must be >= 0\.05"),
        ("corpus.seed=-1", r"corpus\.seed=-1: must be >= 0"),
        ("corpus.letters=3", r"no such field"),
    ],
)
def test_settings_out_of_bounds_are_one_line(assignment: str, message: str) -> None:
    """Fails if a bound is lost: an index error, or NaN tables, would come later."""
    with pytest.raises(UserError, match=message) as caught:
        override(Data(), ["corpus.type=hmm", assignment])
    assert "\n" not in str(caught.value)


def test_the_largest_settings_work() -> None:
    """Fails if the alphabet has fewer letters than the bound allows, or a letter twice."""
    config = validate_fields(Hmm(states=64, symbols=64, concentration=1000, documents=50))
    letters = {letter for _, text, *_ in config.read() for letter in text}
    assert letters == set(ALPHABET) and len(ALPHABET) == 64
    one = Hmm(states=1, symbols=2, length=1, documents=3)
    assert [len(text) for _, text, *_ in one.read()] == [1, 1, 1]


def test_a_million_symbols_take_little_time() -> None:
    """Fails if texts are drawn one by one, or the tables anew for each: 20 s, not 0.2."""
    start = time.monotonic()
    assert sum(1 for _ in Hmm().read()) == 20_000
    assert time.monotonic() - start < 3
