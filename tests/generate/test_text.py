"""Text that comes token by token."""

import random

from lm.data import Bytes
from lm.generate import Written


def test_small_what_is_given_is_the_text_up_to_the_first_stop():
    """Fails if part of a stop string is given, what only began one is lost, or a character is
    given before it is whole.
    """
    tokenizer, draw = Bytes().open(), random.Random(0)
    for _ in range(300):
        text = "".join(draw.choices("abé☃", k=draw.randint(0, 12)))
        stops = ["".join(draw.choices("abé", k=draw.randint(1, 3))) for _ in range(2)]
        written, given = Written(tokenizer, stops), ""
        for token in tokenizer.encode(text).tolist():
            new = written.take(token)
            given += new
            assert "�" not in given and text.startswith(given)
            rest = text[len(given) :]
            if not new and not written.ended and rest:
                assert any(stop[:1] == rest[:1] for stop in stops) or len(rest.encode()) > 1
        given += written.flush()
        ends = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
        assert given == (text[: min(ends)[1]] if ends else text)
        assert written.ended == bool(ends)


def test_small_a_cut_character_is_marked_at_the_end():
    """Fails if bytes are lost, or wait for ever."""
    written = Written(Bytes().open())
    ids = Bytes().open().encode("é").tolist()
    assert [written.take(ids[0]), written.flush()] == ["", "�"]
