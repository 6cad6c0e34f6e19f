"""Data sets of TensorFlow Datasets."""

import difflib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from lm.config import UserError
from lm.data.sources.base import Base


class Tfds(Base, frozen=True, tag="tfds"):
    """A TensorFlow data set in array_record files, through `tfds.data_source`."""

    name: Annotated[str, Meta(description="data set, with /config and :version if it has them")]
    split: Annotated[str, Meta(description="its split; both of our splits are cut from it")] = (
        "train"
    )
    text: Annotated[str, Meta(description="the feature that holds the text")] = "text"
    data_dir: Annotated[str | None, Meta(description="its folder; None: TFDS's default")] = None

    def files(self) -> list[tuple[str, Path]]:
        folder = Path(_data_source(self).dataset_info.data_dir)
        return sorted((path.name, path) for path in folder.iterdir())

    def contents(self) -> Iterator[tuple[str, int, bytes]]:
        source = _data_source(self)
        for start in range(0, len(source), 256):
            numbers = range(start, min(start + 256, len(source)))
            for number, record in zip(numbers, source.__getitems__(numbers), strict=True):
                text = record[self.text]
                content = text.encode() if isinstance(text, str) else bytes(text)
                yield f"{self.name}/{self.split}:{number}", 0, content

    @property
    def title(self) -> str:
        return self.name


def _data_source(corpus: Tfds) -> Any:
    import tensorflow_datasets as tfds  # half a second that other corpora need not wait

    try:
        builder = tfds.builder(
            corpus.name, data_dir=corpus.data_dir, file_format="array_record"
        )
    except tfds.core.DatasetNotFoundError:
        names = tfds.list_builders(with_community_datasets=False)
        if corpus.data_dir and os.path.isdir(corpus.data_dir):
            names += os.listdir(corpus.data_dir)
        close = difflib.get_close_matches(corpus.name, names, 3, 0.4) or names[:3]
        raise UserError(
            f"data.corpus.name: no data set {corpus.name}; nearest: {', '.join(close)}"
        ) from None
    try:
        builder.download_and_prepare()
    except Exception as error:  # whatever its author's code or the network raises
        raise UserError(
            f"data.corpus.name: TFDS cannot prepare {corpus.name} ({_line(error)})"
        ) from error
    features = sorted(builder.info.features)
    if corpus.text not in features:
        raise UserError(
            f"data.corpus.text: no feature {corpus.text}; it has {', '.join(features)}"
        )
    try:
        return builder.as_data_source(split=corpus.split)
    except ValueError as error:
        splits = ", ".join(sorted(builder.info.splits))
        raise UserError(
            f"data.corpus.split: {corpus.split} is none of {splits}, or a slice of one "
            f"({_line(error)})"
        ) from None
    except NotImplementedError as error:
        raise UserError(
            f"data.corpus.name: {corpus.name} is not in array_record files; prepare it with "
            f"--file_format=array_record ({_line(error)})"
        ) from None


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
