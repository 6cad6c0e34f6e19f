"""Chat files: four shapes of conversations and pairs; what is none is one line."""

import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from lm.config import UserError
from lm.data import Bytes, Chat, Data, n_rows, open_tokens, row_tokens, rows

TOKENIZER = Bytes(chat_template="plain")


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


ASKED, SAID = message("user", "Add 1 and 1."), message("assistant", "2")
SHAPES = [
    {"messages": [ASKED, SAID], "id": 7},
    {"instruction": "Add 1 and 1.", "input": "", "output": "2"},
    {"instruction": "Add 1 and 1.", "output": "2", "chosen": "2", "rejected": "3"},
    {
        "conversations": [
            {"from": "human", "value": "Add 1 and 1."},
            {"from": "gpt", "value": "2"},
        ]
    },
    {"prompt": "Add 1 and 1.", "completion": "2"},
    {"prompt": [ASKED], "completion": [SAID]},
]
PAIRS = [
    {"prompt": "Add 1 and 1.", "chosen": "2", "rejected": "3"},
    {"instruction": "Add 1 and 1.", "input": "", "chosen": "2", "rejected": "3"},
    {"prompt": [ASKED], "chosen": [SAID], "rejected": [message("assistant", "3")]},
    {"chosen": [ASKED, SAID], "rejected": [ASKED, message("assistant", "3")]},
    {"prompt": [ASKED], "chosen": [ASKED, SAID], "rejected": [message("assistant", "3")]},
]


def lines(folder: Path, *objects: object, name: str = "chat.jsonl") -> tuple[str, ...]:
    (folder / name).write_text("".join(json.dumps(each) + "\n" for each in objects))
    return (str(folder / name),)


def test_every_shape_is_the_same_conversation(tmp_path) -> None:
    """Fails if a shape is read otherwise, or what stands beside its fields is read too."""
    found = list(Chat(paths=lines(tmp_path, *SHAPES)).read())
    assert [document.id for document in found] == [f"chat.jsonl:{n}" for n in range(1, 7)]
    for document in found:
        (conversation,) = document.conversations
        assert conversation == ((ASKED, SAID), "all", {})
        assert (document.text, document.group) == ("Add 1 and 1.\n2", "Add 1 and 1.")
    whole = {"instruction": "Add.", "input": "1 and 1", "output": "2"}
    told = Chat(
        paths=lines(tmp_path, whole, {"messages": [message("system", "x"), ASKED, SAID]})
    )
    one, other = replace(told, system="Be brief.", answers="last").read()
    assert one.conversations[0].messages[:2] == (
        message("system", "Be brief."),
        message("user", "Add.\n\n1 and 1"),
    )
    assert one.conversations[0].answers == "last"
    assert other.conversations[0].messages[0] == message("system", "x")


def test_arrays_are_read_as_lines_are(tmp_path) -> None:
    """Fails if the entries of a .json array are not what lines are."""
    (tmp_path / "chat.json").write_text(json.dumps(SHAPES, indent=2))
    found = list(Chat(paths=(str(tmp_path / "*.json"),)).read())
    assert [each.conversations for each in found] == [
        each.conversations for each in Chat(paths=lines(tmp_path, *SHAPES)).read()
    ]


def test_pairs_are_two_conversations_of_one_document(tmp_path) -> None:
    """Fails if the rejected answer is the chosen one, or they are taken for two documents."""
    source = Chat(paths=lines(tmp_path, *PAIRS), use="pair")
    assert [channel.name for channel in source.channels] == ["loss", "turn", "choice"]
    for document in source.read():
        chosen, rejected = document.conversations
        assert chosen == ((ASKED, SAID), "last", {"choice": 0})
        assert rejected == ((ASKED, message("assistant", "3")), "last", {"choice": 1})
        assert document.group == "Add 1 and 1."


def test_prompts_are_what_is_before_the_answer(tmp_path) -> None:
    """Fails if a prompt holds its answer."""
    source = Chat(paths=lines(tmp_path, *SHAPES, *PAIRS[:2], {"prompt": "Add 1 and 1."}))
    for document in replace(source, use="prompt").read():
        assert document.conversations == (((ASKED,), "none", {}),)
    more = Chat(paths=lines(tmp_path, {"messages": [ASKED, SAID, ASKED, SAID]}), use="prompt")
    assert next(more.read()).conversations[0].messages == (ASKED, SAID, ASKED)


def test_answers_to_one_question_are_held_out_together(tmp_path, cache) -> None:
    """Fails if what is trained on as an answer is held out as a pair, or the reverse."""
    asked = [{"instruction": f"Question {n}?", "output": f"Answer {n}."} for n in range(60)]
    pairs = [each | {"chosen": "Yes.", "rejected": "No."} for each in asked]
    paths = lines(tmp_path, *pairs, *asked)
    held_out = []
    for use, count in (("conversation", 120), ("pair", 60)):
        data = Data(
            corpus=Chat(paths=paths if count > 60 else lines(tmp_path, *pairs), use=use),
            tokenizer=TOKENIZER,
            validation=0.3,
        )
        split = open_tokens(data).validation
        held_out.append({split.text(n).splitlines()[1] for n in range(len(split.ids))})
        assert len(split.ids) == len(held_out[-1]) * count // 60
    assert held_out[0] == held_out[1] and 5 < len(held_out[0]) < 40


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"question": "x", "answer": "y"}, "no conversation: its fields are question, answer,"),
        ({"prompt": "x", "chosen": "y", "rejected": "z"}, "use=pair reads those"),
        ({"messages": []}, "its messages are no list, or an empty one"),
        ({"messages": [{"role": "user"}]}, "message 1: must be an object of role and content"),
        ({"messages": [ASKED, message("bot", "x")]}, "message 2: role is 'bot'; one of"),
        ({"messages": [ASKED, message("assistant", " ")]}, "message 2: the answer is empty"),
        ({"messages": [ASKED, {"role": "assistant", "content": None}]}, "message 2: its cont"),
        ({"messages": [SAID, ASKED]}, "it begins with an answer"),
        ({"conversations": [{"from": "me", "value": "x"}]}, "message 1: from='me';"),
        ({"conversations": [{"value": "x"}]}, "message 1: must be an object of from and"),
        ({"instruction": 3, "output": "x"}, "instruction is no text: 3"),
        ({"instruction": "x", "output": ""}, "message 2: the answer is empty"),
    ],
)
def test_oneline_what_is_no_conversation_is_refused_with_its_line(
    tmp_path, fields, why
) -> None:
    """Fails if a line is left out in silence, or its number is not said."""
    source = Chat(paths=lines(tmp_path, SHAPES[0], fields))
    with pytest.raises(UserError, match=rf"^data\.corpus: chat\.jsonl:2: [^\n]*{why}[^\n]*$"):
        list(source.read())
    with pytest.raises(
        UserError, match=r"^data\.corpus: chat\.jsonl:1: no field chosen[^\n]*$"
    ):
        list(replace(source, use="pair").read())


def turns(*sizes: int) -> dict:
    """A conversation whose answers have so many letters."""
    return {
        "messages": [
            m for n in sizes for m in (message("user", "q"), message("assistant", "a" * n))
        ]
    }


def test_what_is_too_long_is_cut_after_an_answer(tmp_path, cache, caplog) -> None:
    """Fails if a cut is in an answer, before its end token, or what is left out is not said."""
    sizes = [(5, 5), (5, 90), (90, 5), (5, 5, 90), (3, 3)] * 12
    questions = [turns(*size) for size in sizes]
    for n, each in enumerate(questions):
        each["messages"][0] = message("user", f"q{n:02}")
    corpus = Chat(paths=lines(tmp_path, *questions), too_long="cut")
    data = Data(corpus=corpus, tokenizer=TOKENIZER, length=100, packing="whole", validation=0.1)
    tokens = open_tokens(data)
    split, eos = tokens.train, tokens.tokenizer.vocabulary.eos
    with caplog.at_level(logging.WARNING, "lm.data"):
        count = n_rows(split, 100, "whole")
    numbers = [int(id.split(":")[1]) - 1 for id in split.ids]
    kinds = [sizes[n] for n in numbers]
    out, cut = (
        sum(kind in those for kind in kinds) for those in ([(90, 5)], [(5, 90), (5, 5, 90)])
    )
    assert caplog.messages[-1] == (
        f"of {len(kinds)} conversations, {out + cut} are longer than a row of 100: {cut} are"
        f" cut after an answer, and {out} are left out"
    )
    found = rows(split, np.arange(count), 100, tokens.tokenizer.vocabulary, "whole")
    answered = []
    for row, segments in zip(found.tokens_BL, found.segments_BL, strict=True):
        for segment in range(1, segments.max() + 1):
            ids = row[segments == segment]
            assert ids[-1] == eos
            written = tokens.tokenizer.decode(ids)
            answered.append(tuple(map(len, re.findall("a{3,}", written))))
    left = {(5, 5): (5, 5), (5, 90): (5,), (5, 5, 90): (5, 5), (3, 3): (3, 3)}
    assert sorted(answered) == sorted(left[kind] for kind in kinds if kind in left)
    assert (found.channels["loss"][found.segments_BL == 0] == 0).all()
    total = row_tokens(split, 100, "whole") * count
    assert round(total) == (found.segments_BL > 0).sum()
    with pytest.raises(UserError, match=r"^data\.length=100: chat\.jsonl:\d+ has [^\n]*$"):
        n_rows(
            open_tokens(replace(data, corpus=replace(corpus, too_long="refuse"))).train,
            100,
            "whole",
        )
    with pytest.raises(UserError, match=r"^data\.length=20: no row has room [^\n]*$"):
        n_rows(split, 20, "whole")


def test_a_pair_that_is_too_long_is_left_out_whole(tmp_path, cache, caplog) -> None:
    """Fails if a row holds the chosen answer without the rejected one."""
    pairs = [
        {"prompt": f"q{n}", "chosen": "a" * 5, "rejected": "b" * (90 if n % 3 else 5)}
        for n in range(40)
    ]
    corpus = Chat(paths=lines(tmp_path, *pairs), use="pair", too_long="cut")
    data = Data(corpus=corpus, tokenizer=TOKENIZER, packing="whole", validation=0.1)
    split = open_tokens(data).train
    with caplog.at_level(logging.WARNING, "lm.data"):
        count = n_rows(split, 120, "whole")
    batch = rows(split, np.arange(count), 120, split.tokenizer.vocabulary, "whole")
    shorter = np.diff(split.offsets) <= 120
    assert count == shorter.sum() > 5 and "0 are cut" in caplog.messages[-1]
    for letter, choice in (("a", 0), ("b", 1)):
        (ids,) = {int(id) for id in split.tokenizer.encode(letter)}
        here = (batch.tokens_BL == ids) & (batch.channels["loss"] == 1)
        assert (here.sum(axis=1) == 5).all()
        assert (batch.channels["choice"][here] == choice).all()
