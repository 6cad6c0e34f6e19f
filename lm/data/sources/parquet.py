"""Parquet files: of each row group the columns that are asked for, the next ones read ahead."""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from lm.config import UserError
from lm.config.types import nearest_of
from lm.data.sources.base import Damaged
from lm.data.sources.records import Fielded
from lm.data.sources.text import find_files

_AHEAD = 2
"""Row groups that are read while one is taken apart."""
_ROWS = 1024
"""Rows that become Python's values at once."""


class Parquet(Fielded, frozen=True, tag="parquet"):
    """Rows of parquet files, a document a row."""

    paths: Annotated[tuple[str, ...], Meta(min_length=1, description="files or globs (** too)")]

    def files(self) -> list[tuple[str, Path]]:
        return find_files(self.paths)

    def records(self) -> Iterator[tuple[str, Mapping[str, Any]] | Damaged]:
        for name, path in self.files():
            yield from self._rows(name, path)

    def _rows(self, name: str, path: Path) -> Iterator[tuple[str, Mapping[str, Any]] | Damaged]:
        arrow, parquet = _libraries()
        try:
            with parquet.ParquetFile(path) as file:
                schema, groups = file.schema_arrow, file.num_row_groups
                sizes = [file.metadata.row_group(group).num_rows for group in range(groups)]
        except (arrow.ArrowException, OSError) as error:
            yield Damaged(name, f"no parquet file: {_line(error)}")
            return
        wanted = []
        for path_of in self.columns:
            column = path_of if path_of in schema.names else path_of.partition(".")[0]
            if column not in schema.names:
                yield Damaged(name, f"no field {path_of}; {nearest_of(column, schema.names)}")
                return
            wanted.append(column)

        def read(group: int) -> Any:
            # A file of its own, as one is not to be read by two threads.
            with parquet.ParquetFile(path) as file:
                return file.read_row_group(group, wanted, use_threads=False)

        first = 0
        with ThreadPoolExecutor(_AHEAD) as pool:
            waiting = deque(pool.submit(read, group) for group in range(min(_AHEAD, groups)))
            for group in range(groups):
                try:
                    table = waiting.popleft().result()
                except (arrow.ArrowException, OSError) as error:
                    yield Damaged(f"{name}:{first + 1}", f"damaged row group: {_line(error)}")
                    table = None
                if (ahead := group + _AHEAD) < groups:
                    waiting.append(pool.submit(read, ahead))
                for batch in [] if table is None else table.to_batches(_ROWS):
                    for number, fields in enumerate(batch.to_pylist(), first + 1):
                        yield f"{name}:{number}", fields
                    first += len(batch)
                first = sum(sizes[: group + 1])


def _libraries() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(
            "data.corpus.type=parquet needs pyarrow: pip install 'yardstick-lm[data]'"
        ) from None
    return pyarrow, parquet


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
