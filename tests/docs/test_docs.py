"""README.md and docs/: links lead somewhere, and what is to be typed can be typed."""

import argparse
import ast
import importlib
import re
import shlex
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest

from lm import cli
from lm.config import override
from lm.config.describe import field_rows
from lm.run import Run
from lm.study import runner
from tests.docs import claims

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


class Block(NamedTuple):
    """What stands in a fence of a page."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    language, start, inside = "", 0, None
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if not line.strip().startswith("```"):
            if inside is not None:
                inside.append(line)
        elif inside is None:
            language, start, inside = line.strip()[3:], number, []
        else:
            yield Block(page, start, language, "\n".join(inside))
            inside = None
    assert inside is None, f"{page.name}:{start}: a fence that does not end"


def _unfenced(page: Path) -> str:
    return re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def prose_of(page: Path) -> str:
    """A page without what stands in fences and in code."""
    return re.sub(r"`[^`]*`", "code", _unfenced(page))


def links_of(page: Path) -> list[str]:
    """Where a page leads, but for other sites."""
    found = re.findall(r"\]\(([^)\s]+)\)", prose_of(page))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def anchors_of(page: Path) -> set[str]:
    """The headings of a page as GitHub names them in links."""
    titles = re.findall(r"^#+ (.+)$", _unfenced(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


# Links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_what_is_there(page: Path) -> None:
    """Fails if a file is renamed, or a heading, that a page leads to."""
    for link in links_of(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link} leads to no file"
        assert target.is_relative_to(ROOT), f"{page.name}: {link} leads out of the repository"
        if anchor:
            assert anchor in anchors_of(target), f"{page.name}: {link} leads to no heading"


def test_every_page_is_found() -> None:
    """Fails if a page is written to which no other leads."""
    found = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in PAGES
        for link in links_of(page)
        if link.partition("#")[0]
    }
    alone = [page.name for page in PAGES[1:] if page.resolve() not in found]
    assert not alone, f"no page leads to {', '.join(alone)}"


# Commands


class Parsed(BaseException):
    """Raised in a command's place, once its command line is read."""

    def __init__(self, given: argparse.Namespace, rest: list[str]) -> None:
        self.given, self.rest = given, rest


def commands_of(block: Block) -> Iterator[list[str]]:
    """The words of each command, without variables, comments, redirections and what follows."""
    variables: dict[str, str] = {}
    for line in block.text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(_with(variables, line), posix=True, punctuation_chars="();<>|&")
        lexer.whitespace_split = True
        words: list[str] = []
        file = False  # what follows > is no command
        for word in [*lexer, ";"]:
            if set(word) <= set("();<>|&"):
                if words and not file:
                    yield words
                words, file = [], bool({"<", ">"} & set(word))
            elif not words and (found := re.fullmatch(r"(\w+)=(.*)", word)):
                variables[found[1]] = found[2]
            else:
                words.append(word)


def _with(variables: dict[str, str], line: str) -> str:
    for name, value in variables.items():
        line = line.replace(f"${name}", value)
    return line


PRINTED = Block(claims.KEPT / "claims.toml", 1, "sh", "\n".join(claims.sources_of_printed()))
"""What is said to have printed the numbers that no file keeps."""
COMMANDS = [
    pytest.param(words, id=f"{block.name}: {' '.join(words)}")
    for block in [*BLOCKS, PRINTED]
    if block.language == "sh"
    for words in commands_of(block)
    if words[0] in ("lm", "make") or words[:2] == ["python", "-m"]
]


@pytest.mark.parametrize("words", COMMANDS)
def test_command_lines_are_legal(words: list[str], monkeypatch) -> None:
    """Fails if a page shows a command, an option, a run or a field that is not there."""
    match words:
        case ["lm", *arguments] | ["python", "-m", "lm", *arguments]:
            given, rest = _parse(cli.main, arguments, monkeypatch)
            _check(given, rest, Run())
        case ["python", "-m", name, *arguments]:
            module = importlib.import_module(name)
            if hasattr(module, "runs"):
                given, rest = _parse(lambda a: runner.main(module, a), arguments, monkeypatch)
                runs = module.runs(given.scale)
                _check(given, rest, next(iter(runs.values())))
                assert set(getattr(given, "run", None) or []) <= set(runs)
            elif hasattr(module, "__path__"):
                main = importlib.import_module(f"{name}.__main__").main
                if arguments:
                    given, rest = _parse(main, arguments, monkeypatch)
                    if hasattr(given, "study"):
                        _check(given, rest, _run_of(given.study, given.scale, ""))
            else:
                _parse(module.main, arguments, monkeypatch)
        case ["make", target, *_]:
            rules = (ROOT / "Makefile").read_text()
            assert re.search(rf"^{target}:", rules, re.MULTILINE), f"no make {target}"
        case _:
            pytest.fail(f"no command: {' '.join(words)}")


def _parse(main: Any, arguments: list[str], monkeypatch) -> tuple[argparse.Namespace, list]:
    """What a command reads of its command line; nothing of it is run."""
    read, depth = argparse.ArgumentParser.parse_known_args, 0

    def read_only(self: Any, args: Any = None, namespace: Any = None) -> Any:
        nonlocal depth
        depth += 1
        try:
            given, rest = read(self, args, namespace)
        finally:
            depth -= 1
        if not depth:
            raise Parsed(given, rest)
        return given, rest

    def refuse(self: argparse.ArgumentParser, message: str) -> NoReturn:
        pytest.fail(message)

    for parser in (argparse.ArgumentParser, *_below(argparse.ArgumentParser)):
        if "error" in vars(parser):
            monkeypatch.setattr(parser, "error", refuse)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", read_only)
    try:
        main(arguments)
    except Parsed as parsed:
        options = [word for word in parsed.rest if word.startswith("-")]
        assert not options, f"no such option: {options}"
        return parsed.given, parsed.rest
    raise AssertionError("no command line was read")


def _below(parser: type) -> list[type]:
    return [each for sub in parser.__subclasses__() for each in (sub, *_below(sub))]


def _check(given: argparse.Namespace, rest: list[str], base: Run) -> None:
    """That the run which is named is there, and that it has the fields which are set."""
    overrides = [*getattr(given, "overrides", []), *rest]
    command, name = getattr(given, "command", None), getattr(given, "run", None)
    if command in ("train", "prove", "plan"):
        if "=" in name:
            overrides.insert(0, name)
        elif name.endswith(".json") or name.isupper():  # stands for any run
            return _check_fields(overrides)
        elif name != "-":
            study, _, run = name.partition(":")
            study, _, scale = study.partition("/")
            base = _run_of(study, getattr(given, "scale", None) or scale, run)
    if command == "tokens":
        overrides = [e if e.startswith("data.") else f"data.{e}" for e in overrides]
    override(base, overrides)


def _check_fields(assignments: list[str]) -> None:
    """That some run has the fields which are set."""
    legal = {row.path.partition("=")[0] for row in field_rows(Run, "")}
    for assignment in assignments:
        path = assignment.partition("=")[0]
        assert path in legal, f"no run has a field {path}"


def _run_of(name: str, scale: str, run: str) -> Run:
    """The run of a study that is named, or its first; what is left out is any."""
    study = importlib.import_module(f"experiments.{name}")
    scales = [scale] if scale else study.SCALES
    for each in scales:
        assert each in study.SCALES, f"{name} has no scale {each}"
    runs = {key: value for each in scales for key, value in study.runs(each).items()}
    assert not run or run in runs, f"{name} has no run {run}"
    found: Run = runs[run] if run else next(iter(runs.values()))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_in_the_text_are_there(page: Path) -> None:
    """Fails if a page names a field, as `field.path=value`, that no run has."""
    codes = re.findall(r"`([^`]+)`", _unfenced(page))
    words = [word for code in codes for word in code.split()]
    fields = "|".join(Run.__struct_fields__)
    _check_fields([word for word in words if re.match(rf"({fields})(\.\w+)*=", word)])


# Python


@pytest.mark.parametrize(
    "block",
    [block for block in BLOCKS if block.language == "python"],
    ids=lambda block: block.name,
)
def test_python_is_legal(block: Block, monkeypatch) -> None:
    """Fails if an example imports what is not there. A file, with its docstring, is run."""
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                there = hasattr(importlib.import_module(node.module), alias.name)
                assert there, f"{node.module} has no {alias.name}"
    if ast.get_docstring(tree) is not None:
        module = types.ModuleType(f"example_of_line_{block.line}")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(compile(tree, block.name, "exec"), module.__dict__)
