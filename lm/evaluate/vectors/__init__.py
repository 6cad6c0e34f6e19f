"""What vectors of words know by themselves: which words are alike, and analogies.

A table of words is one of GloVe's files, or what a model looks up for its tokens. It is asked
which words people find alike (`pairs`), for the fourth word of analogies (`analogies`), and for
the words nearest to one (`neighbours`).
"""

from pathlib import Path
from typing import NamedTuple

from lm.config import UserError
from lm.config.types import nearest_of
from lm.data.tables import read_table
from lm.evaluate.tasks.base import TASKS_VARIABLE
from lm.evaluate.vectors.analogies import AnalogiesResult, Analogy, as_questions, ask_analogies
from lm.evaluate.vectors.neighbours import Neighbour, nearest
from lm.evaluate.vectors.pairs import PairsResult, WordPair, as_pairs, ask_pairs
from lm.evaluate.vectors.table import WordTable, read_word_tables

FILES = {
    "wordsim_353": "words/EN-WS-353-ALL.txt",
    "men": "words/EN-MEN-TR-3k.txt",
    "rg_65": "words/EN-RG-65.txt",
    "analogies": "words/questions-words.txt",
}
"""Public tasks by name: how alike people find pairs of words (Finkelstein et al. 2002; Bruni et
al. 2014; Rubenstein and Goodenough 1965), and Google's analogies (Mikolov et al. 2013)."""
WORDS = 30_000
"""First words of a table that are candidates, unless more are asked for."""


class WordTask(NamedTuple):
    """A task for tables of words."""

    name: str
    content: tuple[WordPair, ...] | tuple[Analogy, ...]

    def ask(self, table: WordTable, *, words: int = WORDS) -> PairsResult | AnalogiesResult:
        """What a table knows of it; of analogies the first `words` of it are candidates."""
        first = self.content[0]
        if isinstance(first, WordPair):
            pairs = [each for each in self.content if isinstance(each, WordPair)]
            return ask_pairs(table, pairs, name=self.name)
        questions = [each for each in self.content if isinstance(each, Analogy)]
        return ask_analogies(table, questions, name=self.name, words=words)


def open_task(name: str, folder: Path | None) -> WordTask:
    """A public task by its name, from the folder of tasks, or one's own by its file.

    In a file of one's own a line is two words and a number, or the four words of an analogy,
    whose sections begin with `: NAME`. Raises UserError where there is no such task, or nothing
    to read.
    """
    known = FILES.get(name.replace("-", "_"))
    path = Path(name)
    if known is not None:
        if folder is None:
            raise UserError(
                f"{name}: no folder of tasks is named; name the one that has {known} with"
                f" --data or {TASKS_VARIABLE}"
            )
        path, name = folder / known, name.replace("-", "_")
    elif not path.is_file():
        raise UserError(
            f"{name}: no such task; a file of one's own, or {nearest_of(name, FILES)}"
        )
    try:
        text = read_table(path).decode("utf-8-sig")
    except (OSError, KeyError) as error:
        why = error.strerror if isinstance(error, OSError) else "not in its archive"
        hint = f"; --data or {TASKS_VARIABLE} names its folder" if known else ""
        raise UserError(f"{path}: {why}{hint}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8: {error}") from None
    lines = [
        (f"{path}:{number}", line.split())
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip()
    ]
    first = lines[0][1] if lines else []
    content: tuple[WordPair, ...] | tuple[Analogy, ...]
    content = as_questions(lines) if first[:1] == [":"] or len(first) == 4 else as_pairs(lines)
    if not content:
        raise UserError(f"{path}: no pairs of words, and no analogies")
    return WordTask(name if known is not None else path.stem, content)


__all__ = [
    "FILES",
    "WORDS",
    "AnalogiesResult",
    "Analogy",
    "Neighbour",
    "PairsResult",
    "WordPair",
    "WordTable",
    "WordTask",
    "ask_analogies",
    "ask_pairs",
    "nearest",
    "open_task",
    "read_word_tables",
]
