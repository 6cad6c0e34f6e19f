"""C4's heuristics: Raffel et al. 2020 (arXiv:1910.10683), section 2.2, and TFDS's code."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from lm.config import UserError
from lm.data.cleaning.base import Base, TextJudge, Verdict
from lm.data.cleaning.words import plain_words

_SECTION = "Raffel et al. 2020, section 2.2"
RULES = {
    "lorem ipsum": f"pages with the printers' dummy text ({_SECTION})",
    "curly bracket": f"pages with a {{, which is most often code ({_SECTION})",
    "bad words": f"pages with a word or phrase of the given file ({_SECTION})",
    "citations": f"marks as [1], [edit], [citation needed] are cut ({_SECTION})",
    "long word": "lines with a word of more than 1000 characters are cut (TFDS's code)",
    "terminal punctuation": f"lines that do not end as a sentence does are cut ({_SECTION})",
    "words of a line": f"lines of fewer words than set are cut ({_SECTION}: 5)",
    "javascript": f"lines that speak of JavaScript are cut ({_SECTION})",
    "policy": f"lines on cookies, privacy policy and terms of use are cut ({_SECTION})",
    "sentences": f"pages with fewer sentences left than set ({_SECTION}: 3)",
}
C4Rule = Literal[
    "lorem ipsum",
    "curly bracket",
    "bad words",
    "citations",
    "long word",
    "terminal punctuation",
    "words of a line",
    "javascript",
    "policy",
    "sentences",
]
END_MARKS = (".", "?", "!", '"', "”")
POLICY = (
    *("terms of use", "privacy policy", "cookie policy"),
    *("uses cookies", "use of cookies", "use cookies"),
)
_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_LONG_WORD = re.compile(r"\S{1001}")
_SENTENCE_END = re.compile(r"[.?!][\"'”’)\]]*(?=\s|$)|[\"”]$", re.MULTILINE)


class C4(Base, frozen=True, tag="c4"):
    """Keeps lines that read as sentences, and pages that have enough of them.

    Sentences are counted by their end marks, where C4 asked NLTK. What C4 did about languages
    and repeated sentences is done by `language` and `exact`.
    """

    rules: ClassVar = RULES

    words: Annotated[int, Meta(ge=0, description="of a line, at least")] = 5
    sentences: Annotated[int, Meta(ge=0, description="of a page, at least")] = 3
    bad_words: Annotated[
        str | None, Meta(description="a file with a word or phrase a line; null: none")
    ] = None
    without: Annotated[
        tuple[C4Rule, ...], Meta(description="rules that are not applied, by their names")
    ] = ()

    def applied(self) -> Mapping[str, str]:
        out = {*self.without, *(["bad words"] if self.bad_words is None else [])}
        return {rule: about for rule, about in self.rules.items() if rule not in out}

    def files(self) -> list[tuple[str, Path]]:
        return [] if self.bad_words is None else [(self.bad_words, Path(self.bad_words))]

    def open(self) -> TextJudge:
        """Raises UserError where the file of bad words cannot be read, or has none."""
        bad: frozenset[str] = frozenset()
        if self.bad_words is not None:
            bad = read_phrases(Path(self.bad_words))
        longest = max((phrase.count(" ") for phrase in bad), default=0)

        def judge(texts: Sequence[str]) -> list[Verdict]:
            return [self._judge(text, bad, longest) for text in texts]

        return judge

    def _judge(self, text: str, bad: frozenset[str], longest: int) -> Verdict:
        lower = text.lower()
        if "lorem ipsum" in lower and "lorem ipsum" not in self.without:
            return Verdict(text, "lorem ipsum", "lorem ipsum")
        if "{" in text and "curly bracket" not in self.without:
            at = text.index("{")
            return Verdict(text, "curly bracket", text[max(at - 20, 0) : at + 20].strip())
        if bad and "bad words" not in self.without and (found := _phrase(lower, bad, longest)):
            return Verdict(text, "bad words", found)
        changes: Counter[str] = Counter()
        if "[" in text and "citations" not in self.without:
            text, cut = _CITATION.subn("", text)
            if cut:
                changes["citations"] = cut
                lower = text.lower()
        # What is nowhere in the text is not looked for line by line.
        speaks = any(phrase in lower for phrase in ("javascript", *POLICY))
        kept = []
        for line in text.split("\n"):
            line = line.strip()
            if line and (rule := self._rule_of(line, speaks)):
                changes[rule] += 1
            else:
                kept.append(line)
        left = re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip("\n") if changes else text
        if "sentences" not in self.without:
            number = len(_SENTENCE_END.findall(left))
            if number < self.sentences:
                return Verdict(text, "sentences", f"{number} sentences")
        return Verdict(left, changes=changes)

    def _rule_of(self, line: str, speaks: bool = True) -> str:
        """The rule by which a line is cut, or none; `speaks` where it may be of what a site is.

        >>> C4()._rule_of("Home | About | Contact"), C4()._rule_of("It reads on and on...")
        ('terminal punctuation', 'terminal punctuation')
        >>> C4()._rule_of("Read more here."), C4()._rule_of("This is a line of words.")
        ('words of a line', '')
        >>> C4()._rule_of("Please enable JavaScript to read this page.")
        'javascript'
        >>> C4()._rule_of("This site uses cookies to serve you better.")
        'policy'
        """
        rule = ""
        if not line.endswith(END_MARKS) or line.endswith("..."):
            rule = "terminal punctuation"
        if (not rule or rule in self.without) and len(
            line.split(None, self.words)
        ) < self.words:
            rule = "words of a line"
        if not rule or rule in self.without:
            lower = line.lower() if speaks else ""
            if "javascript" in lower:
                rule = "javascript"
            elif speaks and any(phrase in lower for phrase in POLICY):
                rule = "policy"
            elif len(line) > 1000 and _LONG_WORD.search(line):
                rule = "long word"
        return "" if rule in self.without else rule


def read_phrases(path: Path) -> frozenset[str]:
    """The words and phrases of a file, a line each, as `plain_words` cuts them."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"bad_words: {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"bad_words: {path}: byte {error.start} is not valid UTF-8") from None
    found = frozenset(" ".join(plain_words(line)) for line in lines) - {""}
    if not found:
        raise UserError(f"bad_words: {path}: holds no word; write a word or phrase a line")
    return found


def _phrase(lower: str, phrases: frozenset[str], longest: int) -> str:
    """One of the phrases, where whole words of the text spell it; "" where none do.

    >>> bad = frozenset({"hell", "bad word"})
    >>> _phrase("shell, hello", bad, 1), _phrase("a (bad) word", bad, 1)
    ('', 'bad word')
    """
    words = plain_words(lower)
    if found := phrases.intersection(words):
        return min(found)
    for spaces in range(1, longest + 1):
        runs = map(" ".join, zip(*(words[n:] for n in range(spaces + 1)), strict=False))
        if found := phrases.intersection(runs):
            return min(found)
    return ""
