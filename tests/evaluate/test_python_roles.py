"""Roles on sources made for them; each class, and what the parsers get wrong if let."""

import itertools
import sys
import tokenize

import numpy as np
import pytest

from lm.evaluate.probe.python_roles import ROLES, byte_roles, token_roles, window_roles

SOURCE = '''\
"""Doc."""
import os.path as p, re
from a import b  # why
LIMIT = 10
@wraps(p)
class K(Base):
    """Doc."""
    async def go(self, *rest, key: int = LIMIT, **more) -> str:
        """Doc."""
        "no doc"
        global total
        total = found = self.size + 1.5e3
        with open(key, mode="r") as file:
            del found
        if (n := len(rest)) > 2: return f"{n} {LIMIT!r:>{n}}" "x"
        try: return lambda q: q.z(n) + total
        except OSError as e: raise e
        return [i for i in rest if i != p]
'''
EXPECTED = {
    "keyword": "import as from import class async def with as del if return try return lambda "
    "except as raise return for in if global",
    "docstring": '"""Doc.""" """Doc.""" """Doc."""',
    "number": "10 1.5e3 2",
    "imported": "os path p re a b",
    "function": "go",
    "class": "K",
    "parameter": "self rest key more q",
    "argument": "mode",
    "called": "wraps open len z",
    "attribute": "size",
    "local": "self key rest q n e i rest i",
    "global": "p Base int LIMIT str total total OSError p",
    "assigned": "LIMIT total found file found n e i",
}


def spans(source):
    """(role, text) of the stretches of bytes with one role, of layout none."""
    data, roles = source.encode(), byte_roles(source)
    changes = np.flatnonzero(np.diff(roles)) + 1
    return [
        (ROLES[roles[a]] if roles[a] >= 0 else None, data[a:b].decode())
        for a, b in itertools.pairwise([0, *changes, len(data)])
        if roles[a] != ROLES.index("layout")
    ]


def words(source, role):
    return sorted(text for r, text in spans(source) if r == role)


@pytest.mark.parametrize("role", EXPECTED)
def test_every_role(role):
    """Fails when that role is not told apart, each being a mutation of its own."""
    assert words(SOURCE, role) == sorted(EXPECTED[role].split())


def test_the_rest_is_strings_operators_and_layout():
    """Fails when an f-string is taken apart, or anything is left without a role."""
    assert words(SOURCE, "comment") == ["# why"]
    assert set(words(SOURCE, "string")) == {'"no doc"', '"r"', 'f"{n} {LIMIT!r:>{n}}"', '"x"'}
    assert set("".join(words(SOURCE, "operator"))) == set("=@().,:*->+![]")
    assert (byte_roles(SOURCE) >= 0).all()
    layout = byte_roles(SOURCE) == ROLES.index("layout")
    assert set(np.frombuffer(SOURCE.encode(), np.uint8)[layout]) == {10, 32}


def test_the_role_is_not_a_function_of_the_token():
    """Fails when names are classed by their spelling."""
    source = "def x(x):\n    x = x.x(x=x)\n    x()\nx\nimport x\n@x\nclass x: pass\n"
    names = [role for role, text in spans(source) if text == "x"]
    assert names == [
        *("function", "parameter", "assigned", "local", "called", "argument", "local"),
        *("called", "global", "imported", "called", "class"),
    ]


def test_match_statements():
    """Fails when soft keywords are names, or captured names are reads."""
    source = (
        "def f(match, case):\n"
        "    match match:\n"
        "        case K(1, at=(x)) | [*r, _] if case: pass\n"
        "        case {'k': v, **m} as whole: return v, m, r\n"
        "        case O.T: return type(case)\n"
    )
    assert words(source, "assigned") == ["m", "r", "v", "whole", "x"]
    assert words(source, "argument") == ["at"]
    assert words(source, "parameter") == ["case", "match"]
    assert words(source, "local") == ["case", "case", "m", "match", "r", "v"]
    assert words(source, "keyword").count("case") == 3
    assert words(source, "attribute") == ["T"]
    assert words(source, "called") == ["type"]


def test_scopes():
    """Fails when a class body or a `global` makes local names, or an inner function's leak."""
    source = (
        "m = 1\n"
        "class C:\n    a = m\n    b = a\n"
        "def f():\n"
        "    y = 1\n"
        "    def g(z=y):\n        nonlocal y\n        w = y\n        return w\n"
        "    return g, w\n"
        "def h():\n    global v\n    v = 1\n    return v, [k for k in v], k\n"
    )
    assert words(source, "local") == ["g", "k", "w", "y", "y", "y"]
    assert words(source, "global") == ["a", "k", "m", "v", "v", "v", "w"]


def test_places_are_bytes():
    """Fails when characters, CRLF, tabs, form feeds or joined lines shift the columns."""
    plain = "def f(a):\n    s = 'aa'; return a.b\n\nx = 1 + \\\n  y\n"
    odd = "def f(a):\r\n\ts = 'éß☃\U0001f600'; return a.b\r\n\x0c\r\nx = 1 + \\\r\n  y\r\n"
    assert [role for role, _ in spans(plain)] == [role for role, _ in spans(odd)]
    assert ("attribute", "b") in spans(odd) and ("global", "y") in spans(odd)
    assert ("string", "'éß☃\U0001f600'") in spans(odd)
    assert len(byte_roles(odd)) == len(odd.encode())
    assert spans("ñ = 'ü'; ñ.é") == [
        *(("assigned", "ñ"), ("operator", "="), ("string", "'ü'"), ("operator", ";")),
        *(("global", "ñ"), ("operator", "."), ("attribute", "é")),
    ]


def test_f_strings_are_strings_whatever_the_tokenizer_says(monkeypatch):
    """Fails when the tokens that Python 3.12 makes of an f-string get roles of their own."""
    source = 'g(f"a{b.c(d):{e}}f" + h)'
    expected = [
        *(("called", "g"), ("operator", "("), ("string", 'f"a{b.c(d):{e}}f"')),
        *(("operator", "+"), ("global", "h"), ("operator", ")")),
    ]
    assert spans(source) == expected
    if sys.version_info >= (3, 12):
        return
    whole = list(tokenize.generate_tokens(iter([source]).__next__))
    at = next(i for i, token in enumerate(whole) if token.type == tokenize.STRING)
    monkeypatch.setitem(tokenize.tok_name, 98, "FSTRING_START")
    monkeypatch.setitem(tokenize.tok_name, 99, "FSTRING_END")

    def part(kind, text):
        start = source.index(text)
        return tokenize.TokenInfo(kind, text, (1, start), (1, start + len(text)), source)

    as_3_12 = [
        *(part(98, 'f"'), part(tokenize.OP, "{"), part(tokenize.NAME, "b")),
        *(part(tokenize.NAME, "d"), part(99, '" ')._replace(end=(1, source.index('" ') + 1))),
    ]
    monkeypatch.setattr(
        tokenize, "generate_tokens", lambda _: iter(whole[:at] + as_3_12 + whole[at + 1 :])
    )
    assert spans(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        "def f(:\n",
        "print 'two'\n",
        "  x\n y\n",
        "x = '",
        "(",
        "\0",
        "x = '\ud800'",
        "if x:\n\ty\n        z\n",
    ],
)
def test_what_is_not_python_has_no_roles(source):
    """Fails when an error of the tokenizer or of the parser gets out."""
    roles = byte_roles(source)
    assert len(roles) == len(source.encode("utf-8", "surrogatepass"))
    assert (roles == -1).all()


def test_doubtful_escapes_are_no_errors():
    """Fails when the parser's warning, an error in strict runs, loses a whole file."""
    assert (byte_roles("x = '\\d'\n") >= 0).all()


def test_nothing_is_nothing():
    """Fails when an empty file raises."""
    assert byte_roles("").shape == (0,)
    assert token_roles(byte_roles(""), np.array([0, 0])).tolist() == [-1, -1]


def test_type_parameters():
    """Fails when `type` and `T` are left without a role; the syntax is Python 3.12's."""
    source = "type A[T] = list[T]\ndef f[*Ts](x: T): pass\n"
    if sys.version_info < (3, 12):
        assert (byte_roles(source) == -1).all()
    else:
        assert words(source, "assigned") == ["A", "T", "Ts"]


def test_a_token_has_the_role_of_its_first_byte_that_is_not_layout():
    """Fails when a leading space decides, or an all-layout token looks into the next one."""
    source = "if x:\n    return 'a b'\n"
    tokens = [b"if", b" x", b":", b"\n    ", b"return", b"", b" '", b"a", b" b'", b"\n"]
    assert b"".join(tokens) == source.encode()
    roles = token_roles(byte_roles(source), np.array([len(p) for p in tokens]))
    assert [ROLES[r] if r >= 0 else None for r in roles] == [
        *("keyword", "global", "operator", "layout", "keyword", None),
        *("string", "string", "string", "layout"),
    ]
    with pytest.raises(ValueError, match="bytes"):
        token_roles(byte_roles(source), np.array([3]))


def test_windows_cut_the_documents_roles():
    """Fails when a window's roles are shifted, or the overwritten first position has one."""
    texts = ["x = 1\n", "", "not python", "def f(y):\n    return y\n"]
    ids = [np.array([2, *(4 + b for b in text.encode()), 3]) for text in texts]
    lengths = np.array([0, 0, 0, 0, *[1] * 256])
    offsets = np.cumsum([0, *(len(i) for i in ids)])
    stream = np.concatenate([[-1, *byte_roles(text), -1] for text in texts])
    length = 7
    count = -(-(len(stream) - 1) // (length - 1))
    roles = window_roles(
        range(count)[::-1],
        length,
        offsets=offsets,
        document=lambda d: (texts[d], ids[d]),
        token_lengths_V=lengths,
    )[::-1]
    assert (roles[:, 0] == -1).all()
    flat = roles[:, 1:].ravel()
    assert flat[: len(stream) - 1].tolist() == stream[1:].tolist()
    assert (flat[len(stream) - 1 :] == -1).all()
