"""The house: what may stand where, and what may not stand at all."""

import ast
import configparser
import re
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "lm").rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def test_no_folder_takes_what_is_private_to_another():
    """Fails if a name with an underscore is imported from another folder."""
    crossed = []
    for path in [*SOURCES, *sorted((ROOT / "experiments").rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or not node.module:
                continue
            private = [alias.name for alias in node.names if alias.name.startswith("_")]
            folder = ".".join(path.relative_to(ROOT).parts[:-1])
            if private and not f"{node.module}.".startswith(f"{folder}."):
                crossed.append(f"{path.relative_to(ROOT)}: {node.module}.{private[0]}")
    assert not crossed


ALIKE = {
    "Base",  # a contract in each folder
    "Run",  # Runs is a table of finished ones
    "Tracker",  # Trackers are those of a session
}
"""Public types that stand in two files, or differ in an s alone, on purpose."""


def types_of(path: Path) -> set[str]:
    """The public classes and type aliases of a file."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {name for name in names if re.match("[A-Z]+[a-z]", name)}


def test_no_two_public_types_are_alike():
    """Fails if one word, or a word and its plural, means two things in two files or in one."""
    places = defaultdict(set)
    for path in SOURCES:
        for name in types_of(path):
            places[name.removesuffix("s")].add(f"{module_of(path)}.{name}")
    twice = {name: sorted(found) for name, found in places.items() if len(found) > 1}
    assert set(twice) == ALIKE, twice


def test_no_two_functions_that_are_taken_by_name_are_alike():
    """Fails if a bare call means one function here, and another of the same name there."""
    homes = defaultdict(set)
    for path in [*SOURCES, *sorted((ROOT / "experiments").rglob("*.py"))]:
        folder = ".".join(path.relative_to(ROOT).parts[:-1])
        for node in ast.walk(ast.parse(path.read_text())):
            module = getattr(node, "module", None) or ""
            # Files of a package may take from each other what each has of its own: `attend`.
            if not module.startswith("lm.") or f"{module}.".startswith(f"{folder}."):
                continue
            for alias in node.names:
                is_module = (ROOT / module.replace(".", "/") / f"{alias.name}.py").exists()
                if alias.asname is None and alias.name.islower() and not is_module:
                    homes[alias.name].add(module)
    twice = {name: sorted(found) for name, found in homes.items() if len(found) > 1}
    assert not twice
    assert homes["open_tokens"] == {"lm.data"}  # or the test reads nothing


def test_nothing_names_the_machine_that_it_was_made_on():
    """Fails if a path of somebody's machine is in the repository."""
    names = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    foreign = re.compile(r"/(?:home|Users|root|work|mnt)/\w+/")
    found = []
    for name in names:
        path = ROOT / name
        if (
            path.suffix in (".png", ".npz")
            or name == Path(__file__).relative_to(ROOT).as_posix()
        ):
            continue
        if path.is_file() and (where := foreign.search(path.read_text(errors="replace"))):
            found.append(f"{name}: {where[0]}")
    assert not found


def test_an_extra_has_code_behind_it():
    """Fails if an extra installs what no line of the package imports."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = dict(config["options.extras_require"])
    text = "\n".join(path.read_text() for path in [*SOURCES, *(ROOT / "tpu").rglob("*.py")])
    # jax itself takes these where it finds them.
    platforms = {"tpu", "plan", "cuda", "cuda12"}
    for name in extras.keys() - platforms - {"test"}:
        packages = [line for line in extras[name].splitlines() if line and line[0] != "#"]
        for package in packages:
            imported = re.split(r"[<>=\[ ]", package)[0].replace("-", "_")
            imported = {"google_cloud_tpu": "google.cloud", "scikit_learn": "sklearn"}.get(
                imported, imported
            )
            assert re.search(rf"\b{re.escape(imported)}\b", text), f"{name}: {package}"


@pytest.mark.parametrize("path", [*SOURCES], ids=lambda path: module_of(path))
def test_a_file_is_read_in_a_sitting(path):
    """Fails if a file grows beyond what one reads top to bottom."""
    assert len(path.read_text().splitlines()) <= 550


def test_the_top_of_the_package_is_the_story():
    """Fails if files heap up at the top."""
    top = {path.name for path in (ROOT / "lm").glob("*.py")}
    assert top == {
        "__init__.py",
        "__main__.py",
        "artifact.py",
        "cli.py",
        "example.py",
        "loss.py",
        "numerics.py",
        "run.py",
    }
