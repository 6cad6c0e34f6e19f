"""Passages and texts of files: no word is lost, and each line is the file's own."""

import random
from itertools import pairwise
from pathlib import Path

import pytest

from lm.config import UserError
from lm.data import Bytes
from lm.retrieval import split
from lm.retrieval.split import passages, token_ends, word_ends
from lm.retrieval.texts import FileText, find_texts, read_text


def text_of(seed: int) -> FileText:
    """Words that are all different, in lines, sentences and paragraphs."""
    random_ = random.Random(seed)
    count = random_.randint(0, 300)
    behind = [" ", "  ", "\n", "\n\n", ". ", "? ", "\n \t\n"]
    text = random_.choice(["", "\n\n", "  "])
    for number in range(count):
        word = random_.choice(["w", "é", "日本", "long" * 5])
        text += f"{word}{number}" + random_.choices(behind, [20, 1, 4, 1, 4, 1, 1])[0]
    return FileText(text, range(1, text.count("\n") + 2))


@pytest.mark.parametrize("at_once", [60, 1 << 16])
@pytest.mark.parametrize("seed", range(12))
def test_passages_hold_every_word_and_no_more_tokens(seed, at_once, monkeypatch):
    """Fails if a word is lost where letters are taken at once, or a passage is too long."""
    monkeypatch.setattr(split, "AT_ONCE", at_once)
    given, bytes_ = text_of(seed), token_ends(Bytes().open())
    lines = given.text.split("\n")
    for ends, tokens, overlap in (
        (word_ends, 12, 3),
        (word_ends, 5, 0),
        (bytes_, 120, 40),
    ):
        found = [*passages(given, ends, tokens=tokens, overlap=overlap)]
        assert [word for each in found for word in each.text.split()] or not given.text.strip()
        held = {word for each in found for word in each.text.split()}
        assert held >= set(given.text.split())
        for each in found:
            assert len(ends(each.text)) <= tokens
            of_lines = "\n".join(lines[each.first - 1 : each.last])
            assert each.text in of_lines
            assert each.text.split("\n")[0] in lines[each.first - 1]
            assert each.text.split("\n")[-1] in lines[each.last - 1]
        for before, after in pairwise(found):
            shared = set(before.text.split()) & set(after.text.split())
            if ends is word_ends:
                assert len(shared) == overlap


def test_a_passage_ends_with_a_sentence_where_one_ends_late_enough():
    """Fails if it is cut in the middle of a sentence that could have gone to the next."""
    text = FileText("one two three four five six. seven eight nine ten", range(1, 2))
    found = [each.text for each in passages(text, word_ends, tokens=7, overlap=0)]
    assert found == ["one two three four five six.", "seven eight nine ten"]


def test_html_is_read_without_its_tags_and_with_its_lines():
    """Fails if a script is text, a tag glues words together, or lines are those of the text."""
    page = (
        b"<html><head><title>Ships</title>\n<script>var x = '<p>no</p>';\n</script></head>\n"
        b"<body><p>One <b>two</b>\nthree &amp; four<br>five</p><p>six</p>\n</body></html>"
    )
    found = read_text(Path("a.HTML"), page)
    lines = dict(zip(found.text.split("\n"), found.numbers, strict=True))
    assert {line: number for line, number in lines.items() if line} == {
        "Ships": 1, "One two": 4, "three & four": 5, "five": 5, "six": 5,
    }  # fmt: skip


def test_pages_of_a_pdf_are_its_numbers(tmp_path):
    """Fails if a page's text is given another number, or a damaged file is a traceback."""
    path = tmp_path / "a.pdf"
    path.write_bytes(pdf("Ships float", "Worms dig"))
    found = read_text(path, path.read_bytes())
    assert found.unit == "page"
    (first, second) = passages(found, word_ends, tokens=2, overlap=0)
    assert (first.text, first.first, first.last) == ("Ships float", 1, 1)
    assert (second.text, second.first, second.last) == ("Worms dig", 2, 2)
    with pytest.raises(UserError, match="no PDF that can be read"):
        read_text(path, b"%PDF-1.4 nothing")


def pdf(*pages: str) -> bytes:
    """A PDF of a line a page."""
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [{}] /Count {} >>".format(
            " ".join(f"{4 + 2 * n} 0 R" for n in range(len(pages))), len(pages)
        ),
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, page in enumerate(pages):
        drawn = f"BT /F1 12 Tf 72 720 Td ({page}) Tj ET"
        font = "<< /Font << /F1 3 0 R >> >>"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources {font}"
            f" /Contents {5 + 2 * number} 0 R >>"
        )
        objects.append(f"<< /Length {len(drawn)} >>\nstream\n{drawn}\nendstream")
    content, places = b"%PDF-1.4\n", []
    for number, each in enumerate(objects, 1):
        places.append(len(content))
        content += f"{number} 0 obj\n{each}\nendobj\n".encode()
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    size = len(objects) + 1
    return (
        content
        + (
            f"xref\n0 {size}\n0000000000 65535 f \n{table}"
            f"trailer << /Size {size} /Root 1 0 R >>\nstartxref\n{len(content)}\n%%EOF\n"
        ).encode()
    )


def test_what_is_no_text_is_refused_in_a_line(tmp_path):
    """Fails if bytes are guessed at."""
    for content, why in ((b"a\xff", "not UTF-8, at byte 1"), (b"a\0", "a byte of 0")):
        with pytest.raises(UserError, match=why):
            read_text(tmp_path / "a.txt", content)


def test_a_folder_gives_its_texts_once(tmp_path):
    """Fails if hidden files, other files or the same file twice are taken."""
    for name in ("b.md", "a.txt", ".hidden.md", "c.bin", "in/d.HTM"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    found = find_texts([tmp_path / "b.md", tmp_path, tmp_path / "c.bin"])
    names = [path.relative_to(tmp_path).as_posix() for path in found]
    assert names == ["b.md", "a.txt", "in/d.HTM", "c.bin"]
    with pytest.raises(UserError, match="no such file"):
        find_texts([tmp_path / "nowhere"])
