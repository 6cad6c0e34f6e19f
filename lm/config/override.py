"""`field.path=value` of the command line."""

from collections.abc import Iterable
from typing import Any

import msgspec

from lm.config.convert import T, config_error, convert, unknown_field, validate_fields
from lm.config.describe import field_rows
from lm.config.struct import UserError
from lm.config.types import join_path, kind_of, nearest_of, plain_default, variants_of


def override(value: T, assignments: Iterable[str]) -> T:
    """The value with every `field.path=value` applied: JSON if it parses, else text.

    `none` is null. A struct is set before its type and its type before its fields, whatever the
    order on the command line; if a path is set twice the later one counts. `x.type=TAG`
    switches to another variant: fields that both have keep their value where it differs from
    the old variant's default, so that a default meant for one is not taken over by the other.

    >>> from lm.config import Config
    >>> class Adam(Config, tag="adam"):
    ...     rate: float = 1e-3
    >>> class Lion(Config, tag="lion"):
    ...     rate: float = 1e-4
    ...     beta: float = 0.9
    >>> class Run(Config):
    ...     optimizer: Adam | Lion = Adam()
    >>> override(Run(), ["optimizer.beta=0.5", "optimizer.type=lion"]).optimizer
    Lion(rate=0.0001, beta=0.5)
    >>> override(Run(), ["optimizer.rat=0.5"])
    Traceback (most recent call last):
    lm.config.struct.UserError: optimizer.rat=0.5: no such field; did you mean ...
    """
    split = []
    for assignment in assignments:
        path, equals, raw = assignment.partition("=")
        if not equals or not all(path.split(".")):
            raise config_error(assignment, None, "not an override; write field.path=value")
        split.append((path.split("."), raw))
    split.sort(key=lambda item: (len(item[0]) - (item[0][-1] == "type"), item[0][-1] == "type"))
    plain = msgspec.to_builtins(validate_fields(value))
    for parts, raw in split:
        plain = _assign(plain, type(value), parts, raw, "", type(value))
    return convert(plain, type(value), "")


def _assign(data: Any, type_: Any, parts: list[str], raw: str, path: str, root: Any) -> Any:
    """Plain data with one override applied; `path` is where `data` stands under `root`."""
    variants = variants_of(type_)
    full = join_path(path, ".".join(parts))
    if not variants:
        raise config_error(full, raw, f"{path} is {kind_of(type_)}, it has no fields")
    head, rest = parts[0], parts[1:]
    data = data if isinstance(data, dict) else {}  # a number, where that is an alternative
    tag = data.get("type", next(iter(variants)) if len(variants) == 1 else None)
    if head == "type" and not rest and None not in variants:
        if raw not in variants:
            raise config_error(full, raw, "no such variant; " + nearest_of(raw, variants))
        return _switch(data, variants.get(tag), raw, variants[raw])
    if tag not in variants:
        raise config_error(
            full, raw, f"choose a variant: {path}.type, " + nearest_of("", variants)
        )
    fields = {f.name: f for f in msgspec.structs.fields(variants[tag])}
    if head not in fields:
        having = [t for t, c in variants.items() if head in c.__struct_fields__]
        if having and tag is not None:
            why = f"a field of {' and '.join(map(str, having))} only, and this is {tag}; "
            raise config_error(full, raw, f"{why}add {path}.type={having[0]}")
        paths = {row.path.split(".type=")[0] for row in field_rows(root, "")}
        # What stands in a list is set with the list, as JSON.
        elsewhere = [p for p in sorted(paths) if p.rpartition(".")[2] == head and "[]" not in p]
        legal = [*(["type"] if tag is not None else []), *fields]
        raise unknown_field(full, raw, head, legal, path, elsewhere)
    below, field_type = join_path(path, head), fields[head].type
    if rest:
        here = data[head] if head in data else plain_default(fields[head])
        return data | {head: _assign(here, field_type, rest, raw, below, root)}
    return data | {head: msgspec.to_builtins(from_text(raw, field_type, below))}


def _switch(data: Any, old: Any, tag: str, new: Any) -> Any:
    """Plain data of another variant, with what was set and both variants have."""
    changed = {
        field.name: data[field.name]
        for field in (msgspec.structs.fields(old) if old else ())
        if field.name in data and (field.required or data[field.name] != plain_default(field))
    }
    return {"type": tag} | {k: v for k, v in changed.items() if k in new.__struct_fields__}


def from_text(raw: str, type_: Any, path: str) -> Any:
    """The value that a command line means: JSON, or none, or else the text itself."""
    try:
        value = None if raw == "none" else msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return convert(raw, type_, path)
    try:
        return convert(value, type_, path)
    except UserError as error:
        try:
            return convert(raw, type_, path)
        except UserError:
            raise error from None
