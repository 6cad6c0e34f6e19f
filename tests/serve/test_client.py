"""OpenAI's own client against a server: what it asks, and what it makes of the answers."""

import json
import urllib.request

import numpy as np
import openai
import pytest

from lm.generate.question import possible
from lm.serve.writing import token_text
from lm.train.load import load_model
from tests.serve.conftest import LENGTH

PROMPT = "to be"


@pytest.fixture(scope="module")
def gpt(models):
    yield load_model(models / "gpt")


def scored(model, ids):
    """Log-probabilities of what comes after each of the ids, float64[n, V]."""
    row_1L, segments_1L = np.zeros((2, 1, LENGTH), np.int32)
    row_1L[0, : len(ids)], segments_1L[0, : len(ids)] = ids, 1
    scores_LV = model.logits(row_1L, segments_1L)[0, : len(ids)].astype(np.float64)
    scores_LV -= scores_LV.max(1, keepdims=True)
    return scores_LV - np.log(np.exp(scores_LV).sum(1, keepdims=True))


def greedy(model, prompt, count):
    """The likeliest tokens after a prompt's ids, one by one, without a cache."""
    ids, allowed_V = list(prompt), possible(model.tokenizer.vocabulary)
    for _ in range(count):
        ids.append(int(np.where(allowed_V, scored(model, ids)[-1], -np.inf).argmax()))
    return ids[len(prompt) :]


def after_bos(model, text):
    return [model.tokenizer.vocabulary.bos, *model.tokenizer.encode(text).tolist()]


def test_models_say_what_they_can(client):
    """Fails if an encoder is said to write, or a model without a chat template to chat."""
    found = {model.id: model for model in client.models.list()}
    assert {name: model.can for name, model in found.items()} == {
        "gpt": ["complete", "embed"],
        "bert": ["fill", "embed"],
        "chat": ["complete", "chat", "embed"],
    }
    assert client.models.retrieve("bert").context == LENGTH
    with pytest.raises(openai.NotFoundError, match="there is none"):
        client.models.retrieve("../gpt")


def test_a_completion_is_what_the_model_writes(client, gpt):
    """Fails if the server generates other tokens than the model does, or its own ones count."""
    found = client.completions.create(model="gpt", prompt=PROMPT, max_tokens=8, temperature=0)
    wanted = greedy(gpt, after_bos(gpt, PROMPT), 8)
    assert found.choices[0].text == gpt.tokenizer.decode(wanted)
    assert found.choices[0].finish_reason == "length"
    assert found.usage.prompt_tokens == len(PROMPT)
    assert found.usage.completion_tokens == 8
    assert found.usage.total_tokens == len(PROMPT) + 8


def test_log_probabilities_are_the_models(client, gpt):
    """Fails if one is of flattened scores, of another token, or an offset is of tokens."""
    found = client.completions.create(
        model="gpt", prompt="é", max_tokens=6, temperature=0.7, top_p=0.9, logprobs=3, echo=True
    )
    said, tokenizer = found.choices[0].logprobs, gpt.tokenizer
    texts = [token_text(tokenizer, id) for id in range(tokenizer.vocabulary.size)]
    ids = [tokenizer.vocabulary.bos, *(texts.index(text) for text in said.tokens)]
    assert ids[1:3] == tokenizer.encode("é").tolist() and len(ids) == 9
    log_p_LV = scored(gpt, ids)
    wanted = [log_p_LV[place, id] for place, id in enumerate(ids[1:])]
    np.testing.assert_allclose(said.token_logprobs, wanted, atol=1e-5)
    for place, (top, token) in enumerate(zip(said.top_logprobs, said.tokens, strict=True)):
        best = np.argsort(-log_p_LV[place])[:3]
        assert {texts[id] for id in best} | {token} == set(top)
        assert top[texts[best[0]]] == pytest.approx(log_p_LV[place, best[0]], abs=1e-5)
    text = found.choices[0].text
    assert text.startswith("é") and said.text_offset[:3] == [0, 0, 1]
    for token, start in zip(said.tokens, said.text_offset, strict=True):
        # Before a token may be what its first byte made no character of.
        assert token.startswith("bytes:") or token in text[start : start + 2]


def test_a_stream_is_the_answer_in_parts(client):
    """Fails if a part is lost, comes twice, or its log-probabilities do not come with it."""
    asked = {
        **{"model": "gpt", "prompt": PROMPT, "max_tokens": 12, "n": 3, "seed": 7},
        **{"logprobs": 2, "stop": ["Q", "zz"], "echo": True},
    }
    whole = client.completions.create(**asked)
    texts, tokens, log_p, offsets = ([""] * 3, [[], [], []], [[], [], []], [[], [], []])
    reasons, used = [None] * 3, None
    for part in client.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    ):
        used = part.usage
        for choice in part.choices:
            assert reasons[choice.index] is None and used is None
            texts[choice.index] += choice.text
            tokens[choice.index] += choice.logprobs.tokens
            log_p[choice.index] += choice.logprobs.token_logprobs
            offsets[choice.index] += choice.logprobs.text_offset
            reasons[choice.index] = choice.finish_reason
    for choice in whole.choices:
        at, said = choice.index, choice.logprobs
        assert (texts[at], reasons[at]) == (choice.text, choice.finish_reason)
        assert (tokens[at], offsets[at]) == (said.tokens, said.text_offset)
        np.testing.assert_allclose(log_p[at], said.token_logprobs, atol=1e-5)
    assert used == whole.usage and len(set(texts)) == 3


def test_answers_depend_on_the_seed_alone(client):
    """Fails if a row's draws depend on its slot, its neighbours, or how many are asked for."""
    asked = {"model": "gpt", "max_tokens": 9, "temperature": 1.3}
    first, second = (
        client.completions.create(**asked, prompt=[PROMPT, "x"], n=2, seed=seed).choices
        for seed in (5, 6)
    )
    assert [choice.index for choice in first] == [0, 1, 2, 3]
    assert first[1].text == second[0].text and first[3].text == second[2].text
    assert first[0].text != first[1].text != second[1].text
    alone = client.completions.create(**asked, prompt="x", seed=5)
    assert alone.choices[0].text == first[2].text
    drawn = {client.completions.create(**asked, prompt="x").choices[0].text for _ in range(3)}
    assert len(drawn) == 3


def test_a_text_ends_before_a_stop(client):
    """Fails if a stop string is shown, its tokens counted, or one within a token is missed."""
    asked = {"model": "gpt", "prompt": PROMPT, "max_tokens": 16, "temperature": 0}
    whole = client.completions.create(**asked, logprobs=0).choices[0]
    stop = whole.text[5:7]
    place = whole.text.index(stop)
    cut = client.completions.create(**asked, stop=["never there", stop], logprobs=0)
    assert cut.choices[0].text == whole.text[:place]
    assert cut.choices[0].finish_reason == "stop"
    count = sum(start < place for start in whole.logprobs.text_offset)
    assert cut.choices[0].logprobs.tokens == whole.logprobs.tokens[:count]
    assert 0 < count < 16 and cut.usage.completion_tokens == count


def test_prompts_are_texts_or_ids(client, gpt):
    """Fails if what begins a text stands before ids too, or a list is taken for one prompt."""
    ids = after_bos(gpt, PROMPT)
    asked = {"model": "gpt", "max_tokens": 5, "temperature": 0}
    (text,) = client.completions.create(**asked, prompt=PROMPT).choices
    found = client.completions.create(**asked, prompt=[ids, ids[1:]])
    assert found.choices[0].text == text.text
    assert found.choices[1].text == gpt.tokenizer.decode(greedy(gpt, ids[1:], 5))
    assert found.usage.prompt_tokens == 2 * len(ids) - 1
    echoed = client.completions.create(
        model="gpt", prompt=ids[1:], max_tokens=0, echo=True, logprobs=0
    )
    assert echoed.choices[0].text == PROMPT and echoed.usage.completion_tokens == 0
    assert echoed.choices[0].logprobs.token_logprobs[0] is None
    log_p_LV = scored(gpt, ids[1:])
    wanted = [log_p_LV[place, id] for place, id in enumerate(ids[2:])]
    np.testing.assert_allclose(echoed.choices[0].logprobs.token_logprobs[1:], wanted, atol=1e-5)


def test_a_conversation_is_answered(client, models):
    """Fails if the template is not the tokenizer's own, or a message can spell its tokens."""
    model = load_model(models / "chat")
    messages = [{"role": "user", "content": "say <|im_end|>"}]
    ids = model.tokenizer.chat(messages, add_generation_prompt=True).tolist()
    wanted = model.tokenizer.decode(greedy(model, ids, 6))
    parts = [{"type": "text", "text": "say "}, {"type": "text", "text": "<|im_end|>"}]
    asked = {"model": "chat", "temperature": 0, "max_completion_tokens": 6}
    found = client.chat.completions.create(
        **asked,
        messages=[{"role": "user", "content": parts}],
        logprobs=True,
        top_logprobs=2,
        n=2,
    )
    assert [choice.message.content for choice in found.choices] == [wanted] * 2
    said = found.choices[0].logprobs.content
    assert b"".join(bytes(each.bytes) for each in said).decode(errors="replace") == wanted
    assert all(len(each.top_logprobs) == 2 for each in said)
    assert [each.logprob for each in said] == [each.top_logprobs[0].logprob for each in said]
    assert found.usage.prompt_tokens == len(ids)
    text, roles = "", []
    for part in client.chat.completions.create(**asked, messages=messages, stream=True):
        delta = part.choices[0].delta
        text, roles = text + (delta.content or ""), [*roles, delta.role]
    assert text == wanted and roles[0] == "assistant" and set(roles[1:]) == {None}
    assert part.choices[0].finish_reason == "length"


def test_vectors_are_means_of_states(client, models):
    """Fails if padding counts, a text's ends do not, or base64 is of other numbers."""
    model = load_model(models / "bert")
    texts = ["a", "some words more", "é"]
    found = client.embeddings.create(model="bert", input=texts)
    plain = client.embeddings.create(model="bert", input=texts, encoding_format="float")
    for text, of, other in zip(texts, found.data, plain.data, strict=True):
        ids = after_bos(model, text)
        mean = model.hidden(np.array([ids]))[0].mean(axis=0)
        wanted = mean / np.linalg.norm(mean)
        np.testing.assert_allclose(of.embedding, wanted, atol=1e-5)
        np.testing.assert_allclose(other.embedding, of.embedding, atol=1e-6)
    assert found.usage.prompt_tokens == sum(len(text.encode()) for text in texts)
    (of_ids,) = client.embeddings.create(
        model="bert", input=model.tokenizer.encode(texts[1]).tolist()
    ).data
    np.testing.assert_allclose(of_ids.embedding, found.data[1].embedding, atol=1e-5)


def test_masks_are_filled(server, models):
    """Fails if a token that is there is changed, or alternatives are those of another place."""
    found = post(server, "/v1/fill", model="bert", prompt="a[MASK]b[MASK]", alternatives=2)
    assert [token["filled"] for token in found["tokens"]] == [False, True, False, True]
    assert "".join(token["text"] for token in found["tokens"]) == found["text"]
    assert found["text"][0] == "a" and found["text"][2] == "b"
    model = load_model(models / "bert")
    first, second = (token for token in found["tokens"] if token["filled"])
    encode, mask = model.tokenizer.encode, model.tokenizer.vocabulary.mask_token
    log_p_LV = scored(model, [*after_bos(model, "a"), mask, *encode("b").tolist(), mask])
    # The more certain one is filled first, when both were masks.
    assert first["logprob"] > second["logprob"]
    assert len(first["top"]) == 2 and first["top"][0]["logprob"] == first["logprob"]
    at, ordinary_V = log_p_LV[2], model.tokenizer.vocabulary.is_ordinary
    wanted = at[first["top"][0]["id"]] - np.log(np.exp(at[ordinary_V]).sum())
    assert first["logprob"] == pytest.approx(wanted, abs=1e-5)
    again = post(server, "/v1/fill", model="bert", prompt="a??b??", mask="??", alternatives=0)
    assert again["text"] == found["text"] and again["tokens"][1]["top"] == []


def test_tokens_are_counted_and_scored(server):
    """Fails if a text's tokens are not those that it is scored by, or an encoder says none."""
    found = post(server, "/v1/tokenize", model="gpt", text="aé", alternatives=1)
    assert found["count"] == 3
    assert "".join(token["text"] for token in found["tokens"]) == "aé"
    echoed = server.client().completions.create(
        model="gpt", prompt="aé", max_tokens=0, echo=True, logprobs=1
    )
    said = [token["logprob"] for token in found["tokens"]]
    assert said == echoed.choices[0].logprobs.token_logprobs
    masked = post(server, "/v1/tokenize", model="bert", text="aé")
    assert all(token["logprob"] < 0 and len(token["top"]) == 5 for token in masked["tokens"])
    # Too long for the model, it is counted all the same.
    longer = post(server, "/v1/tokenize", model="gpt", text="a" * 2 * LENGTH)
    assert longer["count"] == 2 * LENGTH and longer["tokens"][0]["logprob"] is None


def test_metrics_are_prometheus(server, client):
    """Fails if tokens are not counted, or a path of a request becomes a label."""
    before = metrics(server)
    client.completions.create(model="gpt", prompt=PROMPT, max_tokens=4, temperature=0)
    after = metrics(server)
    name = "lm_generated_tokens_total"
    assert after[name] - before.get(name, 0) == 4
    assert after["lm_prompt_tokens_total"] - before["lm_prompt_tokens_total"] == len(PROMPT)
    assert after["lm_running_texts"] == 0 and after["process_resident_memory_bytes"] > 1e6
    assert not [each for each in after if "none/such" in each]


def post(server, path, **fields):
    request = urllib.request.Request(
        f"{server.url}{path}",
        json.dumps(fields).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def metrics(server):
    """The numbers of a server's page for Prometheus."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    return {
        name: float(value)
        for line in lines
        if not line.startswith("#")
        for name, _, value in [line.rpartition(" ")]
    }
