"""What a loaded model is used for: logits, states, and text that goes on."""

import dataclasses
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import UserError
from lm.data import Tokenizer
from lm.distributed import hosts
from lm.distributed import mesh as _mesh
from lm.example import (
    AttentionMask,
    BidirectionalMask,
    CausalMask,
    Example,
    Head,
    Source,
    positions_of,
    unanswered,
)
from lm.loss import logits
from lm.model import Module, build
from lm.numerics import Precision
from lm.objectives.base import Prediction
from lm.run import Run
from lm.train.generating import Generating
from lm.train.step import Program

if TYPE_CHECKING:
    pass


class Usable(Generating):
    """What every model can be asked, whoever trained it.

    Rows are arrays of ids, of numpy or jax; what comes back is numpy's. Segments say which
    document of its row each token belongs to, from 1, and 0 is padding, which nothing sees;
    None: each row is one document. A model that was trained to predict the next token sees what
    stands before, and so does a decoder that reads a source; others see both sides.
    """

    if TYPE_CHECKING:  # what a LoadedModel has
        run: Run
        tokenizer: Tokenizer
        program: Program
        params: Any

    @property
    def predicts(self) -> frozenset[Prediction]:
        """What the model was trained to predict; nothing, for an encoder without a head."""
        return self.run.objective.predictions

    def logits(
        self,
        tokens_BL: Any,
        segments_BL: Any = None,
        types_BL: Any = None,
        source_BM: Any = None,
        source_segments_BM: Any = None,
        *,
        precision: Precision = "float32",
    ) -> np.ndarray:
        """Unnormalized log-probabilities at each position, float32[B, L, V].

        Raises UserError for a model that predicts no tokens, and for arrays that do not fit.
        """
        if not self.predicts:
            raise UserError(
                "the model predicts no tokens, as it has no head over the vocabulary: it gives"
                " hidden states alone"
            )
        given = tokens_BL, segments_BL, types_BL, source_BM, source_segments_BM
        return self._answer(_logits, given, precision)

    def hidden(
        self,
        tokens_BL: Any,
        segments_BL: Any = None,
        types_BL: Any = None,
        source_BM: Any = None,
        source_segments_BM: Any = None,
        *,
        precision: Precision = "float32",
    ) -> np.ndarray:
        """The states before the head at each position, after the last norm, float32[B, L, D].

        Raises UserError for arrays that do not fit.
        """
        given = tokens_BL, segments_BL, types_BL, source_BM, source_segments_BM
        return self._answer(hidden_states, given, precision)

    def _answer(self, compute: Any, given: Any, precision: Precision) -> np.ndarray:
        """What a compiled function says of rows, without those that fill up the devices."""
        tokens_BL, segments_BL, types_BL, source_BM, source_segments_BM = given
        vocabulary, model = self.tokenizer.vocabulary, self.run.model
        reads = model.reads_source
        if reads != (source_BM is not None):
            what = (
                "reads a source: give source_BM" if reads else "reads no source: leave it out"
            )
            raise UserError(f"source_BM: the model {what}")
        kinds = getattr(model, "token_types", 0)
        rows = [
            _rows("tokens_BL", tokens_BL, below=vocabulary.size),
            _rows("segments_BL", segments_BL, like=tokens_BL),
            _rows("types_BL", types_BL, like=tokens_BL, below=max(1, kinds), filled=0),
        ]
        if reads:
            rows += [
                _rows("source_BM", source_BM, below=vocabulary.size),
                _rows("source_segments_BM", source_segments_BM, like=source_BM),
            ]
        longest, size = model.longest, len(rows[0])
        if longest is not None and (found := _longest(rows[1])) > longest:
            raise UserError(
                f"tokens_BL: a document of {found} positions, and the model has places for"
                f" {longest}"
            )
        if reads and len(rows[3]) != size:
            raise UserError(f"source_BM: {len(rows[3])} rows, and tokens_BL has {size}")
        module = build(
            model,
            vocabulary.size,
            mesh=self.program.mesh,
            precision=precision,
            attention=self.run.attention,
        )
        placed = [place_rows(array, self.program.mesh) for array in rows]
        return np.asarray(
            hosts.fetch(compute(module, self.params, placed, used_mask(self.run)))[:size]
        )


def used_mask(run: Run) -> AttentionMask:
    """What positions see where a model is used, of all that it was trained with."""
    widest = run.objective.last.attention_mask
    causal = "next" in run.objective.predictions or run.model.reads_source
    return CausalMask() if causal or isinstance(widest, CausalMask) else BidirectionalMask()


def place_rows(array: np.ndarray, mesh: jax.sharding.Mesh) -> jax.Array:
    """Puts an array of rows on the devices, split as in training, filled up with zeros."""
    axes = ("batch", "length")[: array.ndim]
    # There may be fewer rows than there are devices.
    missing = -len(array) % _mesh.num_shards(mesh, "batch")
    filled = np.pad(array, [(0, missing), (0, 0)][: array.ndim])
    return hosts.put(filled, _mesh.sharding(mesh, *axes))


def _rows(
    name: str, given: Any, *, like: Any = None, below: int | None = None, filled: int = 1
) -> np.ndarray:
    """Rows as int32[B, L]; where none are given, `filled` in the shape of others."""
    array = np.full(np.shape(like), filled) if given is None else np.asarray(given)
    if array.ndim != 2 or not array.size or not np.issubdtype(array.dtype, np.integer):
        raise UserError(
            f"{name}: {array.dtype}{list(array.shape)}; must be ids of rows, int32[B, L]"
        )
    if like is not None and array.shape != np.shape(like):
        raise UserError(f"{name}: {list(array.shape)}; must be {list(np.shape(like))}")
    if array.min() < 0 or (below is not None and array.max() >= below):
        least = "must be >= 0" if below is None else f"must be from 0 to {below - 1}"
        raise UserError(f"{name}: {array.min()} to {array.max()}; {least}")
    return array.astype(np.int32)


def _longest(segments_BL: np.ndarray) -> int:
    """Positions of the longest document of any row."""
    positions_BL = np.asarray(positions_of(jnp.asarray(segments_BL)))
    return 1 + int(np.where(segments_BL > 0, positions_BL, 0).max())


def _example(arrays: list[jax.Array], attention_mask: AttentionMask) -> Example:
    """An example that speaks at every position and has no answer to hold it to."""
    tokens_BL, segments_BL, types_BL, *read = arrays
    source = None
    if read:
        source_BM, source_segments_BM = read
        source = Source(source_BM, source_segments_BM, positions_of(source_segments_BM))
    return unanswered(
        tokens_BL, segments_BL, attention_mask, source=source, token_types_BL=types_BL
    )


@partial(jax.jit, static_argnums=0)
def _logits(
    module: Module, params: Any, arrays: list[jax.Array], attention_mask: AttentionMask
) -> jax.Array:
    output = module.apply({"params": params}, _example(arrays, attention_mask))
    return logits(output, einsum=module.einsum).astype(jnp.float32)


_STATES = Head("states", outputs=1)
"""A head that is never trained: what stands before it is the model's last states."""


@partial(jax.jit, static_argnums=0)
def hidden_states(
    module: Module, params: Any, arrays: list[jax.Array], attention_mask: AttentionMask
) -> jax.Array:
    """The states before the head, float32[B, L, D], of tokens, segments and token types."""
    width = module.config.width
    head = {"table": jnp.zeros((1, width)), "bias": jnp.zeros(1)}
    example = dataclasses.replace(_example(arrays, attention_mask), head=_STATES)
    output = module.apply({"params": {**params, f"head_{_STATES.name}": head}}, example)
    return output.hidden_BPD[..., :width].astype(jnp.float32)
