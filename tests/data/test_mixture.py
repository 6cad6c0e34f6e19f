"""Mixtures: weights within a row at every row, epochs by arithmetic, the same on any host."""

import json
from collections import Counter
from fractions import Fraction
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.config import UserError, parse
from lm.data import (
    LOSS,
    Bytes,
    Chat,
    Data,
    Jsonl,
    Official,
    Supply,
    Text,
    TextMixture,
    Weights,
    n_rows,
    open_tokens,
    rows,
    turns_of,
)
from lm.data import Component as Part
from lm.data.turns import LEAST_WEIGHT, Phase, Turns

GPT3 = (60, 22, 8, 8, 3)
"""Brown et al. 2020, table 2.2, as it is printed."""
NAMES = ("crawl", "webtext2", "books1", "books2", "wikipedia")


def parts(*given: dict) -> TextMixture:
    nowhere = Text(paths=("nowhere",))
    return TextMixture(
        components=tuple(
            Part(**{"name": f"c{n}", "corpus": nowhere} | each) for n, each in enumerate(given)
        )
    )


weights = st.lists(st.integers(1, 60), min_size=1, max_size=7)


@settings(max_examples=30)
@given(weights=weights, seed=st.integers(0), start=st.integers(0, 10**12))
def test_counts_are_within_a_row_of_the_weights(
    weights: list[int], seed: int, start: int
) -> None:
    """Fails if a deadline is missed, a row is given early, or blocks do not meet."""
    exact = [Fraction(each, sum(weights)) for each in weights]
    turns = Turns([Phase(0, tuple(exact))], seed)
    counts = turns.counts(start)
    for row in range(start, start + 600):
        assert all(
            abs(count - row * weight) < 1 for count, weight in zip(counts, exact, strict=True)
        )
        component, number = turns(row)
        assert number == counts[component]
        counts[component] += 1
    assert counts == turns.counts(start + 600)


def test_the_printed_weights_of_gpt3_sum_to_101() -> None:
    """Fails if weights are not normalized, or depend on what was asked before."""
    supplies = [Supply(1000, Fraction(256))] * 5
    turns = turns_of(parts(*({"weight": w} for w in GPT3)), supplies, Fraction(32), 0)
    assert turns.counts(101 * 10**9) == [w * 10**9 for w in GPT3]
    last = [turns(row) for row in range(5000)][-101:]
    again = turns_of(parts(*({"weight": w} for w in GPT3)), supplies, Fraction(32), 0)
    assert [again(row) for row in range(4899, 5000)] == last
    assert Counter(component for component, _ in last) == dict(enumerate(GPT3))
    other = turns_of(parts(*({"weight": w} for w in GPT3)), supplies, Fraction(32), 1)
    assert [other(row) for row in range(5000)] != [turns(row) for row in range(5000)]


@settings(max_examples=40)
@given(
    weights=weights,
    epochs=st.lists(st.none() | st.floats(0.3, 3), min_size=7, max_size=7),
    sizes=st.lists(st.integers(1, 200), min_size=7, max_size=7),
    later=st.lists(st.lists(st.sampled_from([0, 1, 2.5]), min_size=7, max_size=7), max_size=2),
    seed=st.integers(0),
)
def test_phases_keep_their_weights_and_nothing_is_read_too_often(
    weights, epochs, sizes, later, seed
) -> None:
    """Fails if a phase does not begin with whole rows, or a component goes on after its end."""
    k = len(weights)
    schedule = tuple(
        Weights(step=9 * (n + 1), weights=tuple(each[:k]))
        for n, each in enumerate(later)
        if any(each[:k])
    )
    given = ({"weight": w, "epochs": e} for w, e in zip(weights, epochs, strict=False))
    mixture = TextMixture(components=parts(*given).components, schedule=schedule)
    supplies = [Supply(size, Fraction(7)) for size in sizes[:k]]
    turns = turns_of(mixture, supplies, Fraction(8), seed)
    end = min(400, turns.end[0] if turns.end else 400)
    counts = [0] * k
    for row in range(end):
        component, number = turns(row)
        assert number == counts[component]
        counts[component] += 1
        weighed = turns.weighed(row + 1)
        assert all(abs(a - b) < 1 for a, b in zip(counts, weighed, strict=True))
        if not any(epochs) and schedule:
            phase = sum(each.step * 8 <= row for each in schedule)
            given_now = schedule[phase - 1].weights if phase else weights
            assert given_now[component]
    for count, most, size in zip(counts, epochs, sizes, strict=False):
        assert most is None or count <= max(1, round(most * size))
    if turns.end:
        with pytest.raises(UserError, match=r"^data.corpus: component c\d has been read"):
            turns(turns.end[0])


def test_weights_of_temperature_and_of_packed_rows() -> None:
    """Fails if sizes are not raised to 1 / temperature, or tokens are taken for rows."""
    supplies = [Supply(1600, Fraction(10)), Supply(100, Fraction(10))]
    for temperature, found in ((None, (16, 1)), (1.0, (16, 1)), (2.0, (4, 1)), (4.0, (2, 1))):
        mixture = TextMixture(components=parts({}, {}).components, temperature=temperature)
        (phase,) = turns_of(mixture, supplies, Fraction(1), 0).phases
        np.testing.assert_allclose([float(w) * sum(found) for w in phase.weights], found)
    half_full = [Supply(1600, Fraction(10)), Supply(100, Fraction(5))]
    (phase,) = turns_of(parts({"weight": 1}, {"weight": 1}), half_full, Fraction(1), 0).phases
    assert phase.weights == (Fraction(1, 3), Fraction(2, 3))


def test_what_a_component_does_when_it_has_been_read() -> None:
    """Fails if an end stops the run, a stop goes on, or the others do not take its weight."""
    supplies = [Supply(100, Fraction(8)), Supply(20, Fraction(8))]
    both = {"weight": 1}, {"weight": 1, "epochs": 2}
    turns = turns_of(parts(*both), supplies, Fraction(4), 0)
    assert turns.counts(80) == [40, 40] and turns.counts(200) == [160, 40]
    assert {number for which, number in map(turns, range(80)) if which} == set(range(40))
    turns = turns_of(parts(both[0], both[1] | {"then": "stop"}), supplies, Fraction(4), 0)
    with pytest.raises(
        UserError, match=r"c1 has been read 2 times after 20 steps, and then=st"
    ):
        turns(80)
    stops = parts(both[0], both[1] | {"then": "stop"}).components
    without = TextMixture(components=stops, schedule=(Weights(step=20, weights=(1, 0)),))
    assert turns_of(without, supplies, Fraction(4), 0).counts(200) == [160, 40]
    turns = turns_of(parts({"epochs": 1}, both[1] | {"weight": None}), supplies, Fraction(4), 0)
    with pytest.raises(UserError, match="after 35 steps, and no other is left"):
        turns(140)
    assert turns.counts(140) == [100, 40]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"components": [{"name": "a"}, {"name": "a"}]}, "a is the name of two"),
        ({"components": [{"name": "a", "weight": 1}, {"name": "b"}]}, "b has no weight, but a"),
        ({"components": [{"name": "a", "weight": 1}], "temperature": 2}, "a has a weight; say"),
        ({"components": [{"name": "a", "weight": 0}]}, "weight=0"),
        ({"components": [{"name": "a/b"}]}, "name"),
        (
            {"components": [{"name": "a"}], "schedule": [{"step": 1, "weights": [1, 2]}]},
            "2 weights at step 1; must be 1, of a",
        ),
        (
            {"components": [{"name": "a"}], "schedule": [{"step": 1, "weights": [0]}]},
            "all are 0",
        ),
    ],
)
def test_wrong_mixtures_are_one_line(given: dict, why: str) -> None:
    """Fails if names clash, or weights are of some alone."""
    for each in given["components"]:
        each["corpus"] = {"type": "stdlib"}
    text = json.dumps({"corpus": {"type": "mixture", **given}})
    with pytest.raises(UserError, match=rf"^[^\n]*{why}[^\n]*$"):
        parse(Data, text.encode(), "data.json")


def test_a_weight_of_nearly_nothing_is_refused() -> None:
    """Fails if a block of a million rows is walked for one of them."""
    few = float(LEAST_WEIGHT) / 2
    with pytest.raises(
        UserError, match="component c1 has 5e-06 of the weight; must be at least"
    ):
        turns_of(
            parts({"weight": 1}, {"weight": few}), [Supply(9, Fraction(9))] * 2, Fraction(1), 0
        )


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> TextMixture:
    """GPT-3's table over five small sources, of unlike sizes; each text has its letter."""
    folder, components = tmp_path_factory.mktemp("sources"), []
    for letter, name, weight, size in zip(
        "abcde", NAMES, GPT3, (410, 19, 12, 55, 3), strict=True
    ):
        (folder / name).mkdir()
        for number in range(8):
            text = f"{letter}{number}" * (size * 5)
            (folder / name / f"{number}.txt").write_text(text)
        corpus = Text(paths=(f"{folder}/{name}/*.txt",))
        components.append(Part(name=name, corpus=corpus, weight=weight))
    return TextMixture(components=tuple(components))


def test_rows_of_a_mixture(table: TextMixture) -> None:
    """Fails if a row crosses components, one comes again within an epoch, or is never read."""
    data = Data(corpus=table, tokenizer=Bytes(), length=32, batch=16, validation=0.3)
    tokens = open_tokens(data)
    batches = tokens.batches(data, 3)
    length = [n_rows(part, 32) for part in tokens.train.parts]
    steps = 2 * length[-1] * 101 // 3 // 16 + 2  # the smallest has been read twice
    whole = [batches(step) for step in range(steps)]
    ids = np.concatenate([batch.tokens_BL for batch in whole])
    vocabulary = tokens.tokenizer.vocabulary
    seen: list[list[bytes]] = [[] for _ in NAMES]
    for number, row in enumerate(ids, 1):
        letters = set(tokens.tokenizer.decode(row)) & set("abcde")
        assert len(letters) == 1
        seen["abcde".index(*letters)].append(row.tobytes())
        for weight, found in zip(GPT3, seen, strict=True):
            assert abs(len(found) - Fraction(number * weight, sum(GPT3))) < 1
    for part, n, found in zip(tokens.train.parts, length, seen, strict=True):
        every = Counter(row.tobytes() for row in rows(part, range(n), 32, vocabulary).tokens_BL)
        for start in range(0, len(found) - n + 1, n):
            assert Counter(found[start : start + n]) == every
    read = tokens.consumed(data, 3, steps)
    assert [len(found) for found in seen] == [each.tokens // 32 for each in read.values()]
    for each, n, found in zip(read.values(), length, seen, strict=True):
        assert each.epochs == len(found) / n
    assert read["wikipedia"].epochs >= 2 > 1 > read["crawl"].epochs
    assert read["wikipedia"].unique_tokens == 32 * length[-1]
    for hosts in (1, 2, 4):
        size = 16 // hosts
        for step in (0, steps - 1):  # in any order, by whoever begins there
            split = [
                tokens.batches(data, 3)(step, slice(h * size, (h + 1) * size))
                for h in range(hosts)
            ]
            joined = np.concatenate([part.tokens_BL for part in split])
            np.testing.assert_array_equal(joined, whole[step].tokens_BL)
    (again,) = batches.iterate(steps - 1, steps)
    jax.tree.map(np.testing.assert_array_equal, again, whole[-1])


def test_held_out_text_is_of_all_components(table: TextMixture) -> None:
    """Fails if documents are renamed, lost, or their components are not known any more."""
    data = Data(corpus=table, tokenizer=Bytes(), validation=0.3)
    split = open_tokens(data).validation
    assert [id.partition("/")[0] for id in split.ids] == [
        name for name, part in zip(NAMES, split.parts, strict=True) for _ in part.ids
    ]
    for number, id in enumerate(split.ids):
        letter = "abcde"[NAMES.index(id.partition("/")[0])]
        assert split.text(number).startswith(letter)


def test_a_component_that_is_missing_is_named(table: TextMixture, tmp_path: Path) -> None:
    """Fails if a source that is not there is left out, or which one it is is not said."""
    lost = Part(name="lost", corpus=Text(paths=(f"{tmp_path}/lost/*",)), weight=1)
    mixture = TextMixture(components=(*table.components, lost))
    with pytest.raises(UserError, match=r"component lost: data.corpus.paths: [^\n]*no file"):
        open_tokens(Data(corpus=mixture, tokenizer=Bytes(), validation=0.3))


def test_channels_of_one_component_are_filled_in_the_others(tmp_path: Path) -> None:
    """Fails if plain text beside conversations has no token that counts."""
    lines = []
    for number in range(9):
        asked = {"role": "user", "content": f"who is {number}?"}
        messages = [asked, {"role": "assistant", "content": "me"}]
        lines.append(json.dumps({"messages": messages}))
    (tmp_path / "chat.jsonl").write_text("\n".join(lines))
    for number in range(9):
        (tmp_path / f"{number}.txt").write_text(f"text {number}")
    components = (
        Part(name="chat", corpus=Chat(paths=(f"{tmp_path}/chat.jsonl",)), weight=1),
        Part(name="text", corpus=Text(paths=(f"{tmp_path}/*.txt",)), weight=1),
    )
    tokenizer = Bytes(chat_template="chatml", added=("<|im_start|>", "<|im_end|>"))
    corpus = TextMixture(components=components)
    tokens = open_tokens(
        Data(corpus=corpus, tokenizer=tokenizer, packing="whole", length=200, validation=0.3)
    )
    chat, text = (
        part.read_channels([0], part.size)[LOSS.name][0] for part in tokens.train.parts
    )
    assert text.all() and 0 < chat.mean() < 1


def test_official_splits_are_kept(tmp_path: Path) -> None:
    """Fails if a hash decides in spite of them, or the digest does not see which is which."""
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps({"text": f"{name} {number}"}) + "\n" for number in range(5))
        )
    a, b = (Jsonl(paths=(f"{tmp_path}/{name}.jsonl",)) for name in "ab")
    tokens = open_tokens(Data(corpus=Official(train=a, held_out=b), tokenizer=Bytes()))
    assert [tokens.train.text(n) for n in range(5)] == [f"a {n}" for n in range(5)]
    assert [tokens.validation.text(n) for n in range(5)] == [f"b {n}" for n in range(5)]
    assert tokens.validation.ids[0] == "held_out/b.jsonl:1"
    other = open_tokens(Data(corpus=Official(train=b, held_out=a), tokenizer=Bytes()))
    assert other.corpus_digest != tokens.corpus_digest
    again = open_tokens(Data(corpus=Official(train=b, held_out=a), tokenizer=Bytes()))
    assert again.corpus_digest == other.corpus_digest  # from what was kept
