"""Collections in SMART's form (Salton 1971), as Cranfield's: records of marked fields."""

from collections.abc import Iterator

FIELDS = {"T": "title", "A": "author", "B": "bibliography", "W": "text"}
"""What the letters that mark fields stand for; others keep their letter."""


def is_smart(text: str) -> bool:
    """Whether a text begins as such a collection does.

    >>> is_smart(".I 1"), is_smart('{"text": 1}')
    (True, False)
    """
    return text.startswith(".I ")


def read_smart(name: str, text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Where each record is, and its fields, whose lines are joined by spaces.

    `id` is what stands behind .I, and `abstract` the text without the title that it may begin
    with. What is not there is empty. A mark of a field that there is already is none.

    >>> text = ".I 7\\n.T\\na\\nwing\\n.W\\na wing\\nin a stream\\n"
    >>> [(place, fields)] = read_smart("cran", text)
    >>> place, fields["id"], fields["title"], fields["text"], fields["abstract"]
    ('cran:1', '7', 'a wing', 'a wing in a stream', 'in a stream')
    """
    first, record, field = 0, dict[str, list[str]](), ""
    for number, line in enumerate(text.split("\n"), 1):
        if line.startswith(".I "):
            if record:
                yield f"{name}:{first}", _fields(record)
            first, record, field = number, {"id": [line[3:].strip()]}, "id"
        elif len(mark := line.rstrip()) == 2 and mark[0] == "." and mark[1].isupper():
            # Cranfield has marks within texts, of fields that stood before.
            if (marked := FIELDS.get(mark[1], mark[1])) not in record:
                field, record[marked] = marked, []
        else:
            record[field].append(line)
    yield f"{name}:{first}", _fields(record)


def _fields(record: dict[str, list[str]]) -> dict[str, str]:
    fields = dict.fromkeys(FIELDS.values(), "")
    fields |= {field: " ".join(" ".join(lines).split()) for field, lines in record.items()}
    return fields | {"abstract": fields["text"].removeprefix(fields["title"]).strip()}
