"""Data sets of Hugging Face's library: local folders, names in its cache or on its hub."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from lm.config import UserError
from lm.data.sources.base import Damaged
from lm.data.sources.records import Fielded


class HuggingFaceData(Fielded, frozen=True, tag="datasets"):
    """A data set that `datasets.load_dataset` reads, or that `save_to_disk` wrote.

    Both of our splits are cut from its `split`, unless `type=official` names another one to
    hold out. What is streamed lies in no file: it is read again for each tokenizer, and it is
    believed not to change, for which `revision` is.
    """

    path: Annotated[str, Meta(min_length=1, description="a folder, or a name as owner/name")]
    name: Annotated[str | None, Meta(description="which of its configurations")] = None
    split: Annotated[str, Meta(min_length=1, description="as train, or train[:10%]")] = "train"
    revision: Annotated[str | None, Meta(description="a commit or tag of it")] = None
    streaming: Annotated[bool, Meta(description="read it over the network, keep no copy")] = (
        False
    )

    def files(self) -> list[tuple[str, Path]]:
        if self.streaming:
            return []
        found = [Path(each["filename"]) for each in self._opened().cache_files]
        return sorted((path.name, path) for path in found)

    def records(self) -> Iterator[tuple[str, Mapping[str, Any]] | Damaged]:
        name = Path(self.path).name if Path(self.path).exists() else self.path
        found = self._opened()
        if self.text in (found.column_names or []):
            found = found.select_columns(self.columns)
        for number, fields in enumerate(found):
            yield f"{name}/{self.split}:{number}", fields

    @property
    def title(self) -> str:
        return self.path

    def _opened(self) -> Any:
        try:
            import datasets  # a second, for which no other source should wait
        except ImportError:
            raise UserError(
                "data.corpus.type=datasets needs datasets: pip install 'yardstick-lm[data]'"
            ) from None
        quiet = datasets.utils.logging.is_progress_bar_enabled()
        datasets.disable_progress_bars()
        try:
            return self._load(datasets)
        except Exception as error:  # whatever the library, its readers or the network raise
            why = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(f"data.corpus.path: {self.path}, {self.split}: {why}") from error
        finally:
            if quiet:
                datasets.enable_progress_bars()

    def _load(self, datasets: Any) -> Any:
        folder = Path(self.path).expanduser()
        if (folder / "dataset_dict.json").is_file():
            return datasets.load_from_disk(str(folder))[self.split]
        if (folder / "state.json").is_file():
            return datasets.load_from_disk(str(folder))
        path = str(folder) if folder.exists() else self.path
        return datasets.load_dataset(
            path,
            self.name,
            split=self.split,
            revision=self.revision,
            streaming=self.streaming,
        )
