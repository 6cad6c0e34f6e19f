"""Texts as vectors of length one: an encoder's or a decoder's last hidden states, pooled."""

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import msgspec
import numpy as np

from lm.config import UserError
from lm.distributed.hosts import fetch
from lm.example import AttentionMask, CausalMask
from lm.model import Module
from lm.numerics import Precision
from lm.train.load import LoadedModel, load_model
from lm.train.use import hidden_states, place_rows, used_mask

TextPooling = Literal["mean", "first", "last"]
"""Which states of a text are its vector: their mean, or one of them, of all that the model sees
of it, what stands around it included."""
AT_ONCE = 4096
"""Positions that are computed at once."""


class Embedder:
    """Texts to vectors, by one model: its `pooling` and its `length` are stated, not guessed.

    A text stands after the token that begins one, and before the one that ends one where the
    model was told of ends. What does not fit is cut behind, and counted in `truncated`.
    """

    def __init__(self, model: LoadedModel, pooling: TextPooling, length: int) -> None:
        self.model, self.pooling, self.length = model, pooling, length
        self.truncated = 0
        """Texts that were cut, of all so far."""

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        return self.model.run.model.width

    @cached_property
    def digest(self) -> str:
        """Of what decides its states: the model's digest, and what positions see."""
        causal = isinstance(used_mask(self.model.run), CausalMask)
        return f"{self.model.digest}-{'causal' if causal else 'bidirectional'}"

    @cached_property
    def around(self) -> tuple[list[int], list[int]]:
        """What stands before a text, and behind it."""
        return around_text(self.model)

    @property
    def room(self) -> int:
        """Tokens of a text, at most, without what stands around it."""
        return self.length - sum(map(len, self.around))

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """A vector of length one for each text, float32[N, D]."""
        before, behind = self.around
        encoded = self.model.tokenizer.encode_all(list(texts))
        self.truncated += sum(len(ids) > self.room for ids in encoded)
        rows = [[*before, *ids[: self.room].tolist(), *behind] for ids in encoded]
        found_ND = np.zeros((len(rows), self.width), np.float32)
        for group in self._groups(rows):
            found_ND[group] = self.vectors([rows[number] for number in group])
        return found_ND

    def vectors(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        """The same for whole rows of ids, computed at once, float32[B, D]."""
        width = self._width(max(map(len, rows)))
        # Powers of four, so that few programs are compiled.
        size = 4 ** -(-(len(rows) - 1).bit_length() // 2)
        tokens_BL, segments_BL = np.zeros((2, size, width), np.int32)
        for place in range(size):
            row = rows[min(place, len(rows) - 1)]
            tokens_BL[place, : len(row)], segments_BL[place, : len(row)] = row, 1
        mesh = self.model.program.mesh
        given = (tokens_BL, segments_BL, np.zeros_like(tokens_BL))
        arrays = [place_rows(array, mesh) for array in given]
        module, params = self.model.program.module, self.model.params
        mask = used_mask(self.model.run)
        found_BD = np.asarray(fetch(_pooled(module, self.pooling, params, arrays, mask)))
        return found_BD[: len(rows)]

    def _width(self, tokens: int) -> int:
        """Positions of a row that has so many tokens."""
        return min(self.length, max(16, 1 << (tokens - 1).bit_length()))

    def _groups(self, rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """The numbers of rows, in groups that are computed at once: of one width each."""
        by_width: dict[int, list[int]] = {}
        for number, row in enumerate(rows):
            by_width.setdefault(self._width(len(row)), []).append(number)
        for width, of in by_width.items():
            size = 4 ** ((max(1, AT_ONCE // width).bit_length() - 1) // 2)
            for at in range(0, len(of), size):
                yield of[at : at + size]


def load_embedder(
    path: Path | str,
    *,
    pooling: TextPooling | None = None,
    precision: Precision | None = None,
    length: int | None = None,
) -> Embedder:
    """The embedder that an artifact, a run directory or a Hugging Face folder is.

    `pooling`, unless given, is what the model says of itself (`pool` of its objective;
    sentence-transformers' `1_Pooling`), else the last state of a model that predicts the next
    token and the mean of any other. `length` is in tokens with what stands around a text: at
    most what the model sees, which it is unless given. Raises UserError in one line.
    """
    path = Path(path)
    model = load_model(path, precision=precision)
    if model.run.model.reads_source:
        raise UserError(f"{path}: it reads a source by an encoder: its states are of no text")
    own = min(model.run.data.length, model.run.model.longest or model.run.data.length)
    told = _told(path, "sentence_bert_config.json").get("max_seq_length")
    own = min(own, told or own)
    found = Embedder(model, pooling or _own_pooling(path, model), length or own)
    if not sum(map(len, found.around)) < found.length <= own:
        raise UserError(
            f"length {found.length}: {path} sees {own} tokens, what begins and ends"
        )
    return found


def around_text(model: LoadedModel) -> tuple[list[int], list[int]]:
    """What stands before a whole text, and behind it where the model was told its end."""
    vocabulary = model.tokenizer.vocabulary
    told = not vocabulary.eos_counts and "next" not in model.predicts
    return [vocabulary.bos], [vocabulary.eos] if told else []


def _own_pooling(path: Path, model: LoadedModel) -> TextPooling:
    """What a model says of itself, or what its kind is used with; raises UserError."""
    said = getattr(model.run.objective.last, "pool", None)
    for pooling in get_args(TextPooling):
        if said == pooling:
            return pooling
    modules = _told(path, "modules.json")
    for each in modules if isinstance(modules, list) else ():
        kind = str(each.get("type", "")).rpartition(".")[2]
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise UserError(
                f"{path / 'modules.json'}: {kind}: not computed here; give a pooling"
            )
    modes = {
        "pooling_mode_mean_tokens": "mean",
        # Another length alone, and vectors are of length one.
        "pooling_mode_mean_sqrt_len_tokens": "mean",
        "pooling_mode_cls_token": "first",
        "pooling_mode_lasttoken": "last",
    }
    asked = [n for n, on in _told(path, "1_Pooling/config.json").items() if on is True]
    asked = [name for name in asked if name.startswith("pooling_mode_")]
    if len(asked) > 1 or any(name not in modes for name in asked):
        raise UserError(f"{path / '1_Pooling'}: {' and '.join(asked)}: give a pooling")
    if asked:
        return modes[asked[0]]  # type: ignore[return-value] # one of them
    return "last" if "next" in model.predicts else "mean"


def _told(path: Path, name: str) -> Any:
    """What a file of sentence-transformers beside a model says; {}: there is none."""
    if not (path / name).is_file():
        return {}
    try:
        return msgspec.json.decode((path / name).read_bytes())
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path / name}: damaged: {error}") from None


@partial(jax.jit, static_argnums=(0, 1))
def _pooled(
    module: Module,
    pooling: TextPooling,
    params: Any,
    arrays: list[jax.Array],
    attention_mask: AttentionMask,
) -> jax.Array:
    """The vector of each row, float32[B, D]."""
    hidden_BLD = hidden_states(module, params, arrays, attention_mask)
    there_BL = arrays[1] > 0
    count_B1 = there_BL.sum(axis=1, keepdims=True)
    if pooling != "mean":
        place_B1 = count_B1 - 1 if pooling == "last" else jnp.zeros_like(count_B1)
        there_BL &= jnp.arange(there_BL.shape[1])[None] == place_B1
    # A sum, as a vector's length is made one anyway.
    sum_BD = jnp.where(there_BL[..., None], hidden_BLD, 0.0).sum(axis=1)
    return sum_BD / jnp.maximum(jnp.linalg.norm(sum_BD, axis=1, keepdims=True), 1e-12)
