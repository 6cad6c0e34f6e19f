"""What the annotations of a setting say: its alternatives, bounds, default and words."""

import difflib
import json
from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec


def nearest_of(text: str, legal: Iterable[Any]) -> str:
    """The legal names, and which of them was meant, in words."""
    names = [str(name) for name in legal]
    close = difflib.get_close_matches(text, names, 1, 0.6)
    return f"one of {', '.join(names)}" + (f"; did you mean {close[0]}?" if close else "")


def as_text(value: Any) -> str:
    """A value as one would write it on the command line, cut short."""
    if isinstance(value, str):
        text = value if value and value.isprintable() else repr(value)
    else:
        text = "none" if value is None else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def kind_of(type_: Any) -> str:
    """A type and its bounds in words: `int >= 1`, `causal or full`, `list of str or none`."""
    words = []
    for member in members_of(type_):
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
            words.append(f"list of {of}{kind_of(args[0])}")
        elif get_origin(member) is dict:
            words.append(f"{kind_of(args[1])} by name")
        elif member in variants_of(type_).values():
            words.append(member.__struct_config__.tag or "fields")
        else:
            words.append(getattr(member, "__name__", str(member)))
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "multiple_of": "multiple of"}
    bounds = [
        f"{sign} {getattr(meta, name)}"
        for meta in metas_of(type_)
        for name, sign in signs.items()
        if getattr(meta, name) is not None
    ]
    if bounds and words[-1] == "none":
        return f"{' or '.join(words[:-1])} {', '.join(bounds)} or none"
    return " ".join([" or ".join(words), ", ".join(bounds)]).strip()


def description_of(type_: Any) -> str:
    """What the annotations say of a setting."""
    return " ".join(meta.description for meta in metas_of(type_) if meta.description)


def metas_of(type_: Any) -> list[msgspec.Meta]:
    """All annotations of a type and of its alternatives."""
    if get_origin(type_) is Annotated:
        return [*metas_of(get_args(type_)[0]), *type_.__metadata__]
    if get_origin(type_) in (Union, UnionType):
        return [meta for member in get_args(type_) for meta in metas_of(member)]
    return []


def members_of(type_: Any) -> list[Any]:
    """The alternatives of a type, without annotations."""
    if get_origin(type_) is Annotated:
        return members_of(get_args(type_)[0])
    if get_origin(type_) in (Union, UnionType):
        return [member for part in get_args(type_) for member in members_of(part)]
    return [type_]


def variants_of(type_: Any) -> dict[Any, Any]:
    """The structs among a type's alternatives, by tag; one that has no tag is under None."""
    structs = [
        m for m in members_of(type_) if isinstance(m, type) and issubclass(m, msgspec.Struct)
    ]
    return {struct.__struct_config__.tag: struct for struct in structs}


def has_plain(type_: Any) -> bool:
    """Whether a number or a text may stand in place of the structs among the alternatives."""
    structs = variants_of(type_).values()
    return any(m not in structs and m is not NoneType for m in members_of(type_))


def item_of(type_: Any) -> Any:
    """What a tuple of structs is a tuple of; None for other types."""
    for member in members_of(type_):
        if get_origin(member) is tuple and variants_of(get_args(member)[0]):
            return get_args(member)[0]
    return None


def default_of(field: msgspec.structs.FieldInfo) -> Any:
    """The default of a field, or `msgspec.NODEFAULT`."""
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return field.default


def plain_default(field: msgspec.structs.FieldInfo) -> Any:
    """The default of a field in plain values; None where there is none."""
    return None if field.required else msgspec.to_builtins(default_of(field))


def join_path(path: str, name: str) -> str:
    """The path of a field below another."""
    return f"{path}.{name}" if path else name
