"""A loaded model with the matrices of its layers in few bits."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm.artifact import as_tree, by_name, is_artifact, load_card
from lm.config import UserError
from lm.data import Split, n_rows, rows
from lm.distributed import hosts
from lm.example import Batch, Example, Vocabulary, unanswered
from lm.quantization import Quantization, Storage, round_to_nearest
from lm.quantization.calibrate import calibrated, check_apart
from lm.run import Run
from lm.train.load import LoadedModel, ModelWithText, place_quantized
from lm.train.step import Program
from lm.train.use import used_mask

POSITIONS = 16_384
"""Of a calibration text, at most: ten times the inputs of a wide matrix of a small model."""
_LONGEST = 512


def quantize(
    model: LoadedModel, quantization: Quantization, calibration: Batch | None = None
) -> LoadedModel:
    """The model with its layers' matrices rounded; an adapter that is merged into it stays so.

    `calibration` are rows of text that GPTQ rounds by, as the model's objective shows them.
    Raises UserError for a model that cannot be quantized so, or is already, and where GPTQ has
    no rows.
    """
    check_quantizable(
        model.run, quantization, given=calibration is not None, already=model.quantization
    )
    vocabulary = model.tokenizer.vocabulary
    given = model.run, model.program, model.params, vocabulary
    params = quantized_params(*given, quantization, calibration)
    return replace(model, params=params, adapter=None, quantization=quantization)


def quantized_params(
    run: Run,
    program: Program,
    params: Any,
    vocabulary: Vocabulary,
    quantization: Quantization,
    calibration: Batch | None = None,
) -> Any:
    """Parameters with `Quantized` ones in place of the layers' matrices."""
    model, found = run.model, by_name(params)
    axes = model.axes()
    if quantization.method == "gptq":
        assert calibration is not None
        rounded = calibrated(
            model,
            jax.tree.map(hosts.fetch, params),
            _shown(run, calibration, vocabulary),
            quantization,
            vocabulary_size=vocabulary.size,
        )
    else:
        rounded = {
            name: round_to_nearest(hosts.fetch(found[name]), axes[name], quantization)
            for name in quantization.chosen(model)
        }
    for name, each in rounded.items():
        found[name] = place_quantized(each, found[name].sharding, program.mesh)
    return as_tree(found)


def _shown(run: Run, batch: Batch, vocabulary: Vocabulary) -> Example:
    """Rows as the model's objective shows them, if it reads nothing but tokens."""
    objective = run.objective.last
    if objective.needs:
        return unanswered(batch.tokens_BL, batch.segments_BL, used_mask(run))
    return objective(jax.tree.map(jnp.asarray, batch), vocabulary, jax.random.key(0))


def check_quantizable(
    run: Run, quantization: Quantization, *, given: bool, already: Quantization | None
) -> None:
    """Raises UserError where `quantize` would, before a model is loaded."""
    if already is not None:
        raise UserError(
            f"quantized already, to {already.text}; quantize what it was made of, or write it"
            " out with lm export --format hf first"
        )
    quantization.chosen(run.model)
    if quantization.method == "gptq":
        check_apart(run.model)
        if not given:
            raise UserError("--method gptq: rounds by what a text makes of the layers: --text")


def text_rows(model: LoadedModel, texts: Sequence[str]) -> Batch:
    """Rows of texts to calibrate by, from the beginning of each in turn, whole rows alone.

    Each begins with the bos token, and ends with eos where the model was shown ends. Raises
    UserError where there is not a row.
    """
    vocabulary, run = model.tokenizer.vocabulary, model.run
    ids = [np.asarray(model.tokenizer.encode(text), np.int32) for text in texts]
    last = [] if "next" in run.objective.predictions else [vocabulary.eos]
    length = min(run.data.length, run.model.longest or _LONGEST, _LONGEST)
    each = length - 1 - len(last)
    found = [
        np.concatenate([[vocabulary.bos], one[at : at + each], last])
        for one in ids
        for at in range(0, len(one) - each + 1, each)
    ][: POSITIONS // length]
    if not found:
        raise UserError(f"--text: no text has the {each} tokens of a row")
    tokens_BL = np.stack(found).astype(np.int32)
    return Batch(tokens_BL, np.ones_like(tokens_BL))


def split_rows(run: Run, split: Split) -> Batch:
    """Rows of a run's own text to calibrate by, evenly spaced."""
    length, packing = run.data.length, run.data.packing
    there = n_rows(split, length, packing)
    chosen = np.linspace(0, there - 1, min(there, max(1, POSITIONS // length))).astype(int)
    vocabulary = split.tokenizer.vocabulary
    return rows(split, np.unique(chosen), length, vocabulary, packing)


def storage_of(path: Path, model: LoadedModel | ModelWithText) -> Storage | None:
    """What the parameters of a model take that was loaded from a path; None: all float32."""
    quantization = load_card(path).quantization if is_artifact(path) else None
    if quantization is None:
        return None
    return _storage(quantization, model.run, model.params)


def storage_text(model: LoadedModel) -> str:
    """What a quantized model is, and what its parameters take, in a line."""
    quantization = model.quantization
    assert quantization is not None
    return f"{quantization.text}: {_storage(quantization, model.run, model.params).text}"


def _storage(quantization: Quantization, run: Run, params: Any) -> Storage:
    shapes = {name: array.shape for name, array in by_name(params).items()}
    return quantization.storage(run.model, shapes)
