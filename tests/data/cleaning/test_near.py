"""Near-duplicates: how probably they meet, what is found, and what a chain leaves."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from lm.data.cleaning import Cleaning, Manifest, NamedCorpus, Near, clean
from lm.data.cleaning.near import band_keys, hit_probability, jaccard, run_sets
from lm.data.cleaning.observed import Observed, equal_runs
from lm.data.sources import Shards


def words(draw: np.random.Generator, count: int) -> list[str]:
    return [f"w{number}" for number in draw.integers(0, 1_000_000, count)]


def changed(draw: np.random.Generator, text: list[str], places: int) -> list[str]:
    """The text with so many words replaced, far from each other."""
    text = list(text)
    for place in np.linspace(5, len(text) - 6, places).astype(int):
        text[place] = f"new{draw.integers(0, 1_000_000)}"
    return text


def similarity(a: str, b: str) -> float:
    """By sets of tuples, without a hash."""
    sets = [{tuple(t[k : k + 5]) for k in range(len(t) - 4)} for t in (a.split(), b.split())]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


@pytest.mark.parametrize("s", [0.5, 0.6, 0.7, 0.75, 0.8, 0.9])
def test_candidates_meet_as_often_as_the_formula_says(s: float) -> None:
    """Fails if permutations are alike, a band has another number of rows, or one is missing."""
    draw = np.random.default_rng(0)
    union, pairs, seeds = 200, 300, 4
    common = round(s * union)
    sets = []
    for _ in range(pairs):
        numbers = draw.choice(2**32, union, replace=False).astype(np.uint32)
        half = (union - common) // 2
        sets += [
            numbers[: common + half],
            np.concatenate([numbers[:common], numbers[common + half :]]),
        ]
    hashes = np.concatenate([np.sort(each) for each in sets])
    counts = np.array([len(each) for each in sets])
    hits = 0
    for seed in range(seeds):
        keys = band_keys(hashes, counts, 14, 8, seed)
        hits += int((keys[0::2] == keys[1::2]).any(axis=1).sum())
    expected = 1 - (1 - s**8) ** 14
    assert hit_probability(s) == pytest.approx(expected)
    error = math.sqrt(expected * (1 - expected) / (pairs * seeds))
    assert abs(hits / (pairs * seeds) - expected) < 4 * error + 1e-9


def test_sets_are_those_of_runs_of_words() -> None:
    """Fails if runs cross documents, repetitions count, or short texts are all alike."""
    draw = np.random.default_rng(1)
    a, b = words(draw, 120), words(draw, 90)
    texts = [a, [*a, *a[:30]], changed(draw, a, 4), ["one", "two"], ["one", "three"], [], b]
    hashes, counts = run_sets(texts, 5)
    assert counts.tolist()[:4] == [116, 120, 116, 1]
    ends = np.cumsum(counts)
    sets = [hashes[end - count : end] for end, count in zip(ends, counts, strict=True)]
    for i, j in ((0, 1), (0, 2), (0, 6)):
        expected = similarity(" ".join(texts[i]), " ".join(texts[j]))
        assert jaccard(sets[i], sets[j]) == pytest.approx(expected)
    assert jaccard(sets[3], sets[4]) == 0 and counts[5] == 0
    assert jaccard(sets[0], sets[3], least=0.5) == 0


def cleaned(folder: Path, sources: dict[str, list[str]], near: Near, **more) -> Manifest:
    """What is left of texts; ids are their numbers in all sources."""
    named, number = [], 0
    folder.mkdir()
    for name, texts in sources.items():
        lines = [json.dumps({"id": str(number + n), "text": t}) for n, t in enumerate(texts)]
        number += len(texts)
        (folder / f"{name}.jsonl").write_text("\n".join(more.get("order", list)(lines)))
        corpus = Shards(paths=(str(folder / f"{name}.jsonl"),), id="id")
        named.append(NamedCorpus(name=name, corpus=corpus))
    return clean(Cleaning(sources=tuple(named), steps=(near,)), folder / "out")


def left(folder: Path) -> set[int]:
    found = Shards(paths=(str(folder / "out" / "*.gz"),), id="id").read()
    return {int(document.id) for document in found}


def test_planted_near_duplicates_are_found_and_others_are_not(tmp_path: Path) -> None:
    """Recall is what the formula promises; precision is 1, as each removal is verified.

    Fails if a candidate is not verified, a band is lost, or what is below the bound goes.
    """
    draw = np.random.default_rng(2)
    originals = [words(draw, 300) for _ in range(200)]
    near = [changed(draw, text, 3 + n % 6) for n, text in enumerate(originals[:120])]
    far = [changed(draw, text, 16 + n % 20) for n, text in enumerate(originals[120:])]
    texts = [" ".join(text) for text in [*originals, *near, *far]]
    similar = [similarity(texts[n], texts[200 + n]) for n in range(120)]
    assert min(similar) > 0.75
    assert max(similarity(texts[120 + n], texts[320 + n]) for n in range(80)) < 0.75
    manifest = cleaned(tmp_path / "a", {"all": texts}, Near())
    kept = left(tmp_path / "a")
    found = [n for n in range(120) if not {n, 200 + n} <= kept]
    expected = sum(map(hit_probability, similar))
    error = math.sqrt(sum(p * (1 - p) for p in map(hit_probability, similar)))
    recall = len(found) / 120
    assert abs(len(found) - expected) < 4 * error and recall > 0.9
    assert len(found) == 113  # as docs/data.md says
    removed = set(range(len(texts))) - kept
    assert len(removed) == len(found) and removed <= {*range(120), *range(200, 320)}
    (removal,) = manifest.steps[0].tally.rules["near-duplicate"].values()
    assert removal.documents == len(removed) and removal.twins == {"all": len(removed)}


def test_what_stays_depends_on_no_order(tmp_path: Path) -> None:
    """Fails if the first that is read stays."""
    draw = np.random.default_rng(3)
    originals = [words(draw, 100) for _ in range(40)]
    texts = [" ".join(text) for text in originals]
    texts += [" ".join(changed(draw, text, 1)) for text in originals]
    cleaned(tmp_path / "a", {"all": texts}, Near())
    cleaned(tmp_path / "b", {"all": texts}, Near(), order=lambda lines: lines[::-1])
    assert left(tmp_path / "a") == left(tmp_path / "b")
    assert len({*range(40)} & left(tmp_path / "a")) not in (0, 40)  # not all of one kind


def test_a_chain_of_similar_documents_is_not_swallowed(tmp_path: Path) -> None:
    """Fails if a document goes for the sake of one that went, as in connected components."""
    draw = np.random.default_rng(4)
    stream = words(draw, 300 + 30 * 19)
    texts = [" ".join(stream[30 * n : 30 * n + 300]) for n in range(20)]
    assert similarity(texts[0], texts[1]) > 0.75 > similarity(texts[0], texts[2])
    cleaned(tmp_path / "a", {"all": texts}, Near(bands=60))
    kept = left(tmp_path / "a")
    assert 7 <= len(kept) <= 10
    for number in set(range(20)) - kept:
        assert kept & {number - 1, number + 1}  # a neighbour stays in its place
    assert not any({number, number + 1} <= kept for number in range(19))


def test_the_earlier_source_stays_and_the_page_knows_whose_went(tmp_path: Path) -> None:
    """Fails if ids alone decide, or removals are counted under the source that stays."""
    draw = np.random.default_rng(5)
    originals = [words(draw, 120) for _ in range(30)]
    copies = [" ".join(changed(draw, text, 1)) for text in originals]
    texts = {"books": [" ".join(text) for text in originals], "web": copies}
    manifest = cleaned(tmp_path / "a", texts, Near(bands=40))
    assert left(tmp_path / "a") == set(range(30))
    rules = manifest.steps[0].tally.rules["near-duplicate"]
    assert set(rules) == {"web"} and rules["web"].twins == {"books": 30}
    assert manifest.sources["web"].kept_documents == 0
    # About 2 x 8% x 92% of pairs lie across the splits.
    assert 0 < rules["web"].across < 15
    (first, *_) = manifest.steps[0].tally.examples["near-duplicate"]
    assert first.twin == f"books: {int(first.id) - 30}"


def test_bands_that_are_too_full_are_said(tmp_path: Path) -> None:
    """Fails if comparisons are left out in silence."""
    texts = [f"word{n}" for n in range(30)]
    few = Near(words=1, bands=2, rows=1, similarity=0.9, most=1)
    shared = [f"{text} the same seven words stand in all" for text in texts]
    manifest = cleaned(tmp_path / "a", {"all": shared}, few)
    assert "set near.most higher" in manifest.steps[0].notes[0]


def test_keys_are_grouped_alike_in_parts_and_at_once(tmp_path: Path) -> None:
    """Fails if a key is lost between parts, or comes in two."""
    draw = np.random.default_rng(6)
    all_keys = (draw.integers(0, 2**63, 300, dtype=np.uint64) << np.uint64(1)).repeat(2)
    draw.shuffle(all_keys)
    ranks = draw.integers(0, 2**63, 600, dtype=np.uint64)
    for number, (keys, rank) in enumerate(
        zip(np.split(all_keys, 4), np.split(ranks, 4), strict=True)
    ):
        np.save(tmp_path / f"{number}.keys.npy", keys)
        np.save(tmp_path / f"{number}.ranks.npy", rank)
    documents = np.arange(600)
    whole = equal_runs(all_keys, documents, ranks, documents)
    assert len(whole.keys) == 300
    for rows in (1 << 24, 64, 50):
        observed = Observed(tmp_path, list("0123"), rows=rows)
        parts = list(observed.equal("keys", observed.ranks, documents))
        assert (len(parts) > 1) == (rows < 600)
        found = {int(k): run.rows[s : s + n].tolist() for run in parts
                 for k, s, n in zip(run.keys, run.starts, run.sizes, strict=True)}  # fmt: skip
        assert found == {
            int(k): whole.rows[s : s + n].tolist()
            for k, s, n in zip(whole.keys, whole.starts, whole.sizes, strict=True)
        }
