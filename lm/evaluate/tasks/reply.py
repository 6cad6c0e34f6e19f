"""What a model answers to a message, compared with what people answered."""

from collections.abc import Callable
from typing import Annotated

from msgspec import Meta

from lm.evaluate.tasks.base import Candidate, Completion
from lm.evaluate.tasks.generation import Generation


class Reply(Generation, tag="reply", kw_only=True):
    """Answer a message, which the model's chat template writes: `Generation` by conversation.

    The prompt is what a user says, and the answer ends where the template ends one. So it is
    measured whether a model refuses what it should and nothing else, keeps to a form, or knows
    a domain: each a file of messages and answers.

    >>> from lm.config import parse
    >>> task = parse(Reply, '''{
    ...     "type": "reply",
    ...     "files": ["refusals.jsonl"],
    ...     "prompt": "{instruction}",
    ...     "reference": "refusal",
    ...     "score": "match"
    ... }''', "refusals.json")
    >>> task.metric, task.stop, task.prompt_text(None)
    ('match', (), 'a message: {instruction}')
    """

    stop: Annotated[
        tuple[Annotated[str, Meta(min_length=1)], ...],
        Meta(description="texts before the first of which an answer is taken to end too"),
    ] = ()

    def prompt_text(self, candidate: Candidate) -> str:
        return f"a message: {self.prompt}"

    def ask(self, candidate: Candidate) -> Callable[..., list[Completion]]:
        return candidate.answered
