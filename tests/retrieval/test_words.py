"""BM25: the library's scores, in texts that are read once."""

import random

import bm25s
import numpy as np

from lm.retrieval.words import Bm25, words

random_ = random.Random(0)
VOCABULARY = [f"word{number}" for number in range(30)] + ["the", "A", "of-course", "naïve", "x"]
TEXTS = [" ".join(random_.choices(VOCABULARY, k=random_.randint(0, 25))) for _ in range(60)]
QUERY = "The word3 of WORD7, word3 naïve nowhere"


def test_scores_are_those_of_the_library():
    """Fails if words are found another way, or a word that a query has twice counts once."""
    found = bm25s.tokenize([*TEXTS, QUERY], return_ids=False, show_progress=False)
    assert [words(text) for text in [*TEXTS, QUERY]] == found
    library = bm25s.BM25(method="lucene", k1=1.5, b=0.75, backend="numpy")
    library.index(found[:-1], show_progress=False)
    scores_N = Bm25(iter(TEXTS)).scores(QUERY)
    assert np.allclose(scores_N, library.get_scores(found[-1]), rtol=1e-6)
    assert scores_N.max() > 0


def test_the_best_come_first_and_those_without_a_word_not_at_all():
    """Fails if ties go by chance, or texts are filled up with others."""
    texts = ["cat", "dog", "cat", "cat cat", ""]
    bm25 = Bm25(texts)
    ranked, scores = bm25.rank("cat", 10)
    assert ranked.tolist() == [3, 0, 2] and scores[1] == scores[2] < scores[0]
    assert bm25.rank("cat", 2)[0].tolist() == [3, 0]
    assert len(bm25.rank("fish", 3)[0]) == len(Bm25([]).rank("cat", 3)[0]) == 0


def test_what_is_saved_is_what_is_loaded(tmp_path):
    """Fails if a part of it is not kept."""
    for number, texts in enumerate((TEXTS, ["", "!"])):
        bm25 = Bm25(texts)
        bm25.save(tmp_path / str(number))
        loaded = Bm25.load(tmp_path / str(number))
        assert np.array_equal(loaded.scores(QUERY), bm25.scores(QUERY))
        assert loaded.weights(QUERY) == bm25.weights(QUERY)


def test_overlap_is_weighted_by_how_rare_words_are():
    """Fails if a word that no text has weighs nothing, or what asks is asked for."""
    bm25 = Bm25(["ship sail", "ship keel", "ship wind"])
    asked = "What does a ship zebra?"
    weights = bm25.weights(asked)
    assert set(weights) == {"ship", "zebra"} and weights["zebra"] > weights["ship"]
    share = weights["ship"] / sum(weights.values())
    assert abs(bm25.overlap(asked, "the ship") - share) < 1e-12
    assert bm25.overlap(asked, "a zebra on a ship") == 1.0
    assert bm25.overlap("what is it?", "it is what it is") == 0.0
