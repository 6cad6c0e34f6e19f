"""Files are written whole or not at all."""

import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

from lm.config import UserError


def write_whole(path: Path | None, content: bytes | str) -> None:
    """Writes a file whole or not at all, at a link's end; nothing where no path was given.

    Others may write it at the same time. Raises OSError where the file system refuses, and
    leaves nothing of a part.
    """
    if path is None:
        return
    path = path.resolve()
    content = content.encode() if isinstance(content, str) else content
    # A name may be as long as names can be, and threads may write one file.
    temporary = path.with_name(f".{os.getpid()}-{threading.get_native_id()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_exists(path: Path, hint: str = "") -> None:
    """Raises UserError, in the same words in every command, where nothing has this name."""
    if not path.exists():
        raise UserError(f"{path}: no such file or directory{hint}")


def check_outputs(outputs: Mapping[str, Path | None], made_of: Iterable[Path | None]) -> None:
    """Refuses, before anything is computed, files that cannot be written, by their options.

    What is made is renamed over what was there, so that must be a file, and none of those that
    it is made of. Raises UserError.
    """
    taken = {path.resolve(): "the file it is made of" for path in made_of if path}
    for option, path in outputs.items():
        if path is None:
            continue
        if not path.parent.is_dir():
            raise UserError(f"{option} {path}: there is no directory {path.parent}")
        if path.exists() and not path.is_file():
            raise UserError(f"{option} {path}: is there, and no file")
        if path.resolve() in taken:
            raise UserError(f"{option} {path}: would be written over {taken[path.resolve()]}")
        taken[path.resolve()] = option
