"""Conversations as rows: each token is an answer's or not, and every prefix is a prefix."""

from pathlib import Path

import numpy as np
import pytest

from lm.config import UserError
from lm.data import Bytes, Channel, Conversation, Document, SentencePiece, Tokenizer
from lm.data.conversations import end_of_answer, render_conversation
from lm.data.sources import LOSS, TURN
from lm.data.store import open_store
from lm.data.tokenizers import from_hf_folder, open_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "hub" / "tokenizers"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role + '\n' + m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN = (
    "{% for m in messages %}{% if m.role == 'user' %}### Question:\n{{ m.content }}\n\n"
    "### Answer:\n{% else %}{{ m.content }}{{ eos_token }}\n{% endif %}{% endfor %}"
)


def talk(*contents: str, system: str = "", answers="all", **values: float) -> Conversation:
    said = [
        {"role": "assistant" if n % 2 else "user", "content": content}
        for n, content in enumerate(contents)
    ]
    told = [{"role": "system", "content": system}] if system else []
    return Conversation((*told, *said), answers, values)


TALK = talk("What is\na bit? <|im_end|>", "\nA unit,\n\nof news. ", "Naïve?", "A unit.")


def ours(template: str | None, config=None, **settings) -> Tokenizer:
    tokenizer = open_tokenizer(
        config or Bytes(added=("<|im_start|>", "<|im_end|>")), **settings
    )
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture
def learnt(folder) -> Tokenizer:
    """Tokens of which some begin with the newline that stands before an answer."""
    text = "".join(path.read_text() for path in sorted(folder.glob("*.txt")))
    lines = [text, "### Answer:\nA unit\n" * 200, "\nA unit" * 200]
    config = SentencePiece(size=400, added=("<|im_start|>", "<|im_end|>"))
    tokenizer = config.open("x", 0.1, sum(map(len, lines)), lambda: iter(lines))
    assert any(token.startswith(b"\n") and len(token) > 1 for token in tokenizer.tokens)
    return tokenizer


def published(name: str) -> Tokenizer:
    size = {"smollm": 400, "llama": 600}[name]
    return from_hf_folder(GOLDEN / name, size=size)[0]


def targets(tokenizer: Tokenizer, conversation: Conversation) -> list[tuple[str, int]]:
    """Of each run of targets the text, and the token that ends it."""
    ids, loss, _ = render_conversation(tokenizer, conversation)
    runs = np.split(np.arange(len(ids)), np.flatnonzero(np.diff(loss)) + 1)
    return [(tokenizer.decode(ids[run]), int(ids[run[-1]])) for run in runs if loss[run[0]]]


@pytest.mark.parametrize("template", [CHATML, PLAIN], ids=["chatml", "plain"])
@pytest.mark.parametrize("kind", ["bytes", "learnt"])
def test_every_token_is_an_answers_or_not(template, kind, learnt) -> None:
    """Fails if the end token is no target, what follows it is one, or a question's token is."""
    tokenizer = ours(template) if kind == "bytes" else learnt
    tokenizer.chat_template = template
    end = tokenizer.added["<|im_end|>"] if template == CHATML else tokenizer.vocabulary.eos
    assert end_of_answer(tokenizer) == end
    assert targets(tokenizer, TALK) == [("\nA unit,\n\nof news. ", end), ("A unit.", end)]
    ids, loss, turn = render_conversation(tokenizer, TALK)
    assert ids.dtype == loss.dtype == turn.dtype == np.int32
    assert tokenizer.decode(ids) == tokenizer.decode(tokenizer.chat(TALK.messages))
    merged = tokenizer.chat(TALK.messages).tolist() != ids.tolist()
    # One of its tokens begins with the newline that ends `plain`'s prompt.
    assert merged == (kind == "learnt" and template == PLAIN)
    first = tokenizer.chat(TALK.messages[:1], add_generation_prompt=True)
    assert ids[: len(first)].tolist() == first.tolist()
    assert loss[: len(first)].sum() == 0 and set(turn[: len(first)]) == {0}
    assert np.diff(turn).min() == 0 and set(turn) == {0, 1, 2, 3}
    assert (loss[turn % 2 == 0] == 0).all()
    assert [loss[turn == n].tolist()[-2:] for n in (1, 3)] == [[1, 0], [1, 0]]  # a newline


@pytest.mark.parametrize("name", ["smollm", "llama"])
def test_published_templates_give_the_ids_that_they_always_gave(name) -> None:
    """Fails if an answer is encoded apart where nothing merges, or its end is another token."""
    tokenizer = published(name)
    talked = talk("What is a bit?", "A unit.", "Yours?", "Mine.", system="Be brief.")
    ids, loss, turn = render_conversation(tokenizer, talked)
    assert ids.tolist() == tokenizer.chat(talked.messages).tolist()
    end = tokenizer.vocabulary.eos
    space = "" if name == "smollm" else " "  # the template's own, before the end
    found = [(text.strip(), last) for text, last in targets(tokenizer, talked)]
    assert found == [("A unit.", end), ("Mine.", end)], space
    assert set(turn) == {1, 2, 3, 4}  # a system's message is with the question after it
    prompt = tokenizer.chat(talked.messages[:2], add_generation_prompt=True)
    assert ids[: len(prompt)].tolist() == prompt.tolist() and loss[len(prompt)] == 1


def test_oneline_what_cannot_be_encoded_by_itself_is_refused() -> None:
    """Fails if a space is put before an answer that would merge with one before it."""
    tokenizer = published("llama")
    tokenizer.chat_template = PLAIN.replace("### Answer:\n", "### Answer: ")
    with pytest.raises(UserError, match=r"^message 2: its first token has letters of [^\n]*$"):
        render_conversation(tokenizer, talk("What?", "the unit."))


def test_answers_say_which_count() -> None:
    """Fails if an earlier answer counts with `last`, or `none` begins no answer."""
    tokenizer = ours(CHATML)
    whole, last = (
        render_conversation(tokenizer, TALK._replace(answers=a)) for a in ("all", "last")
    )
    assert whole.ids.tolist() == last.ids.tolist()
    assert last.loss.tolist() == (whole.loss * (whole.turn == 3)).tolist()
    asked = TALK._replace(messages=TALK.messages[:3], answers="none")
    ids, loss, turn = render_conversation(tokenizer, asked)
    assert ids.tolist() == tokenizer.chat(asked.messages, add_generation_prompt=True).tolist()
    assert loss.sum() == 0 and set(turn) == {2}
    more = render_conversation(tokenizer, TALK._replace(messages=TALK.messages[:3]))
    assert more.loss.sum() == (whole.loss * (whole.turn == 1)).sum() and more.turn[-1] == 2


THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role + '\n' }}"
    "{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1] }}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "conversation", "why"),
    [
        (THINKING, talk("a", "<think>b</think>c", "d", "e"), "message 3: with it, the chat"),
        (CHATML, talk("a"), "no message is an answer"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", TALK, "no special token behind"),
        (None, TALK, "no chat template"),
        (CHATML.replace("assistant\n", "assistant:"), TALK, "message 2: with it, the chat"),
        (
            CHATML.replace("<|im_end|>", "{% if m.content != 'bad' %}<|im_end|>{% endif %}"),
            talk("b", "bad"),
            "ends it in another way",
        ),
    ],
)
def test_oneline_what_is_no_prefix_is_refused_with_its_document(
    template, conversation, why
) -> None:
    """Fails if a row is made whose targets are not what is asked of the model."""
    documents = [Document("good.jsonl:7", "x", conversations=(conversation,))]
    with pytest.raises(UserError, match=rf"^data\.corpus: good\.jsonl:7: [^\n]*{why}[^\n]*$"):
        open_store({"test": 3}, documents, ours(template), 0.0, (LOSS, TURN))


def test_a_template_that_drops_thinking_trains_the_last_answer() -> None:
    """Fails if `last` renders earlier answers as if they were the last."""
    said = talk("a", "<think>b</think>c", "d", "<think>e</think>f", answers="last")
    tokenizer = ours(THINKING)
    end = tokenizer.added["<|im_end|>"]
    assert targets(tokenizer, said) == [("<think>e</think>f", end)]
    assert "<think>b" not in tokenizer.decode(render_conversation(tokenizer, said).ids)


def test_a_store_holds_conversations_and_texts(cache) -> None:
    """Fails if a pair is torn, a token is added, or a value goes to the other conversation."""
    choice = Channel("choice", "int32", fill=-1)
    tokenizer = ours(CHATML)
    pair = (talk("q", "good", choice=0), talk("q", "bad", choice=1))
    documents = [Document("a", "some text"), Document("b", "pair", conversations=pair)]
    split = open_store({"test": 4}, documents, tokenizer, 0.0, (LOSS, choice, TURN))["train"]
    found = split.read_channels([0], split.size)
    tokens, (start, end) = split.read([0], split.size)[0], split.offsets[1:].tolist()
    first, second = (render_conversation(tokenizer, each) for each in pair)
    assert tokens[start:end].tolist() == [*first.ids, *second.ids]
    assert found["loss"][0].tolist() == [*[0] * start, *first.loss, *second.loss]
    assert found["turn"][0].tolist() == [*[-1] * start, *first.turn, *second.turn]
    wanted = np.repeat([-1, 0, 1], [start, len(first.ids), len(second.ids)])
    assert found["choice"][0].tolist() == wanted.tolist()


def test_published_tokenizers_encode_tokens_that_were_added() -> None:
    """Fails if an added token is looked for among the library's own."""
    added = ("<|one|>", "<|two|>")
    config = from_hf_folder(GOLDEN / "smollm", size=400)[1]
    tokenizer = type(config)(
        **{name: getattr(config, name) for name in config.__struct_fields__} | {"added": added}
    ).read_folder(GOLDEN / "smollm")
    tokenizer.chat_template = CHATML.replace("im_start", "one").replace("im_end", "two")
    assert end_of_answer(tokenizer) == 401
    found = render_conversation(tokenizer, talk("Hi", "A bit."))
    assert np.flatnonzero(found.ids >= 400).size == 4
    assert targets(tokenizer, talk("Hi", "A bit.")) == [("A bit.", 401)]
