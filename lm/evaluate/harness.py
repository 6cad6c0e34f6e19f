"""Models in EleutherAI's lm-evaluation-harness, whose hundreds of tasks they then sit.

    pip install yardstick-lm[harness]
    python -m lm.evaluate.harness run --model yardstick --model_args path=runs/one --tasks piqa

is lm-eval's own command line, with every subcommand and option of it (`run`, `ls`,
`validate`), which knows one model more. lm-eval 0.4.13 has no plug-ins: `lm-eval run --model
yardstick` finds the model where one of the tasks is given by its file, and that file names
something of this module, as lm-eval imports what it names before it looks for the model:

    # mine.yaml, a task of one's own: lm-eval run --model yardstick --tasks mine.yaml piqa ...
    task: mine
    metadata: {model: !function lm.evaluate.harness.Yardstick}
    ...

A folder that is given by `--include_path` is read later, which is too late.

Arguments of the model, each as NAME=VALUE behind `--model_args`:

- `path`: an artifact, a run directory or a Hugging Face folder;
- `scorer`: a rule to score by, as of `lm eval`; the usual one unless given. Masked models have
  one too, and a warning says so where its numbers are no likelihoods;
- `prefix`: what stands before the first token: bos, eos, none, or a token by its spelling. It
  stands there always, with a context or without, and never twice;
- `precision`: of the matrix products, float32 or bfloat16, if another than the model's own;
- `positions`: how many a device computes at once. Rows are sorted by length and batched by
  this, whatever `--batch_size` says; the device is jax's, whatever `--device` says.

Log-probabilities are those of `lm eval` for the same text: spaces at a context's end belong to
the continuation, and so does a token that is of both. What does not fit is cut from the left of
the context, counted, and told once.
"""

import json
import logging
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

try:
    import lm_eval.models
except ImportError:
    if __name__ != "__main__":
        raise
    print("lm: lm-eval is not installed: pip install yardstick-lm[harness]", file=sys.stderr)
    sys.exit(2)
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import model_registry
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import (
    get_rolling_token_windows,
    make_disjoint_window,
    simple_parse_args_string,
)
from rich.console import Console
from rich.progress import Progress

from lm.config import UserError
from lm.config.types import nearest_of
from lm.data.conversations import end_of_answer
from lm.distributed.process import one_line_errors, prepare_machine
from lm.evaluate.tasks.base import Likelihood, Query
from lm.evaluate.tasks.candidate import POSITIONS, ModelCandidate, task_scorers
from lm.evaluate.tasks.rows import TokenQuery, common_ids
from lm.numerics import Precision
from lm.train.load import load_model, settings_of

NAME = "yardstick"
ARGUMENTS = ("path", "scorer", "prefix", "precision", "positions")
GENERATION = ("until", "do_sample", "temperature", "top_k", "max_gen_toks")
"""What a task may say of how text is written."""


class Yardstick(TemplateLM):
    """A model of this package, causal or masked, as lm-eval asks it."""

    def __init__(
        self,
        path: str,
        *,
        scorer: str | None = None,
        prefix: str = "bos",
        precision: Precision | None = None,
        positions: int = POSITIONS,
    ) -> None:
        """Loads a model; raises UserError for what `lm eval` refuses."""
        super().__init__()
        path = str(path)
        named = [] if scorer is None else [str(scorer).replace("-", "_")]
        there = task_scorers(settings_of(Path(path)), named)
        if not there:
            raise UserError(f"{path}: the model predicts no tokens, which all tasks are about")
        model = load_model(path, precision=precision)
        self.candidate = ModelCandidate.of(
            model, there[0], prefix=str(prefix), positions=positions
        )
        # Now, as it may be one that there is not.
        self._prefix = self.candidate.before
        self._chats: dict[str, list[str | int]] = {}
        if self.candidate.kind != "exact":
            _warn(
                f"{self.candidate.scorer}: {self.candidate.kind}; nor are perplexities and bits"
                " made of it those of an exact scorer"
            )

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> "Yardstick":
        """The model of `--model_args`; what lm-eval says of batches and devices is left out."""
        given = {name: value for name, value in arg_dict.items() if name != "trust_remote_code"}
        for name in given:
            if name not in ARGUMENTS:
                raise UserError(f"--model_args {name}: {nearest_of(name, ARGUMENTS)}")
        if "path" not in given:
            raise UserError("--model_args: no path=; it says which model")
        if not isinstance(positions := given.get("positions", 1), int) or positions < 1:
            raise UserError(f"--model_args positions={positions}: must be a number > 0")
        prepare_machine()
        return cls(**given)

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> "Yardstick":
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    # What lm-eval asks

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """The log-probability of each continuation, and whether it is the likeliest."""
        # Choices of one item are compared: masks that are drawn are the same for all.
        asked = [(*each.args, each.doc_id or 0) for each in requests]
        keys = [each.args for each in requests]
        return self._answers(self._encoded(asked), keys, disable_tqdm)

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """The log-probability of whole texts, in windows as lm-eval cuts them.

        Each stands after the prefix and the token before it; the last one is full, and what it
        shares with the one before it is context.
        """
        windows, owners = [], []
        for number, request in enumerate(requests):
            (text,) = request.args
            # A row has room for the token before a window too.
            cut = get_rolling_token_windows(
                self.tok_encode(text), -1, max(1, self.candidate.frame.room - 1), 1
            )
            for first, (context, ids) in enumerate(map(make_disjoint_window, cut)):
                before = tuple(context) if first else ()
                windows.append(TokenQuery(before, tuple(ids), number=request.doc_id or 0))
                owners.append(number)
        found = [0.0] * len(requests)
        answers = self._answers(windows, None, disable_tqdm)
        for number, (log_p, _) in zip(owners, answers, strict=True):
            found[number] += log_p
        for request, total in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each context, up to one of `until` or `max_gen_toks`.

        Of a conversation it is an answer, which ends as the chat template ends one.
        """
        by_settings: dict[tuple[str, bool], list[int]] = {}
        for number, request in enumerate(requests):
            context, settings = request.args
            key = json.dumps(settings, sort_keys=True), context in self._chats
            by_settings.setdefault(key, []).append(number)
        found, cut = [""] * len(requests), []
        for (_, talks), numbers in by_settings.items():
            prompts = [self._prompt(requests[number].args[0]) for number in numbers]
            given = _generation(requests[numbers[0]].args[1])
            end = self._end_of_answer if talks else None
            written = self.candidate.continued(prompts, **given, end=end)
            cut += [each.cut for each in written if each.cut]
            for number, each in zip(numbers, written, strict=True):
                found[number] = each.text
                self.cache_hook.add_partial("generate_until", requests[number].args, each.text)
        _warn_of_cuts(cut, len(requests))
        return found

    @property
    def eot_token_id(self) -> int:
        return self.candidate.tokenizer.vocabulary.eos

    @property
    def prefix_token_id(self) -> int:
        """What stands before the first token; the end of a text where nothing does."""
        return next(iter(self._prefix), self.eot_token_id)

    @property
    def max_length(self) -> int:
        """Tokens of a row, with what stands around a text."""
        return self.candidate.run.data.length

    @property
    def tokenizer_name(self) -> str:
        """What lm-eval's cache of requests knows the tokenizer by."""
        return self.candidate.tokenizer.digest

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """A text's ids, in which no special token is ever read: the prefix is put before it."""
        return list(self.candidate.tokenizer.encode(string).tolist())

    def get_model_info(self) -> dict[str, str]:
        """What lm-eval writes down beside its results."""
        asked = self.candidate
        return {
            "model_digest": asked.digest,
            "scorer": asked.scorer,
            "scorer_kind": asked.kind,
            "around": asked.around,
        }

    # Conversations

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The tokenizer's own; it has no others by name. Raises UserError without one."""
        template = self.candidate.tokenizer.chat_template
        if template is None:
            raise UserError("--apply_chat_template: the model's tokenizer has no chat template")
        return template

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as text, whose special tokens are found again where it is a context.

        Without a generation prompt it ends with the last message's text, as that goes on.
        """
        tokenizer = self.candidate.tokenizer
        parts = tokenizer.chat_parts(chat_history, add_generation_prompt)
        if not add_generation_prompt:
            last = chat_history[-1]["content"].strip()
            while parts and not (isinstance(parts[-1], str) and last in parts[-1]):
                parts.pop()
            if parts:
                text = str(parts[-1])
                parts[-1] = text[: text.rindex(last) + len(last)]
        text = "".join(
            each if isinstance(each, str) else tokenizer.id_to_token(each) for each in parts
        )
        self._chats[text] = parts
        return text

    @cached_property
    def _end_of_answer(self) -> int | None:
        """The token that ends an answer; None: the template has none, and eos does."""
        try:
            return end_of_answer(self.candidate.tokenizer)
        except UserError:
            return None

    # How that is answered

    def _encoded(self, asked: Sequence[tuple[str, str, int]]) -> list[TokenQuery]:
        """Contexts and continuations with their items' numbers, in token ids."""
        plain = [
            Query(context, continuation, number=number)
            for context, continuation, number in asked
            if context not in self._chats
        ]
        encoded = iter(self.candidate.encode(plain))
        return [
            self._encoded_chat(*each) if each[0] in self._chats else next(encoded)
            for each in asked
        ]

    def _encoded_chat(self, context: str, continuation: str, number: int) -> TokenQuery:
        """A continuation of a conversation, by the same rule where both meet."""
        *head, tail = self._ending_in_text(context)
        encode = self.candidate.tokenizer.encode_parts
        before, whole = encode([*head, tail.rstrip()]), encode([*head, tail + continuation])
        start = common_ids(before, whole)
        if start == len(whole):
            raise UserError(f"{continuation!r}: no token of it can be scored in a conversation")
        ids = tuple(whole.tolist())
        return TokenQuery(self._once(ids[:start]), ids[start:], number=number)

    def _prompt(self, context: str) -> Sequence[int]:
        """The ids of a context that is written on from."""
        if context not in self._chats:
            return self.tok_encode(context)
        ids = self.candidate.tokenizer.encode_parts(self._chats[context])
        return self._once(tuple(ids.tolist()))

    def _ending_in_text(self, context: str) -> list[Any]:
        parts = self._chats[context]
        return [*parts, ""] if not parts or isinstance(parts[-1], int) else list(parts)

    def _once(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """A conversation's ids without the prefix, where its template begins with it too."""
        before = tuple(self._prefix)
        return ids[len(before) :] if before and ids[: len(before)] == before else ids

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        (found,) = self._encoded([(context, continuation, 0)])
        return list(found.context), list(found.continuation)

    def _loglikelihood_tokens(
        self, requests: Sequence[Any], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        asked = [TokenQuery(tuple(context), tuple(ids)) for _, context, ids in requests]
        return self._answers(asked, [key for key, *_ in requests], disable_tqdm)

    def _answers(
        self, asked: Sequence[TokenQuery], keys: Sequence[Any] | None, disable_tqdm: bool
    ) -> list[tuple[float, bool]]:
        """What lm-eval wants of likelihoods; those with keys go into its cache as they come."""
        silent = disable_tqdm or not sys.stderr.isatty()
        progress = Progress(console=Console(stderr=True), transient=True, disable=silent)
        bar = progress.add_task(self.candidate.scorer, total=len(asked))

        def note(places: Sequence[int], found: Sequence[Likelihood]) -> None:
            progress.advance(bar, len(places))
            for place, each in zip(places, found, strict=True):
                if keys is not None:
                    answer = each.log_p, each.likeliest
                    self.cache_hook.add_partial("loglikelihood", keys[place], answer)

        with progress:
            found = self.candidate.token_likelihoods(asked, note)
        _warn_of_cuts([each.cut for each in found if each.cut], len(asked))
        return [(each.log_p, each.likeliest) for each in found]


def _generation(settings: dict[str, Any]) -> dict[str, Any]:
    """How a task wants text to be written, as `ModelCandidate.continued` takes it."""
    normal: dict[str, Any] = dict(normalize_gen_kwargs(settings))
    if not normal["do_sample"]:
        # Greedily, whatever else stands there.
        normal = {name: normal[name] for name in ("until", "max_gen_toks")}
    for name in normal:
        if name not in GENERATION:
            raise UserError(f"--gen_kwargs {name}: {nearest_of(name, GENERATION)}")
    return {
        "count": normal["max_gen_toks"],
        "stop": [stop for stop in normal["until"] if stop],
        "temperature": float(normal.get("temperature", 0.0)),
        "top_k": normal.get("top_k"),
    }


def _warn_of_cuts(cut: Sequence[int], asked: int) -> None:
    if cut:
        _warn(
            f"{len(cut):,} of {asked:,} contexts do not fit: {sum(cut):,} tokens were cut"
            " from their left"
        )


def _warn(text: str) -> None:
    # By its name, as the module may be `__main__`.
    logging.getLogger("lm.evaluate.harness").warning(text)


def register() -> None:
    """Tells lm-eval of the model; again, it changes nothing."""
    # Imported above: lm-eval takes a registry that has a model for one that has them all.
    assert lm_eval.models.MODEL_MAPPING
    if NAME not in model_registry:
        model_registry.register(NAME, target=f"lm.evaluate.harness:{Yardstick.__name__}")


def main(arguments: list[str] | None = None) -> None:
    """The command line of lm-eval; what the user can mend is one line."""
    from lm_eval.__main__ import cli_evaluate

    before = sys.argv
    try:
        # It reads its arguments there alone.
        sys.argv = before if arguments is None else [before[0], *arguments]
        with one_line_errors():
            cli_evaluate()
    finally:
        sys.argv = before


register()
if __name__ == "__main__":
    main()
