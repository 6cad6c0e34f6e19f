"""Images of handwritten digits, a token a pixel."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lm.config import UserError
from lm.data.sources.base import Base, Channel, Document, Stretch
from lm.data.sources.jsonl import LABEL, NO_LABEL

SIDE = 8
"""Pixels of a side."""
GREYS = "0123456789abcdefg"
"""What stands for a grey level, from paper to ink."""


class Digits(Base, frozen=True, tag="digits"):
    """The 1,797 images that come with scikit-learn, 8 by 8 pixels of 17 grey levels.

    A document is an image: a letter a pixel, row by row, so that with a token a byte there is
    one a pixel, and bits per byte are bits per pixel. The channel `label` says which digit it
    is. They are the test part of Alpaydin and Kaynak's set (1998; UCI, optdigits).
    """

    row_length: ClassVar[int] = SIDE**2 + 2
    """The row length (L) at which every row is one image in bytes."""

    def read(self) -> Iterator[Document]:
        """An image a document; raises UserError where scikit-learn is not installed."""
        images_NHW, labels_N = _load()
        for number, (image_HW, label) in enumerate(zip(images_NHW, labels_N, strict=True)):
            text = text_of_image(image_HW)
            stretch = Stretch(text, {LABEL: int(label)})
            yield Document(f"digits:{number:04}", text, (stretch,))

    def files(self) -> list[tuple[str, Path]]:
        sklearn = _sklearn()
        return [("digits", Path(sklearn.__file__).with_name("data") / "digits.csv.gz")]

    @property
    def channels(self) -> tuple[Channel, ...]:
        return (Channel(LABEL, "int32", fill=NO_LABEL, classes=10),)

    @property
    def title(self) -> str:
        return "scikit-learn's images of digits"

    @property
    def expected_documents(self) -> int:
        return 1797


def text_of_image(image_HW: np.ndarray) -> str:
    """An image of whole grey levels as text, a letter a pixel.

    >>> text_of_image(np.array([[0, 9], [16, 10]]))
    '09ga'
    """
    return "".join(GREYS[int(level)] for level in image_HW.ravel())


def image_of_text(text: str) -> np.ndarray:
    """The image that a text is, int[8, 8]; what is no grey level, or is missing, is -1.

    >>> image_of_text("0g" * 31 + "?")[-1].tolist()
    [0, 16, 0, 16, 0, 16, -1, -1]
    """
    levels = [GREYS.find(letter) for letter in text[: SIDE**2]]
    levels += [-1] * (SIDE**2 - len(levels))
    return np.array(levels).reshape(SIDE, SIDE)


def _load() -> tuple[np.ndarray, np.ndarray]:
    found = _sklearn().load_digits()
    return found.images.astype(int), found.target


def _sklearn() -> Any:
    """The part of scikit-learn that has them."""
    try:
        import sklearn.datasets
    except ImportError:
        raise UserError(
            "data.corpus.type=digits: its images come with scikit-learn; pip install"
            " 'yardstick-lm[digits]'"
        ) from None
    return sklearn.datasets
