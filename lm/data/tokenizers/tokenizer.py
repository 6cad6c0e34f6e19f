"""Tokenizers: text to ids and back, losing nothing."""

import hashlib
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
import sentencepiece
from msgspec import Meta

from lm.config import Config, UserError
from lm.data import cache
from lm.data.words import begins_word
from lm.example import Vocabulary

PAD, MASK, BEGIN, END, ORDINARY = range(5)


Sentinels = Annotated[
    int,
    Meta(ge=0, le=4096, description="further special pieces, each for a removed span (T5)"),
]


class Bytes(Config, frozen=True, tag="bytes"):
    """A piece a byte: 256 of them after the special ones."""

    sentinels: Sentinels = 0


class SentencePiece(Config, frozen=True, tag="sentencepiece"):
    """Pieces learnt from the training documents, with bytes for what they cannot spell."""

    kind: Annotated[Literal["unigram", "bpe"], Meta(description="how pieces are learnt")] = (
        "bpe"
    )
    size: Annotated[
        int, Meta(ge=ORDINARY + 257, le=2**20, description="pieces, with the 4 special ones")
    ] = 2048
    sentinels: Sentinels = 0


TokenizerConfig = Bytes | SentencePiece


def vocabulary_size(config: TokenizerConfig) -> int:
    """How many pieces a tokenizer will have, known before it has learnt them.

    >>> vocabulary_size(Bytes()), vocabulary_size(SentencePiece(size=2048, sentinels=8))
    (260, 2056)
    """
    ordinary = ORDINARY + 256 if isinstance(config, Bytes) else config.size
    return ordinary + config.sentinels


class Tokenizer:
    """`decode(encode(text)) == text` for every text that UTF-8 can hold.

    `pieces[id]` is the bytes that an id stands for (none, for the special pieces). A word may
    begin with any piece whose first character begins one (`lm.data.words`): `▁the` does,
    `self` in `(self` does not. A byte from 128 up is a part of a character, which the bytes
    after it decide.
    """

    def __init__(
        self,
        pieces: Sequence[bytes],
        digest: str,
        encode_ordinary: Callable[[Sequence[str]], list[np.ndarray]],
        sentinels: int = 0,
    ) -> None:
        ordinary = ORDINARY + sentinels
        self.pieces = (b"",) * ordinary + tuple(pieces)
        self.digest = _sha(f"{digest} {sentinels}".encode()) if sentinels else digest
        self._encode_ordinary = encode_ordinary
        self.vocabulary = Vocabulary(
            size=len(self.pieces),
            pad=PAD,
            mask=MASK,
            begin=BEGIN,
            end=END,
            ordinary=ordinary,
            begins_word=tuple(map(_begins_word, self.pieces)),
            character_bytes=tuple(
                piece[0] if len(piece) == 1 and piece[0] >= 128 else 0 for piece in self.pieces
            ),
            sentinels=tuple(range(ORDINARY, ordinary)),
        )

    def encode(self, text: str) -> np.ndarray:
        """The ids of `text`, int32[n], without special pieces.

        >>> open_tokenizer(Bytes()).encode("hé").tolist()
        [108, 199, 173]
        """
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text, int32[n] each, on all cores."""
        first = self.vocabulary.ordinary
        return [ids.astype(np.int32) + first for ids in self._encode_ordinary(texts)]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of `ids`; special pieces vanish, bytes that are no UTF-8 become U+FFFD.

        >>> open_tokenizer(Bytes()).decode([BEGIN, 108, 199, 173, END])
        'hé'
        """
        array = np.asarray(ids, np.int64)
        parts = (array[at : at + 4096].tolist() for at in range(0, len(array), 4096))
        text = b"".join(b"".join(map(self.pieces.__getitem__, part)) for part in parts)
        return text.decode(errors="replace")


def open_tokenizer(
    config: TokenizerConfig,
    corpus_digest: str = "",
    validation: float = 0.0,
    train_bytes: int = 0,
    train_texts: Callable[[], Iterator[str]] = lambda: iter(()),
) -> Tokenizer:
    """The tokenizer of `config`; a learnt one is kept by the digest of what it learnt from.

    `train_texts` is only called when there is something to learn. Raises `UserError` if they
    cannot give as many pieces as `config` asks for.
    """
    if there := kept_tokenizer(config, corpus_digest, validation):
        return there
    assert isinstance(config, SentencePiece)
    model = _train(config, _sample(train_texts(), train_bytes))
    cache.write(_path(config, corpus_digest, validation), model)
    return _from_model(model, config.sentinels)


def kept_tokenizer(
    config: TokenizerConfig, corpus_digest: str, validation: float
) -> Tokenizer | None:
    """The same, if nothing is to be learnt for it; else None."""
    if isinstance(config, Bytes):
        pieces = [bytes([byte]) for byte in range(256)]
        return Tokenizer(pieces, _sha(b"bytes 1"), _encode_bytes, config.sentinels)
    model = cache.read(_path(config, corpus_digest, validation))
    return None if model is None else _from_model(model, config.sentinels)


def _path(config: SentencePiece, corpus_digest: str, validation: float) -> Path:
    """Where a learnt tokenizer is kept: named by what it was learnt from, and how."""
    learnt = (config.kind, config.size)
    origin = (corpus_digest, validation, learnt, sentencepiece.__version__, _VERSION, _SAMPLE)
    name = _sha(msgspec.json.encode(origin))[:32]
    return cache.folder() / "tokenizers" / f"{name}.model"


_VERSION = 1  # of the training settings, the chunks and the order of ids
_SAMPLE = 2_000_000  # bytes to learn from; more did not shorten the encoding of other text
_CHUNK = re.compile("\u2581+|[^\u2581]{1,4095}\n|[^\u2581]{1,4096}")
"""Encoded apart: a line of any length then takes time in proportion, and U+2581, which
sentencepiece takes for a space, goes by its bytes."""


def _from_model(model: bytes, sentinels: int) -> Tokenizer:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)

    def piece_bytes(id: int) -> bytes:
        piece = processor.id_to_piece(id)
        if processor.is_byte(id):
            return bytes([int(piece[3:5], 16)])
        return piece.replace("\u2581", " ").encode()

    # id 0 is sentencepiece's unknown piece: with byte fallback it is never met
    pieces = [piece_bytes(id) for id in range(1, processor.get_piece_size())]
    byte_ids = np.array([processor.piece_to_id(f"<0x{byte:02X}>") for byte in range(256)])
    cores = os.cpu_count() or 1

    def encode(texts: Sequence[str]) -> list[np.ndarray]:
        chunks = [_CHUNK.findall(text) for text in texts]
        plain = ["" if chunk[0] == "\u2581" else chunk for parts in chunks for chunk in parts]
        encoded = iter(processor.encode(plain, return_type="numpy", num_threads=cores))
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

    digest = _sha(b"sentencepiece %d " % _VERSION + model)
    return Tokenizer(pieces, digest, encode, sentinels)


def _train(config: SentencePiece, chunks: Iterator[str]) -> bytes:
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=chunks,
            model_writer=model,
            model_type=config.kind,
            vocab_size=config.size - ORDINARY + 1,  # and its unknown piece, which we drop
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
            num_threads=8,  # the sums, so the pieces, depend on it; not on the machine's cores
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
            f"data.tokenizer.size: {config.size}, but the training text gives {bound} pieces"
        ) from None
    return model.getvalue()


def _sample(texts: Iterator[str], size: int) -> Iterator[str]:
    """Chunks that are spread evenly over the texts and hold about `_SAMPLE` bytes."""
    due = 0.0
    for text in texts:
        for chunk in _CHUNK.findall(text):
            due += min(1.0, _SAMPLE / size)
            if due >= 1 and chunk[0] != "\u2581":
                due -= 1
                yield chunk


def _encode_bytes(texts: Sequence[str]) -> list[np.ndarray]:
    return [np.frombuffer(text.encode(), np.uint8) for text in texts]


def _begins_word(piece: bytes) -> bool:
    first = piece.decode(errors="ignore")[:1]
    return begins_word(first) if first else not piece


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
