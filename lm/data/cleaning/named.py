"""A corpus with a name, by which counts and reports call it."""

from typing import Annotated

from msgspec import Meta

from lm.config import Config
from lm.data.sources import Corpus


class NamedCorpus(Config, frozen=True):
    """A corpus with a name."""

    name: Annotated[str, Meta(min_length=1, description="what reports call it")]
    corpus: Annotated[Corpus, Meta(description="where its documents come from")]
