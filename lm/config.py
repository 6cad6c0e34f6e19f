"""How settings are written: frozen structs, JSON both ways, overrides, one-line errors."""

import difflib
import hashlib
import json
import math
import re
import textwrap
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
)

import msgspec


class UserError(Exception):
    """What the user can mend: one line that says what, where, and the nearest legal values.

    Commands print it without a traceback and exit with code 2.
    """


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every settings struct. Fields are `Annotated[type, Meta(description=...)]`.

    Variants are structs with a tag, and a setting that has variants is a union of them. In JSON
    and on the command line the tag is called `type`.
    """


T = TypeVar("T")


def parse(type_: type[T], text: str | bytes, where: str) -> T:
    """The value that this JSON describes; `where` (a file name) begins every error.

    Bytes may be UTF-8, -16 or -32, and begin with a byte order mark.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode(json.detect_encoding(text)).removeprefix("\ufeff")
        return _convert(msgspec.json.decode(text), type_, "")
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
        if (here := getattr(value, field.name)) != _default(field):
            found[field.encode_name] = essence(here)
    return found


def validate_fields(value: T) -> T:
    """The same value, its types and bounds checked, which Python's constructors do not do."""
    try:
        plain = msgspec.to_builtins(value)
    except TypeError as error:
        raise UserError(f"{type(value).__name__}: {error}") from None
    return _convert(plain, type(value), "")


def override(value: T, assignments: Iterable[str]) -> T:
    """The value with every `field.path=value` applied: JSON if it parses, else text.

    `none` is null. A struct is set before its type and its type before its fields, whatever the
    order on the command line; if a path is set twice the later one counts. `x.type=TAG`
    switches to another variant: fields that both have keep their value where it differs from
    the old variant's default, so that a default meant for one is not taken over by the other.

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
    lm.config.UserError: optimizer.rat=0.5: no such field; did you mean optimizer.rate? ...
    """
    split = []
    for assignment in assignments:
        path, equals, raw = assignment.partition("=")
        if not equals or not all(path.split(".")):
            raise _error(assignment, None, "not an override; write field.path=value")
        split.append((path.split("."), raw))
    split.sort(key=lambda item: (len(item[0]) - (item[0][-1] == "type"), item[0][-1] == "type"))
    plain = msgspec.to_builtins(validate_fields(value))
    for parts, raw in split:
        plain = _assign(plain, type(value), parts, raw, "", type(value))
    return _convert(plain, type(value), "")


def divisors(number: int) -> list[int]:
    """All divisors, ascending.

    >>> divisors(12)
    [1, 2, 3, 4, 6, 12]
    """
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


def describe(type_: Any) -> str:
    """Every field of every variant with type, default and description, 100 columns wide."""
    rows = [
        (row.path, row.kind + (f" = {row.default}" if row.default else ""), row.description)
        for row in _rows(type_, "", {})
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


def _rows(type_: Any, path: str, described: dict[Any, str] | None = None) -> Iterator[_Row]:
    """The fields under a path; those of a variant stand below a line `path.type=TAG`.

    With `described`, which is filled with the variants met and where they are, one that comes
    again below its own field (an objective within an objective) is not described anew.
    """
    for tag, struct in _variants(type_).items():
        if tag is not None:
            doc = (struct.__doc__ or "").strip().partition("\n")[0]
            here = _join(path, f"type={tag}")
            seen = here if described is None else described.setdefault(struct, here)
            if seen != here and here.startswith(seen.removesuffix(f"type={tag}")):
                continue
            yield _Row(here, "", "", doc)
        for field in msgspec.structs.fields(struct):
            below, default = _join(path, field.name), _default(field)
            if isinstance(default, msgspec.Struct):
                shown = default.__struct_config__.tag or ""
            else:
                shown = (
                    "" if default is msgspec.NODEFAULT else _show(msgspec.to_builtins(default))
                )
            kind = _kind(field.type)
            if kind != "fields":
                yield _Row(below, kind, str(shown), _description(field.type))
            item = _item(field.type)
            yield from _rows(item or field.type, f"{below}[]" if item else below, described)


def _assign(data: Any, type_: Any, parts: list[str], raw: str, path: str, root: Any) -> Any:
    """Plain data with one override applied; `path` is where `data` stands under `root`."""
    variants = _variants(type_)
    full = _join(path, ".".join(parts))
    if not variants:
        raise _error(full, raw, f"{path} is {_kind(type_)}, it has no fields")
    head, rest = parts[0], parts[1:]
    data = data if isinstance(data, dict) else {}  # a number, where that is an alternative
    tag = data.get("type", next(iter(variants)) if len(variants) == 1 else None)
    if head == "type" and not rest and None not in variants:
        if raw not in variants:
            raise _error(full, raw, "no such variant; " + _nearest(raw, variants))
        return _switch(data, variants.get(tag), raw, variants[raw])
    if tag not in variants:
        raise _error(full, raw, f"choose a variant: {path}.type, " + _nearest("", variants))
    fields = {f.name: f for f in msgspec.structs.fields(variants[tag])}
    if head not in fields:
        having = [t for t, c in variants.items() if head in c.__struct_fields__]
        if having and tag is not None:
            why = f"a field of {' and '.join(map(str, having))} only, and this is {tag}; "
            raise _error(full, raw, f"{why}add {path}.type={having[0]}")
        paths = {row.path.split(".type=")[0] for row in _rows(root, "")}
        # What stands in a list is set with the list, as JSON.
        elsewhere = [p for p in sorted(paths) if p.rpartition(".")[2] == head and "[]" not in p]
        legal = [*(["type"] if tag is not None else []), *fields]
        raise _unknown(full, raw, head, legal, path, elsewhere)
    below, field_type = _join(path, head), fields[head].type
    if rest:
        here = data[head] if head in data else _plain_default(fields[head])
        return data | {head: _assign(here, field_type, rest, raw, below, root)}
    return data | {head: msgspec.to_builtins(_from_text(raw, field_type, below))}


def _switch(data: Any, old: Any, tag: str, new: Any) -> Any:
    """Plain data of another variant, with what was set and both variants have."""
    changed = {
        field.name: data[field.name]
        for field in (msgspec.structs.fields(old) if old else ())
        if field.name in data and (field.required or data[field.name] != _plain_default(field))
    }
    return {"type": tag} | {k: v for k, v in changed.items() if k in new.__struct_fields__}


def _from_text(raw: str, type_: Any, path: str) -> Any:
    """The value that a command line means: JSON, or none, or else the text itself."""
    try:
        value = None if raw == "none" else msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return _convert(raw, type_, path)
    try:
        return _convert(value, type_, path)
    except UserError as error:
        try:
            return _convert(raw, type_, path)
        except UserError:
            raise error from None


def _convert(data: Any, type_: Any, path: str) -> Any:
    """Plain data as a value of this type; msgspec sees the leaves alone, for better errors."""
    members, variants, item = _members(type_), _variants(type_), _item(type_)
    if data is None and NoneType in members:
        return None
    if variants and (isinstance(data, dict) or not _has_plain(type_)):
        return _convert_struct(data, variants, path)
    if item:
        if not isinstance(data, list | tuple):
            raise _error(path, data, f"expected {_kind(type_)}")
        for meta in _metas(type_):
            if meta.min_length is not None and len(data) < meta.min_length:
                raise _error(path, data, f"must have at least {meta.min_length}")
            if meta.max_length is not None and len(data) > meta.max_length:
                raise _error(path, data, f"must have at most {meta.max_length}")
        return tuple(_convert(each, item, f"{path}[{i}]") for i, each in enumerate(data))
    if not _is_finite(data):
        raise _error(path, data, "must be finite")
    try:
        msgspec.json.encode(data)
        if isinstance(data, float) and data.is_integer() and float not in members:
            # People write tokens=1e6.
            data = int(data)
        return msgspec.convert(data, type_)
    except UnicodeError:
        raise _error(path, data, "not Unicode text") from None
    except msgspec.ValidationError as error:
        raise _error(path, data, _reason(str(error), type_, data)) from None


def _convert_struct(data: Any, variants: dict[Any, Any], path: str) -> Any:
    tags = [tag for tag in variants if tag is not None]
    if not isinstance(data, dict):
        hint = f"; write {_join(path, 'type')}=, {_nearest(str(data), tags)}" if tags else ""
        raise _error(path, data, f"expected an object of fields{hint}")
    tag = (
        data.get("type", next(iter(variants)) if len(variants) == 1 else None) if tags else None
    )
    if tag is None and tags:
        raise _error(_join(path, "type"), None, f"missing; {_nearest('', tags)}")
    if not isinstance(tag, str | NoneType) or tag not in variants:
        raise _error(_join(path, "type"), tag, f"no such variant; {_nearest(str(tag), tags)}")
    cls = variants[tag]
    fields = {field.name: field for field in msgspec.structs.fields(cls)}
    values = {}
    for name, item in data.items():
        if name in fields:
            values[name] = _convert(item, fields[name].type, _join(path, name))
        elif not (tags and name == "type"):
            legal = [*(["type"] if tags else []), *fields]
            raise _unknown(_join(path, name), item, name, legal, path)
    missing = [name for name, f in fields.items() if f.required and name not in values]
    if missing:
        raise _error(_join(path, missing[0]), None, "missing, and it has no default")
    try:
        return cls(**values)
    except (TypeError, ValueError, UserError) as error:
        # A struct's own __post_init__.
        raise _error(path or cls.__name__, None, str(error)) from None


def _unknown(
    full: str,
    value: Any,
    name: str,
    legal: list[str],
    path: str,
    elsewhere: list[str] | None = None,
) -> UserError:
    close = [_join(path, name) for name in difflib.get_close_matches(name, legal, 1, 0.5)]
    mean = elsewhere or close
    hint = f"; did you mean {' or '.join(mean)}?" if mean else ""
    fields = f"fields of {path}: " if path else "fields: "
    return _error(full, value, f"no such field{hint} ({fields}{', '.join(legal) or 'none'})")


def _nearest(text: str, legal: Iterable[Any]) -> str:
    names = [str(name) for name in legal]
    close = difflib.get_close_matches(text, names, 1, 0.6)
    return f"one of {', '.join(names)}" + (f"; did you mean {close[0]}?" if close else "")


def _reason(message: str, type_: Any, data: Any) -> str:
    """Msgspec's message in our words, with the legal values that it leaves out."""
    message, _, place = message.partition(" - at `$")
    if literals := [
        a for m in _members(type_) if get_origin(m) is Literal for a in get_args(m)
    ]:
        none = ["none"] if NoneType in _members(type_) else []
        return f"must be {_nearest(str(data), literals + none)}"
    if bound := re.fullmatch(r"Expected `[^`]*` ([^,]*)", message):
        return "must be " + bound[1].removeprefix("that's ")
    item = f" at {place.rstrip('`')}" if place else ""
    return f"expected {_kind(type_)}" + (
        f", {message[0].lower()}{message[1:]}{item}" if item else ""
    )


def _error(path: str, value: Any, why: str) -> UserError:
    shown = f"{path}={_show(value)}" if path and value is not None else path
    return UserError(" ".join((f"{shown}: " if shown else "").split() + why.split()))


def _show(value: Any) -> str:
    """A value as one would write it on the command line, cut short."""
    if isinstance(value, str):
        text = value if value and value.isprintable() else repr(value)
    else:
        text = "none" if value is None else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _kind(type_: Any) -> str:
    """A type and its bounds in words: `int >= 1`, `causal or full`, `list of str or none`."""
    words = []
    for member in _members(type_):
        args = get_args(member)
        if member is NoneType:
            words.append("none")
        elif member is bool:
            words.append("true or false")
        elif get_origin(member) is Literal:
            words += [str(arg) for arg in args]
        elif get_origin(member) in (tuple, list):
            of = (
                f"{len(args)} of "
                if get_origin(member) is tuple and args[-1] is not ...
                else ""
            )
            words.append(f"list of {of}{_kind(args[0])}")
        elif get_origin(member) is dict:
            words.append(f"{_kind(args[1])} by name")
        elif member in _variants(type_).values():
            words.append(member.__struct_config__.tag or "fields")
        else:
            words.append(getattr(member, "__name__", str(member)))
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "multiple_of": "multiple of"}
    bounds = [
        f"{sign} {getattr(meta, name)}"
        for meta in _metas(type_)
        for name, sign in signs.items()
        if getattr(meta, name) is not None
    ]
    if bounds and words[-1] == "none":
        return f"{' or '.join(words[:-1])} {', '.join(bounds)} or none"
    return " ".join([" or ".join(words), ", ".join(bounds)]).strip()


def _description(type_: Any) -> str:
    return " ".join(meta.description for meta in _metas(type_) if meta.description)


def _metas(type_: Any) -> list[msgspec.Meta]:
    if get_origin(type_) is Annotated:
        return [*_metas(get_args(type_)[0]), *type_.__metadata__]
    if get_origin(type_) in (Union, UnionType):
        return [meta for member in get_args(type_) for meta in _metas(member)]
    return []


def _members(type_: Any) -> list[Any]:
    """The alternatives of a type, without annotations."""
    if get_origin(type_) is Annotated:
        return _members(get_args(type_)[0])
    if get_origin(type_) in (Union, UnionType):
        return [member for part in get_args(type_) for member in _members(part)]
    return [type_]


def _variants(type_: Any) -> dict[Any, Any]:
    """The structs among a type's alternatives, by tag; one that has no tag is under None."""
    structs = [
        m for m in _members(type_) if isinstance(m, type) and issubclass(m, msgspec.Struct)
    ]
    return {struct.__struct_config__.tag: struct for struct in structs}


def _has_plain(type_: Any) -> bool:
    """Whether a number or a text may stand in place of the structs among the alternatives."""
    structs = _variants(type_).values()
    return any(m not in structs and m is not NoneType for m in _members(type_))


def _item(type_: Any) -> Any:
    """What a tuple of structs is a tuple of; None for other types."""
    for member in _members(type_):
        if get_origin(member) is tuple and _variants(get_args(member)[0]):
            return get_args(member)[0]
    return None


def _is_finite(data: Any) -> bool:
    """Whether JSON can say it: it has no infinity and no not-a-number."""
    if isinstance(data, float):
        return math.isfinite(data)
    items = data.values() if isinstance(data, dict) else data
    return not isinstance(data, dict | list | tuple) or all(map(_is_finite, items))


def _default(field: msgspec.structs.FieldInfo) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return field.default


def _plain_default(field: msgspec.structs.FieldInfo) -> Any:
    return None if field.required else msgspec.to_builtins(_default(field))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
