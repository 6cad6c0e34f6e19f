"""What runs, wherever it runs: a study at a scale, at a commit."""

import ast
import hashlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tpu.errors import UserError, nearest

ROOT = Path(__file__).parents[1]


class Study(NamedTuple):
    """A study at a scale, with what is overridden."""

    study: str
    scale: str
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        """The same for the same study, so that a second launch finds the first.

        >>> Study("bert_vs_gpt", "v5e-16", ()).name
        'yardstick-bert-vs-gpt-v5e-16'
        """
        words = re.sub("[^a-z0-9]+", "-", f"yardstick-{self.study}-{self.scale}".lower())
        if not self.overrides:
            return words
        # Another experiment, whatever the order in which it was written.
        text = "\n".join(sorted(self.overrides))
        return f"{words}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"

    def arguments(self, runs: str) -> list[str]:
        """What follows `python`; runs are kept under `runs`."""
        module = f"experiments.{self.study}"
        return ["-m", module, "--scale", self.scale, "--runs", runs, *self.overrides]


def find(study: str, scale: str, overrides: list[str], root: Path = ROOT) -> Study:
    """The study, if its file and its scale exist and the overrides are written as such."""
    folder = root / "experiments"
    studies = {}
    for path in sorted(folder.glob("[!_]*.py")):
        if found := scales(path):
            studies[path.stem] = found
    if study not in studies:
        raise UserError(f"{study}: no such study; {nearest(study, studies)}")
    if scale not in studies[study]:
        raise UserError(f"--scale {scale}: not of {study}; {nearest(scale, studies[study])}")
    for override in overrides:
        if not re.fullmatch(r"[a-z_]\w*(\.\w+)*=.*", override) or not override.isprintable():
            raise UserError(f"{override!a}: not an override; write field.path=value")
    return Study(study, scale, tuple(overrides))


def scales(path: Path) -> tuple[str, ...]:
    """The `SCALES` of a study's file, read without importing it, as that would import jax.

    They are a tuple or list of strings, or `tuple(PLANS)` where `PLANS` is a dictionary whose
    keys are strings. Empty if the file has none.
    """
    values: dict[str, ast.expr] = {}
    for statement in ast.parse(path.read_text(), str(path)).body:
        if isinstance(statement, ast.Assign):
            targets, value = statement.targets, statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value:
            targets, value = [statement.target], statement.value
        else:
            continue
        values |= {target.id: value for target in targets if isinstance(target, ast.Name)}
    value = values.get("SCALES", ast.Tuple(elts=[]))
    if isinstance(value, ast.Call) and len(value.args) == 1:
        (value,) = value.args
    if isinstance(value, ast.Name):
        value = values.get(value.id, value)
    found = {ast.Dict: "keys", ast.Tuple: "elts", ast.List: "elts"}.get(type(value))
    names = [
        item.value if isinstance(item, ast.Constant) else None
        for item in (getattr(value, found) if found else [None])
    ]
    strings = tuple(name for name in names if isinstance(name, str))
    if len(strings) != len(names):
        raise UserError(f"{path}: SCALES must be strings, or tuple(a dictionary by strings)")
    return strings


def check(study: Study, slice_: str, slices: int) -> str:
    """What the study would take on such slices, in a line; raises UserError if it cannot run.

    The study itself is asked, in a process of its own: nothing here knows its settings.
    """
    if importlib.util.find_spec("jax") is None:
        return "no jax here, so the settings are not checked"
    arguments = ["-m", f"experiments.{study.study}", "--scale", study.scale, "--cost", slice_]
    done = subprocess.run(
        [sys.executable, *arguments, "--slices", str(slices), *study.overrides],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise UserError(f"{study.study}: {last.removeprefix('lm: ')}")
    return done.stdout.strip()


def commit(root: Path = ROOT) -> str:
    """The commit that is checked out; a changed working tree is refused, as it has no name."""
    if changed := _git(root, "status", "--porcelain").decode().splitlines():
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise UserError(
            f"{changed[0][3:]}{more}: not committed; what runs must be a commit, so that it can"
            " be named and run again"
        )
    return _git(root, "rev-parse", "HEAD").decode().strip()


def bundle(root: Path = ROOT) -> bytes:
    """The commit with its history, as `git fetch` takes it; a host's git checks every byte."""
    return _git(root, "bundle", "create", "--quiet", "-", "HEAD")


def _git(root: Path, *arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True)
    except OSError as error:
        raise UserError(f"git: {error.strerror}") from None
    if done.returncode:
        raise UserError(f"git {arguments[0]}: {' '.join(done.stderr.decode().split())}")
    return done.stdout
