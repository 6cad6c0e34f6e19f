"""SentencePiece files of published models, read by SentencePiece itself."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import sentencepiece

from lm.config import UserError
from lm.data.tokenizers.converted import ranks_in
from lm.data.tokenizers.foreign import Foreign, ForeignTokenizer, losing, settings_in

MODELS = ("spiece.model", "tokenizer.model", "sentencepiece.model")


class SentencePieceModel(Foreign, frozen=True, tag="sentencepiece_model"):
    """A SentencePiece file that was learnt elsewhere (T5, Llama 2, Gemma)."""

    def read(self, model: bytes | None) -> ForeignTokenizer:
        return self.read_files({} if model is None else {MODELS[1]: model})

    def read_files(self, files: Mapping[str, bytes]) -> ForeignTokenizer:
        return _Processed(self, files)


class _Processed(ForeignTokenizer):
    def __init__(self, config: SentencePieceModel, files: Mapping[str, bytes]) -> None:
        model = model_of(files)
        names = names_of(model, files)
        of_config = {config.bos, config.eos, config.pad, *config.special}
        of_config |= {*config.removed_spans} | (set() if config.mask is None else {config.mask})
        proto = proto_of(model)
        kinds = proto.SentencePiece
        hidden = {kinds.UNKNOWN, kinds.CONTROL, kinds.UNUSED}
        special = of_config | {id for id, p in enumerate(proto.pieces) if p.type in hidden}
        special |= {id for id in names if id >= len(proto.pieces)}
        for id in special:
            # What a text is to spell is no special token: a control token is never read.
            if id < len(proto.pieces) and proto.pieces[id].type == kinds.USER_DEFINED:
                proto.pieces[id].type = kinds.CONTROL
        self._processor = sentencepiece.SentencePieceProcessor(
            model_proto=proto.SerializeToString()
        )

        def token_bytes(id: int) -> bytes:
            if id < len(proto.pieces) and proto.pieces[id].type == kinds.BYTE:
                return bytes([int(names[id][3:5], 16)])
            return names[id].replace("\u2581", " ").encode()

        super().__init__(
            config,
            files,
            names=names,
            tokens={id: token_bytes(id) for id in names},
            special=special,
            lossy=_lossy(proto),
        )

    def encode_texts(self, texts: Sequence[str]) -> list[np.ndarray]:
        found = self._processor.encode(list(texts), return_type="numpy")
        return [np.asarray(ids, np.int32) for ids in found]

    def ends_of(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        found: Any = self._processor.encode(text, return_type="offset_mapping")
        ends = np.array(found["offsets"], np.int64).reshape(-1, 2)[:, 1]
        return np.array(found["ids"], np.int32), ends

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        ordinary = self.vocabulary.is_ordinary
        return str(
            self._processor.decode([id for id in np.asarray(ids).tolist() if ordinary[id]])
        )


def model_of(files: Mapping[str, bytes]) -> bytes:
    """The SentencePiece file among these; raises `UserError` where there is none."""
    if ranks_in(files):
        raise UserError(
            "tokenizer.model: holds tiktoken's ranks, and is no SentencePiece model"
        )
    for name in MODELS:
        if name in files:
            return files[name]
    raise UserError("no tokenizer: there is no tokenizer.json and no SentencePiece model")


def proto_of(model: bytes) -> Any:
    """What a SentencePiece file says; raises `UserError` where it is none."""
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    messages: Any = sentencepiece_model_pb2  # generated, without annotations
    proto = messages.ModelProto()
    try:
        proto.ParseFromString(model)
    except DecodeError:
        raise UserError("the tokenizer's file is no SentencePiece model") from None
    return proto


def names_of(model: bytes, files: Mapping[str, bytes]) -> dict[int, str]:
    """The name of each id: the file's own, and those that other files add after them.

    Raises UserError for families that number the file's tokens in another way.
    """
    said = settings_in(files, "tokenizer_config.json")
    family = str(said.get("tokenizer_class", ""))
    names = {id: piece.piece for id, piece in enumerate(proto_of(model).pieces)}
    if family.startswith(
        ("XLMRoberta", "Camembert", "MBart", "M2M", "NllbTokenizer", "Deberta")
    ):
        raise UserError(
            f"tokenizer_class {family}: its ids are not those of its SentencePiece file; a"
            " tokenizer.json beside it says which they are"
        )
    if family.startswith("T5"):
        extra = said.get("extra_ids", 100)
        names |= {len(names) + extra - 1 - n: f"<extra_id_{n}>" for n in range(extra)}
    added = {id: name for name, id in settings_in(files, "added_tokens.json").items()}
    decoder = said.get("added_tokens_decoder", {})
    return names | added | {int(id): token["content"] for id, token in decoder.items()}


def _lossy(proto: Any) -> str | None:
    """What of a text is lost, in words; None: nothing."""
    rules, found = proto.normalizer_spec, []
    if rules.name not in ("", "identity"):
        found.append(f"characters are normalized ({rules.name})")
    if rules.remove_extra_whitespaces:
        found.append("whitespace is merged")
    if not proto.trainer_spec.byte_fallback:
        found.append("an unknown token stands for text that no token spells")
    if rules.escape_whitespaces:
        found.append("U+2581 is taken for a space")
    return losing(found)
