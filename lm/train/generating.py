"""A loaded model generates: texts go on, messages are answered, blanks are filled."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import numpy as np

from lm.config import UserError, validate_fields
from lm.data import Tokenizer
from lm.data.conversations import end_of_answer
from lm.generate.beams import LENGTH_PENALTY, Beam, beam_search
from lm.generate.continuation import engine_for, of_row
from lm.generate.engine import Engine, Request
from lm.generate.filling import Filled, FillOrder, fill_blanks
from lm.generate.sampling import Sampling
from lm.generate.text import Told, tell
from lm.model import Module
from lm.objectives.base import Prediction
from lm.run import Run
from lm.train.step import Program

if TYPE_CHECKING:
    from lm.train.load import LoadedModel

Prompt = str | Sequence[int] | np.ndarray
"""A text, or the ids of one with all that begins it."""


class Drawing(TypedDict, total=False):
    """How tokens are drawn: the fields of `Sampling`, for calls in Python."""

    temperature: float
    top_k: int | None
    top_p: float
    min_p: float
    repetition_penalty: float
    seed: int


class Generating:
    """What a model that generates can be asked, whoever trained it.

    How tokens are drawn is what the fields of `lm.generate.Sampling` say; what is wrong with
    them raises UserError. A text goes on behind the token that begins one; ids are taken as
    they are, such as `tokenizer.chat` gives them. What an encoder-decoder is given is its
    source. Of a row that is full, the older half is forgotten.
    """

    if TYPE_CHECKING:  # what a LoadedModel has
        run: Run
        tokenizer: Tokenizer
        program: Program
        params: Any

        @property
        def predicts(self) -> frozenset[Prediction]: ...

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        count: int = 64,
        samples: int = 1,
        stop: Sequence[str] = (),
        **drawing: Unpack[Drawing],
    ) -> list[Any]:
        """What the model adds to each prompt: at most `count` tokens, up to the end or a stop.

        To a text it adds text, to ids it adds ids. Of several `samples` each prompt gets a
        list; rows draw with the seed, the seed + 1 and so on. Raises UserError for a model that
        was trained to predict neither the next token nor spans of a source, and for a prompt of
        no ids.
        """
        texts = self._check(prompts, stop)
        rows = [self._ids(each) for each in prompts for _ in range(samples)]
        requests = self._requests(rows, count, _sampling(drawing))
        added: list[Any] = [[] for _ in rows]
        for one in tell(self._engine(rows, count, texts), requests, self.tokenizer, stop):
            token, reason = one.emitted.token, one.emitted.reason
            if texts:
                added[one.emitted.number].append(one.text)
            elif token is not None and reason != "stop":
                added[one.emitted.number].append(token)
        found = ["".join(each) for each in added] if texts else added
        if samples == 1:
            return found
        return [found[at : at + samples] for at in range(0, len(found), samples)]

    def stream(
        self,
        prompt: Prompt,
        *,
        count: int = 64,
        stop: Sequence[str] = (),
        alternatives: int = 0,
        echo: bool = False,
        ends: Sequence[int] | None = None,
        **drawing: Unpack[Drawing],
    ) -> Iterator[Told]:
        """Each token that the model adds to a prompt, as it comes: with the text that is sure
        since, its log-probability, and as many of the likeliest tokens as `alternatives` says.

        With `echo`, the first comes with the prompt's own. A text ends with one of `ends`;
        None: eos. Raises UserError like `generate`.
        """
        texts = self._check([prompt], ())
        rows = [self._ids(prompt)]
        (request,) = self._requests(rows, count, _sampling(drawing), ends)
        request = replace(request, alternatives=alternatives, echo=echo)
        yield from tell(self._engine(rows, count, texts), [request], self.tokenizer, stop)

    def beams(
        self,
        prompt: Prompt,
        *,
        count: int = 64,
        beams: int = 4,
        length_penalty: float = LENGTH_PENALTY,
    ) -> list[Beam]:
        """The likeliest texts after a prompt, the best first: see `lm.generate.beam_search`.

        Raises UserError like `generate`, and for a prompt that does not fit with `count`.
        """
        texts, ids = self._check([prompt], ()), self._ids(prompt)
        return beam_search(
            self.program.module,
            self.params,
            () if self._writes_spans else ids,
            vocabulary=self.tokenizer.vocabulary,
            length=1 + count if self._writes_spans else self.run.data.length,
            begin="bos" if texts or self._writes_spans else "given",
            count=count,
            beams=beams,
            length_penalty=length_penalty,
            source=ids if self._writes_spans else None,
        )

    def chat(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        count: int = 256,
        stop: Sequence[str] = (),
        **drawing: Unpack[Drawing],
    ) -> str:
        """The answer to a conversation: at most `count` tokens, or up to what ends an answer.

        The chat template writes the messages, each with a role and a content, and what begins
        an answer; how it ends one is known from the template too. Raises UserError where there
        is none, and like `generate`.
        """
        answer = self.stream_chat(messages, count=count, stop=stop, **drawing)
        return "".join(one.text for one in answer)

    def stream_chat(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        count: int = 256,
        stop: Sequence[str] = (),
        alternatives: int = 0,
        **drawing: Unpack[Drawing],
    ) -> Iterator[Told]:
        """Each token of the answer to a conversation as it comes: see `chat` and `stream`."""
        end = end_of_answer(self.tokenizer)
        prompt = self.tokenizer.chat(messages, add_generation_prompt=True)
        return self.stream(
            prompt, count=count, stop=stop, alternatives=alternatives, ends=[end], **drawing
        )

    def fill(
        self,
        tokens: Sequence[int] | np.ndarray,
        *,
        order: FillOrder = "certain",
        steps: int | None = None,
        alternatives: int = 0,
        **drawing: Unpack[Drawing],
    ) -> list[Filled]:
        """What a masked model puts in place of each mask token: see `lm.generate.fill_blanks`.

        Temperature 0, which takes the likeliest, is the usual here; of the order `diffusion` it
        is 1. Raises UserError for a model that fills no masks.
        """
        asked = [each for each in ("masked", "masked before") if each in self.predicts]
        if not asked:
            raise UserError("the model was not trained to predict masked tokens")
        usual = 1.0 if order == "diffusion" else 0.0
        return fill_blanks(
            self.program.module,
            self.params,
            [int(token) for token in tokens],
            vocabulary=self.tokenizer.vocabulary,
            length=self.run.data.length,
            prediction=asked[0],
            order=order,
            steps=steps,
            sampling=_sampling({"temperature": usual, **drawing}),
            alternatives=alternatives,
        )

    def fill_spans(
        self, parts: Sequence[str], *, count: int = 64, **drawing: Unpack[Drawing]
    ) -> list[str]:
        """The texts that an encoder-decoder of spans puts between each two parts of a text.

        Of all of them it writes `count` tokens at most. Raises UserError for another model, and
        for more gaps than there are sentinels.
        """
        if "spans" not in self.predicts or not self._writes_spans:
            raise UserError("the model is no encoder-decoder that was trained on spans")
        sentinels, gaps = self.tokenizer.vocabulary.sentinels, len(parts) - 1
        if gaps > len(sentinels):
            raise UserError(
                f"{gaps} spans to fill: the tokenizer has {len(sentinels)} sentinels"
            )
        encoded = [self.tokenizer.encode(part).tolist() for part in parts]
        source = encoded[0]
        for sentinel, part in zip(sentinels, encoded[1:], strict=False):
            source = [*source, sentinel, *part]
        (ids,) = self.generate([self._as_source(source)], count=count, **drawing)
        spans: dict[int, list[int]] = {}
        for sentinel, span in itertools.pairwise([*_places(ids, sentinels), len(ids)]):
            spans.setdefault(ids[sentinel], ids[sentinel + 1 : span])
        return [self.tokenizer.decode(spans.get(each, [])) for each in sentinels[:gaps]]

    @cached_property
    def _alone(self) -> tuple[Module, Any]:
        """The module and its parameters as one row goes on fastest: made once, for chats."""
        return self.program.module.for_generating(self.params, rows=1)

    @property
    def _writes_spans(self) -> bool:
        """Whether it writes what its encoder's source asks for."""
        return "next" not in self.predicts and self.run.model.reads_source

    def _check(self, prompts: Sequence[Prompt], stop: Sequence[str]) -> bool:
        """Whether the prompts are texts; raises UserError where it cannot generate."""
        if "next" not in self.predicts and not (
            "spans" in self.predicts and self._writes_spans
        ):
            raise UserError(
                "the model was not trained to predict the next token: it generates none"
            )
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        if texts and len(texts) < len(prompts):
            raise UserError("the prompts are neither all texts nor all ids")
        if not texts and not all(map(len, prompts)):
            raise UserError("a prompt of no ids: give it the token that begins a text at least")
        if stop and not texts:
            raise UserError("stop: strings end texts, and the prompts are ids")
        return bool(texts)

    def _ids(self, prompt: Prompt) -> list[int]:
        if not isinstance(prompt, str):
            return [int(token) for token in prompt]
        ids: list[int] = self.tokenizer.encode(prompt).tolist()
        return self._as_source(ids) if self._writes_spans else ids

    def _as_source(self, ids: Sequence[int]) -> list[int]:
        """A text as an encoder was shown texts; what begins T5's decoder is padding."""
        vocabulary = self.tokenizer.vocabulary
        begins = [] if vocabulary.bos == vocabulary.pad else [vocabulary.bos]
        return [*begins, *ids, *([] if vocabulary.eos_counts else [vocabulary.eos])]

    def _requests(
        self,
        rows: Sequence[list[int]],
        count: int,
        sampling: Sampling,
        ends: Sequence[int] | None = None,
    ) -> list[Request]:
        spans = self._writes_spans
        return [
            Request(
                number,
                () if spans else row,
                count,
                of_row(sampling, number),
                ends,
                source=row if spans else None,
            )
            for number, row in enumerate(rows)
        ]

    def _engine(self, rows: Sequence[list[int]], count: int, texts: bool) -> Engine:
        spans = self._writes_spans
        made = self._alone if len(rows) == 1 else (self.program.module, self.params)
        return engine_for(
            *(*made, rows),
            vocabulary=self.tokenizer.vocabulary,
            length=None if spans else self.run.data.length,
            begin="bos" if texts or spans else "given",
            count=count,
            sources=spans,
        )


def generate_text(
    model: "LoadedModel", text: str, *, count: int = 64, **drawing: Unpack[Drawing]
) -> str:
    """What a model adds to one text: see `Generating.generate`."""
    (added,) = model.generate([text], count=count, **drawing)
    return str(added)


def _places(ids: Sequence[int], of: Sequence[int]) -> list[int]:
    return [place for place, token in enumerate(ids) if token in of]


def _sampling(drawing: Drawing) -> Sampling:
    return validate_fields(Sampling(**drawing))
