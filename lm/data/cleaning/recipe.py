"""The recipe: which sources, which steps in which order, how many files."""

from typing import Annotated, Literal

from msgspec import Meta

from lm.config import Config, UserError
from lm.data.cleaning.c4 import C4
from lm.data.cleaning.decontaminate import Decontaminate
from lm.data.cleaning.exact import ExactCopies
from lm.data.cleaning.gopher import GopherQuality, GopherRepetition
from lm.data.cleaning.language import Language
from lm.data.cleaning.named import NamedCorpus
from lm.data.cleaning.near import Near
from lm.data.cleaning.pii import Pii

CleaningStep = (
    C4 | GopherQuality | GopherRepetition | Language | ExactCopies | Near | Decontaminate | Pii
)

Compression = Literal["gzip", "zstd"]


class Cleaning(Config, frozen=True):
    """What is read, what is done with it, and what is written."""

    sources: Annotated[
        tuple[NamedCorpus, ...],
        Meta(
            min_length=1, max_length=255, description="of equal texts the first source's stay"
        ),
    ]
    steps: Annotated[tuple[CleaningStep, ...], Meta(description="in their order")] = ()
    seed: Annotated[
        int, Meta(ge=0, lt=2**31, description="of MinHash, and of which samples are shown")
    ] = 0
    shards: Annotated[
        int, Meta(ge=1, le=100_000, description="files that are written, at most one a chunk")
    ] = 8
    compression: Annotated[
        Compression, Meta(description="of the files: .jsonl.gz, or .jsonl.zst")
    ] = "gzip"
    validation: Annotated[
        float,
        Meta(gt=0, lt=1, description="fraction held out, for what is said about the splits"),
    ] = 0.08

    def __post_init__(self) -> None:
        names = [each.name for each in self.sources]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"sources: two are called {name}; give each a name of its own")
        for each in self.sources:
            if each.corpus.channels:
                channels = ", ".join(channel.name for channel in each.corpus.channels)
                raise UserError(
                    f"sources: {each.name} has channels ({channels}); only texts are cleaned"
                )
