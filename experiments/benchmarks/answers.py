"""Whether answers of `lm serve --index` have the right sources, and say where there are none.

    lm index docs INDEX --model ENCODER
    lm search INDEX --questions experiments/benchmarks/questions.jsonl --keep
    lm serve DECODER --index INDEX --length 2048
    python -m experiments.benchmarks.answers http://127.0.0.1:8000

Asks a running server every question of a file, over HTTP, greedily. Prints of how many
answerable questions a file that answers is among the sources, and is the first of them; of how
many a file that answers is a source of what the model was asked (nothing refused them); how
many of the others are said to be answered by nothing, with Wilson's intervals; the words of
answers that sources have; and seconds an answer. `--show N` prints so many of each kind.
"""

import argparse
import json
import statistics
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lm.config import UserError
from lm.distributed.process import one_line_errors
from lm.evaluate.tasks.metrics import wilson
from lm.retrieval.answer import NOTHING, LabelledQuestion, rank_of, read_questions

QUESTIONS = Path(__file__).parent / "questions.jsonl"


class Answered(NamedTuple):
    """A question, and what a server said."""

    question: LabelledQuestion
    text: str
    sources: Sequence[dict[str, Any]]
    supported: bool
    said: float
    """Part of the answer's words that the sources have."""
    seconds: float

    def rank(self) -> int | None:
        """Which of the sources is the first of a file that answers; None: none is."""
        return rank_of([each["file"] for each in self.sources], self.question.answered_by)


def ask(url: str, question: LabelledQuestion, tokens: int) -> Answered:
    """Asks a server; raises UserError in one line where it does not answer from an index."""
    content = {
        "messages": [{"role": "user", "content": question.question}],
        **{"temperature": 0, "max_completion_tokens": tokens},
    }
    request = urllib.request.Request(
        f"{url.rstrip('/')}/v1/chat/completions",
        json.dumps(content).encode(),
        {"content-type": "application/json"},
    )
    start = time.monotonic()
    try:
        with urllib.request.urlopen(request, timeout=600) as reply:
            answer = json.load(reply)
    except (OSError, ValueError) as error:
        raise UserError(f"{url}: {error}") from None
    if "retrieval" not in answer:
        raise UserError(f"{url}: it answers without an index; start it with --index")
    [choice], found = answer["choices"], answer["retrieval"]
    seconds = time.monotonic() - start
    text, said = choice["message"]["content"], choice.get("said_in_sources", 0.0)
    return Answered(question, text, found["sources"], found["supported"], said, seconds)


def rates(answers: Sequence[Answered]) -> dict[str, list[bool]]:
    """What is counted, each of the questions that it is of."""
    yes = [each for each in answers if each.question.answered_by]
    return {
        "answerable: a source answers": [each.rank() is not None for each in yes],
        "answerable: the first source answers": [each.rank() == 0 for each in yes],
        "answerable: answered, from such a source": [
            each.supported and each.rank() is not None for each in yes
        ],
        "others: said to be answered by nothing": [
            each.text == NOTHING for each in answers if not each.question.answered_by
        ],
    }


def main(arguments: list[str] | None = None) -> None:
    """Asks all questions and prints what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--questions", type=Path, default=QUESTIONS)
    parser.add_argument("--tokens", type=int, default=48, help="of an answer, at most")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="answers of each kind")
    given = parser.parse_args(arguments)
    with one_line_errors():
        answers = list[Answered]()
        questions = read_questions(given.questions)
        for number, question in enumerate(questions, 1):
            answers.append(ask(given.url, question, given.tokens))
            if sys.stderr.isatty():
                print(f"\r{number}/{len(questions)}", end="", file=sys.stderr)
    for what, of in rates(answers).items():
        low, high = wilson(sum(of) / len(of), len(of))
        print(f"{what:<44}{sum(of):>3} of {len(of)} ({100 * low:.0f} to {100 * high:.0f}%)")
    written = [each for each in answers if each.supported]
    said = statistics.mean(each.said for each in written)
    print(f"words of answers that sources have: {said:.0%}")
    seconds = statistics.median(each.seconds for each in written)
    print(f"seconds an answer, median: {seconds:.2f}")
    for answerable in (True, False):
        kind = [each for each in answers if bool(each.question.answered_by) == answerable]
        for each in kind[: given.show]:
            places = ", ".join(source["place"].rpartition("/")[2] for source in each.sources)
            print(f"\n{each.question.question}\n  {each.text.strip()}\n  [{places}]")


if __name__ == "__main__":
    main()
