"""Items from files: jsonl, json and tsv, in a folder or in archives that lie in it."""

import fnmatch
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm.config import UserError
from lm.data.tables import ARCHIVES, read_archive, read_lines
from lm.evaluate.tasks.base import EVERY_CONFIG, TASKS_VARIABLE, HubFiles, Item, Task


def read_items(
    task: Task,
    folder: Path | None,
    *,
    of: Sequence[str] | None = None,
    hub: HubFiles | None = None,
    most: int | None = None,
    split: str | None = None,
) -> list[Item]:
    """The items of a task's files (or of the files `of`), at most so many of each file.

    They lie in the folder, or in an archive in it that is named like their first folder: files
    `glue/SST-2/dev.tsv` may stand in `glue.tar.xz`. Where no folder is named, and the task is
    one of the hub's, `datasets` reads it, if that is installed. Raises UserError where there is
    nothing, or a line is no item.
    """
    patterns = task.files if of is None else tuple(of)
    found = matching(folder, patterns)
    there = None
    if folder is None and not found and hub is not None:
        there = _from_hub(hub, split or hub.split, most)
    if there is not None:
        items = [Item(fields, _group(task, fields), place) for fields, place in there]
    elif not found:
        raise _absent(folder, patterns, hub)
    else:
        items = []
        for name, content in found:
            lines = read_lines(name, content, task.names)
            for number, (place, fields) in enumerate(lines):
                if most is not None and number >= most:
                    break
                items.append(Item(fields, _group(task, fields), place))
    for item in items:
        task.check(item)
    if not items:
        raise UserError(f"{' '.join(patterns)}: no items")
    return items


def read_beside(folder: Path | None, patterns: Sequence[str]) -> list[tuple[str, bytes]]:
    """Names and contents of files that stand beside a task's items.

    They lie as those of items do. Raises UserError where there is none.
    """
    if not (found := matching(folder, patterns)):
        raise _absent(folder, patterns, None)
    return found


_NAMED = f"name the folder that has it with --data or {TASKS_VARIABLE}"


def _absent(folder: Path | None, patterns: Sequence[str], hub: HubFiles | None) -> UserError:
    where = f"nothing in {folder}" if folder is not None else "no folder of tasks is named"
    hint = ", or install `datasets`, which reads it from the hub" if hub else ""
    return UserError(f"{' '.join(patterns)}: {where}; {_NAMED}{hint if not folder else ''}")


def _group(task: Task, fields: Any) -> str:
    return "/".join(str(fields.get(name, "")) for name in task.group)


def matching(folder: Path | None, patterns: Sequence[str]) -> list[tuple[str, bytes]]:
    """Names and contents of the files that match, in the order of their names."""
    found: dict[str, bytes] = {}
    for pattern in patterns:
        if pattern.startswith("!"):
            continue
        # A name that begins at the root says by itself where it is.
        root = Path("/") if pattern.startswith("/") else folder
        if root is None:
            continue
        inner = pattern.lstrip("/")
        archives = [root / f"{inner.split('/')[0]}{ending}" for ending in ARCHIVES]
        try:
            files = [path for path in sorted(root.glob(inner)) if path.is_file()]
            found |= {path.relative_to(root).as_posix(): path.read_bytes() for path in files}
            archive = None if files else next(filter(Path.is_file, archives), None)
        except OSError as error:
            raise UserError(f"{error.filename or pattern}: {error.strerror}") from None
        except (ValueError, NotImplementedError) as error:
            raise UserError(f"{pattern!r}: {error}") from None
        if archive is not None:
            there = read_archive(str(archive))
            found |= {name: there[name] for name in fnmatch.filter(there, inner)}
    left_out = {
        name
        for pattern in patterns
        if pattern.startswith("!")
        for name in fnmatch.filter(found, pattern[1:].lstrip("/"))
    }
    return sorted((name, found[name]) for name in found.keys() - left_out)


def _from_hub(
    hub: HubFiles, split: str, most: int | None
) -> list[tuple[dict[str, Any], str]] | None:
    """Items as `datasets` reads them; None where that is not installed."""
    try:
        import datasets
    except ImportError:
        return None
    found = []
    place = hub.name
    try:
        configs = hub.configs or (None,)
        if configs == EVERY_CONFIG:
            configs = datasets.get_dataset_config_names(hub.name)
        for config in configs:
            place = f"{hub.name}/{config}" if config else hub.name
            rows = datasets.load_dataset(hub.name, config, split=split)
            for number, row in enumerate(itertools.islice(rows, most), 1):
                place = f"{hub.name}/{config}:{number}" if config else f"{hub.name}:{number}"
                found.append((dict(hub.item(row)), place))
    except Exception as error:  # of many types, of network, of files and of rows
        why = next(iter(str(error).splitlines()), "")
        what = f"{place}: {type(error).__name__}: {why}".rstrip(": ")
        raise UserError(f"{what}; {_NAMED}") from None
    return found
