"""The source files of Python's standard library."""

import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from lm.data.sources.base import Base


class Stdlib(Base, frozen=True, tag="stdlib"):
    """The source files of the Python that runs this, a document a file; ids are paths.

    Left out: tests; near-duplicates, which would leak across a split by hash (the tables of
    `encodings`, the three compilers of `distutils`, the copied tokenizer of `lib2to3`); the
    machine's own build settings; and what is not UTF-8.
    """

    def files(self) -> list[tuple[str, Path]]:
        root = Path(sysconfig.get_paths()["stdlib"])
        files = []
        for folder, subfolders, names in os.walk(root):
            left_out = _NOT_LIBRARY | _NEAR_DUPLICATES
            subfolders[:] = [
                name
                for name in subfolders
                if name not in left_out and not name.startswith("config-")
            ]
            for name in names:
                if name.endswith(".py") and not name.startswith("_sysconfigdata"):
                    path = Path(folder, name)
                    files.append((path.relative_to(root).as_posix(), path))
        return sorted(files)

    def contents(self) -> Iterator[tuple[str, int, bytes]]:
        for id, path in self.files():
            content = path.read_bytes()
            try:
                content.decode()
            except UnicodeDecodeError:
                continue  # the user cannot mend it, unlike a file that they named
            yield id, 0, content

    @property
    def title(self) -> str:
        return "Python's standard library"


_NOT_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
_NEAR_DUPLICATES = {"encodings", "distutils", "lib2to3"}
