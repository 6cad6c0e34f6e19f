"""Files as texts of which each line knows where it stands in its file."""

import logging
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lm.config import UserError

TextUnit = Literal["line", "page"]
"""What a file's numbers count."""
SUFFIXES = (".txt", ".md", ".markdown", ".rst", ".html", ".htm", ".pdf")
"""Files that are taken of a folder."""


class FileText(NamedTuple):
    """The text of a file."""

    text: str
    numbers: Sequence[int]
    """Of each line of the text, the line of the file, or the page, that it comes from."""
    unit: TextUnit = "line"

    @property
    def starts(self) -> list[int]:
        """Where each line of the text begins."""
        return [0, *(found.end() for found in re.finditer("\n", self.text))]

    def number_at(self, place: int, starts: Sequence[int]) -> int:
        """The line of the file, or the page, of a letter of the text."""
        return self.numbers[bisect_right(starts, place) - 1]


def find_texts(paths: Sequence[Path]) -> list[Path]:
    """Files, and of folders those in them that are texts; each once, in their order.

    Raises UserError for a path that is neither, and for a folder without texts.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inside = [
                each
                for each in sorted(path.rglob("*"))
                if each.suffix.lower() in SUFFIXES and each.is_file()
                if not any(part[0] == "." for part in each.relative_to(path).parts)
            ]
            if not inside:
                raise UserError(f"{path}: no {', '.join(SUFFIXES)} in this folder")
            found.update(dict.fromkeys(inside))
        elif path.is_file():
            found[path] = None
        else:
            why = "no file and no folder" if path.exists() else "no such file or directory"
            raise UserError(f"{path}: {why}")
    return list(found)


def read_text(path: Path, content: bytes) -> FileText:
    """The text of a file: HTML without its tags and scripts, pages of a PDF, others as it is.

    Raises UserError in one line for what is no text.
    """
    if is_pdf(path, content):
        return _of_pdf(path, content)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8, at byte {error.start:,}") from None
    if "\0" in text:
        raise UserError(f"{path}: no text: it has a byte of 0")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if path.suffix.lower() in (".html", ".htm"):
        return _of_html(text)
    return FileText(text, range(1, text.count("\n") + 2))


def pdf_reader() -> Any:
    """pypdf; raises UserError where it is not installed."""
    try:
        import pypdf
    except ImportError as error:
        if error.name != "pypdf":
            raise
        raise UserError(
            "pypdf is not installed, which reads PDFs: pip install yardstick-lm[retrieval]"
        ) from None
    return pypdf


def is_pdf(path: Path, content: bytes) -> bool:
    """Whether a file is a PDF, by its name or its first bytes."""
    return path.suffix.lower() == ".pdf" or content.startswith(b"%PDF-")


def _of_pdf(path: Path, content: bytes) -> FileText:
    pypdf = pdf_reader()
    # It warns of each small fault that it mends.
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    try:
        reader = pypdf.PdfReader(BytesIO(content))
        if reader.is_encrypted and not reader.decrypt(""):
            raise UserError(f"{path}: it asks for a password")
        pages = [page.extract_text() for page in reader.pages]
    except UserError:
        raise
    except Exception as error:  # what a damaged file makes of its reader is of any kind
        said = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(f"{path}: no PDF that can be read: {said}") from None
    lines, numbers = [], []
    for number, page in enumerate(pages, 1):
        # Half a character of a broken table of letters is no text.
        of_page = page.encode(errors="replace").decode().splitlines()
        for line in (*of_page, ""):
            lines.append(line)
            numbers.append(number)
    return FileText("\n".join(lines), numbers or [1], "page")


def _of_html(text: str) -> FileText:
    reader = _Html()
    reader.feed(text)
    reader.close()
    lines = [" ".join(line.split()) for _, line in reader.lines]
    return FileText("\n".join(lines), [number for number, _ in reader.lines])


_UNSEEN = frozenset({"script", "style", "template", "noscript", "svg"})
_APART = frozenset(
    {
        *("address", "article", "aside", "blockquote", "body", "dd", "details", "div", "dl"),
        *("dt", "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4"),
        *("h5", "h6", "header", "hr", "li", "main", "nav", "ol", "p", "pre", "section"),
        *("table", "tbody", "thead", "title", "tr", "ul"),
    }
)
"""Elements that begin, and end, a paragraph."""


class _Html(HTMLParser):
    """What a page says, by lines of its file."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.lines: list[tuple[int, str]] = [(1, "")]
        self._unseen = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._unseen += tag in _UNSEEN
        self._at(tag)

    def handle_endtag(self, tag: str) -> None:
        self._unseen -= tag in _UNSEEN and self._unseen > 0
        self._at(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self._at(tag)

    def handle_data(self, data: str) -> None:
        if self._unseen:
            return
        for number, part in _numbered(data, self.getpos()[0]):
            if number != self.lines[-1][0]:
                self.lines.append((number, ""))
            self.lines[-1] = (number, self.lines[-1][1] + part)

    def _at(self, tag: str) -> None:
        line = self.getpos()[0]
        if tag in ("td", "th"):
            self.lines[-1] = (self.lines[-1][0], self.lines[-1][1] + " ")
        elif (tag == "br" or tag in _APART) and self.lines[-1][1].strip():
            self.lines += [(line, "")] * (1 + (tag in _APART))


def _numbered(data: str, first: int) -> Iterator[tuple[int, str]]:
    return enumerate(data.split("\n"), first)
