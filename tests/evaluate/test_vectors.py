"""Tables of words: what files and models hold, and what is asked of them."""

import os
from pathlib import Path

import numpy as np
import pytest

from lm.config import UserError
from lm.data import Bytes
from lm.data.tokenizers import from_hf_folder
from lm.evaluate.vectors import (
    FILES,
    Analogy,
    WordTable,
    ask_analogies,
    nearest,
    open_task,
    read_word_tables,
)
from lm.evaluate.vectors.table import spelled
from lm.model import Transformer
from lm.objectives import Causal
from lm.train.load import load_model
from tests.makers import one_device, save_random

ASSETS, TASKS = (os.environ.get(f"YARDSTICK_{name}") for name in ("ASSETS", "TASKS"))
PUBLISHED = pytest.mark.skipif(
    not (ASSETS and TASKS), reason="YARDSTICK_ASSETS and YARDSTICK_TASKS name no folders"
)
GOLDEN = Path(__file__).parents[1] / "golden" / "hub"


def table(name):
    folder = Path(ASSETS) / name
    if not folder.exists():
        pytest.skip(f"{folder}: not there")
    with one_device():
        (found,) = read_word_tables(folder)
    return found


@PUBLISHED
def test_glove_orders_pairs_and_answers_analogies_as_is_known(monkeypatch):
    """Fails if words are not looked up in lower case, cosines are products, an unknown word
    counts, or a word of the question is an answer.
    """
    monkeypatch.setattr("lm.evaluate.tasks.metrics.RESAMPLES", 20)
    glove = table("glove-6b-50d")
    tasks = {name: open_task(name, Path(TASKS)) for name in FILES}
    asked = tasks["analogies"].content
    assert len(asked) == 19_544 and len({each.section for each in asked}) == 14
    few = tuple(q for q in asked if q.section in ("capital-common-countries", "family"))
    tasks["analogies"] = tasks["analogies"]._replace(content=few)
    found = {name: task.ask(glove) for name, task in tasks.items()}
    values = {name: round(found[name].spearman.value, 4) for name in list(FILES)[:3]}
    assert values == {"wordsim_353": 0.5033, "men": 0.6523, "rg_65": 0.6021}
    assert (found["men"].known, found["men"].asked, found["men"].several) == (2999, 3000, 0)
    sections = found["analogies"].sections
    assert found["analogies"].candidates == 30_000
    capitals, family = sections["capital-common-countries"], sections["family"]
    assert (capitals.right, capitals.known, capitals.asked) == (403, 506, 506)
    assert (family.right, family.known, family.asked) == (259, 342, 506)
    assert (found["analogies"].total.right, found["analogies"].total.known) == (662, 848)


@PUBLISHED
def test_minilms_tokens_order_pairs_as_with_another_tokenizer_and_numpy(monkeypatch):
    """Fails if another row is a token's, a word of several tokens has the first one's, or words
    are not spelled as after a space. The numbers are transformers' and numpy's.
    """
    monkeypatch.setattr("lm.evaluate.tasks.metrics.RESAMPLES", 20)
    minilm = table("minilm")
    for name, value, several in (("wordsim_353", 0.74179, 24), ("rg_65", 0.70035, 6)):
        found = open_task(name, Path(TASKS)).ask(minilm)
        assert found.known == found.asked and found.several == several
        assert found.spearman.value == pytest.approx(value, abs=1e-5)


def test_text_and_folder_hold_the_same_table(tmp_path):
    """Fails if a first line of word2vec's is a word, a word loses its spaces, or a line or its
    end is lost.
    """
    vectors_WD = np.array([[1, 2], [0.5, -3e-5], [0, 0]], np.float32)
    words = ("the", ". .", "é")
    lines = [f"{w} {' '.join(map(str, v))}\n" for w, v in zip(words, vectors_WD, strict=True)]
    (tmp_path / "t.txt").write_text("".join(lines))
    (tmp_path / "w.txt").write_text("".join(["3 2\n", *lines]))
    (tmp_path / "f").mkdir()
    np.save(tmp_path / "f" / "vectors.npy", vectors_WD)
    (tmp_path / "f" / "words.txt").write_text("\n".join(words))
    for name in ("t.txt", "w.txt", "f"):
        (found,) = read_word_tables(tmp_path / name)
        assert found.words == words
        np.testing.assert_array_equal(found.vectors_WD, vectors_WD)


def test_a_damaged_table_is_one_line(tmp_path):
    """Fails if a table is read from what is none, or the message does not say where."""
    vectors, folder = np.eye(2, dtype=np.float32), tmp_path / "f"
    folder.mkdir()
    for name, content, why in (
        ("short", b"a 1 2\nb 1\n", "short:2: 'b 1\\n' is no word with 2 numbers"),
        ("word", b"a 1 2\nb 1 x\n", "word:2: "),
        ("nan", b"a 1 2\nb 1 nan\n", "nan:2: "),
        ("prose", b"word\n", "prose:1: "),
        ("empty", b"\n", "empty: holds no words"),
        ("bytes", b"a 1 2\n\xff 1 2\n", "bytes:2: not UTF-8"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=r"^[^\n]*$") as error:
            read_word_tables(tmp_path / name)
        assert why in str(error.value)
    for array, words, why in (
        (vectors, "a\nb\nc\n", "3 words in words.txt, and 2 vectors"),
        (vectors[0], "a\nb\n", "must be float[W, D]"),
        (vectors * np.nan, "a\nb\n", "holds what is no number"),
    ):
        np.save(folder / "vectors.npy", array)
        (folder / "words.txt").write_text(words)
        with pytest.raises(UserError) as error:
            read_word_tables(folder)
        assert why in str(error.value)
    (folder / "vectors.npy").write_bytes(b"no array")
    with pytest.raises(UserError, match=r"vectors\.npy: "):
        read_word_tables(folder)


def test_a_model_has_a_table_of_inputs_and_one_of_outputs(tmp_path):
    """Fails if both are one table, a tied one is there twice, or a word of several tokens is
    not their mean.
    """
    for name, tied in (("two", "untied"), ("one", "tied")):
        model = Transformer(depth=1, width=16, heads=2, embedding=tied)
        save_random(tmp_path / name, Causal(), model)
    params = load_model(tmp_path / "two").params
    ids = Bytes().open().encode("ab")
    given, said = read_word_tables(tmp_path / "two")
    assert len(read_word_tables(tmp_path / "one")) == 1
    for found, name in ((given, "embedding"), (said, "unembedding")):
        rows_2D = np.asarray(params[name])[ids]
        vectors_ND, tokens_N = found.find(["ab", "a"])
        assert tokens_N.tolist() == [2, 1]
        wanted = rows_2D.mean(axis=0)
        np.testing.assert_allclose(vectors_ND[0], wanted / np.linalg.norm(wanted), atol=1e-6)
        assert found.words[:1] == ("!",)  # the first byte that is seen
    assert given.name.endswith("(input)") and said.name.endswith("(output)")


def test_words_are_spelled_as_within_a_sentence():
    """Fails if a word has the token that stands in the middle of others."""
    tokenizer, _ = from_hf_folder(GOLDEN / "tokenizers" / "smollm", size=49152)
    (the,) = spelled(tokenizer, ["the"])
    assert tokenizer.decode(the) == " the" and len(the) == 1


def test_an_answer_is_none_of_the_question_and_known_words_count():
    """Fails if b or c answers, or a question with an unknown word is wrong and not left out."""
    vectors_WD = np.array([[1, 0, 0], [1, 0.1, 0], [0, 1, 0.1], [0.3, 1, 0], [-1, 0, 0]])
    words = WordTable("t", ("a", "b", "c", "d", "e"), vectors_WD.astype(np.float32), "")
    asked = [
        Analogy(tuple("abcd"), "s"),
        Analogy(tuple("abce"), "s"),
        Analogy(tuple("abcx"), "u"),
    ]
    found = ask_analogies(words, asked, words=9)
    assert (found.total.asked, found.total.known, found.total.right) == (3, 2, 1)
    assert found.sections["u"].accuracy is None
    assert found.sections["s"].accuracy.low <= 0.5 <= found.sections["s"].accuracy.high
    # Of fewer candidates, d is none.
    assert ask_analogies(words, asked, words=3).total.known == 0


def test_an_interval_of_analogies_is_over_pairs_of_words():
    """Fails if questions are drawn as if they had no words in common: where one pair of 12 is
    wrong in all of its questions, whoever draws questions has half of the width.
    """
    count = 12
    angles = np.arange(count) * 0.3
    base = np.stack([np.cos(angles), np.sin(angles), np.zeros(count)], axis=1)
    other = base + np.array([0, 0, 1.0])
    other[0] = [-1, 0.2, -1]
    names = [f"{which}{number}" for which in "ab" for number in range(count)]
    words = WordTable("t", tuple(names), np.concatenate([base, other]).astype(np.float32), "")
    asked = [
        Analogy((f"a{one}", f"b{one}", f"a{two}", f"b{two}"))
        for one in range(count)
        for two in range(count)
        if one != two
    ]
    found = ask_analogies(words, asked, words=99).total
    fraction, questions = found.right / found.known, len(asked)
    alone = 2 * 1.96 * (fraction * (1 - fraction) / questions) ** 0.5
    assert 0 < found.right < questions
    assert found.accuracy.high - found.accuracy.low > 1.5 * alone


def test_neighbours_are_in_order_without_the_word(tmp_path):
    """Fails if the word is its own neighbour, the order is another, or the count is."""
    vectors_WD = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.5, 0.5]], np.float32)
    words = WordTable("t", ("cat", "Cat", "dog", "cow"), vectors_WD, "")
    found = nearest(words, ["CAT", "dog"], count=2, among=4)
    assert [each.word for each in found["CAT"]] == ["Cat", "cow"]
    assert [each.word for each in found["dog"]] == ["cow", "Cat"]
    assert len(nearest(words, ["cat"], count=9, among=3)["cat"]) == 2
    with pytest.raises(UserError, match="--near dgo: no word of t; it knows dog"):
        nearest(words, ["dgo"], among=4)
