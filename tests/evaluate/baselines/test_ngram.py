"""The n-gram model against sums by hand, a second implementation in dictionaries, a source."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from lm.config import UserError
from lm.evaluate.baselines import ngram
from lm.evaluate.baselines.ngram import NGram

SIZE = 6
BEGIN, END = "begin", SIZE


class Dictionaries:
    """The same model as its definition reads: n-grams are tuples, sums run over them all."""

    def __init__(self, documents, order):
        raw = Counter()
        for ids in documents:
            tokens = (BEGIN, *ids, END)
            for last in range(1, len(tokens)):
                for first in range(max(0, last - order + 1), last + 1):
                    raw[tokens[first : last + 1]] += 1
        before = defaultdict(set)
        for gram in raw:
            before[gram[1:]].add(gram[0])
        self.followers = defaultdict(dict)
        for gram, count in raw.items():
            if len(gram) < order and gram[0] != BEGIN:
                count = len(before[gram])
            self.followers[gram[:-1]][gram[-1]] = count
        self.order = order
        self.discounts = [None, *(self.estimate(length) for length in range(1, order + 1))]

    def estimate(self, length):
        n = Counter()
        for context, followers in self.followers.items():
            if len(context) == length - 1:
                n.update(followers.values())
        if not (n[1] and n[2] and n[3] and n[4]):
            return (0.5, 1.0, 1.5)
        y = n[1] / (n[1] + 2 * n[2])
        found = (1 - 2 * y * n[2] / n[1], 2 - 3 * y * n[3] / n[2], 3 - 4 * y * n[4] / n[3])
        return found if min(found) > 0 else (0.5, 1.0, 1.5)

    def probability(self, token, context):
        if context is None:
            return 1 / (SIZE + 1)
        context = context[max(0, len(context) - self.order + 1) :]
        shorter = self.probability(token, context[1:] if context else None)
        followers = self.followers.get(context)
        if not followers:
            return shorter
        d = self.discounts[len(context) + 1]
        total = sum(followers.values())
        rest = sum(d[min(count, 3) - 1] for count in followers.values()) / total
        count = followers.get(token, 0)
        kept = (count - d[min(count, 3) - 1]) / total if count else 0
        return kept + rest * shorter

    def nats(self, ids, end=True):
        tokens = (BEGIN, *ids, *([END] if end else []))
        return [
            -math.log(self.probability(tokens[i], tokens[:i])) for i in range(1, len(tokens))
        ]


def drawn(seed, number=60, longest=12, size=SIZE - 1):
    """Short documents in which few of many n-grams are frequent; the last id is in none."""
    random = np.random.default_rng(seed)
    fraction = 1 / np.arange(1, size + 1) ** 1.5
    return [
        random.choice(size, random.integers(0, longest), p=fraction / fraction.sum()).tolist()
        for _ in range(number)
    ]


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("number", [0, 1, 2, 40, 400])
def test_equals_its_definition(order, number):
    """Fails when n-grams that begin a document have the number of tokens before them, as the
    others do; when the full order has that; when a discount or a rest is another's."""
    documents = drawn(number, number)
    model, reference = (
        NGram.fit(documents, order=order, size=SIZE),
        Dictionaries(documents, order),
    )
    held_out = [*drawn(1000, 30, size=SIZE), *documents[:10]]
    for ids, nats_n in zip(held_out, model.nats_all(held_out, end=True), strict=True):
        np.testing.assert_allclose(nats_n, reference.nats(ids), rtol=1e-12, atol=1e-12)
    for context in ([], *drawn(1001, 20, size=SIZE)):
        expected = [reference.probability(t, (BEGIN, *context)) for t in range(SIZE + 1)]
        np.testing.assert_allclose(model.probabilities(context), expected, rtol=1e-12)


def test_both_kinds_of_discounts_are_tested():
    """Fails when the texts above are all too small for discounts, or all large enough."""
    found = [
        level.discounts.tolist() == [0, 0.5, 1, 1.5]
        for number in (40, 400)
        for level in NGram.fit(drawn(number, number), order=5, size=SIZE).levels
    ]
    assert 2 < sum(found) < len(found) - 2


def test_a_text_of_two_documents_by_hand():
    """Fails when the begin mark is predicted, the end is not, or a discount is another's.

    Of "a b a b" and "a b", with ids 0, 1 and an id 2 that is nowhere: the fallback's discounts
    are 0.5, 1 and 1.5 from counts of 1, 2 and 3. Tokens before a: begin, b; before b: a; before
    the end: b. So the unigrams leave (1 + 0.5 + 0.5) / 4, of which each of four has a fourth.
    """
    model = NGram.fit([[0, 1, 0, 1], [0, 1]], order=2, size=3)
    unigram = {0: 1 / 4 + 1 / 8, 1: 0.5 / 4 + 1 / 8, 2: 1 / 8, 3: 0.5 / 4 + 1 / 8}
    # begin a: 2 times, nothing else; a b: 3 times; b a: once, b end: twice.
    after_begin, after_a, after_b = ({0: 1 / 2}, {1: 1.5 / 3}, {0: 0.5 / 3, 3: 1 / 3})
    for context, kept in (([], after_begin), ([1, 0], after_a), ([0, 1], after_b)):
        expected = [kept.get(token, 0) + 0.5 * p for token, p in unigram.items()]
        np.testing.assert_allclose(model.probabilities(context), expected, rtol=1e-15)
    assert model.nats([0], [0, 1])[0] == pytest.approx(-math.log(0.5 / 3 + 0.375 / 2))


def test_known_answers_of_kenlm():
    """Fails when counts, discounts or marks are others than KenLM's (at commit 4cb443e).

    What `lmplz -o 3` says of the same words, in nats of whole documents; its one word for all
    that it has not seen is the last id here.
    """
    state, words = 1, []
    for _ in range(2510):
        state = (1103515245 * state + 12345) % 2**31
        words.append(int(300 * (state / 2**31) ** 4))
    seen = sorted(set(words[:2400]))
    ids = [seen.index(word) if word in seen else len(seen) for word in words]
    documents = [ids[start : start + 12] for start in range(0, 2400, 12)]
    model = NGram.fit(documents, order=3, size=len(seen) + 1)
    discounts = [level.discounts[1:].tolist() for level in model.levels]
    assert discounts == [
        pytest.approx([0.271523, 1.36315, 1.98968], rel=1e-5),
        pytest.approx([0.822545, 1.22401, 1.68393], rel=1e-5),
        pytest.approx([0.940088, 1.41936, 2.19421], rel=1e-5),
    ]
    held_out = [ids[2400:2430], ids[2500:2510], documents[5], [len(seen), 0, 0], []]
    found = [nats_n.sum() for nats_n in model.nats_all(held_out, end=True)]
    assert found == pytest.approx([155.95777, 52.16183, 35.41106, 13.97614, 3.64962], abs=2e-5)


def test_probabilities_sum_to_one():
    """Fails when what is discounted is not what is passed on, or the end has no share."""
    model = NGram.fit(drawn(0, 300), size=SIZE)
    contexts = [*drawn(1, 100, size=SIZE), *drawn(0, 100), [5, 5, 5, 5, 5], [0, 5, 0, 0]]
    for context in contexts:
        probability = model.probabilities(context)
        assert probability.shape == (SIZE + 1,)
        assert (probability > 0).all()
        assert probability.sum() == pytest.approx(1, abs=1e-13)


def test_a_text_that_is_odd_leaves_something_for_what_was_not_seen():
    """Fails when a discount of nothing, or less, is taken as it was estimated."""
    # Counts of 1 (the end's too) to 4: 5, 2, 4 and 1 times; from 2: 2 - 3 (5 / 9) (4 / 2) < 0.
    counts = [1] * 4 + [2] * 2 + [3] * 4 + [4]
    ids = np.repeat(np.arange(len(counts)), counts)
    model = NGram.fit([ids], order=1, size=20)
    assert model.levels[0].discounts.tolist() == [0, 0.5, 1, 1.5]
    assert np.isfinite(model.nats(range(20), end=True)).all()


def test_an_unseen_context_backs_off_exactly():
    """Fails when a context that was never followed takes a discount, or one is jumped over."""
    model = NGram.fit([[0, 1, 2, 3], [2, 1, 3]], order=4, size=SIZE)
    after = lambda *context: model.probabilities(context).tolist()  # noqa: E731
    assert after(4, 1, 2) == after(5, 1, 2) != after(4, 5, 2) == after(5, 2)
    assert after(0, 1, 4) == after(4) == after(2, 4) != after()
    # The last three are all that counts, and a document's start is one of them.
    assert after(0, 1, 2, 3) == after(3, 1, 2, 3)
    assert after(0, 1) != after(4, 0, 1)


def test_a_source_is_known_to_its_entropy_rate():
    """Fails when what the token before tells is lost, or longer contexts cost much."""
    random = np.random.default_rng(0)
    next_VV = random.dirichlet(np.full(8, 0.4), size=8)
    values, vectors = np.linalg.eig(next_VV.T)
    stationary_V = np.abs(vectors[:, np.argmax(values.real)].real)
    stationary_V /= stationary_V.sum()
    rate = -(stationary_V[:, None] * next_VV * np.log(next_VV + 1e-300)).sum()

    def text(length):
        cumulative_VV, at, found = next_VV.cumsum(axis=1), 0, []
        for u in random.random(length):
            at = min(int(np.searchsorted(cumulative_VV[at], u)), 7)
            found.append(at)
        return found

    held_out, training = text(40_000), text(200_000)
    by_order = {
        (order, length): NGram.fit([training[:length]], order=order, size=8).nats(held_out)
        for order, length in [(1, 200_000), (2, 200_000), (5, 200_000), (5, 2_000)]
    }
    above = {key: nats_n.mean() - rate for key, nats_n in by_order.items()}
    error = 3 * by_order[2, 200_000].std() / 40_000**0.5
    assert abs(above[2, 200_000]) < error + 1e-3
    assert above[1, 200_000] > 0.2
    assert -error < above[5, 200_000] < 0.03 < above[5, 2_000] < 0.3


def test_many_documents_as_each_alone(monkeypatch):
    """Fails when a document knows the one before it, or blocks of the stream each other not."""
    model = NGram.fit(drawn(0, 200), order=4, size=SIZE)
    held_out = drawn(1, 50, size=SIZE)
    alone = [model.nats(ids, end=True) for ids in held_out]
    assert [len(nats_n) for nats_n in alone] == [len(ids) + 1 for ids in held_out]
    for block in (1 << 20, 7):
        monkeypatch.setattr(ngram, "_BLOCK", block)
        together = model.nats_all(iter(held_out), end=True)
        for nats_n, expected_n in zip(together, alone, strict=True):
            assert nats_n.tolist() == expected_n.tolist()
    assert model.nats_all([]) == []


def test_a_context_is_the_documents_beginning():
    """Fails when a context is scored too, is not seen, or when the end mark is always there."""
    model = NGram.fit(drawn(0, 200), size=SIZE)
    whole = model.nats([0, 1, 0, 2, 0], end=True)
    assert model.nats([0, 2, 0], [0, 1], end=True).tolist() == whole[2:].tolist()
    assert model.nats([0, 2, 0], np.array([0, 1], np.uint16)).tolist() == whole[2:-1].tolist()
    assert model.nats([], [0]).tolist() == []
    assert model.nats([], [0, 1, 0, 2, 0], end=True).tolist() == whole[-1:].tolist()
    for n in range(5):
        probability = model.probabilities([0, 1, 0, 2, 0][:n])
        assert whole[n] == pytest.approx(-math.log(probability[[0, 1, 0, 2, 0][n]]))


def test_a_saved_model_is_the_same(tmp_path):
    """Fails when the order, the size, a level or a begin mark's count is lost."""
    model = NGram.fit(drawn(0, 200), order=3, size=SIZE)
    model.save(tmp_path / "model.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["model.npz"]
    loaded = NGram.load(tmp_path / "model.npz")
    assert (loaded.size, loaded.order) == (SIZE, 3)
    for found, expected in zip(loaded.levels, model.levels, strict=True):
        for array, same in zip(found, expected, strict=True):
            assert array.dtype == same.dtype
            np.testing.assert_array_equal(array, same)


def test_a_file_that_is_no_model_is_refused(tmp_path):
    """Fails when what numpy or the file system says comes through as a traceback."""
    model = tmp_path / "model.npz"
    NGram.fit(drawn(0), size=SIZE).save(model)
    whole = model.read_bytes()
    damaged = {"text": b"not numpy's", "half": whole[: len(whole) // 2], "nothing": b""}
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
    np.savez(tmp_path / "other.npz", size=3)
    np.save(tmp_path / "array.npy", np.ones(3))
    for name in (*damaged, "other.npz", "array.npy", "."):
        with pytest.raises(UserError, match=r"^[^\n]*: no n-gram model, or a damaged one$"):
            NGram.load(tmp_path / name)
    with pytest.raises(UserError, match="absent: no such file"):
        NGram.load(tmp_path / "absent")


def test_ids_out_of_range_are_refused():
    """Fails when an id that is a mark's is taken for the mark, or wraps round."""
    model = NGram.fit([[0]], size=3)
    for wrong in ([3], [0, 4], [-1]):
        with pytest.raises(ValueError, match=f"id {wrong[-1]}: ids are 0 to 2"):
            NGram.fit([[0], wrong], size=3)
        with pytest.raises(ValueError, match="ids are 0 to 2"):
            model.nats_all([wrong])
        with pytest.raises(ValueError, match="ids are 0 to 2"):
            model.probabilities(wrong)
    with pytest.raises(ValueError, match="order 0"):
        NGram.fit([[0]], order=0, size=3)
