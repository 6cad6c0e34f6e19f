"""Gopher's rules of quality and repetition: Rae et al. 2021 (arXiv:2112.11446), section A.1."""

import re
import string
from collections.abc import Sequence
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
from msgspec import Meta

from lm.data.cleaning.base import Base, TextJudge, Verdict
from lm.data.cleaning.words import WordArrays, blocks, mix

_QUALITY = "Rae et al. 2021, A.1.1"
_REPETITION = "Rae et al. 2021, table A1"
STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
BULLETS = ("•", "‣", "◦", "▪", "*", "-", "–")
_LETTER = re.compile(r"[^\W\d_]")
_ASCII = string.ascii_letters.encode()
_Fraction = Annotated[float, Meta(ge=0, le=1)]


class GopherQuality(Base, frozen=True, tag="gopher_quality"):
    """Removes documents that do not look like prose; words are what spaces part."""

    rules: ClassVar = {
        "words": f"fewer or more words than set ({_QUALITY}: 50 to 100,000)",
        "word length": f"a mean word length out of bounds ({_QUALITY}: 3 to 10)",
        "symbols": f"more # or ellipses a word than set ({_QUALITY}: 0.1)",
        "bullets": f"more lines with a bullet point than set ({_QUALITY}: 90%)",
        "ellipsis lines": f"more lines that end in an ellipsis than set ({_QUALITY}: 30%)",
        "letters": f"fewer words with a letter in them than set ({_QUALITY}: 80%)",
        "stop words": f"fewer of the, be, to, of, and, that, have, with ({_QUALITY}: 2)",
    }

    words: Annotated[
        tuple[int, int], Meta(description="of a document, the fewest and the most")
    ] = (50, 100_000)
    word_length: Annotated[
        tuple[float, float], Meta(description="mean characters of a word, least and most")
    ] = (3.0, 10.0)
    symbols: Annotated[float, Meta(ge=0, description="# or ellipses a word, at most")] = 0.1
    bullets: Annotated[_Fraction, Meta(description="of lines begin with one, at most")] = 0.9
    ellipsis_lines: Annotated[_Fraction, Meta(description="of lines end in one, at most")] = 0.3
    letters: Annotated[_Fraction, Meta(description="of words have a letter, at least")] = 0.8
    stop_words: Annotated[int, Meta(ge=0, le=8, description="different ones, at least")] = 2

    def open(self) -> TextJudge:
        return lambda texts: [self._judge(text) for text in texts]

    def _judge(self, text: str) -> Verdict:
        """The first rule that a text breaks.

        >>> GopherQuality(words=(3, 9))._judge("being 1234 or having 567")[1:3]
        ('letters', '60% of words have a letter')
        >>> GopherQuality(words=(3, 9))._judge("to have and to hold")[1:3]
        ('', '')
        """
        words = text.lower().split()
        number = len(words)
        if not self.words[0] <= number <= self.words[1]:
            return Verdict(text, "words", f"{number:,} words")
        if not number:
            return Verdict(text)
        joined = "".join(words)
        length = len(joined) / number
        if not self.word_length[0] <= length <= self.word_length[1]:
            return Verdict(text, "word length", f"{length:.1f} characters a word")
        symbols = max(text.count("#"), text.count("...") + text.count("…")) / number
        if symbols > self.symbols:
            return Verdict(text, "symbols", f"{symbols:.2f} a word")
        lines = [line for line in map(str.strip, text.split("\n")) if line]
        bullets = sum(line.startswith(BULLETS) for line in lines) / len(lines)
        if bullets > self.bullets:
            return Verdict(text, "bullets", f"{bullets:.0%} of lines")
        ellipses = sum(line.endswith(("...", "…")) for line in lines) / len(lines)
        if ellipses > self.ellipsis_lines:
            return Verdict(text, "ellipsis lines", f"{ellipses:.0%} of lines")
        # A word without a letter has a byte that is none: most texts have too few of these.
        others = len(joined.encode("utf-8", "surrogatepass").translate(None, _ASCII))
        if 1 - others / number < self.letters:
            none = sum(not (word.isalpha() or _LETTER.search(word)) for word in words)
            letters = 1 - none / number
            if letters < self.letters:
                return Verdict(text, "letters", f"{letters:.0%} of words have a letter")
        if len(found := STOP_WORDS.intersection(words)) < self.stop_words:
            return Verdict(text, "stop words", f"{len(found)} of them")
        return Verdict(text)


class GopherRepetition(Base, frozen=True, tag="gopher_repetition"):
    """Removes documents that repeat themselves.

    Fractions of characters count those of words, without the spaces between. A line or
    paragraph is a duplicate from its second occurrence on; an n-gram that occurs once is no
    repetition; characters in duplicate n-grams are those of all their occurrences, each once.
    """

    rules: ClassVar = {
        "duplicate lines": f"of the lines ({_REPETITION}: 0.30)",
        "duplicate line characters": f"of the characters ({_REPETITION}: 0.20)",
        "duplicate paragraphs": f"of the paragraphs ({_REPETITION}: 0.30)",
        "duplicate paragraph characters": f"of the characters ({_REPETITION}: 0.20)",
        "top n-gram": "characters in the most frequent run of 2, 3 or 4 words"
        f" ({_REPETITION}: 0.20, 0.18, 0.16)",
        "duplicate n-grams": "characters in runs of 5 to 10 words that occur twice or more"
        f" ({_REPETITION}: 0.15 to 0.10)",
    }

    lines: Annotated[_Fraction, Meta(description="that are duplicates, at most")] = 0.3
    line_characters: Annotated[_Fraction, Meta(description="in these, at most")] = 0.2
    paragraphs: Annotated[_Fraction, Meta(description="that are duplicates, at most")] = 0.3
    paragraph_characters: Annotated[_Fraction, Meta(description="in these, at most")] = 0.2
    top: Annotated[
        tuple[float, float, float],
        Meta(description="characters in the most frequent 2-, 3- and 4-gram, at most"),
    ] = (0.2, 0.18, 0.16)
    duplicates: Annotated[
        tuple[float, float, float, float, float, float],
        Meta(description="characters in duplicate 5- to 10-grams, at most"),
    ] = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)

    def open(self) -> TextJudge:
        def judge(texts: Sequence[str]) -> list[Verdict]:
            return [verdict for block in blocks(texts) for verdict in self._judge(block)]

        return judge

    def _judge(self, texts: Sequence[str]) -> list[Verdict]:
        verdicts = [self._of_lines(text) for text in texts]
        words = WordArrays.of([text.split() for text in texts])
        bounds = [*self.top, *self.duplicates]
        among = None
        for n, most in enumerate(bounds, 2):
            found = repeated(words, n, among)
            # What is repeated begins with what is repeated: the others are not looked at again.
            among = np.sort(found.places)
            if not len(among):
                break
            rule, of = (
                ("top n-gram", top_fractions)
                if n < 5
                else (
                    "duplicate n-grams",
                    duplicate_fractions,
                )
            )
            fractions = of(words, n, found)
            for number in np.flatnonzero(fractions > most).tolist():
                if not verdicts[number].rule:
                    why = f"{fractions[number]:.0%} of characters, in {n}-grams"
                    verdicts[number] = Verdict(texts[number], rule, why)
        return verdicts

    def _of_lines(self, text: str) -> Verdict:
        """What lines and paragraphs say.

        >>> GopherRepetition()._of_lines("a word\\n" * 3)[1:3]
        ('duplicate lines', '67%')
        """
        for kind, parts, most, most_characters in (
            ("line", text.split("\n"), self.lines, self.line_characters),
            (
                "paragraph",
                text.split("\n\n"),
                self.paragraphs,
                self.paragraph_characters,
            ),
        ):
            parts = [part for part in map(str.strip, parts) if part]
            once = set(parts)
            if len(once) == len(parts):
                continue
            fraction = 1 - len(once) / len(parts)
            if fraction > most:
                return Verdict(text, f"duplicate {kind}s", f"{fraction:.0%}")
            characters = 1 - sum(map(len, once)) / sum(map(len, parts))
            if characters > most_characters:
                return Verdict(text, f"duplicate {kind} characters", f"{characters:.0%}")
        return Verdict(text)


class Repeated(NamedTuple):
    """The n-grams that occur twice or more in their document."""

    places: np.ndarray
    """Of their first words, those of equal n-grams of a document behind each other: int64."""
    starts: np.ndarray
    """Where each of the R n-grams begins in these: int64 [R]."""
    sizes: np.ndarray
    """How often it occurs: int64 [R]."""


def repeated(words: WordArrays, n: int, among: np.ndarray | None = None) -> Repeated:
    """Finds the n-grams that are repeated, of all or of those at some places.

    >>> repeated(WordArrays.of(["a b a b".split(), "a b".split()]), 2).places.tolist()
    [0, 2]
    """
    keys, places = words.ngrams(n, among)
    # Equal only within a document.
    keys = mix(keys ^ words.documents[places].astype(np.uint64))
    order = np.argsort(keys)
    keys, places = keys[order], places[order]
    first = np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)]
    starts = np.flatnonzero(first)
    sizes = np.diff(np.append(starts, len(keys)))
    places, sizes = places[np.repeat(sizes > 1, sizes)], sizes[sizes > 1]
    return Repeated(places, np.cumsum(sizes) - sizes, sizes)


def top_fractions(words: WordArrays, n: int, found: Repeated) -> np.ndarray:
    """Of each document's characters, those in its most frequent n-gram; of several the longest.

    0 where none occurs twice. Float64 [D].

    >>> words = WordArrays.of(["to be or to be".split(), "to be or not".split()])
    >>> top_fractions(words, 2, repeated(words, 2)).tolist()
    [0.8, 0.0]
    """
    first = found.places[found.starts]
    characters = words.ends[first + n] - words.ends[first]
    best = np.zeros(len(words.starts) - 1, np.int64)
    # The count decides, then the length.
    np.maximum.at(best, words.documents[first], (found.sizes << 32) + characters)
    total = words.ends[words.starts[1:]] - words.ends[words.starts[:-1]]
    return np.minimum((best >> 32) * (best & 0xFFFFFFFF) / np.maximum(total, 1), 1.0)


def duplicate_fractions(words: WordArrays, n: int, found: Repeated) -> np.ndarray:
    """Of each document's characters, those in n-grams that occur twice or more: float64 [D].

    >>> words = WordArrays.of(["a b c a b d e e e".split()])
    >>> round(float(duplicate_fractions(words, 2, repeated(words, 2))[0]), 3)
    0.778
    """
    begun = np.zeros(len(words.hashes), np.int64)
    begun[found.places] = 1
    # A word is covered where one of the last n places began such a run.
    sums = np.cumsum(begun)
    covered = sums - np.concatenate([np.zeros(n, np.int64), sums])[: len(sums)] > 0
    characters = np.concatenate([[0], np.cumsum(words.sizes * covered)])
    held = characters[words.starts[1:]] - characters[words.starts[:-1]]
    total = words.ends[words.starts[1:]] - words.ends[words.starts[:-1]]
    return held / np.maximum(total, 1)
