"""What every study trains, held as text: what differs from the defaults, and the defaults.

`python -m tests.experiments.test_golden` writes the settings of all studies to
tests/golden/studies.json anew.
"""

import hashlib
import importlib
import json
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

import experiments
import lm.data.cleaning.recipe
import lm.evaluate.tasks
import lm.generate
import lm.study.jobs  # noqa: F401 - with these, all settings that there are
from lm.config import Config, essence, validate_fields
from lm.config.convert import default_of
from lm.run import Run

GOLDEN = Path(__file__).parents[1] / "golden" / "studies.json"
Tree = dict[str, Any]
"""Settings by field, and those of a struct in it likewise."""


def defaults(kind: type[Config] = Config) -> dict[str, Tree]:
    """The default of each field of every struct of settings but bases, by the struct's name."""
    found = {}
    for each in kind.__subclasses__():
        if each.__module__.startswith("lm."):
            values = {f.encode_name: default_of(f) for f in msgspec.structs.fields(each)}
            known = {name: d for name, d in values.items() if d is not msgspec.NODEFAULT}
            plain = {name: essence(value) for name, value in known.items()}
            found |= {each.__name__: plain, **defaults(each)}
    return {name: known for name, known in sorted(found.items()) if known and name != "Base"}


def settings() -> dict[str, dict[str, Tree]]:
    """What is not as by default in every run of every study, by STUDY/SCALE and run.

    Runs of a variant, of all its sizes, tokens and seeds, are abridged, and so are all that are
    tuned on a task, which stand by STUDY/SCALE/TASK.
    """
    found: dict[str, dict[str, dict[str, Tree]]] = {}
    for module in pkgutil.iter_modules(experiments.__path__):
        study = importlib.import_module(f"experiments.{module.name}")
        for scale in getattr(study, "SCALES", ()):
            for name, run in study.runs(scale).items():
                title = f"{module.name}/{scale}{_tuned_on(name, run)}"
                alike = "" if title.count("/") > 1 else name.partition("-")[0]
                group = found.setdefault(title, {}).setdefault(alike, {})
                group[name] = essence(validate_fields(run))
    return {
        title: {name: tree for group in of.values() for name, tree in abridged(group).items()}
        for title, of in found.items()
    }


def abridged(runs: dict[str, Tree]) -> dict[str, Tree]:
    """The first of several, with the number and the digest of all; one that is alone as it is.

    >>> list(abridged({"a": {"seed": 1}, "b": {"seed": 2}, "c": {"seed": 3}}))
    ['a']
    """
    if len(runs) == 1:
        return runs
    digest = hashlib.sha256(json.dumps(runs).encode()).hexdigest()[:16]
    first = next(iter(runs))
    return {first: runs[first] | {"all": f"{len(runs)} runs, {digest}"}}


def _tuned_on(name: str, run: Run) -> str:
    """What a title says of tuned runs: their task, which most settings are of."""
    tuned = run.start is not None and not run.objective.predictions
    return f"/{name.split('-')[1]}" if tuned else ""


def shared(trees: Sequence[Tree]) -> Tree:
    """What all have alike.

    >>> shared([{"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1}, "d": 4}])
    {'a': {'b': 1}}
    """
    first, found = trees[0], {}
    for name, value in first.items():
        if all(name in tree and tree[name] == value for tree in trees):
            found[name] = value
        elif all(isinstance(tree.get(name), dict) for tree in trees):
            found |= {name: part} if (part := shared([tree[name] for tree in trees])) else {}
    return found


def beyond(tree: Tree, common: Tree) -> Tree:
    """What a tree has that `common`, a part of it, has not."""
    found = {}
    for name, value in tree.items():
        if name not in common:
            found[name] = value
        elif value != common[name]:
            found[name] = beyond(value, common[name])
    return found


def whole(common: Tree, rest: Tree) -> Tree:
    """The tree of which these are the parts."""
    found = dict(common)
    for name, value in rest.items():
        found[name] = whole(found[name], value) if name in found else value
    return found


def as_text(blocks: dict[str, dict[str, Tree]]) -> str:
    """A block a study and scale: what all its runs share, then a line for each run's own."""
    parts = [_block("defaults", {"of": defaults()})]
    for title, runs in blocks.items():
        common = shared(list(runs.values()))
        own = {name: beyond(run, common) for name, run in runs.items()}
        parts.append(_block(title, {"shared": common, "runs": own}))
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _block(title: str, parts: dict[str, Tree]) -> str:
    texts = []
    for name, values in parts.items():
        lines = [f'    "{field}": {json.dumps(value)}' for field, value in values.items()]
        texts.append("\n".join((f'   "{name}": {{', ",\n".join(lines), "   }")))
    return f'  "{title}": {{\n' + ",\n".join(texts) + "\n  }"


def from_text(text: str) -> dict[str, dict[str, Tree]]:
    """The settings again."""
    return {
        title: {name: whole(block["shared"], rest) for name, rest in block["runs"].items()}
        for title, block in json.loads(text).items()
        if title != "defaults"
    }


MEANT = (
    "settings changed; if that is meant, run `python -m tests.experiments.test_golden` and"
    f" commit {GOLDEN.name} with a line on why"
)


def test_the_defaults_are_unchanged():
    """Fails if a default changes, and with it every run that has it; a new field may come."""
    kept, now = json.loads(GOLDEN.read_text())["defaults"]["of"], defaults()
    changed = [
        f"{struct}.{field}"
        for struct, fields in kept.items()
        for field, value in fields.items()
        if now.get(struct, {}).get(field, "none") != value
    ]
    assert not changed, f"{MEANT}: {', '.join(changed)}"


def test_the_studies_settings_are_unchanged():
    """Fails if a plan changes: a study then finds something else than it did."""
    kept, now = from_text(GOLDEN.read_text()), settings()
    changed = [
        f"{title}: {name}"
        for title in sorted({*kept, *now})
        for name in {**kept.get(title, {}), **now.get(title, {})}
        if kept.get(title, {}).get(name) != now.get(title, {}).get(name)
    ]
    assert not changed, f"{MEANT}: {'; '.join(changed)}"


def test_no_setting_is_lost_in_the_text():
    """Fails if a run is not told from what it shares, so that its change goes unseen."""
    runs = {
        "a": {"data": {"batch": 1, "corpus": {"type": "text"}}, "tokens": 5},
        "b": {"data": {"batch": 2, "corpus": {"type": "text"}}, "tokens": 5},
        "c": {"data": {"batch": 2}},
    }
    blocks = {"one/smoke": runs, "two/smoke": {"a": runs["a"]}}
    assert from_text(as_text(blocks)) == blocks
    changed = runs | {"b": {"data": {"batch": 3}}}
    assert abridged(runs)["a"] != abridged(changed)["a"]
    assert json.loads(as_text(blocks))["two/smoke"]["runs"] == {"a": {}}
    assert GOLDEN.stat().st_size < 200_000


if __name__ == "__main__":
    GOLDEN.write_text(as_text(settings()))
    print(GOLDEN)
