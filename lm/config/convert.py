"""From JSON and Python values to checked settings, and back."""

import difflib
import hashlib
import json
import math
import re
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec

from lm.config.struct import UserError
from lm.config.types import (
    as_text,
    default_of,
    has_plain,
    item_of,
    join_path,
    kind_of,
    members_of,
    metas_of,
    nearest_of,
    variants_of,
)

T = TypeVar("T")


def parse(type_: type[T], text: str | bytes, where: str) -> T:
    """The value that this JSON describes; `where` (a file name) begins every error.

    Bytes may be UTF-8, -16 or -32, and begin with a byte order mark.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode(json.detect_encoding(text)).removeprefix("\ufeff")
        return convert(msgspec.json.decode(text), type_, "")
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{where}: not JSON: {error}") from None


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file of ours holds; raises UserError where it is damaged."""
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:  # UnicodeDecodeError, too
        raise UserError(f"{path}: damaged: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: damaged: it is no object")
    return found


def dump(value: object) -> str:
    """The JSON of a value, every field and tag written out; `parse` gives the value back."""
    plain = msgspec.to_builtins(validate_fields(value))
    return msgspec.json.format(msgspec.json.encode(plain), indent=2).decode() + "\n"


def digest(value: object) -> str:
    """Sixteen hexadecimal digits of the JSON, whatever order the fields are declared in."""
    plain = msgspec.json.encode(validate_fields(value), order="sorted")
    return hashlib.sha256(plain).hexdigest()[:16]


def essence(value: object) -> Any:
    """Plain values of what is not as its field's default, so that a new field changes none.

    >>> from lm.config import Config
    >>> class Lion(Config, tag="lion"):
    ...     rate: float = 1e-4
    ...     beta: float = 0.9
    >>> essence(Lion(beta=0.5))
    {'type': 'lion', 'beta': 0.5}
    """
    if isinstance(value, tuple | list):
        return [essence(each) for each in value]
    if not isinstance(value, msgspec.Struct):
        return value
    tag = value.__struct_config__.tag
    found = {"type": tag} if tag else {}
    for field in msgspec.structs.fields(value):
        if (here := getattr(value, field.name)) != default_of(field):
            found[field.encode_name] = essence(here)
    return found


def essence_text(value: object) -> str:
    """The JSON of the essence, for digests, whatever order fields are declared in."""
    return json.dumps(essence(value), sort_keys=True)


def validate_fields(value: T) -> T:
    """The same value, its types and bounds checked, which Python's constructors do not do."""
    try:
        plain = msgspec.to_builtins(value)
    except TypeError as error:
        raise UserError(f"{type(value).__name__}: {error}") from None
    return convert(plain, type(value), "")


def divisors(number: int) -> list[int]:
    """All divisors, ascending.

    >>> divisors(12)
    [1, 2, 3, 4, 6, 12]
    """
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


def convert(data: Any, type_: Any, path: str) -> Any:
    """Plain data as a value of this type; msgspec sees the leaves alone, for better errors."""
    members, variants, item = members_of(type_), variants_of(type_), item_of(type_)
    if data is None and NoneType in members:
        return None
    if variants and (isinstance(data, dict) or not has_plain(type_)):
        return _convert_struct(data, variants, path)
    if item:
        if not isinstance(data, list | tuple):
            raise config_error(path, data, f"expected {kind_of(type_)}")
        for meta in metas_of(type_):
            if meta.min_length is not None and len(data) < meta.min_length:
                raise config_error(path, data, f"must have at least {meta.min_length}")
            if meta.max_length is not None and len(data) > meta.max_length:
                raise config_error(path, data, f"must have at most {meta.max_length}")
        return tuple(convert(each, item, f"{path}[{i}]") for i, each in enumerate(data))
    if not _is_finite(data):
        raise config_error(path, data, "must be finite")
    try:
        msgspec.json.encode(data)
        if isinstance(data, float) and data.is_integer() and float not in members:
            # People write tokens=1e6.
            data = int(data)
        return msgspec.convert(data, type_)
    except UnicodeError:
        raise config_error(path, data, "not Unicode text") from None
    except msgspec.ValidationError as error:
        raise config_error(path, data, _reason(str(error), type_, data)) from None


def _convert_struct(data: Any, variants: dict[Any, Any], path: str) -> Any:
    tags = [tag for tag in variants if tag is not None]
    if not isinstance(data, dict):
        named = {
            name: value for cls in variants.values() for name, value in cls.named().items()
        }
        if isinstance(data, str) and data in named:
            return named[data]
        hint = (
            f"; write {join_path(path, 'type')}=, {nearest_of(str(data), tags)}" if tags else ""
        )
        if named:
            hint += f", or {path}=, {nearest_of(str(data), list(named))}"
        raise config_error(path, data, f"expected an object of fields{hint}")
    tag = (
        data.get("type", next(iter(variants)) if len(variants) == 1 else None) if tags else None
    )
    if tag is None and tags:
        raise config_error(join_path(path, "type"), None, f"missing; {nearest_of('', tags)}")
    if not isinstance(tag, str | NoneType) or tag not in variants:
        raise config_error(
            join_path(path, "type"), tag, f"no such variant; {nearest_of(str(tag), tags)}"
        )
    cls = variants[tag]
    data = cls.of_before(data)
    fields = {field.name: field for field in msgspec.structs.fields(cls)}
    values = {}
    for name, item in data.items():
        if name in fields:
            values[name] = convert(item, fields[name].type, join_path(path, name))
        elif not (tags and name == "type"):
            legal = [*(["type"] if tags else []), *fields]
            raise unknown_field(join_path(path, name), item, name, legal, path)
    missing = [name for name, f in fields.items() if f.required and name not in values]
    if missing:
        raise config_error(join_path(path, missing[0]), None, "missing, and it has no default")
    try:
        return cls(**values)
    except (TypeError, ValueError, UserError) as error:
        # A struct's own __post_init__.
        raise config_error(path or cls.__name__, None, str(error)) from None


def unknown_field(
    full: str,
    value: Any,
    name: str,
    legal: list[str],
    path: str,
    elsewhere: list[str] | None = None,
) -> UserError:
    """The line about a field that is not there, with the one that was meant."""
    close = [join_path(path, name) for name in difflib.get_close_matches(name, legal, 1, 0.5)]
    mean = elsewhere or close
    hint = f"; did you mean {' or '.join(mean)}?" if mean else ""
    fields = f"fields of {path}: " if path else "fields: "
    return config_error(
        full, value, f"no such field{hint} ({fields}{', '.join(legal) or 'none'})"
    )


def _reason(message: str, type_: Any, data: Any) -> str:
    """Msgspec's message in our words, with the legal values that it leaves out."""
    message, _, place = message.partition(" - at `$")
    if literals := [
        a for m in members_of(type_) if get_origin(m) is Literal for a in get_args(m)
    ]:
        none = ["none"] if NoneType in members_of(type_) else []
        return f"must be {nearest_of(str(data), literals + none)}"
    if bound := re.fullmatch(r"Expected `[^`]*` ([^,]*)", message):
        return "must be " + bound[1].removeprefix("that's ")
    item = f" at {place.rstrip('`')}" if place else ""
    return f"expected {kind_of(type_)}" + (
        f", {message[0].lower()}{message[1:]}{item}" if item else ""
    )


def config_error(path: str, value: Any, why: str) -> UserError:
    """The one line about a value at a path."""
    where = f"{path}={as_text(value)}" if path and value is not None else path
    return UserError(" ".join((f"{where}: " if where else "").split() + why.split()))


def _is_finite(data: Any) -> bool:
    """Whether JSON can say it: it has no infinity and no not-a-number."""
    if isinstance(data, float):
        return math.isfinite(data)
    items = data.values() if isinstance(data, dict) else data
    return not isinstance(data, dict | list | tuple) or all(map(_is_finite, items))
