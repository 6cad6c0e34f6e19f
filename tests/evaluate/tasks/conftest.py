"""Models that nobody trained, whose numbers differ at every place, and a small language."""

import dataclasses
import json
from functools import cache

import jax
import numpy as np
import pytest

from lm.data.tokenizers.base import Tokenizer
from lm.distributed import mesh as _mesh
from lm.evaluate.tasks import metrics
from lm.evaluate.tasks.base import Likelihood, TextStates
from lm.evaluate.tasks.candidate import ModelCandidate
from lm.model import EncoderDecoder, Transformer
from lm.objectives import AnyOrder, Causal, Classify, Masked, Shifted, Spans
from lm.train.load import load_model
from lm.train.step import prepare
from tests.makers import one_device, save_untrained

LENGTH = 24
SIZES = {"depth": 1, "width": 16, "heads": 2}
MODELS = {
    "causal": (Causal(), Transformer(**SIZES)),
    "masked": (Masked(), Transformer(**SIZES)),
    "shifted": (Shifted(), Transformer(**SIZES)),
    "any_order": (AnyOrder(), Transformer(**SIZES)),
    "classes": (Classify(classes=2), Transformer(**SIZES)),
    "spans": (Spans(), Transformer(**SIZES)),
    "t5": (Spans(stack="encoder_decoder"), EncoderDecoder(**SIZES, encoder_depth=1)),
}


def _lively(model):
    """The same with parameters so far apart that what a token sees matters to its nats."""
    random = np.random.default_rng(0)

    def moved(array):
        noise = random.normal(size=array.shape, scale=0.5).astype(np.float32)
        return jax.device_put(np.asarray(array) + noise, array.sharding)

    return dataclasses.replace(model, params=jax.tree.map(moved, model.params))


@pytest.fixture(scope="session")
def model_of(tmp_path_factory):
    """A model by its name in `MODELS`, on one device; the same one each time."""
    folder = tmp_path_factory.mktemp("untrained")

    @cache
    def made(name):
        objective, model = MODELS[name]
        save_untrained(folder / name, objective, model, length=LENGTH)
        with one_device():
            return _lively(load_model(folder / name))

    return made


@pytest.fixture(scope="session")
def spread():
    """The same model on all devices."""

    def moved(model):
        program = prepare(model.run, model.tokenizer.vocabulary, _mesh.make(_mesh.Mesh()))
        shardings = jax.tree.map(lambda x: x.sharding, program.abstract.params)
        params = jax.device_put(jax.tree.map(np.asarray, model.params), shardings)
        return dataclasses.replace(model, program=program, params=params)

    return moved


@pytest.fixture
def few_draws(monkeypatch):
    """Intervals of a few draws, where nothing hangs on their ends."""
    monkeypatch.setattr(metrics, "RESAMPLES", 20)


TOKENS = (b" ", b"a", b"b", b"c", b" a", b" b", b"ab", b" ab", b"bc", b"abc", b".", b"\n")


def _longest_first(texts):
    """Greedy: the longest token at each place, so that a seam may lie within one."""
    found = []
    for text in texts:
        rest, ids = text.encode(), []
        while rest:
            token = max((t for t in TOKENS if rest.startswith(t)), key=len)
            ids.append(TOKENS.index(token))
            rest = rest[len(token) :]
        found.append(np.array(ids, np.int64))
    return found


@pytest.fixture(scope="session")
def merging():
    """The same model with a tokenizer whose tokens are made of several letters and a space."""
    # As many as the models have ids for.
    others = tuple(f"<{n}>".encode() for n in range(260 - len(TOKENS)))
    tokenizer = Tokenizer(TOKENS + others, "merging", _longest_first)
    return lambda model: dataclasses.replace(model, tokenizer=tokenizer)


@pytest.fixture(scope="session")
def sitting():
    """A candidate of a model by a scorer's name."""
    return ModelCandidate.of


class Oracle:
    """A candidate that is told what is likely: by the whole text, or by a function of it."""

    scorer, kind, around = "told", "exact", "after nothing"

    def __init__(self, log_p, *, sees_after=False, fails_after=None, batch=2, name="oracle"):
        self.log_p = log_p
        self.sees_after = sees_after
        self.fails_after = fails_after
        self.batch = batch
        self.digest = name
        self.asked = []

    def likelihoods(self, requests, note=lambda *_: None):
        found = []
        for start in range(0, len(requests), self.batch):
            if self.fails_after is not None and len(self.asked) >= self.fails_after:
                raise KeyboardInterrupt
            part = requests[start : start + self.batch]
            self.asked += part
            answers = [self._answer(request) for request in part]
            found += answers
            note(range(start, start + len(part)), answers)
        return found

    def _answer(self, request):
        told = self.log_p(request)
        if isinstance(told, Likelihood):
            return told
        return Likelihood(float(told), told > -1, len(request.continuation.split()))

    def states(self, texts):
        vectors = np.array([self.log_p(text) for text in texts], np.float32)
        return TextStates(vectors, np.zeros(len(texts), int))


@pytest.fixture(scope="session")
def oracle():
    return Oracle


@pytest.fixture
def lines(tmp_path):
    """Writes objects as a jsonl file in a folder of tasks, which it returns."""

    def write(name, objects):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(each) + "\n" for each in objects))
        return tmp_path

    return write
