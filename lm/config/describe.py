"""Every setting in words, for --help."""

import textwrap
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any, NamedTuple

import msgspec

from lm.config.types import (
    as_text,
    default_of,
    description_of,
    item_of,
    join_path,
    kind_of,
    variants_of,
)


def describe(type_: Any) -> str:
    """Every field of every variant with type, default and description, 100 columns wide."""
    rows = [
        (row.path, row.kind + (f" = {row.default}" if row.default else ""), row.description)
        for row in field_rows(type_, "", {})
    ]
    path_width = max(len(path) for path, _, _ in rows)
    kind_width = min(32, max(len(kind) for _, kind, _ in rows))
    lines = []
    for path, kind, description in rows:
        cells = [(path, path_width), (kind, kind_width)] if kind else [(path, path_width)]
        room = 100 - sum(width + 2 for _, width in cells)
        columns = [(textwrap.wrap(text, n), n) for text, n in [*cells, (description, room)]]
        for texts in zip_longest(*(wrapped for wrapped, _ in columns), fillvalue=""):
            padded = (text.ljust(n) for text, (_, n) in zip(texts, columns, strict=True))
            lines.append("  ".join(padded).rstrip())
    return "\n".join(lines) + "\n"


class _Row(NamedTuple):
    path: str
    kind: str
    default: str
    description: str


def field_rows(
    type_: Any, path: str, described: dict[Any, str] | None = None
) -> Iterator[_Row]:
    """The fields under a path; those of a variant stand below a line `path.type=TAG`.

    With `described`, which is filled with the variants met and where they are, one that comes
    again below its own field (an objective within an objective) is not described anew.
    """
    for tag, struct in variants_of(type_).items():
        if tag is not None:
            doc = (struct.__doc__ or "").strip().partition("\n")[0]
            here = join_path(path, f"type={tag}")
            seen = here if described is None else described.setdefault(struct, here)
            if seen != here and here.startswith(seen.removesuffix(f"type={tag}")):
                continue
            yield _Row(here, "", "", doc)
        for field in msgspec.structs.fields(struct):
            below, default = join_path(path, field.name), default_of(field)
            if isinstance(default, msgspec.Struct):
                shown = default.__struct_config__.tag or ""
            else:
                shown = (
                    ""
                    if default is msgspec.NODEFAULT
                    else as_text(msgspec.to_builtins(default))
                )
            kind = kind_of(field.type)
            if kind != "fields":
                yield _Row(below, kind, str(shown), description_of(field.type))
            item = item_of(field.type)
            yield from field_rows(
                item or field.type, f"{below}[]" if item else below, described
            )
