"""Conversations as rows: which tokens are an answer's, found by rendering the messages so far.

No string is searched for. The messages before an answer, rendered with the generation prompt,
are what the model is given when it answers; the messages with the answer, rendered, begin with
the same, and what is new is the answer and what the template writes behind it. What that is
is what two renderings that differ in the answer alone have in common at their ends.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lm.config import UserError
from lm.data.sources.base import Conversation
from lm.data.tokenizers import Tokenizer

ANSWERING = ("assistant", "model")
"""The roles of messages that are answers."""


class Rendered(NamedTuple):
    """A conversation's tokens, and what its channels say of them; int32[n] each."""

    ids: np.ndarray
    loss: np.ndarray
    """1 at the tokens of answers that count and at the token that ends each, 0 elsewhere."""
    turn: np.ndarray
    """The number of their message; of all between two answers the last one's."""


def render_conversation(tokenizer: Tokenizer, conversation: Conversation) -> Rendered:
    """The tokens of a conversation by the tokenizer's chat template, and which are targets.

    The tokens before an answer are those that `tokenizer.chat` gives with the generation
    prompt: an answer whose first letters would merge with what is before it is encoded by
    itself, as whoever generates it must write it. Raises UserError where there is no template,
    where no special token ends an answer, or where what is before an answer is written
    in another way once the answer is there. Templates that drop something of earlier answers,
    such as their thinking, are of that kind; of theirs the last answer alone can count.
    """
    messages, row = conversation.messages, _Row(tokenizer)
    answers = [n for n, message in enumerate(messages) if message.get("role") in ANSWERING]
    counted = {"all": answers, "last": answers[-1:], "none": []}[conversation.answers]
    if not counted and conversation.answers != "none":
        raise UserError("no message is an answer, whose role is assistant")
    for n in counted:
        row.add(messages[:n], n - 1, prompt=True)
        row.add(messages[: n + 1], n, ends=True)
    if not counted:
        row.add(messages, len(messages) - 1, prompt=True)
    elif len(messages) > counted[-1] + 1:
        row.add(messages, len(messages) - 1)
    return Rendered(row.ids, row.loss, row.turn)


def end_of_answer(tokenizer: Tokenizer) -> int:
    """The special token that the chat template ends an answer with.

    Raises UserError where it writes none.
    """
    return next(atom for atom in _ending(tokenizer) if isinstance(atom, int))


class _Row:
    """The tokens of the messages so far, and what is said of them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._atoms: list[str | int] = []
        self.ids = self.loss = self.turn = np.zeros(0, np.int32)

    def add(
        self, messages: Sequence, turn: int, *, prompt: bool = False, ends: bool = False
    ) -> None:
        """Adds what these messages have more than those so far; `ends`: it is an answer."""
        parts = self._tokenizer.chat_parts(messages, add_generation_prompt=prompt)
        atoms, before = _atoms(parts), len(self._atoms)
        if atoms[:before] != self._atoms:
            raise UserError(
                f"message {turn + 1}: with it, the chat template writes in another way what"
                " comes before it; answers=last takes the last answer alone"
            )
        new = atoms[before:]
        ids = self._tokenizer.encode_parts(parts)
        if not np.array_equal(ids[: len(self.ids)], self.ids):
            cut = np.concatenate([self.ids, self._tokenizer.encode_parts(_parts(new))])
            if self._tokenizer.decode(cut) != self._tokenizer.decode(ids):
                raise UserError(
                    f"message {turn + 1}: its first token has letters of what comes before it,"
                    " and encoded by itself it is another text"
                )
            ids = cut
        added = ids[len(self.ids) :]
        loss = self._until_end(added, new, turn) if ends else np.zeros_like(added)
        self.loss = np.concatenate([self.loss, loss])
        self.turn = np.concatenate([self.turn, np.full_like(added, turn)])
        self._atoms, self.ids = atoms, ids

    def _until_end(self, ids: np.ndarray, atoms: list[str | int], turn: int) -> np.ndarray:
        """1 up to the token that ends an answer, 0 after it."""
        ending = _ending(self._tokenizer)
        special = [id for id in atoms if isinstance(id, int)]
        after = sum(isinstance(atom, int) for atom in ending)
        places = np.flatnonzero(np.isin(ids, special))
        if atoms[-len(ending) :] != ending or len(places) != len(special):
            raise UserError(
                f"message {turn + 1}: the chat template ends it in another way than an answer"
                " of one letter"
            )
        return (np.arange(len(ids)) <= places[-after]).astype(np.int32)


@functools.lru_cache(8)
def _ending(tokenizer: Tokenizer) -> list[str | int]:
    """What the chat template writes behind an answer, as atoms."""
    asked = {"role": "user", "content": "x"}
    one, other = (
        _atoms(tokenizer.chat_parts([asked, {"role": "assistant", "content": letter}]))
        for letter in "ab"
    )
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one[::-1], other[::-1]))  # noqa: B905
    ending = [atom for atom, _ in same][::-1]
    if not any(isinstance(atom, int) for atom in ending):
        raise UserError(
            "the chat template writes no special token behind an answer, so that no model could"
            " learn where one ends"
        )
    return ending


def _atoms(parts: Sequence[str | int]) -> list[str | int]:
    """Letters and ids of special tokens, one by one."""
    return [atom for part in parts for atom in (part if isinstance(part, str) else [part])]


def _parts(atoms: Sequence[str | int]) -> list[str | int]:
    """Stretches of text, and ids of special tokens."""
    runs = [list(run) for _, run in itertools.groupby(atoms, type)]
    joined = (["".join(map(str, run))] if isinstance(run[0], str) else run for run in runs)
    return [part for parts in joined for part in parts]
