"""Text and its tokens as they come, and connections that take nothing of it."""

import asyncio

import pytest

from lm.data.tokenizers import Bytes
from lm.generate.engine import Emitted
from lm.serve.stream import EventStream
from lm.serve.writing import RowWriter

TOKENIZER = Bytes().open()


def written(text, stop=(), reason="length"):
    """What each token of a text adds; the last one has the reason."""
    writer, ids = RowWriter(TOKENIZER, stop), TOKENIZER.encode(text).tolist()
    reasons = [None] * (len(ids) - 1) + [reason]
    return [
        writer.take(Emitted(0, id, -1.0, (), why)) for id, why in zip(ids, reasons, strict=True)
    ]


def shown(parts):
    """The text of each part, and what its tokens are called."""
    return [
        (text, [(TOKENIZER.id_to_token(each.id), each.start) for each in tokens], reason)
        for text, tokens, reason in parts
    ]


def test_tokens_come_with_the_text_that_they_stand_in():
    """Fails if a part of a character, or of a stop string, comes before it is sure."""
    assert shown(written("xéab", stop=["abc"])) == [
        ("x", [("x", 0)], None),
        ("", [], None),
        ("é", [("\ufffd", 1), ("\ufffd", 1)], None),
        ("", [], None),
        ("ab", [("a", 2), ("b", 3)], "length"),
    ]


def test_a_stop_ends_a_text_whatever_the_row_does():
    """Fails if tokens of a stop string are told, or what came true in the middle is missed."""
    parts = shown(written("uabcv", stop=["bc"], reason=None))
    assert parts[3] == ("", [], "stop")
    assert [part[:2] for part in parts[:3]] == [("u", [("u", 0)]), ("a", [("a", 1)]), ("", [])]


def test_what_ends_a_text_is_no_part_of_it():
    """Fails if an end counts as a token, or what was held back before it is lost."""
    writer = RowWriter(TOKENIZER, ["ab"])
    (a,) = TOKENIZER.encode("a").tolist()
    assert writer.take(Emitted(0, a, -1.0)) == ("", [], None)
    text, tokens, reason = writer.take(Emitted(0, 3, -1.0, (), "stop"))
    assert (text, [each.id for each in tokens], reason) == ("a", [a], "stop")
    assert writer.count == 1


@pytest.mark.parametrize("leaves", [False, True])
def test_who_reads_nothing_is_given_up(leaves):
    """Fails if a client that takes no byte, or is gone before the first, keeps its answer."""
    closed = []

    async def objects():
        while True:
            yield {"text": "x"}

    async def stuck(_):
        await asyncio.Event().wait()

    async def receive():
        if not leaves:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send():
        stream = EventStream(objects(), 0.1, lambda: closed.append(True))
        scope = {"type": "http", "asgi": {"spec_version": "2.3"}}
        await asyncio.wait_for(stream(scope, receive, stuck), 5)

    asyncio.run(send())
    assert closed == [True]
