"""Chats that are answered from an index: sources, their lines, and questions without any."""

import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from lm.retrieval.answer import NOTHING
from lm.retrieval.index import building
from lm.serve.retriever import Retriever, open_retriever
from tests.serve.conftest import Served, served

TEXTS = {
    "water.txt": "Ships float on water.\n\nA keel keeps ships upright.\n",
    "fire.txt": "Fire needs air.\nSmoke rises.\n",
}
ASKED = "What keeps ships upright?"


@pytest.fixture(scope="module")
def retriever(tmp_path_factory) -> Retriever:
    folder = tmp_path_factory.mktemp("texts")
    for name, text in TEXTS.items():
        (folder / name).write_text(text)
    with building(folder / "made", words_only=True) as builder:
        builder.add([folder / name for name in TEXTS])
        builder.finish()
    return open_retriever(folder / "made", model=None, sources=2)


@pytest.fixture(scope="module")
def answering(models, retriever, tmp_path_factory) -> Iterator[Served]:
    """A server with an index, of a model that chats and has room for sources."""
    folder = tmp_path_factory.mktemp("roomy")
    shutil.copytree(models / "chat", folder / "chat")
    config = json.loads((folder / "chat" / "config.json").read_text())
    config |= {"max_position_embeddings": 1024}
    (folder / "chat" / "config.json").write_text(json.dumps(config))
    with served(folder, "chat", retriever=retriever) as found:
        yield found


def chat(server: Served, question: str, **more):
    return server.client().chat.completions.create(
        model="chat",
        messages=[{"role": "user", "content": question}],
        max_completion_tokens=6,
        seed=1,
        **more,
    )


def test_an_answer_comes_with_its_sources(answering, retriever):
    """Fails if a source has another's lines, or the model is asked without them."""
    answer = chat(answering, ASKED)
    (source,) = answer.retrieval["sources"]
    assert answer.retrieval["supported"] and answer.retrieval["query"] == ASKED
    assert source["place"].endswith("water.txt:1-3")
    assert (source["first"], source["last"], source["number"]) == (1, 3, 1)
    assert source["text"] == TEXTS["water.txt"].strip()
    content = answer.choices[0].message.content
    found = retriever.find(ASKED, None)
    assert answer.choices[0].said_in_sources == found.said(content)
    # What it wrote is what it writes when it is given the sources by hand.
    alone = chat(answering, found.asked, extra_body={"retrieve": False})
    assert alone.choices[0].message.content == content
    assert alone.usage == answer.usage and not hasattr(alone, "retrieval")


def test_a_question_that_nothing_answers_is_said_to_be_so(answering):
    """Fails if the model is asked all the same, or a stream says another thing."""
    answer = chat(answering, "Who paints zebras?", n=2)
    assert [choice.message.content for choice in answer.choices] == [NOTHING] * 2
    assert not answer.retrieval["supported"] and answer.usage.completion_tokens == 0
    first, *_ = events = [*chat(answering, "Who paints zebras?", stream=True)]
    assert first.retrieval == {**answer.retrieval}
    assert "".join(event.choices[0].delta.content or "" for event in events) == NOTHING
    assert events[-1].choices[0].finish_reason == "stop"


def test_a_stream_has_sources_first_and_what_they_say_last(answering):
    """Fails if they come in no event, or in all."""
    whole = chat(answering, ASKED)
    events = [*chat(answering, ASKED, stream=True)]
    assert events[0].retrieval == whole.retrieval
    assert not any(hasattr(event, "retrieval") for event in events[1:])
    said = [getattr(event.choices[0], "said_in_sources", None) for event in events]
    assert said[-1] == whole.choices[0].said_in_sources and not any(said[:-1])
    text = "".join(event.choices[0].delta.content or "" for event in events)
    assert text == whole.choices[0].message.content


def test_the_last_message_of_the_user_is_the_question(answering):
    """Fails if the first is asked, or the beginning of an answer is."""
    messages = [
        {"role": "user", "content": "What needs air?"},
        {"role": "assistant", "content": "Fire."},
        {"role": "user", "content": ASKED},
        {"role": "assistant", "content": "A"},
    ]
    answer = answering.client().chat.completions.create(
        model="chat",
        messages=messages,
        max_completion_tokens=2,
        extra_body={"continue_final_message": True},
    )
    assert answer.retrieval["query"] == ASKED


def test_passages_for_which_there_is_no_room_are_left_out(answering, retriever):
    """Fails if a prompt with all sources is refused, or none of them is left."""
    asked = "Which ships float, and what needs air?"
    assert len(retriever.find(asked, None).found) == 2
    tokens = [
        chat(
            answering,
            retriever.find(asked, None).first(n).asked,
            extra_body={"retrieve": False},
        )
        for n in (1, 2)
    ]
    one, two = (answer.usage.prompt_tokens for answer in tokens)
    length = next(m for m in answering.client().models.list() if m.id == "chat").context
    assert one < two < length
    answer = answering.client().chat.completions.create(
        model="chat",
        messages=[{"role": "user", "content": asked}],
        max_completion_tokens=length - two + 1,
        stop=["e", "a", "i", " "],
    )
    assert len(answer.retrieval["sources"]) == 1 and answer.usage.prompt_tokens == one


def post(url: str, path: str, body) -> tuple[int, dict]:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url + path, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_the_index_can_be_asked_alone(answering, monkeypatch):
    """Fails if it gives other passages, or a server without one has a fault."""
    code, found = post(answering.url, "/v1/search", {"query": "smoke", "k": 1})
    assert code == 200 and found["index"] == "made"
    assert found["sources"][0]["place"].endswith("fire.txt:1-2")
    assert [model.id for model in answering.client().models.list() if hasattr(model, "index")]
    for body in (
        {"messages": [{"role": "system", "content": "a"}]},
        {"messages": [{"role": "user", "content": " "}]},
    ):
        code, found = post(answering.url, "/v1/chat/completions", {"model": "chat", **body})
        assert code == 400 and found["error"]["param"] == "messages"
    monkeypatch.setattr(answering.server, "retriever", None)
    messages = [{"role": "user", "content": "a"}]
    for path, body in (
        ("/v1/search", {"query": "smoke"}),
        ("/v1/chat/completions", {"model": "chat", "messages": messages, "retrieve": True}),
    ):
        code, found = post(answering.url, path, body)
        assert code == 400 and "the server has no index" in found["error"]["message"]
