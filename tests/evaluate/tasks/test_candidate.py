"""What a model says of a text, against the plainest arithmetic on its logits."""

import copy
import dataclasses
import itertools
from typing import ClassVar

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest

from lm.config import UserError
from lm.data import Data
from lm.distributed import mesh as _mesh
from lm.evaluate.scorers.base import ScoredRows
from lm.evaluate.tasks import rows as laid_out
from lm.evaluate.tasks.base import Query
from lm.evaluate.tasks.candidate import ModelCandidate, task_scorers
from lm.evaluate.tasks.rows import rows_of, split_spaces
from lm.objectives import Causal, Masked, Spans
from lm.run import Run

TOLERANCE = {"rel": 2e-5, "abs": 2e-5}


def log_softmax(logits):
    logits = logits.astype(np.float64)
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def encoded(model, text):
    return model.tokenizer.encode(text).tolist()


def logs(model, rows, **source):
    """log p [R, 24, V] at each place of rows, of one width so that one program does for all."""
    tokens = np.zeros((len(rows), 24), np.int32)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = row
    used = (np.arange(24)[None] < np.array([len(row) for row in rows])[:, None]).astype(int)
    found = np.array([model.logits(tokens[i : i + 1], used[i : i + 1], **source)[0]
                      for i in range(len(rows))])  # fmt: skip
    return log_softmax(found)


def chain(model, before, ids, start):
    """log p of ids[start:], each by what stands before it; and whether all are likeliest."""
    row = [*before, *ids]
    (log_LV,) = logs(model, [row])
    places = range(len(before) + start, len(row))
    total = sum(log_LV[place - 1, row[place]] for place in places)
    return total, all(log_LV[place - 1].argmax() == row[place] for place in places)


def masked_log(model, ids, masked, place):
    """log p of ids[place] where the places `masked` are masked."""
    shown = [model.tokenizer.vocabulary.mask if i in masked else t for i, t in enumerate(ids)]
    return logs(model, [shown])[0, place, ids[place]]


@pytest.fixture(autouse=True)
def of_one_width(monkeypatch):
    """Rows of one width are one program; those of many are asked for where that matters."""
    monkeypatch.setattr(laid_out, "WIDTHS", [24])


PREFIXES = {"bos": [2], "eos": [3], "none": [], "q": [8 + ord("q")]}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_causal_model_gives_the_chain_rule(model_of, sitting, prefix):
    """Fails if the prefix is another token, context is scored, a token is left out, or what is
    likeliest is asked of the wrong place.
    """
    model = model_of("causal")
    before = PREFIXES[prefix]
    candidate = sitting(model, "chain_rule", prefix=prefix)
    requests = [
        Query("", "abc"),
        Query("the cat", " sat"),
        Query("the cat ", "sat"),
        Query("é", "ü."),
    ]
    found = candidate.likelihoods(requests)
    for request, answer in zip(requests, found, strict=True):
        ids = encoded(model, request.context + request.continuation)
        start = len(encoded(model, request.context.rstrip()))
        start = max(start, 0 if before else 1)
        log_p, likeliest = chain(model, before, ids, start)
        assert answer.log_p == pytest.approx(log_p, **TOLERANCE)
        assert answer.likeliest == likeliest
        assert answer.tokens == len(ids) - start and answer.cut == 0
    assert candidate.kind == "exact" and candidate.scorer == "chain rule"
    said = {"bos": "after <bos> (2)", "eos": "after <eos> (3)", "q": "after q (121)"}
    assert candidate.around == said.get(prefix, "the first token unscored")


def test_what_is_likeliest_is_found_so(model_of, sitting):
    """Fails if a token with a likelier rival passes, or one that has none does not."""
    model = model_of("causal")
    row = [2, *encoded(model, "ab")]
    best = []
    for _ in range(3):
        log_V = logs(model, [row + best])[0, len(row + best) - 1]
        ascii_V = log_V[8 : 8 + 128]
        best.append(8 + int(ascii_V.argmax()))
    greedy = model.tokenizer.decode(best)
    (found,) = sitting(model, "chain_rule").likelihoods([Query("ab", greedy)])
    log_p, likeliest = chain(model, [2], encoded(model, "ab") + best, 2)
    assert found.log_p == pytest.approx(log_p, **TOLERANCE) and found.likeliest == likeliest
    # Each of all tokens that may follow: one is the likeliest, and no other.
    every = [chr(code) for code in range(128)]
    asked = sitting(model, "chain_rule").likelihoods([Query("ab", each) for each in every])
    top = logs(model, [row])[0, len(row) - 1]
    wanted = [top.argmax() == 8 + ord(each) for each in every]
    # A space at the end belongs to no context, and to the continuation it stands before.
    assert [each.likeliest for each in asked] == wanted


def test_where_texts_meet_in_a_token_the_token_is_scored(model_of, merging, sitting):
    """Fails if the continuation is tokenized alone, its space is left with the context, or the
    tokens of the context are taken for those of the whole.
    """
    model = merging(model_of("causal"))
    candidate = sitting(model, "chain_rule")
    cases = [
        # context, continuation, where what is scored begins among the tokens of the whole
        ("a", " b", 1),  # a| b
        ("a ", "b", 1),  # the same
        ("a", "bc", 0),  # abc: one token, in which the seam lies
        ("c a", "b c", 1),  # c| ab, space, c: the seam lies within " ab"
        ("a\n", "b", 1),
    ]
    for context, continuation, start in cases:
        ids = encoded(model, context + continuation)
        log_p, _ = chain(model, [2], ids, start)
        (found,) = candidate.likelihoods([Query(context, continuation)])
        assert found.log_p == pytest.approx(log_p, **TOLERANCE), (context, continuation)
        assert found.tokens == len(ids) - start
    assert split_spaces(Query("a \n", "b")) == ("a", " \nb")
    assert split_spaces(Query("  ", "b")) == ("", "  b")


def test_what_has_no_token_of_its_own_is_refused(model_of, sitting):
    """Fails if an empty continuation is taken for a certain one."""
    candidate = sitting(model_of("causal"), "chain_rule")
    with pytest.raises(UserError, match=r"^'': no token of it can be scored behind 'ab'"):
        candidate.likelihoods([Query("ab", "")])
    # Without a prefix, nothing says what a first token is, and there is no second.
    with pytest.raises(UserError, match=r"^token 128: it cannot be scored"):
        sitting(model_of("causal"), "chain_rule", prefix="none").likelihoods([Query("", "x")])


def test_a_text_is_computed_once_and_answered_as_often_as_it_is_asked(model_of, sitting):
    """Fails if what is asked again, of another item too, is computed again, or answers are
    told of fewer places than there are.
    """
    candidate = sitting(model_of("causal"), "chain_rule")
    rows = []
    scored = ModelCandidate._scored
    requests = [
        Query("a", "b"),
        Query("a", "c"),
        Query("a", "b"),
        Query("a", "b", number=4),
    ]

    class Counting(ModelCandidate):
        def _scored(self, given, scorer):
            rows.append(len(given))
            return scored(self, given, scorer)

    fields = {f.name: getattr(candidate, f.name) for f in dataclasses.fields(candidate)}
    told = {}

    def note(places, found):
        told.update(zip(places, found, strict=True))

    found = Counting(**fields).likelihoods(requests, note)
    assert rows == [2]
    assert found[0] == found[2] == found[3] != found[1]
    assert [told[place] for place in range(4)] == found


MANY = [
    Query("ab" * (n % 5), "xyzuvw"[: 1 + n % 6] + "é" * (n % 3), number=n % 4)
    for n in range(23)
]


@pytest.mark.eight_devices
@pytest.mark.parametrize(
    ("name", "scorer"), [("causal", "chain_rule"), ("masked", "any_order")]
)
def test_batches_widths_and_devices_change_nothing(
    model_of, spread, sitting, monkeypatch, name, scorer
):
    """Fails if padding is seen or scored, a row's masks depend on its neighbours or its width,
    or a device's rows come back in another's place.
    """
    model = spread(model_of(name))
    assert model.program.mesh.size == 8
    usual = sitting(model, scorer)
    found = usual.likelihoods(MANY)
    monkeypatch.setattr(laid_out, "WIDTHS", [8, 20])
    other = dataclasses.replace(sitting(model_of(name), scorer), positions=40)
    again = other.likelihoods(MANY[::-1])[::-1]
    assert [each.log_p for each in again] == pytest.approx(
        [each.log_p for each in found], rel=1e-5, abs=1e-5
    )
    assert [each[1:] for each in again] == [each[1:] for each in found]


def test_contexts_that_do_not_fit_are_cut_from_the_left_and_counted(model_of, sitting):
    """Fails if the right is cut, the cut is not counted, or a row is one token too short."""
    model = model_of("causal")  # 24 positions, one of which is the bos token's
    candidate = sitting(model, "chain_rule")
    context = "abcdefghijklmnopqrst"
    for size, cut in ((3, 0), (4, 1), (23, 20)):
        word = "uvwxyz0123456789!?.,;:-"[:size]
        (found,) = candidate.likelihoods([Query(context, word)])
        ids = encoded(model, (context + word)[-23:])
        log_p, _ = chain(model, [2], ids, len(ids) - size)
        assert (found.cut, found.tokens) == (cut, size)
        assert found.log_p == pytest.approx(log_p, **TOLERANCE)


def test_a_continuation_that_does_not_fit_is_scored_in_parts(model_of, sitting):
    """Fails if a part of it is left out, or nothing says that it was cut."""
    model = model_of("causal")
    candidate = sitting(model, "chain_rule")
    word = "".join(chr(97 + n % 26) for n in range(50))
    for context, cut in (("", 1), ("xy", 2)):
        (found,) = candidate.likelihoods([Query(context, word)])
        parts = [encoded(model, word[at : at + 23]) for at in (0, 23, 46)]
        log_p = sum(chain(model, [2], part, 0)[0] for part in parts)
        assert (found.tokens, found.cut) == (50, cut)
        assert found.log_p == pytest.approx(log_p, **TOLERANCE)


@pytest.mark.parametrize("name", ["masked", "shifted"])
def test_a_masked_model_from_left_to_right(model_of, sitting, name):
    """Fails if the order is another, or context is masked or counted."""
    model = model_of(name)
    ahead = name == "shifted"
    (found,) = sitting(model, "left_to_right").likelihoods([Query("ab ", "cd")])
    ids = [2, *encoded(model, "ab cd")]
    places = range(3, 6)
    log_p = 0.0
    for place in places:
        shown = [1 if i in places and i >= place else t for i, t in enumerate(ids)]
        log_p += logs(model, [shown])[0, place - ahead, ids[place]]
    assert found.log_p == pytest.approx(log_p, **TOLERANCE) and found.tokens == 3


def test_pseudo_likelihoods(model_of, merging, sitting):
    """Fails if more or less is masked than the token, or than the rest of its word."""
    model = merging(model_of("masked"))
    ids = [2, *encoded(model, "c abc")]  # c, " ab", c: the last two are one word
    assert len(ids) == 4
    alone = sum(masked_log(model, ids, {place}, place) for place in (2, 3))
    within = masked_log(model, ids, {2, 3}, 2) + masked_log(model, ids, {3}, 3)
    assert abs(alone - within) > 1e-3
    for scorer, wanted in (("pseudo_all", alone), ("pseudo_words", within)):
        candidate = sitting(model, scorer)
        (found,) = candidate.likelihoods([Query("c", " abc")])
        assert found.log_p == pytest.approx(wanted, **TOLERANCE)
        assert candidate.kind == "no likelihood"


def test_context_is_never_masked(model_of, sitting):
    """Fails if a scorer that draws what it masks masks a token of the context, too."""
    model = model_of("masked")
    ids = [2, *encoded(model, "abcdefX")]
    wanted = masked_log(model, ids, {7}, 7)
    for scorer in ("any_order", "random_order"):
        found = sitting(model, scorer).likelihoods(
            [Query("abcdef", "X", number=number) for number in range(4)]
        )
        assert [each.log_p for each in found] == pytest.approx([wanted] * 4, **TOLERANCE)


def test_what_stands_behind_is_seen_by_who_sees_both_sides_alone(model_of, sitting):
    """Fails if `after` is scored, hidden from a masked model, or shown to a causal one."""
    plain, behind = Query("ab", "cd"), Query("ab", "cd", " ef")
    causal = sitting(model_of("causal"), "chain_rule")
    one, other = causal.likelihoods([plain, behind])
    assert not causal.sees_after and one == other
    model = model_of("masked")
    masked = sitting(model, "pseudo_all")
    one, other = masked.likelihoods([plain, behind])
    ids = [2, *encoded(model, "abcd ef")]
    wanted = sum(masked_log(model, ids, {place}, place) for place in (3, 4))
    assert masked.sees_after and other.log_p == pytest.approx(wanted, **TOLERANCE)
    assert other.tokens == one.tokens == 2 and abs(one.log_p - other.log_p) > 1e-3


def test_an_encoder_that_was_always_told_the_end_is_told_it(model_of, sitting):
    """Fails if a foreign encoder reads a text without its last token, or a row is too long."""
    model = model_of("masked")
    tokenizer = copy.copy(model.tokenizer)
    tokenizer.vocabulary = dataclasses.replace(tokenizer.vocabulary, eos_counts=False)
    model = dataclasses.replace(model, tokenizer=tokenizer)
    candidate = sitting(model, "pseudo_all")
    assert candidate.around == "after <bos> (2), before <eos> (3)"
    for context, shown, cut in (("ab", "abcd", 0), ("a" * 25, "a" * 20 + "cd", 5)):
        (found,) = candidate.likelihoods([Query(context, "cd")])
        ids = [2, *encoded(model, shown), 3]
        places = (len(ids) - 3, len(ids) - 2)
        wanted = sum(masked_log(model, ids, {place}, place) for place in places)
        assert found.log_p == pytest.approx(wanted, **TOLERANCE)
        assert (found.tokens, found.cut) == (2, cut)


def test_what_stands_behind_is_cut_last_and_counted(model_of, sitting):
    """Fails if the context is kept in its place, or what is left out behind is not counted."""
    model = model_of("masked")
    candidate = sitting(model, "pseudo_all")
    for before, after, shown, cut in (
        ("abcdefghij", "klmnopqrstu", "bcdefghijXYklmnopqrstu"[-23:], 0),
        ("abcdefghijvw", "klmnopqrstu", "cdefghijvwXYklmnopqrstu", 2),
        ("a", "klmnopqrstuvwxyz01234567", "XYklmnopqrstuvwxyz01234", 4),
    ):
        (found,) = candidate.likelihoods([Query(before, "XY", after)])
        whole = before + "XY" + after
        shown = whole if not cut else shown
        at = 1 + shown.index("X")
        ids = [2, *encoded(model, shown)]
        wanted = sum(masked_log(model, ids, {place}, place) for place in (at, at + 1))
        assert found.log_p == pytest.approx(wanted, **TOLERANCE)
        assert found.cut == cut


def test_choices_of_one_item_have_the_same_masks(model_of, sitting):
    """Fails if each request draws its own masks, or all items have the same ones."""
    candidate = sitting(model_of("masked"), "any_order")
    asked = [Query("ab", word, number=n) for n, word in ((0, "cdefgh"), (1, "cdefgh"))]
    one, other, same = candidate.likelihoods([*asked, asked[0]])
    assert candidate.kind == "bound" and one == same and one.log_p != other.log_p
    (alone,) = candidate.likelihoods(asked[1:])
    assert alone.log_p == pytest.approx(other.log_p, **TOLERANCE)
    # Where another word is as long, the same places are masked.
    shown = []
    encoded = candidate.encode([*asked, Query("ab", "ijklmn")])
    for row in rows_of(encoded, candidate.frame)[0]:
        tokens = jnp.array([row.tokens])
        scored = (jnp.arange(len(row.tokens)) >= row.start)[None]
        examples = [
            candidate._scorer.build_example(
                ScoredRows(tokens, jnp.ones_like(tokens), scored),
                vocabulary=candidate._vocabulary,
                key_B=jax.random.fold_in(jax.random.key(0), row.number)[None],
                sample=sample,
            )[0]
            for sample in (3, 8, 12)
        ]
        shown.append([(np.asarray(example.inputs) == 1).tolist() for example in examples])
    assert shown[0] == shown[2] != shown[1]


# On an alphabet of three, all strings can be asked


class Letters:
    """A tokenizer of three letters, in the vocabulary of the tiny module."""

    lossy: ClassVar = None

    def __init__(self, vocabulary):
        self.vocabulary = vocabulary

    def encode_all(self, texts):
        return [np.array(["xyz".index(t) + 4 for t in text], np.int32) for text in texts]

    def id_to_token(self, id):
        return ("<pad>", "<mask>", "<bos>", "<eos>", "x", "y", "z")[id]


def tiny_candidate(tiny, vocabulary, objective, scorer, *, special=-1e9):
    module = tiny(special=special, end=-1e9)
    one = _mesh.make(_mesh.Mesh(), jax.devices()[:1])
    run = Run(data=Data(length=16), objective=objective)
    return ModelCandidate(
        run, Letters(vocabulary), module, module.init(1), one, scorer, identity="tiny"
    )


@pytest.mark.parametrize(
    ("objective", "scorer"),
    [
        (Causal(), "chain_rule"),
        (Masked(), "left_to_right"),
        (Masked(), "random_order"),
        (Masked(), "confident_first"),
        (Spans(), "spans"),
    ],
)
def test_probabilities_sum_to_one_over_all_strings(tiny, vocabulary, objective, scorer):
    """Fails if an exact scorer sees what it is asked, or the context is part of what is
    counted.
    """
    # Of a span model, sentinels are given: they take no probability from what is counted.
    candidate = tiny_candidate(tiny, vocabulary, objective, scorer)
    assert candidate.kind == "exact"
    for context in ("", "zy"):
        strings = ["".join(each) for each in itertools.product("xyz", repeat=3)]
        found = candidate.likelihoods([Query(context, each) for each in strings])
        probabilities = np.exp([each.log_p for each in found])
        assert probabilities.sum() == pytest.approx(1, abs=1e-4)
        assert probabilities.max() > 1.5 / 27


def test_pseudo_likelihoods_sum_to_no_one(tiny, vocabulary):
    """Fails if what is labelled no likelihood is one, and so is computed otherwise."""
    candidate = tiny_candidate(tiny, vocabulary, Masked(), "pseudo_all")
    strings = ["".join(each) for each in itertools.product("xyz", repeat=3)]
    found = candidate.likelihoods([Query("zy", each) for each in strings])
    assert abs(np.exp([each.log_p for each in found]).sum() - 1) > 0.01


@pytest.mark.parametrize("name", ["spans", "t5"])
def test_a_span_model_answers_behind_a_sentinel(model_of, sitting, name):
    """Fails if an encoder does not see the context, or sees what is asked, or the sentinel
    stands elsewhere than in the answer's place.
    """
    model = model_of(name)
    candidate = sitting(model, "spans")
    assert task_scorers(model.run) == ["spans"] and not candidate.sees_after
    first, second = model.tokenizer.vocabulary.sentinels[:2]
    ids = encoded(model, "cd")
    (found,) = candidate.likelihoods([Query("ab", "cd", " unseen")])
    source = [2, *encoded(model, "ab"), first]
    total = 0.0
    for place in range(2):
        shown = [2, first, *ids[:place]]
        if name == "t5":
            log_LV = logs(model, [shown], source_BM=np.array([source]))[0]
            total += log_LV[len(shown) - 1, ids[place]]
    if name == "t5":
        assert found.log_p == pytest.approx(total, **TOLERANCE)
    other, longer = candidate.likelihoods([Query("ax", "cd"), Query("ab", "cde")])
    assert abs(other.log_p - found.log_p) > 1e-3
    assert longer.tokens == 3 and longer.log_p < found.log_p
    assert second != first and found.tokens == 2


# What is refused


def test_scorers_are_those_that_are_valid(model_of):
    """Fails if a model is asked what it was never trained to answer, or a name is ignored."""
    assert task_scorers(model_of("causal").run) == ["chain_rule"]
    assert task_scorers(model_of("masked").run) == ["left_to_right", "pseudo_words"]
    assert task_scorers(model_of("classes").run) == []
    assert task_scorers(model_of("masked").run, ["any_order"]) == ["any_order"]
    with pytest.raises(UserError, match="--scorer chain-rule: not valid for this model; one"):
        task_scorers(model_of("masked").run, ["chain_rule"])
    with pytest.raises(UserError, match="--scorer magic: no such scorer; one of chain-rule"):
        task_scorers(model_of("causal").run, ["magic"])


def test_a_prefix_that_cannot_be_is_one_line(model_of, sitting):
    """Fails if an unknown token is taken for none, or a masked model goes without one."""
    with pytest.raises(UserError, match=r"^--prefix zz: no such token; one of bos, eos, none"):
        sitting(model_of("causal"), "chain_rule", prefix="zz").likelihoods([Query("", "a")])
    with pytest.raises(UserError, match=r"^--prefix none: the model masks tokens"):
        sitting(model_of("masked"), "pseudo_all", prefix="none").likelihoods([Query("", "a")])


def test_a_model_without_a_scorer_gives_no_likelihood(model_of, sitting):
    candidate = sitting(model_of("classes"), None)
    assert candidate.scorer == "states"
    with pytest.raises(UserError, match="asked by no scorer"):
        candidate.likelihoods([Query("", "a")])


def test_who_is_asked_otherwise_has_another_digest(model_of, sitting):
    """Fails if results of two models, precisions, prefixes, scorers or pools share a file."""
    model = model_of("masked")
    half = dataclasses.replace(
        model, run=msgspec.structs.replace(model.run, precision="bfloat16")
    )
    run = msgspec.structs.replace(model.run, data=Data(length=20))
    shorter = dataclasses.replace(model, run=run)
    candidates = [
        sitting(model, "pseudo_all"),
        sitting(model, "pseudo_words"),
        sitting(model, "left_to_right"),
        sitting(model, "any_order"),
        sitting(model, "pseudo_all", prefix="eos"),
        sitting(half, "pseudo_all"),
        sitting(model_of("shifted"), "pseudo_all"),
        sitting(shorter, "pseudo_all"),
        sitting(model, None),
        sitting(model, None, pool="first"),
    ]
    assert len({each.digest for each in candidates}) == len(candidates)
    assert sitting(model, "pseudo_all").digest == candidates[0].digest
