"""A published model behind the server: it answers as its makers' code does."""

import os
from pathlib import Path

import pytest

from experiments.benchmarks import answers
from lm.retrieval.answer import read_questions
from lm.retrieval.index import building
from lm.serve.retriever import open_retriever
from tests.serve.conftest import served

ASSETS = os.environ.get("YARDSTICK_ASSETS")
pytestmark = pytest.mark.skipif(not ASSETS, reason="YARDSTICK_ASSETS names no folder of models")
NAME = "smollm2-135m-instruct"


def test_smollm2_answers_as_it_is_known_to():
    """Fails if a conversation is rendered, ended or decoded in another way than transformers
    does, whole or in parts; see the README beside the model.
    """
    with served(Path(ASSETS), NAME, length=128) as server:
        client = server.client()
        asked = {
            **{"model": NAME, "temperature": 0, "max_completion_tokens": 32},
            "messages": [{"role": "user", "content": "What is the capital of France?"}],
        }
        whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=1)
        assert whole.choices[0].message.content == "The capital of France is Paris."
        assert whole.choices[0].finish_reason == "stop"
        assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (37, 7)
        said = whole.choices[0].logprobs.content
        assert [each.token for each in said][:2] == ["The", " capital"]
        parts = list(client.chat.completions.create(**asked, stream=True))
        text = "".join(part.choices[0].delta.content or "" for part in parts)
        assert text == whole.choices[0].message.content and len(parts) > 7
        # Ids stand after nothing, as its own code has them.
        found = client.completions.create(
            model=NAME, prompt=[504, 3575, 282, 4649, 314], max_tokens=1, temperature=0,
            logprobs=5, echo=True,
        )  # fmt: skip
        log_p = found.choices[0].logprobs
        assert log_p.tokens[-1] == " Paris"
        assert log_p.token_logprobs[-1] == pytest.approx(-0.2581, abs=2e-4)
        assert -sum(log_p.token_logprobs[1:-1]) == pytest.approx(14.7665, abs=2e-3)
        assert log_p.top_logprobs[-1][" London"] == pytest.approx(-4.3844, abs=2e-3)


@pytest.mark.slow
def test_smollm2_answers_from_what_minilm_finds(tmp_path):
    """Fails if sources are not those of the question, the model is not shown them, or a
    question that nothing answers is answered.
    """
    docs = Path(__file__).parents[2] / "docs"
    pages = [docs / "serving.md", docs / "hosts.md"]
    with building(tmp_path / "index", model=Path(ASSETS) / "minilm") as builder:
        builder.add(pages)
        builder.finish()
    questions = read_questions(answers.QUESTIONS)
    asked = [
        each for each in questions if set(each.answered_by) <= {page.name for page in pages}
    ]
    yes = [each for each in asked if each.answered_by][:5]
    no = [each for each in asked if not each.answered_by and each.kind != "near"][:4]
    retriever = open_retriever(tmp_path / "index", model=None, sources=3)
    with served(Path(ASSETS), NAME, length=1024, retriever=retriever) as server:
        found = [answers.ask(server.url, each, 40) for each in (*yes, *no)]
    has_source, _, from_source, refused = (sum(of) for of in answers.rates(found).values())
    assert has_source == 5 and from_source >= 4 and refused >= 3, found
    written = [each for each in found if each.supported and each.question.answered_by]
    assert all(each.said > 0.5 for each in written), written
