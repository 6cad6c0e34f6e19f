"""Slots in which texts come, go on and end."""

import numpy as np
import pytest

from lm.config import UserError
from lm.example import CausalMask
from lm.generate import Engine, Request, Sampling
from lm.generate import engine as programs_of
from tests.generate.test_generate import probabilities

BEGIN, END = 2, 3
LENGTH = 12
REQUESTS = [
    Request(0, [5], 30, Sampling(seed=3), ends=()),
    Request(1, [4, 6, 5], 7, Sampling(temperature=0), alternatives=2),
    Request(2, [4] * 30, 5, Sampling(top_k=2, seed=5)),
    Request(3, [], 9, Sampling(top_p=0.6, repetition_penalty=1.5, seed=1), ends=(4,)),
    Request(4, [6, 6], 12, Sampling(temperature=2, min_p=0.2, seed=3), echo=True),
]


def log(p):
    return np.log(np.maximum(p, 1e-30))  # special tokens are out of reach


@pytest.fixture
def made(tiny, vocabulary):
    """A module that is at times at an end, its parameters, and engines of it."""
    module = tiny(end=0.5)
    params = module.init(1)

    def engine(slots=3, **how):
        how = {"vocabulary": vocabulary, "length": LENGTH} | how
        return Engine(module, params, slots=slots, **how)

    return module, params, engine


def test_what_a_row_draws_depends_on_its_request_alone(made):
    """Fails if a key is the slot's, a row sees what its slot held before, a neighbour's
    settings reach it, or a row that is full forgets something else beside others.
    """
    _, _, engine = made
    alone = {}
    for request in REQUESTS:
        alone[request.number] = [one.token for one in engine(1).all([request])]
    assert len(alone[0]) > LENGTH  # it has forgotten something
    both, found = engine(), {number: [] for number in alone}
    waiting = [*REQUESTS, Request(5, [4, 4], 30, Sampling(seed=9), ends=())]
    while waiting or both.free < 3:
        if waiting and both.free:
            both.admit(waiting.pop())  # one at a time, the last first
        for one in both.step():
            found.setdefault(one.number, []).append(one.token)
        if len(found.get(5, [])) == 4:
            both.cancel(5)
    assert len(found.pop(5)) == 4
    assert found == alone


def test_tokens_are_told_with_what_the_model_gives_them(made):
    """Fails if log-probabilities are of what is drawn from, of another place, or not sorted."""
    module, params, engine = made
    request = Request(1, [5, 4], 4, Sampling(top_k=1), alternatives=3, echo=True, ends=())
    first, *rest = engine().all([request])
    assert first.prompt[0].log_p is not None and engine(begin="given")._before == []
    row = [BEGIN, *request.prompt]
    log_p = log(probabilities(module, params, row, CausalMask()))
    for place, scored in enumerate(first.prompt):
        assert scored.token == row[place + 1]
        assert scored.log_p == pytest.approx(log_p[place, scored.token], abs=1e-4)
    for one in (first, *rest):
        log_p = log(probabilities(module, params, row, CausalMask())[-1])
        assert one.log_p == pytest.approx(log_p[one.token], abs=1e-4)
        best = np.argsort(-log_p)[:3]
        assert [token for token, _ in one.alternatives] == best.tolist()
        np.testing.assert_allclose([p for _, p in one.alternatives], log_p[best], atol=1e-4)
        row.append(one.token)
    assert [one.reason for one in rest] == [None, None, "length"]


def test_a_prompt_alone_is_scored(made):
    """Fails if its first token is given a probability, or one more is drawn behind it."""
    module, params, engine = made
    prompt = [BEGIN, 5, 4, 6]
    (one,) = engine(begin="given").all([Request(1, prompt, 0, echo=True)])
    assert (one.token, one.reason) == (None, "length")
    assert one.prompt[0].log_p is None
    log_p = log(probabilities(module, params, prompt, CausalMask()))
    expected = [log_p[place, token] for place, token in enumerate(prompt[1:])]
    np.testing.assert_allclose([each.log_p for each in one.prompt[1:]], expected, atol=1e-4)


def test_an_end_is_told(made):
    """Fails if an end is not, or if another token than those given ends a text."""
    _, _, engine = made
    *_, last = engine().all([Request(1, [5], 60, Sampling(seed=2))])
    assert (last.token, last.reason) == (END, "stop")
    tokens = [one.token for one in engine().all([Request(1, [5], 60, ends=(6,))])]
    assert tokens[-1] == 6 and END not in tokens


def test_no_slot_and_nothing_to_read_are_refused(made):
    """Fails if a request takes another's slot, or a traceback says what is wrong with it."""
    _, _, engine = made
    one = engine(1)
    one.admit(REQUESTS[0])
    with pytest.raises(ValueError, match="no slot is free"):
        one.admit(REQUESTS[1])
    for wrong, why in (
        (Request(1, [], 1), "a prompt of no tokens"),
        (Request(1, [5] * 13, 1, echo=True), "13 tokens to be scored: at most 12"),
        (Request(1, [5], 1, alternatives=21), "alternatives=21: must be from 0 to 20"),
        (Request(1, [5], 1, source=[5]), "source of 1 tokens: the encoder reads at most 0"),
    ):
        with pytest.raises(UserError, match=why):
            engine(begin="given").admit(wrong)


def test_programs_are_compiled_once_a_bucket(made):
    """Fails if a length, a setting or a slot is baked into a program."""
    _, _, engine = made
    both = engine(length=64)
    list(both.all([Request(0, [5] * 17, 2, alternatives=1), Request(1, [5], 2, echo=True)]))
    list(both.all([Request(0, [5], 2)]))

    def programs():
        return programs_of._read._cache_size(), programs_of._go_on._cache_size()

    before = programs()
    asked = [Request(n, [5] * n, 3 + n, Sampling(seed=n, top_k=n)) for n in range(1, 31)]
    list(both.all(asked))
    assert programs() == before
