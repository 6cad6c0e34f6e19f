"""The role of every byte of a Python source, as Python's own tokenizer and parser give it.

They are the labels of the representation probe. A name's role is its place in the syntax tree
(defined, read, called, assigned ...), so it does not follow from the token alone.
"""

import ast
import io
import itertools
import keyword
import re
import tokenize
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

import numpy as np

ROLES = (
    "keyword",
    "operator",
    "string",
    "docstring",
    "number",
    "comment",
    "layout",  # spaces, indentation, line ends, backslashes that join lines
    "function",  # the name at its definition
    "class",  # the name at its definition
    "parameter",  # the name at its definition
    "argument",  # the name of a keyword argument
    "called",  # a name or attribute that is called, or a decorator
    "attribute",
    "local",  # read, bound in an enclosing function
    "global",  # read, bound in the module or a built-in
    "assigned",
    "imported",
)
UNLABELLED = -1
_UNREADABLE = (
    SyntaxError,
    tokenize.TokenError,
    ValueError,
    LookupError,
    StopIteration,
    RecursionError,
    MemoryError,
)
LAYOUT = ROLES.index("layout")


@lru_cache(maxsize=256)  # every variant of a study asks for the same documents
def byte_roles(source: str) -> np.ndarray:
    """Index into `ROLES` of each UTF-8 byte of a source, int8[bytes]; all -1 if not Python.

    >>> roles = byte_roles("def f(x): return x.y")
    >>> [ROLES[roles[i]] for i in (0, 4, 5, 6, 9, 10, 17, 19)]  # doctest: +NORMALIZE_WHITESPACE
    ['keyword', 'function', 'operator', 'parameter', 'layout', 'keyword', 'local', 'attribute']
    >>> byte_roles("two words").tolist()
    [-1, -1, -1, -1, -1, -1, -1, -1, -1]
    """
    roles = np.full(len(source.encode("utf-8", "surrogatepass")), UNLABELLED, np.int8)
    tokens: list[_Token] = []
    # Python's tokenizer and parser disagree on a few exotic names, which are then not found.
    with suppress(*_UNREADABLE):
        file = _File(source)
        tokens, names = file.tokens, dict(_name_roles(file))
        roles[:] = LAYOUT
    for token in tokens:
        role = names.get(token.start) if token.kind == "name" else token.kind
        roles[token.start : token.end] = UNLABELLED if role is None else ROLES.index(role)
    roles.flags.writeable = False
    return roles


def token_roles(byte_roles: np.ndarray, token_lengths: np.ndarray) -> np.ndarray:
    """The role of each token, int8[tokens]: of its first byte that is not layout, if any.

    >>> roles = np.array([6, 6, 14, 14, 1, 6, 6], np.int8)
    >>> token_roles(roles, np.array([4, 0, 1, 2])).tolist()
    [14, -1, 1, 6]
    """
    if token_lengths.sum() != len(byte_roles):
        raise ValueError(f"tokens of {token_lengths.sum()} bytes for {len(byte_roles)} roles")
    # where the next byte is that is not layout, for each byte
    here = np.where(byte_roles == LAYOUT, len(byte_roles), np.arange(len(byte_roles)))
    following = np.append(np.minimum.accumulate(here[::-1])[::-1], len(byte_roles))
    end = np.cumsum(token_lengths)
    first = following[end - token_lengths]
    found = np.append(byte_roles, UNLABELLED)[np.minimum(first, len(byte_roles))]
    role = np.where(first < end, found, LAYOUT)
    return np.where(token_lengths > 0, role, UNLABELLED).astype(np.int8)


def window_roles(
    windows: Sequence[int] | np.ndarray,
    length: int,
    *,
    offsets: np.ndarray,
    document: Callable[[int], tuple[str, np.ndarray]],
    token_lengths_V: np.ndarray,
) -> np.ndarray:
    """The role of each token of the given windows of a split, int8[R, L].

    Window r holds the stream's tokens from `r * (length - 1)` on; `offsets` are where the
    documents start in it; `document(d)` gives a document's text and its tokens in the stream
    (with begin and eos token, which have no bytes and no role).

    >>> text, tokens = "x = 1", np.array([2, 10, 11, 12, 3])  # begin, "x", " =", " 1", end
    >>> window_roles([0, 1], 4, offsets=np.array([0, 5]), document=lambda d: (text, tokens),
    ...              token_lengths_V=np.array([0] * 10 + [1, 2, 2])).tolist()
    [[-1, 15, 1, 4], [-1, -1, -1, -1]]
    """
    roles_RL = np.full((len(windows), length), UNLABELLED, np.int8)
    known: dict[int, np.ndarray] = {}
    for row, window in enumerate(windows):
        start, stop = window * (length - 1) + 1, window * (length - 1) + length
        first, last = np.searchsorted(offsets, [start, stop - 1], side="right") - 1
        for d in range(first, min(last + 1, len(offsets) - 1)):
            if d not in known:
                text, tokens = document(d)
                known[d] = token_roles(byte_roles(text), token_lengths_V[tokens])
            low, high = max(start, offsets[d]), min(stop, offsets[d + 1])
            roles_RL[row, low - start + 1 : high - start + 1] = known[d][
                low - offsets[d] : high - offsets[d]
            ]
    return roles_RL


class _Token:
    """A token of the source: where its bytes are, and its kind (a role, or "name")."""

    __slots__ = ("end", "kind", "start", "text")

    def __init__(self, start: int, end: int, kind: str, text: str):
        self.start, self.end, self.kind, self.text = start, end, kind, text


class _File:
    """A parsed source: its tree, its tokens, and where a line and a column are in its bytes."""

    def __init__(self, source: str):
        lines = re.split(r"\r\n|\r|\n", source)
        # Line ends are made equal for the parser; places are counted in the lines as they were.
        self._lines = lines
        ends = [*re.findall(r"\r\n|\r|\n", source), ""]
        whole = map(str.__add__, lines, ends)
        self._starts = [0, *itertools.accumulate(len(line.encode()) for line in whole)]
        text = "\n".join(lines)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a doubtful escape is not our concern
            self.tree = ast.parse(text)
        self.tokens = list(self._tokenize(text))
        self._by_start = {token.start: i for i, token in enumerate(self.tokens)}
        self._by_end = {token.end: i for i, token in enumerate(self.tokens)}

    def index_from(self, node: Any) -> int:
        """The index of the token with which a node of the tree starts."""
        return self._by_start[self._starts[node.lineno - 1] + node.col_offset]

    def index_to(self, node: Any) -> int:
        """The index of the token with which a node of the tree ends."""
        return self._by_end[self._starts[node.end_lineno - 1] + node.end_col_offset]

    def span(self, node: ast.AST) -> range:
        """The indices of a node's tokens."""
        return range(self.index_from(node), self.index_to(node) + 1)

    def _tokenize(self, text: str) -> Iterator[_Token]:
        kinds = {
            tokenize.OP: "operator",
            tokenize.STRING: "string",
            tokenize.NUMBER: "number",
            tokenize.COMMENT: "comment",
        }
        depth, opened = 0, 0
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            # From Python 3.12 on the tokens of an f-string are tokens; here it is one string.
            name = tokenize.tok_name[token.type]
            start, end = self._place(*token.start), self._place(*token.end)
            if name.endswith("STRING_START"):
                opened, depth = start if depth == 0 else opened, depth + 1
            elif name.endswith("STRING_END"):
                depth -= 1
                if depth == 0:
                    yield _Token(opened, end, "string", "")
            elif depth > 0:
                continue
            elif token.type == tokenize.NAME:
                kind = "keyword" if keyword.iskeyword(token.string) else "name"
                yield _Token(start, end, kind, token.string)
            elif token.type in kinds:
                yield _Token(start, end, kinds[token.type], token.string)

    def _place(self, line: int, column: int) -> int:
        """The byte at which a line (from 1) and a column in characters are."""
        if line > len(self._lines):
            return self._starts[-1]
        text = self._lines[line - 1]
        return self._starts[line - 1] + (
            column if text.isascii() else len(text[:column].encode())
        )


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_NAMELESS = (
    *(ast.expr_context, ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.Constant),
    # One string each, whatever is in it; columns inside are right only from Python 3.12 on.
    *(getattr(ast, name) for name in ("JoinedStr", "TemplateStr") if hasattr(ast, name)),
)
_BODIES = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def _name_roles(file: _File) -> Iterator[tuple[int, str]]:
    """(first byte, role) of every name, later ones overruling earlier; marks docstrings."""
    for token in file.tokens:
        if token.kind == "name" and keyword.issoftkeyword(token.text):
            yield token.start, "keyword"
    stack: list[tuple[ast.AST, frozenset[str]]] = [(file.tree, frozenset())]
    called: set[ast.AST] = set()
    while stack:
        node, local = stack.pop()
        for i, role in _names_of(file, node, local):
            if file.tokens[i].kind == "name":
                yield file.tokens[i].start, "called" if node in called else role
        if isinstance(node, ast.Call):
            called.add(node.func)
        called.update(getattr(node, "decorator_list", ()))
        if isinstance(node, _BODIES) and ast.get_docstring(node, clean=False) is not None:
            for i in file.span(node.body[0]):
                if file.tokens[i].kind == "string":
                    file.tokens[i].kind = "docstring"
        inner = local
        if isinstance(node, (*_FUNCTIONS, *_COMPREHENSIONS)):
            inner = local | _bound_in(node)
        for name, value in ast.iter_fields(node):
            # defaults, annotations and decorators belong to the scope around a function
            scope = inner if name in ("body", "elt", "key", "value", "generators") else local
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not isinstance(child, _NAMELESS):
                    stack.append((child, scope))


def _names_of(file: _File, node: ast.AST, local: frozenset[str]) -> Iterable[tuple[int, str]]:
    """(token index, role) of the names that a node itself has, not those of its children."""
    match node:
        case ast.Name():
            read = "local" if node.id in local else "global"
            role = read if isinstance(node.ctx, ast.Load) else "assigned"
            return [(file.index_from(node), role)]
        case ast.Attribute():
            return [(file.index_to(node), "attribute")]
        case ast.arg():
            return [(file.index_from(node), "parameter")]
        case ast.keyword(arg=str()):
            return [(file.index_from(node), "argument")]
        case ast.FunctionDef():
            return [(file.index_from(node) + 1, "function")]
        case ast.AsyncFunctionDef():
            return [(file.index_from(node) + 2, "function")]
        case ast.ClassDef():
            return [(file.index_from(node) + 1, "class")]
        case ast.Import() | ast.ImportFrom():
            return [(i, "imported") for i in file.span(node)]
        case ast.Global():
            return [(i, "global") for i in file.span(node)]
        case ast.Nonlocal():
            return [(i, "local") for i in file.span(node)]
        case ast.ExceptHandler(name=str()):
            return [(_after(file, file.index_from(node), "as"), "assigned")]
        case ast.MatchAs(name=str()) | ast.MatchStar(name=str()):
            return [(file.index_to(node), "assigned")]
        case ast.MatchMapping(rest=str()):
            return [(_before(file, file.index_to(node), "**") + 1, "assigned")]
        case ast.MatchClass():
            starts = map(file.index_from, node.kwd_patterns)
            return [(_before(file, i, "=") - 1, "argument") for i in starts]
    if type(node).__name__ in ("TypeVar", "ParamSpec", "TypeVarTuple"):  # from Python 3.12 on
        first = file.index_from(node)
        return [(first + (file.tokens[first].kind == "operator"), "assigned")]
    return []


def _after(file: _File, i: int, text: str) -> int:
    """The index of the token after the next one with this text."""
    return next(j for j in range(i, len(file.tokens)) if file.tokens[j].text == text) + 1


def _before(file: _File, i: int, text: str) -> int:
    """The index of the last token before i with this text."""
    return next(j for j in range(i - 1, -1, -1) if file.tokens[j].text == text)


def _bound_in(scope: ast.AST) -> frozenset[str]:
    """The names that a function or comprehension binds itself."""
    bound: set[str] = set()
    outer: set[str] = set()
    stack = list(ast.iter_child_nodes(scope))
    while stack:
        node = stack.pop()
        match node:
            case ast.Name(ctx=ast.Store() | ast.Del()):
                bound.add(node.id)
            case ast.arg():
                bound.add(node.arg)
            case ast.Global():
                outer.update(node.names)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                bound.add(node.name)
            case ast.alias():
                bound.add((node.asname or node.name).partition(".")[0])
            case ast.ExceptHandler() | ast.MatchAs() | ast.MatchStar():
                bound.add(node.name or "")
            case ast.MatchMapping(rest=str()):
                bound.add(str(node.rest))
        if not isinstance(node, (*_FUNCTIONS, *_COMPREHENSIONS, ast.ClassDef)):
            stack.extend(ast.iter_child_nodes(node))
    return frozenset(bound - outer)
