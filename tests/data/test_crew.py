"""Processes that tokenize together make what one makes alone."""

import json

import numpy as np
import pytest

from lm.config import UserError
from lm.data import LOSS, Bytes, Channel, Conversation, Document, Stretch, open_tokenizer
from lm.data.crew import Crew
from lm.data.encoding import Encoded, encode
from lm.data.sources import TURN

CONFIG = Bytes(chat_template="chatml", added=("<|im_start|>", "<|im_end|>"))
KIND = Channel("kind", "uint8", fill=9)


def document(number: int) -> Document:
    """Of every kind that there is."""
    name, text = f"d{number}", f"text {number}"
    messages = ({"role": "user", "content": text}, {"role": "assistant", "content": "yes"})
    return (
        Document(name, text),
        Document(name, text, parts=(Stretch("text "), Stretch(str(number), {"kind": 3}))),
        Document(name, text, conversations=(Conversation(messages),)),
        Document(name, text, words=(Stretch("text", {"kind": 2}), Stretch(str(number)))),
        Document(name, "", tokens=np.arange(4, 9 + number, dtype="<u4").tobytes()),
        Document(name, text, held_out=True),
    )[number % 6]


def plain(found: list[Encoded]) -> str:
    return json.dumps(
        [
            (each.held_out, each.bytes, [(str(a.dtype), a.tolist()) for a in each.stream])
            for each in found
        ]
    )


def test_what_several_processes_encode_is_what_one_does(monkeypatch) -> None:
    """Fails if an order or a field is lost, or what one refuses or its end is a traceback."""
    monkeypatch.setenv("RAYON_NUM_THREADS", "2")
    monkeypatch.setattr("lm.data.crew.ALONE", 1)
    channels = LOSS, TURN, KIND
    tokenizer = open_tokenizer(CONFIG)
    batches = [[document(n) for n in range(start, start + 6)] for start in range(0, 90, 6)]
    expected = [plain(encode(batch, tokenizer, channels, 0.3)) for batch in batches]
    bad = [Document("bad", "", tokens=b"\xff\xff\x00\x00")]
    with Crew(tokenizer, channels, 0.3, CONFIG) as crew:
        found = crew.encode(iter([*batches, bad]))
        for batch, each in zip(batches, expected, strict=True):
            given, encoded = next(found)
            assert given is batch and plain(encoded) == each
        assert len(crew._processes) == 2
        with pytest.raises(UserError, match="bad: its token 0 is 65535, and the tokenizer has"):
            next(found)
        crew._processes[0].kill()
        with pytest.raises(UserError, match="was ended from outside"):
            for _ in crew._processes:
                crew._ask(batches[0])
    assert all(process.returncode is not None for process in crew._processes)


def test_few_documents_start_no_process(monkeypatch) -> None:
    """Fails if a small text waits for processes, or what cannot be opened elsewhere is."""
    monkeypatch.setenv("RAYON_NUM_THREADS", "2")
    monkeypatch.setattr(Crew, "_start", lambda *_: pytest.fail("started"))
    tokenizer = open_tokenizer(CONFIG)
    for config, count in ((CONFIG, 16), (None, 40)):
        with Crew(tokenizer, (), 0.3, config) as crew:
            batches = [[Document(str(n), "text")] for n in range(count)]
            assert [batch for batch, _ in crew.encode(iter(batches))] == batches
