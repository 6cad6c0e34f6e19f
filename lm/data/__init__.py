"""Documents to tokens to rows: the host's side, in numpy; it never sees an objective."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, partial
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from lm.config import Config, Count, UserError
from lm.data.batches import (
    Batches,
    Packing,
    most_content,
    n_rows,
    places,
    read_ahead,
    row_tokens,
    rows,
    unique_rows,
)
from lm.data.cache import log
from lm.data.corpora import Digest, Survey, forget, fraction_of, is_held_out, survey
from lm.data.lengths import LengthModel
from lm.data.mixture import (
    AnyCorpus,
    Component,
    ComponentRead,
    Official,
    Supply,
    TextMixture,
    Weights,
    of_component,
    turns_of,
)
from lm.data.sources import (
    LOSS,
    Channel,
    Chat,
    Conversation,
    Corpus,
    Digits,
    Document,
    Hmm,
    Jsonl,
    NeighbourPairs,
    RuleLists,
    Stdlib,
    Stretch,
    Tabular,
    Text,
    Tfds,
)
from lm.data.split import Split, join
from lm.data.store import VERSION, Key, in_memory, open_store
from lm.data.tokenizers import (
    Bytes,
    SentencePiece,
    Tokenizer,
    TokenizerConfig,
    load_tokenizer,
    open_tokenizer,
    save_tokenizer,
    vocabulary_size,
)


class Data(Config, frozen=True):
    """What is read, how it is cut into tokens and rows."""

    corpus: Annotated[AnyCorpus, Meta(description="where documents come from")] = Stdlib()
    tokenizer: Annotated[TokenizerConfig, Meta(description="text to tokens")] = SentencePiece()
    length: Annotated[int, Meta(ge=2, description="positions of a row (L)")] = 256
    batch: Annotated[int, Meta(ge=1, description="rows of a step, over all hosts (B)")] = 32
    validation: Annotated[
        float, Meta(gt=0, lt=1, description="fraction of the documents that is held out")
    ] = 0.08
    unique: Annotated[
        Count | None, Meta(description="tokens of the training text that are read; null: all")
    ] = None
    packing: Annotated[
        Packing,
        Meta(
            description="rows are cut from the stream of documents, or hold whole ones, or"
            " one each"
        ),
    ] = "stream"


@dataclass(frozen=True, eq=False)
class Tokens:
    """A corpus, tokenized and split."""

    tokenizer: Tokenizer
    train: Split
    validation: Split
    corpus_digest: str
    tokenizer_digest: str

    @cached_property
    def lengths(self) -> LengthModel:
        """How long the training documents are, which pays for the layout of held-out ones."""
        # The bos token is never asked for.
        return LengthModel.fit(self.train.sizes() - 1)

    def row_tokens(self, data: Data) -> float:
        """Tokens of a training row that are no padding, on average.

        Of a mixture by the weights that it begins with.
        """
        if not isinstance(data.corpus, TextMixture) or data.packing == "stream":
            return row_tokens(self.train, data.length, data.packing)
        supplies = self.supplies(data)
        first = turns_of(data.corpus, supplies, Fraction(data.batch), 0).phases[0]
        each = zip(first.weights, supplies, strict=True)
        return float(sum(weight * supply.row_tokens for weight, supply in each))

    def supplies(self, data: Data) -> list[Supply]:
        """What there is of each component of a mixture to train on."""
        return [
            Supply(
                n_rows(part, data.length, data.packing),
                Fraction(row_tokens(part, data.length, data.packing)),
            )
            for part in self.train.parts
        ]

    def consumed(
        self, data: Data, seed: int, steps: int, copies: int = 1
    ) -> dict[str, ComponentRead]:
        """What a run of so many steps reads of each component of a mixture; {} of no mixture.

        Raises UserError where components end before it does.
        """
        batches, read = self.batches(data, seed, copies), steps * data.batch // copies
        if batches.turns is None or not isinstance(data.corpus, TextMixture):
            return {}
        if batches.turns.end is not None and read > batches.turns.end[0]:
            raise UserError(batches.turns.end[1])
        return {
            component.name: ComponentRead(
                round(count * copies * supply.row_tokens),
                count / supply.rows,
                round(min(count, supply.rows) * supply.row_tokens),
                round(Fraction(min(count, supply.rows), supply.rows) * part.text_bytes),
            )
            for component, part, supply, count in zip(
                data.corpus.components,
                self.train.parts,
                self.supplies(data),
                batches.turns.counts(read),
                strict=True,
            )
        }

    def batches(self, data: Data, seed: int, copies: int = 1) -> Batches:
        """What a run of these settings is trained on, each row `copies` times."""
        vocabulary, turns = self.tokenizer.vocabulary, None
        if isinstance(data.corpus, TextMixture):
            each_step = Fraction(data.batch, copies)
            turns = turns_of(data.corpus, self.supplies(data), each_step, seed)
        return Batches(
            self.train,
            vocabulary,
            data.length,
            data.batch,
            seed,
            data.unique,
            data.packing,
            copies,
            turns,
        )


def corpus_digest(data: Data) -> str:
    """The digest of the corpus as it is now; tokenizes nothing."""
    return survey(data.corpus, data.validation).digest


def open_tokens(data: Data, tokenizer: Tokenizer | None = None) -> Tokens:
    """Read the corpus, learn the tokenizer and tokenize, or take from the cache what is there.

    Only `corpus`, `tokenizer` and `validation` matter; a `tokenizer` that is given takes the
    place of the one to be learnt. Raises `UserError` for what the user can
    mend in them.
    """
    if tokenizer is None:
        tokenizer, found = _learn(data)
    else:
        found = survey(data.corpus, data.validation)
    if found.left_out:
        log.warning("data.corpus: left out: %s", found.left_out)
    splits = _open_splits(data, tokenizer, found.digest)
    return Tokens(
        tokenizer, splits["train"], splits["validation"], found.digest, tokenizer.digest
    )


def _open_splits(data: Data, tokenizer: Tokenizer, corpus_digest: str) -> dict[str, Split]:
    if isinstance(data.corpus, TextMixture):
        return _open_mixture(data, data.corpus, tokenizer)

    def same_documents() -> Iterator[Document]:
        digest = Digest()
        for document in data.corpus.read():
            digest.add(document.id, document.content)
            yield document
        if digest.hex() != corpus_digest:
            forget(data.corpus, data.validation)
            raise UserError("data.corpus: its files changed while they were read; run again")

    return open_store(
        store_key(data, corpus_digest, tokenizer.digest),
        same_documents(),
        tokenizer,
        data.validation,
        data.corpus.channels,
        data.corpus.too_long,
        data.tokenizer,
    )


def _open_mixture(data: Data, mixture: TextMixture, tokenizer: Tokenizer) -> dict[str, Split]:
    """The splits of a mixture, of which each component is a store of its own."""

    def of_its_own(component: Component) -> dict[str, Split]:
        part = msgspec.structs.replace(data, corpus=component.corpus)
        return _open_splits(part, tokenizer, survey(part.corpus, part.validation).digest)

    found = {
        component.name: of_component(component.name, partial(of_its_own, component))
        for component in mixture.components
    }
    return {
        name: join(
            {component: splits[name] for component, splits in found.items()},
            mixture.channels,
            mixture.too_long,
        )
        for name in ("train", "validation")
    }


def store_key(data: Data, corpus_digest: str, tokenizer_digest: str) -> Key:
    """What decides a token store: the text, the tokenizer, the split and the channels."""
    key: dict[str, str | float | int] = {
        "format": VERSION,
        "corpus": corpus_digest,
        "tokenizer": tokenizer_digest,
        "validation": data.validation,
    }
    if channels := data.corpus.channels:
        key["channels"] = msgspec.json.encode(channels).decode()
    if LOSS in channels:
        key["conversations"] = 1  # a version of how they are rendered
    return key


def tokenizer_of(data: Data, corpus_digest: str | None = None) -> Tokenizer:
    """The tokenizer alone: nothing is tokenized with it.

    Where the digest of the corpus is known, the corpus is read only if the tokenizer is not in
    the cache any more.
    """
    if corpus_digest is not None:
        kept = data.tokenizer.kept(corpus_digest, data.validation)
        if kept is not None:
            return kept
    return _learn(data)[0]


def _learn(data: Data) -> tuple[Tokenizer, Survey]:
    found = survey(data.corpus, data.validation)
    if data.corpus.tokenized and data.tokenizer.kept(found.digest, data.validation) is None:
        raise UserError(
            "data.tokenizer: the corpus is tokens, and only what made them reads them: give"
            " start.path, or data.tokenizer.type=huggingface with its path"
        )

    def train_texts() -> Iterator[str]:
        for document in data.corpus.read():
            if not is_held_out(document, data.validation):
                yield document.text

    tokenizer = data.tokenizer.open(
        found.digest, data.validation, found.train_bytes, train_texts
    )
    return tokenizer, found
