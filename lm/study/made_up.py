"""Made-up tasks of lines of Python's library, where no labelled text is at hand."""

import json
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path

from lm.data import Jsonl, Stdlib, Tabular
from lm.evaluate.glue import LabelledSet
from lm.evaluate.tasks.retrieval import Retrieval
from lm.objectives import Classify, Regress
from lm.output.files import write_whole
from lm.study.grid import STUDY

FOLDER = "made_up"
"""Where their files are, in a study's directory."""
TRAIN, SCORED, LONGEST = 500, 100, 20
"""Lines of each file, and characters of a line: two fit into a row of 64 bytes."""


def order() -> LabelledSet:
    """Whether the words of a line are as they were, or the last one first."""
    return _set("order", Classify(), ("text",), "matthews")


def alike() -> LabelledSet:
    """Which fraction of a line's words another line begins with."""
    return _set("alike", Regress(center=0.5, scale=0.3), ("first", "second"), "spearman")


def _set(
    name: str, objective: Classify | Regress, text: tuple[str, ...], headline: str
) -> LabelledSet:
    train, scored = (
        Tabular(
            paths=(f"{STUDY}/{FOLDER}/{name}-{part}.jsonl",),
            text=text,
            label="label",
            classes=("0", "1") if isinstance(objective, Classify) else (),
        )
        for part in ("train", "scored")
    )
    return LabelledSet(train, scored, objective, headline)


def write_made_up(directory: Path) -> None:
    """Writes the files of both tasks into a study's directory."""
    rows: dict[str, list[dict[str, str | float]]] = {"order": [], "alike": []}
    lines = islice(_lines(), TRAIN + SCORED + 1)
    for number, (words, others) in enumerate(pairwise(lines)):
        text, label = " ".join(words), number % 2
        in_order = text if label else " ".join(words[::-1])
        rows["order"].append({"text": in_order, "label": str(label)})
        kept = number % (len(words) + 1)
        second = " ".join([*words[:kept], *others[kept:]]) or text
        row: dict[str, str | float] = {"first": text, "second": second}
        rows["alike"].append(row | {"label": kept / len(words)})
    folder = directory / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, of in rows.items():
        for part, some in (("train", of[:TRAIN]), ("scored", of[TRAIN:])):
            text = "".join(json.dumps(row) + "\n" for row in some)
            write_whole(folder / f"{name}-{part}.jsonl", text)


def _lines() -> Iterator[list[str]]:
    """Different lines of Python's library as words, short enough for two in a row."""
    seen = set()
    for _, _, content in Stdlib().contents():
        for words in map(str.split, content.decode().splitlines()):
            text = " ".join(words)
            short = len(words) > 2 and len(text) <= LONGEST
            if short and text.isascii() and words != words[::-1] and text not in seen:
                seen.add(text)
                yield words


QUESTIONS = f"{STUDY}/{FOLDER}/questions.json", f"{STUDY}/{FOLDER}/pairs.json"
"""The files of made-up questions with an answer, and with two."""


def write_questions(directory: Path) -> None:
    """Writes questions that ask for a line's words backwards, into a study's directory.

    Rejected is the line as it was.
    """
    folder = directory / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for words in islice(_lines(), TRAIN):
        forwards, backwards = " ".join(words), " ".join(words[::-1])
        question = f"Backwards: {forwards}"
        answers = {"output": backwards, "chosen": backwards, "rejected": forwards}
        rows.append({"instruction": question} | answers)
    for name, fields in (("questions", ("output",)), ("pairs", ("chosen", "rejected"))):
        kept = [{field: row[field] for field in ("instruction", *fields)} for row in rows]
        write_whole(folder / f"{name}.json", json.dumps(kept))


LOOKED_FOR = Retrieval(
    files=("queries.jsonl",),
    documents=("documents.jsonl",),
    judgements=("judged.txt",),
    number="id",
)
"""Lines of the library that stand behind others are to be found by those."""
SIDES = Jsonl(paths=(f"{STUDY}/{FOLDER}/sides.jsonl",), text=("first", "second"), pair="apart")
"""Pairs of neighbouring lines, others than are asked for."""


def write_looked_for(directory: Path) -> None:
    """Writes the files of both into a study's directory."""
    folder = directory / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    lines = [" ".join(words) for words in islice(_lines(), 2 * (TRAIN + SCORED))]
    pairs = list(zip(lines[::2], lines[1::2], strict=True))
    asked = list(enumerate(pairs[:SCORED]))
    files = {
        "sides.jsonl": [{"first": first, "second": second} for first, second in pairs[SCORED:]],
        "queries.jsonl": [{"id": f"q{n}", "text": first} for n, (first, _) in asked],
        "documents.jsonl": [
            {"id": f"d{n}", "text": f"{first} {second}"} for n, (first, second) in asked
        ],
    }
    for name, rows in files.items():
        write_whole(folder / name, "".join(json.dumps(row) + "\n" for row in rows))
    write_whole(folder / "judged.txt", "".join(f"q{n} d{n} 1\n" for n, _ in asked))
