"""The numbers in README.md and docs/, held to the results that they are of.

    python -m tests.docs.claims            # says where a page and the results disagree
    python -m tests.docs.claims --write    # writes the results' numbers into the pages

Beside kept results stands a claims.toml. Its `[numbers]` say where each number is found, its
`sentences` are parts of the pages' sentences with those numbers' names in braces:

    sentences = ["the better BERT's bound lies {gap} bits per byte above it"]

    [numbers]
    gap = 'quote("at most ..., # more on the same documents")'

A sentence must stand in a page, and wherever it stands, line ends aside, it must hold these
numbers. A number is an expression of

    quote("text ... #")             the number # in a paragraph of report.html; ... is any text
    cell("GPT", "int4", "title")    a cell of a table there: the row that has these, the column
    column("loss", run="causal-*")  a column of results.csv, of the rows that match, as an array
    data("file.json")               what a JSON file holds

and of numbers above it. A number with an error or an interval has `value`, `error`, `low` and
`high`; `{gap}` writes it whole, `{gap.value:.2f}` a part of it in so many digits.

What a page says in words can be held too: `holds` lists expressions that must be true, as
`says("text of report.html")`. A number whose file is not kept stands under `[printed]`, by the
command or the paper that has it.
"""

import argparse
import re
import string
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lm.output.files import write_whole
from tests.docs.kept import DIGITS, ClaimError, Results

ROOT = Path(__file__).parents[2]


# Sentences


class Sentence(NamedTuple):
    """A part of a page's sentence as its results have it."""

    home: Path
    pieces: tuple[tuple[str, bool], ...]
    """Text, and whether it is of numbers."""

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.pieces)

    @property
    def numbers(self) -> list[str]:
        texts = [text for text, is_number in self.pieces if is_number]
        return [number for text in texts for number in re.findall(DIGITS, text)]

    @property
    def pattern(self) -> re.Pattern[str]:
        """The sentence with any numbers, a group each, and with any line ends."""
        pattern = ""
        for text, is_number in self.pieces:
            parts = re.split(DIGITS, text) if is_number else [text]
            pattern += f"({DIGITS})".join(map(_literal, parts))
        return re.compile(rf"(?<![\w.]){pattern}(?!\w)")


def _literal(text: str) -> str:
    return r"\s+".join(map(re.escape, re.split(r"\s+", text)))


def sentences_of(path: Path) -> list[Sentence]:
    """The sentences of a claims.toml, with the numbers of the results beside it."""
    claims = _read(path)
    numbers: dict[str, str] = claims.get("numbers", {})
    results = Results(path.parent)
    known: dict[str, Any] = {
        "quote": results.quote,
        "cell": results.cell,
        "column": results.column,
        "data": results.data,
        "says": results.says,
    }
    for name, expression in numbers.items():
        known[name] = _valued(path, f"{name} = ", expression, known)
    for expression in claims.get("holds", []):
        if not _valued(path, "holds ", expression, known):
            raise ClaimError(f"{_short(path)}: does not hold: {expression}")
    sentences = [
        Sentence(path, ((text, False),))
        for texts in claims.get("printed", {}).values()
        for text in texts
    ]
    used = set[str]()
    for template in claims.get("sentences", []):
        try:
            sentences.append(Sentence(path, tuple(_pieces(template, known, used))))
        except (KeyError, AttributeError, ValueError, TypeError) as error:
            raise ClaimError(f"{_short(path)}: {template}: {error!r}") from None
    used |= {each for text in numbers.values() for each in re.findall(r"\w+", text)}
    if unused := numbers.keys() - used:
        raise ClaimError(f"{_short(path)}: in no sentence: {', '.join(sorted(unused))}")
    return sentences


def _short(path: Path) -> str:
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def _read(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text())


def _valued(path: Path, what: str, expression: str, known: dict[str, Any]) -> Any:
    """The value of an expression of a claims.toml, which is a file of this repository."""
    try:
        return eval(expression, known)
    except Exception as error:
        raise ClaimError(f"{_short(path)}: {what}{expression}: {error}") from None


def _pieces(
    template: str, known: Mapping[str, Any], used: set[str]
) -> Iterator[tuple[str, bool]]:
    formatter = string.Formatter()
    for literal, field, spec, _ in formatter.parse(template):
        if literal:
            if hand := re.findall(r"\d\.\d+(?![\d.]*[kMB])", literal):
                raise ValueError(f"{hand[0]} is no name of a number")
            yield literal, False
        if field is not None:
            value, name = formatter.get_field(field, (), known)
            used.add(str(name))
            if value is None:
                raise ValueError(f"{field}: it has none")
            yield format(value, spec or "").replace("-", "−"), True


# Pages


class Place(NamedTuple):
    """Where a page has a sentence."""

    sentence: Sentence
    match: re.Match[str]

    @property
    def agrees(self) -> bool:
        return list(self.match.groups()) == self.sentence.numbers


def places_of(text: str, sentences: Iterable[Sentence]) -> list[Place]:
    """Where a page's text has these sentences, with whichever numbers."""
    return [
        Place(sentence, match)
        for sentence in sentences
        for match in sentence.pattern.finditer(text)
    ]


def rewritten(text: str, places: Iterable[Place]) -> str:
    """A page's text with the results' numbers where it has others."""
    changes = {
        place.match.span(group): number
        for place in places
        for group, number in enumerate(place.sentence.numbers, 1)
    }
    for (start, end), number in sorted(changes.items(), reverse=True):
        text = text[:start] + number + text[end:]
    return text


UNIT = (
    r"%|\s(?:bits\sper|nats|points|times|seconds|minutes|hours|s\b|ms\b|[GM]i?B\b|GFLOP/s"
    r"|tokens/s)"
)
"""Behind a number that was measured."""


def bare_numbers(text: str, places: Iterable[Place]) -> Iterator[tuple[int, str]]:
    """The lines of numbers that look measured and are in no sentence, and their words.

    Such are fractions of ten, and numbers with an error or a unit, but for sizes (0.8M),
    versions, rates (at 15%) and the 95% of intervals.
    """
    spans = [place.match.span() for place in places]
    plain = re.sub(
        r"^ *```.*?^ *```|`[^`]*`|\]\([^)]*\)|<[a-z!/][^>]*>",
        lambda hidden: re.sub(r"[^\n]", " ", hidden[0]),
        text,
        flags=re.DOTALL | re.MULTILINE,
    )
    for match in re.finditer(rf"(?<![\w.-]){DIGITS}(?![\d.]*\d)", plain):
        before, after = plain[: match.start()], plain[match.end() :]
        if re.match(r"[kMB]\b|-bit", after) or re.search(r"(Python|jax|PyTorch)\s$", before):
            continue
        if re.match(r"[^.|]*\?", after):  # asks, and claims nothing
            continue
        if after.startswith("%") and (match[0] == "95" or re.search(r"\bat\s$", before)):
            continue
        measured = "." in match[0] or re.search(r"±\s?$", before)
        behind = rf"(?:%?(?:,|\sto|\sand|\sor|\s±)\s{DIGITS})*(?:{UNIT})"
        if not measured and not re.match(behind, after):
            continue
        if not any(start <= match.start() and match.end() <= end for start, end in spans):
            line = before.count("\n") + 1
            yield line, " ".join((before[-40:] + match[0] + after[:40]).split())


# The command


KEPT = ROOT / "experiments" / "results"
FILES = sorted(KEPT.rglob("claims.toml"))
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted(KEPT.rglob("README.md")),
]


def sources_of_printed() -> list[str]:
    """The commands and papers whose numbers pages have and no file keeps."""
    return [source for path in FILES for source in _read(path).get("printed", {})]


def page_texts() -> dict[str, str]:
    """The pages by their paths in the repository."""
    return {str(page.relative_to(ROOT)): page.read_text() for page in PAGES}


def disagreements(texts: Mapping[str, str], sentences: Sequence[Sentence]) -> Iterator[str]:
    """A line for each sentence that a page has with other numbers, or that no page has."""
    missing = dict.fromkeys(sentences)
    for name, text in texts.items():
        for place in places_of(text, sentences):
            missing.pop(place.sentence, None)
            if not place.agrees:
                line = text.count("\n", 0, place.match.start()) + 1
                said = " ".join(place.match[0].split())
                yield (
                    f"{name}:{line}: {said}\n    but {_short(place.sentence.home)}:"
                    f" {place.sentence.text}"
                )
    for sentence in missing:
        yield f"{_short(sentence.home)}: no page says: {sentence.text}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Says where pages and results disagree, or mends it; 1 if anything is left."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.docs.claims",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--write", action="store_true", help="write the numbers into the pages")
    given = parser.parse_args(arguments)
    sentences, wrong = list[Sentence](), list[str]()
    for path in FILES:
        try:
            sentences += sentences_of(path)
        except ClaimError as error:
            wrong.append(str(error))
    for name, text in page_texts().items():
        new = rewritten(text, places_of(text, sentences))
        if given.write and new != text:
            write_whole(ROOT / name, new.encode())
            print(f"{name}: written")
    wrong += disagreements(page_texts(), sentences)
    print("\n".join([*wrong, f"{len(sentences)} sentences, {len(wrong)} of them wrong"]))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
