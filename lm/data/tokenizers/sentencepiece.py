"""Tokens learnt by SentencePiece."""

import io
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
import sentencepiece
from msgspec import Meta

from lm.config import UserError
from lm.data import cache
from lm.data.tokenizers.base import ORDINARY, Base, Sentinels, Tokenizer, sha, usable_threads


class SentencePiece(Base, frozen=True, tag="sentencepiece"):
    """Tokens learnt from the training documents, with bytes for what they cannot spell."""

    kind: Annotated[Literal["unigram", "bpe"], Meta(description="how tokens are learnt")] = (
        "bpe"
    )
    size: Annotated[
        int, Meta(ge=ORDINARY + 257, le=2**20, description="tokens, with the 4 special ones")
    ] = 2048
    sentinels: Sentinels = 0

    @property
    def vocabulary_size(self) -> int:
        """How many ids there are with sentinels and added tokens.

        >>> SentencePiece(size=2048, sentinels=8).vocabulary_size
        2056
        """
        return self.size + self.sentinels + len(self.added)

    def kept(self, corpus_digest: str, validation: float) -> Tokenizer | None:
        model = cache.read(self._path(corpus_digest, validation))
        return None if model is None else self.read(model)

    def open(
        self,
        corpus_digest: str = "",
        validation: float = 0.0,
        train_bytes: int = 0,
        train_texts: Callable[[], Iterator[str]] = lambda: iter(()),
    ) -> Tokenizer:
        if there := self.kept(corpus_digest, validation):
            return there
        model = _train(self, _sample(train_texts(), train_bytes))
        cache.write(self._path(corpus_digest, validation), model)
        return self.read(model)

    def read(self, model: bytes | None) -> Tokenizer:
        try:
            assert model
            processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except (AssertionError, RuntimeError):
            raise UserError("the tokenizer's file is no SentencePiece model") from None

        def token_bytes(id: int) -> bytes:
            token = processor.id_to_piece(id)
            if processor.is_byte(id):
                return bytes([int(token[3:5], 16)])
            return token.replace("\u2581", " ").encode()

        # id 0 is sentencepiece's unknown token: with byte fallback it is never met
        tokens = [token_bytes(id) for id in range(1, processor.get_piece_size())]
        byte_ids = np.array([processor.piece_to_id(f"<0x{byte:02X}>") for byte in range(256)])

        def encode(texts: Sequence[str]) -> list[np.ndarray]:
            chunks = [re.findall(CHUNK, text) for text in texts]
            plain = [
                "" if chunk[0] == "\u2581" else chunk for parts in chunks for chunk in parts
            ]
            encoded = iter(
                processor.encode(plain, return_type="numpy", num_threads=usable_threads())
            )
            empty = np.zeros(0, np.int32)
            return [
                np.concatenate(
                    [empty]
                    + [
                        byte_ids[np.frombuffer(chunk.encode(), np.uint8)]
                        if chunk[0] == "\u2581"
                        else ids
                        for chunk, ids in zip(parts, encoded)  # noqa: B905 - texts share `encoded`
                    ]
                )
                - 1
                for parts in chunks
            ]

        digest = sha(b"sentencepiece %d " % _VERSION + model)
        return Tokenizer(
            tokens,
            digest,
            encode,
            self.sentinels,
            model,
            added=self.added,
            chat_template=self.template_text,
        )

    def _path(self, corpus_digest: str, validation: float) -> Path:
        """Where a learnt tokenizer is kept: named by what it was learnt from, and how."""
        learnt = (self.kind, self.size)
        origin = (
            corpus_digest,
            validation,
            learnt,
            sentencepiece.__version__,
            _VERSION,
            _SAMPLE,
        )
        name = sha(msgspec.json.encode(origin))[:32]
        return cache.folder() / "tokenizers" / f"{name}.model"


_VERSION = 1  # of the training settings, the chunks and the order of ids
_SAMPLE = 2_000_000  # bytes to learn from; more did not shorten the encoding of other text
CHUNK = "\u2581+|[^\u2581]{1,4095}\n|[^\u2581]{1,4096}"
"""Encoded apart: a line of any length then takes time in proportion, and U+2581, which
sentencepiece takes for a space, goes by its bytes."""


def _train(config: SentencePiece, chunks: Iterator[str]) -> bytes:
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=chunks,
            model_writer=model,
            model_type=config.kind,
            vocab_size=config.size - ORDINARY + 1,  # and its unknown token, which we drop
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            byte_fallback=True,
            character_coverage=0.9998,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,  # indentation
            max_sentence_length=1 << 16,
            num_threads=8,  # the sums, so the tokens, depend on it; not on the machine's cores
            minloglevel=2,
        )
    except RuntimeError as error:
        if found := re.search(r"too high .* <= (\d+)", str(error)):
            bound = f"at most {int(found[1]) + ORDINARY - 1}"
        elif found := re.search(r"smaller than required_chars\. \d+ vs (\d+)", str(error)):
            bound = f"at least {int(found[1]) + ORDINARY - 1}"
        elif re.search(r"sentences_\.empty|all_chars_count", str(error)):
            raise UserError(
                "data.tokenizer: the training text is line ends and controls alone, from which"
                " no tokens can be learnt; take other text, or data.tokenizer.type=bytes"
            ) from None
        else:
            raise
        raise UserError(
            f"data.tokenizer.size: {config.size}, but the training text gives {bound} tokens"
        ) from None
    return model.getvalue()


def _sample(texts: Iterator[str], size: int) -> Iterator[str]:
    """Chunks that are spread evenly over the texts and hold about `_SAMPLE` bytes."""
    due = 0.0
    for text in texts:
        for chunk in re.findall(CHUNK, text):
            due += min(1.0, _SAMPLE / size)
            if due >= 1 and chunk[0] != "\u2581":
                due -= 1
                yield chunk
