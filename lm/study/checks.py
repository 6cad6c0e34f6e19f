"""What a report says of its runs before their numbers: what is missing, mixed or not equal."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from lm.config import read_json
from lm.results import compared
from lm.run import same_result
from lm.study.grid import StudyRun, scale_of, size_text
from lm.study.groups import Group
from lm.train.directory import environments

RunsByGroup = Mapping[str, Mapping[str, StudyRun]]
"""Cells that are compared, by variant, in rows of one size (and seed) each, by its name."""


def variant_rows(cells: Sequence[StudyRun]) -> dict[str, dict[str, StudyRun]]:
    """Cells that differ in the variant alone, by what else their names say."""
    rows: dict[str, dict[str, StudyRun]] = {}
    for cell in cells:
        variant, _, rest = cell.name.partition("-")
        rows.setdefault(rest, {})[variant] = cell
    return rows


def objective_rows(cells: Sequence[StudyRun]) -> dict[str, dict[str, StudyRun]]:
    """Cells of variants called TEXT_OBJECTIVE that differ in the objective alone."""
    rows: dict[str, dict[str, StudyRun]] = {}
    for cell in cells:
        variant, _, rest = cell.name.partition("-")
        text, _, objective = variant.rpartition("_")
        rows.setdefault(f"{text}-{rest}", {})[objective] = cell
    return rows


def seed_rows(groups: Iterable[Group]) -> dict[str, dict[str, StudyRun]]:
    """The runs that are compared: those of one size and one seed, by group."""
    rows: dict[str, dict[str, StudyRun]] = {}
    for group in groups:
        for cell in group.cells:
            row = f"{size_text(group.size)}, seed {cell.run.seed}"
            rows.setdefault(row, {})[group.name] = cell
    return rows


def violations(rows: RunsByGroup, varied: Collection[str] = ()) -> tuple[str, ...]:
    """Warnings about what was to be equal and is not."""
    broken = [check for check in checks_of(rows, varied) if check["verdict"] == "no"]
    return tuple(
        f"Not equal between the variants, though it was to be: {check['what']}"
        f" ({check['detail']})."
        for check in broken
    )


def missing(cells: Sequence[StudyRun]) -> tuple[str, ...]:
    """A warning about runs that are not finished."""
    names = [cell.name for cell in cells if cell.result is None]
    if not names:
        return ()
    return (
        f"Not finished, and left out of every comparison: {len(names)} of {len(cells)} runs"
        f" ({', '.join(names)}). The same command goes on where it stopped.",
    )


_FOLLOWS = {
    "params_total": ("model", "data"),
    "steps": ("tokens", "data"),
    "tokens": ("tokens", "data"),
    "tokenizer_digest": ("data",),
    "batches_digest": ("tokens", "data"),
}
"""Which settings decide a column of what is compared, beside the seed."""


def checks_of(rows: RunsByGroup, varied: Collection[str] = ()) -> list[dict[str, str]]:
    """What is to be equal between the runs of each row, whether it is, and the values.

    `varied` are settings that the variants are to differ in, beside objective and start: what
    follows from them need not be equal.
    """
    finished = {name: [c for c in row.values() if c.result] for name, row in rows.items()}
    finished = {name: row for name, row in finished.items() if row}
    several = any(len(row) > 1 for row in finished.values())
    checks = []
    for key, column in compared("equal").items():
        values = {
            name: list(dict.fromkeys((cell.result or {})[key] for cell in row))
            for name, row in finished.items()
        }
        equal = all(len(found) == 1 for found in values.values())
        texts: dict[str, list[str]] = {}
        for name, found in values.items():
            texts.setdefault(" ≠ ".join(map(column.show, found)), []).append(name)
        if len(texts) == 1:
            detail = next(iter(texts))
        else:
            detail = "; ".join(f"{text} at {', '.join(at)}" for text, at in texts.items())
        follows = not equal and any(name in varied for name in _FOLLOWS.get(key, ()))
        verdict = VARIED if follows else _verdict(equal, several)
        checks.append({"what": column.title, "verdict": verdict, "detail": detail})
    fields = sorted(
        {
            name
            for row in rows.values()
            for cell in row.values()
            for name in same_result(next(iter(row.values())).run, cell.run)
        }
        - {"objective", "start", *varied}
    )
    what = "objective and start differ" if _starts(rows) else "the objective differs"
    if varied:
        what = f"the objective and what is varied ({', '.join(varied)}) differ"
    detail = f"differ: {', '.join(fields)}" if fields else f"only {what}"
    verdict = _verdict(not fields, several)
    return [*checks, {"what": "all other settings", "verdict": verdict, "detail": detail}]


VARIED = "no, it is varied"
"""What is said of what differs as it was to."""


def _starts(rows: RunsByGroup) -> bool:
    """Whether what is compared starts from other models, which is then what it is about."""
    return any(cell.run.start is not None for row in rows.values() for cell in row.values())


def _verdict(equal: bool, compared: bool) -> str:
    if not equal:
        return "no"
    return "yes" if compared else "one variant only"


def made(study: str, cells: Sequence[StudyRun]) -> dict[str, str]:
    """The command, and what the run directories say about machine and data."""
    directory = cells[0].directory.parent
    scale = scale_of(directory)
    changed = scale != directory.name
    command = f"python -m experiments.{study} --scale {scale}"
    made = {"command": command + (" with changed settings (config.json)" if changed else "")}
    return made | {key: _listed(values) for key, values in _circumstances(cells).items()}


def mixed(cells: Sequence[StudyRun]) -> tuple[str, ...]:
    """Warnings about runs, or parts of one, that other code, devices or texts have made."""
    found = {
        key: values
        for key, values in _circumstances(cells).items()
        if key not in _BY_DESIGN and len(values) > 1
    }
    for cell in cells:
        if digest := (cell.result or {}).get("corpus_digest"):
            texts = found.setdefault(f"text of {cell.run.data.corpus}", {})
            texts.setdefault(f"{digest[:12]}…", []).append(cell.name)
    return tuple(
        f"Not the same for all runs: {key}: {_listed(values)}."
        for key, values in found.items()
        if len(values) > 1
    )


_BY_DESIGN = ("mesh", "hosts", "train", "validation", "row_tokens")
"""What may differ between runs and change nothing, or follows from their settings."""
_NOT_LISTED = ("step", "checkpoints", "components")
"""What is of a moment, or has a table of its own."""


def _count(number: Any) -> str:
    """A number as it is said; whatever else is there by someone's hand, as it is."""
    return f"{number:,}" if isinstance(number, int) else str(number)


def _circumstances(cells: Sequence[StudyRun]) -> dict[str, dict[str, list[str]]]:
    """All that run directories say about machine, code and data: by key and value, which runs.

    A run that went on elsewhere, or by other code, has several values.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for cell in [cell for cell in cells if cell.result] or cells:
        path = cell.directory / "data.json"
        data = [read_json(path)] if path.exists() else []
        for about in [*environments(cell.directory), *data]:
            for key, value in about.items():
                if value is None or key in _NOT_LISTED or key.endswith("_digest"):
                    continue
                if isinstance(value, dict):
                    text = ", ".join(f"{_count(n)} {what}" for what, n in value.items())
                else:
                    text = str(value)
                names = found.setdefault(key, {}).setdefault(text, [])
                if cell.name not in names:
                    names.append(cell.name)
    return found


def _listed(values: Mapping[str, Sequence[str]]) -> str:
    """Values, and where there are several, which runs have each.

    >>> _listed({"a": ["x", "y"]}), _listed({"a": ["x"], "b": ["x", "y", "z", "w"]})
    ('a', 'a (x); b (4 runs)')
    """
    if len(values) == 1:
        return next(iter(values))
    return "; ".join(
        f"{value} ({', '.join(names) if len(names) < 4 else f'{len(names)} runs'})"
        for value, names in values.items()
    )
