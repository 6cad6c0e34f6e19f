"""The models that a server has: what each can do, its prompts in ids, its vectors."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from lm.config import UserError
from lm.data import Tokenizer
from lm.data.conversations import end_of_answer
from lm.evaluate.scorers.base import mask_prediction_of
from lm.generate.engine import Engine
from lm.generate.sampling import Sampling
from lm.numerics import Precision
from lm.objectives.base import MaskPrediction
from lm.retrieval.embed import Embedder, around_text
from lm.serve.protocol import ApiError, ChatMessage, Given, GivenIds, SampledQuery
from lm.train.load import LoadedModel, load_model

USUAL = 2048
"""Positions of a text, at most, unless told otherwise: each slot has memory for them."""
POSITIONS = 4096
"""Positions that are computed at once, but for those of engines."""
ENCODED = 1 << 16
"""Bytes of a text that are encoded in any case: it may only be there to be counted."""
Ability = Literal["complete", "chat", "fill", "embed"]


class PromptIds(NamedTuple):
    """What a text goes on from."""

    ids: list[int]
    text: str
    before: int
    """How many of the ids were put before those that were given: the token that begins a text,
    where text was given."""


def sampling_of(query: SampledQuery, number: int = 0) -> Sampling:
    """How tokens are drawn for a query; of several texts each has another number."""
    seed = secrets.randbits(31) if query.seed is None else query.seed
    return Sampling(
        temperature=query.temperature,
        top_k=query.top_k if query.top_k > 0 else None,
        top_p=query.top_p,
        min_p=query.min_p,
        repetition_penalty=query.repetition_penalty,
        seed=(seed + number) % 2**31,
    )


@dataclass(frozen=True)
class ServedModel:
    """A model under its name."""

    name: str
    model: LoadedModel
    length: int
    """Positions of a text, with what was put before it."""
    slots: int
    created: int
    """When its files were read, in seconds since 1970."""

    @property
    def tokenizer(self) -> Tokenizer:
        return self.model.tokenizer

    @cached_property
    def can(self) -> tuple[Ability, ...]:
        """What it may be asked for."""
        found: list[Ability] = []
        reads_source = self.model.run.model.reads_source
        if "next" in self.model.predicts and not reads_source:
            found.append("complete")
            if self._end_of_answer is not None:
                found.append("chat")
        if self.mask_prediction is not None and self.tokenizer.vocabulary.mask is not None:
            found.append("fill")
        if not reads_source:
            found.append("embed")
        return tuple(found)

    def engine(self) -> Engine:
        """A new engine for it, whose prompts are complete as they are given."""
        return Engine(
            self.model.program.module,
            self.model.params,
            vocabulary=self.tokenizer.vocabulary,
            slots=self.slots,
            length=self.length,
            begin="given",
        )

    @cached_property
    def mask_prediction(self) -> MaskPrediction | None:
        """Where it says what a mask token stands for; None: it does not."""
        return mask_prediction_of(self.model.predicts)

    def ends(self, *, of: Literal["text", "answer"]) -> tuple[int, ...]:
        """The tokens that end a text, or an answer."""
        eos = self.tokenizer.vocabulary.eos
        if of == "text" or self._end_of_answer is None:
            return (eos,)
        return tuple(dict.fromkeys((self._end_of_answer, eos)))

    def prompts(self, given: Given | GivenIds, *, param: str) -> list[PromptIds]:
        """Prompts in ids: a text after the token that begins one, ids as they are.

        Raises ApiError for ids that are none, and where there is no prompt.
        """
        if isinstance(given, str):
            return [self._of_text(given, param)]
        if given and all(isinstance(each, int) for each in given):
            return [self._of_ids(given, param)]  # type: ignore[arg-type] # as was just asked
        if not given or any(isinstance(each, int) for each in given):
            raise ApiError(
                400, f"{param}: a text, ids, or a list of one of them alone", param=param
            )
        return [
            self._of_text(each, param) if isinstance(each, str) else self._of_ids(each, param)  # type: ignore[arg-type]
            for each in given
        ]

    def conversation(self, messages: Sequence[ChatMessage], *, begun: bool) -> PromptIds:
        """A conversation in ids, with what begins an answer; raises ApiError.

        `begun`: the last message is text of that answer, which goes on from it.
        """
        plain = [message.plain for message in messages]
        self._check_size("".join(message["content"] for message in plain), "messages")
        beginning = plain.pop()["content"] if begun else ""
        try:
            ids = self.tokenizer.chat(plain, add_generation_prompt=True).tolist()
            ids += self.tokenizer.encode(beginning).tolist()
        except UserError as error:
            raise ApiError(400, f"messages: {error}", param="messages") from None
        return PromptIds(ids, "", 0)

    def check_count(self, prompt: PromptIds, count: int, param: str) -> None:
        """Raises ApiError where a prompt and what is written after it do not fit."""
        if len(prompt.ids) + count > self.length:
            raise ApiError(
                400,
                f"{param}: the prompt is of {len(prompt.ids)} tokens, and {count} are to be"
                f" written; the model sees {self.length}",
                param=param,
                code="context_length_exceeded",
            )

    @cached_property
    def around(self) -> tuple[list[int], list[int]]:
        """What stands before a whole text, and behind it where the model was told its end."""
        return around_text(self.model)

    def framed(self, prompt: PromptIds, *, param: str) -> list[int]:
        """A whole text with what stands around it; raises ApiError where it does not fit."""
        before, behind = self.around
        row = [*before, *prompt.ids[prompt.before :], *behind]
        if len(row) > self.length:
            raise ApiError(
                400,
                f"{param}: {len(row)} tokens; the model sees {self.length}",
                param=param,
                code="context_length_exceeded",
            )
        return row

    def batch(self, rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
        """Rows of ids as tokens and segments, int32[B, L].

        B and L are powers of two, so that few programs are compiled; rows beyond are the last.
        """
        width = self.width(max(map(len, rows)))
        tokens_BL, segments_BL = np.zeros(
            (2, 1 << (len(rows) - 1).bit_length(), width), np.int32
        )
        for place in range(len(tokens_BL)):
            row = rows[min(place, len(rows) - 1)]
            tokens_BL[place, : len(row)], segments_BL[place, : len(row)] = row, 1
        return tokens_BL, segments_BL

    def width(self, tokens: int) -> int:
        """Positions of a row that has so many tokens."""
        return min(self.length, max(16, 1 << (tokens - 1).bit_length()))

    def groups(self, rows: Sequence[Sequence[int]]) -> list[list[int]]:
        """The numbers of rows, in groups of which each is computed at once."""
        by_width: dict[int, list[int]] = {}
        for number, row in enumerate(rows):
            by_width.setdefault(self.width(len(row)), []).append(number)
        return [
            of[at : at + size]
            for width, of in by_width.items()
            for size in [1 << (max(1, POSITIONS // width).bit_length() - 1)]
            for at in range(0, len(of), size)
        ]

    def vectors(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        """The mean of the last hidden states of each row, of length one, float32[n, D]."""
        return self._embedder.vectors(rows)

    def _of_text(self, text: str, param: str) -> PromptIds:
        self._check_size(text, param)
        bos = self.tokenizer.vocabulary.bos
        return PromptIds([bos, *self.tokenizer.encode(text).tolist()], text, 1)

    def _of_ids(self, ids: Sequence[int], param: str) -> PromptIds:
        size = self.tokenizer.vocabulary.size
        if not ids:
            raise ApiError(
                400, f"{param}: no ids; the token that begins a text at least", param=param
            )
        if (most := max(ids)) >= size:
            raise ApiError(
                400, f"{param}: id {most}; ids are from 0 to {size - 1}", param=param
            )
        return PromptIds(list(ids), self.tokenizer.decode(ids), 0)

    def _check_size(self, text: str, param: str) -> None:
        """Refuses what cannot fit before it is encoded, which takes its time."""
        if len(text.encode()) > max(ENCODED, self.length * self._longest_token):
            raise ApiError(
                400,
                f"{param}: {len(text):,} letters; the model sees {self.length} tokens",
                param=param,
                code="context_length_exceeded",
            )

    @cached_property
    def _embedder(self) -> Embedder:
        return Embedder(self.model, "mean", self.length)

    @cached_property
    def _longest_token(self) -> int:
        return max(map(len, self.tokenizer.tokens))

    @cached_property
    def _end_of_answer(self) -> int | None:
        """The token that ends an answer; None: there is no chat template that writes one."""
        try:
            return end_of_answer(self.tokenizer)
        except UserError:
            return None


def open_models(
    paths: Sequence[Path], *, slots: int, length: int | None, precision: Precision | None
) -> list[ServedModel]:
    """Models by the names of their folders; raises UserError in one line where it cannot."""
    served: dict[str, ServedModel] = {}
    for path in paths:
        name = path.resolve().name
        if name in served:
            raise UserError(f"{path}: another model is called {name}, too; rename one of them")
        model = load_model(path, precision=precision)
        own = min(model.run.data.length, model.run.model.longest or model.run.data.length)
        if length is not None and length > own:
            raise UserError(f"--length {length}: {name} sees {own} tokens at most")
        found = ServedModel(
            name,
            model,
            length=min(own, USUAL) if length is None else length,
            slots=slots,
            created=int(path.stat().st_mtime),
        )
        if not found.can:
            raise UserError(
                f"{path}: it reads a source by an encoder, and answers no path of this server"
            )
        served[name] = found
    return list(served.values())
