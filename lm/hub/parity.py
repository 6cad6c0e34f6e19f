"""Whether two models say the same: the same rows through both, or one and a file of answers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import UserError
from lm.example import CausalMask, Source, Vocabulary, positions_of, unanswered
from lm.loss import logits
from lm.model import Module
from lm.objectives import Base

REFERENCE = "reference.npz"
"""Rows and what transformers answers to them, beside a model (`lm reference`)."""
REFERENCE_TOLERANCE = 1e-3
WRITTEN_TOLERANCE = 1e-4
ROWS, LENGTH = 2, 24
"""Of rows that are drawn to compare with."""

RowsByName = Mapping[str, np.ndarray]
"""By transformers' names, int [B, L] each: `input_ids`, `attention_mask`, and where the model
reads them `token_type_ids`, `decoder_input_ids`, `decoder_attention_mask`."""


def draw_rows(
    vocabulary: Vocabulary, *, length: int, types: int = 0, source: bool = False, seed: int = 0
) -> dict[str, np.ndarray]:
    """Rows of random ordinary tokens; the second is padded by a third."""
    draw = np.random.default_rng(seed)
    ordinary, length = np.flatnonzero(vocabulary.is_ordinary), min(LENGTH, length)
    mask_BL = np.ones((ROWS, length), np.int32)
    mask_BL[1:, 2 * length // 3 :] = 0

    def tokens() -> np.ndarray:
        tokens_BL = draw.choice(ordinary, mask_BL.shape).astype(np.int32)
        return np.where(mask_BL > 0, tokens_BL, vocabulary.pad).astype(np.int32)

    found = {"input_ids": tokens(), "attention_mask": mask_BL}
    if types > 1:
        found["token_type_ids"] = draw.integers(types, size=mask_BL.shape).astype(np.int32)
    if source:
        found |= {"decoder_input_ids": tokens(), "decoder_attention_mask": mask_BL}
    return found


def answers(module: Module, params: Any, objective: Base, rows: RowsByName) -> np.ndarray:
    """What a model says at every position, float32[B, L, V]; its states where it predicts
    nothing.
    """

    def answer(params: Any, rows: dict[str, jax.Array]) -> jax.Array:
        inputs_BL, segments_BL = rows["input_ids"], rows["attention_mask"]
        mask, source = objective.attention_mask, None
        if "decoder_input_ids" in rows:
            source = Source(inputs_BL, segments_BL, positions_of(segments_BL))
            inputs_BL, segments_BL = rows["decoder_input_ids"], rows["decoder_attention_mask"]
            mask = CausalMask()
        types_BL = rows.get("token_type_ids")
        example = unanswered(
            inputs_BL, segments_BL, mask, source=source, token_types_BL=types_BL
        )
        output = module.apply({"params": params}, example)
        if not objective.predictions:
            hidden_BLD: jax.Array = output.hidden_BPD
            return hidden_BLD
        return logits(output, einsum=module.einsum)

    placed = {name: jnp.asarray(array, jnp.int32) for name, array in rows.items()}
    return np.asarray(jax.jit(answer)(params, placed), np.float32)


def largest_difference(found: np.ndarray, wanted: np.ndarray, rows: RowsByName) -> float:
    """The largest difference at positions that are no padding."""
    real_BL = rows.get("decoder_attention_mask", rows["attention_mask"]) > 0
    return float(np.abs(found - wanted)[real_BL].max())


def read_reference(folder: Path) -> tuple[dict[str, np.ndarray], np.ndarray] | None:
    """Rows and answers of the file in a folder; None where there is no such file."""
    file = folder / REFERENCE
    if not file.exists():
        return None
    try:
        with np.load(file) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: damaged: {error}") from None
    answer = found.pop("logits", found.pop("last_hidden_state", None))
    rows = {name: array for name, array in found.items() if array.ndim == 2}
    if answer is None or not {"input_ids", "attention_mask"} <= rows.keys():
        raise UserError(
            f"{file}: has not input_ids, attention_mask and logits or last_hidden_state"
        )
    return rows, answer
