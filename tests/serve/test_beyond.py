"""What the server has beyond OpenAI's protocol, for its page (see test_page.py too)."""

import urllib.error
import urllib.request
from importlib.resources import files

import openai
import pytest


@pytest.fixture(scope="module")
def tokenize(client):
    """The tokens of a text, and what is said of each."""

    def ask(**query):
        return client.post("/tokenize", body=query, cast_to=object)["tokens"]

    return ask


def test_tokens_stand_as_they_were_given(tokenize):
    """Fails if letters get lost between tokens, or a mask is read as its letters."""
    tokens = tokenize(model="gpt", text="né [MASK]")
    assert [each["text"] for each in tokens] == ["n", "", "é", " ", *"[MASK]"]
    tokens = tokenize(model="bert", text="né [MASK]", mask="[MASK]")
    assert [each["text"] for each in tokens] == ["n", "", "é", " ", "[MASK]"]
    # Nothing is known of a blank; of the others, what they are beside it.
    assert [each["logprob"] is None for each in tokens] == [False] * 4 + [True]
    assert [each["text"] for each in tokenize(model="gpt", text="_", mask="_")] == ["_"]


def test_an_answer_goes_on_from_its_beginning(client):
    """Fails if a beginning is taken for an answer that has ended, or is answered to."""
    asked = [{"role": "user", "content": "who are you"}]

    def answer(*begun, count):
        query = {
            "model": "chat",
            "messages": [*asked, *({"role": "assistant", "content": each} for each in begun)],
            "temperature": 0,
            "max_tokens": count,
            "extra_body": {"continue_final_message": bool(begun)},
        }
        return client.chat.completions.create(**query).choices[0].message.content

    whole, begun = answer(count=8), answer(count=3)
    assert whole.startswith(begun) and whole != begun
    assert begun + answer(begun, count=5) == whole
    with pytest.raises(openai.BadRequestError, match="continue_final_message: only where"):
        client.chat.completions.create(
            model="chat", messages=asked, extra_body={"continue_final_message": True}
        )


def test_the_page_is_served_with_its_policy(server):
    """Fails if a file of it is missing, may run what is written in it, or a path escapes."""
    for file in files("lm.serve").joinpath("page").iterdir():
        path = "" if file.name == "index.html" else file.name
        with urllib.request.urlopen(f"{server.url}/{path}") as answer:
            assert answer.read() == file.read_bytes()
            policy = answer.headers["content-security-policy"]
            assert answer.headers["x-content-type-options"] == "nosniff"
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy and "*" not in policy
    for path in ("page.py", "..%2fpage.py", "page/index.html", "%2e%2e/app.py"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{server.url}/{path}")
