"""The contract between objective, model and loss: an `Example` is all they say to each other.

Dimension letters, here and everywhere: B rows of a batch, L positions of a row, P target
positions of a row, M source or key positions, D model width, N layers, H query heads, G
key/value heads, A head size, F MLP width, V vocabulary, C outputs of a head.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import UserError


@dataclass(frozen=True)
class Vocabulary:
    """What an objective may know of the tokenizer: ids, never text.

    Ids `0 .. first_ordinary - 1` are special tokens, and so are those in `special`; the rest
    are ordinary ones.
    """

    size: int
    pad: int
    mask: int | None
    """What stands for a masked token; None: there is no such token."""
    bos: int
    """What stands before the first token of a document."""
    eos: int
    """What stands after its last."""
    first_ordinary: int
    """The first id that is not a special token, but for those in `special`."""
    begins_word: tuple[bool, ...]
    """For each id, whether a word may begin with it (whole-word masking cuts there)."""
    character_bytes: tuple[int, ...] = ()
    """For each id, its byte (128 up) if a character is spelled with several of them, else 0:
    the character decides whether a word begins at its first byte. Empty: no id is one."""
    sentinels: tuple[int, ...] = ()
    """Ids that stand for a removed span (T5), in the order in which they are used."""
    special: tuple[int, ...] = ()
    """Special ids from `first_ordinary` on: a foreign tokenizer's may stand anywhere."""
    eos_counts: bool = True
    """Whether the eos token is content: False where a document's end is told, not predicted."""

    @property
    def is_ordinary(self) -> np.ndarray:
        """Which ids are no special tokens, bool[V].

        >>> Vocabulary(
        ...     size=5, pad=4, mask=None, bos=0, eos=0, first_ordinary=1,
        ...     begins_word=(True,) * 5, special=(4,),
        ... ).is_ordinary.tolist()
        [False, True, True, True, False]
        """
        ordinary_V = np.arange(self.size) >= self.first_ordinary
        ordinary_V[list(self.special)] = False
        return ordinary_V

    @property
    def mask_token(self) -> int:
        """The id of the mask token; raises UserError where there is none."""
        if self.mask is None:
            raise UserError(
                "the tokenizer has no mask token: take an objective or a scorer that masks"
                " nothing, as causal and the chain rule"
            )
        return self.mask


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Batch:
    """Rows as they are read: an open tree, of which each array has B rows of L positions.

    What is done to all rows (shuffling, placing, digesting) is done over the tree, so that what
    a source declares further goes the same way as tokens do. Arrays are NumPy's on the host.
    """

    tokens_BL: Any
    """int32[B, L]."""
    segments_BL: Any
    """int32[B, L]: which document of the row, from 1; 0 is padding."""
    channels: Mapping[str, Any] = field(default_factory=dict)
    """By name, what the source says of each token, [B, L, ...]: its document's label, say."""


# What has no fields must not be a registered dataclass: jax (0.10.1) then finds the structures
# of CausalMask and BidirectionalMask equal, and jit, where hashes happen to meet, takes one for
# the other.
@jax.tree_util.register_static
@dataclass(frozen=True)
class CausalMask:
    """A query sees the keys of its segment up to itself."""


@jax.tree_util.register_static
@dataclass(frozen=True)
class BidirectionalMask:
    """A query sees every key of its segment."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class UntilMask:
    """Query q sees the keys of its segment at row positions `<= until_BL[b, q]`."""

    until_BL: jax.Array


AttentionMask = CausalMask | BidirectionalMask | UntilMask


@jax.tree_util.register_static
@dataclass(frozen=True)
class Head:
    """What speaks in the vocabulary's place: C outputs for each document, or for each token."""

    name: str
    """Of its parameters, which all heads of one name share."""
    outputs: int
    """C: classes; 1 for a number (regression); 0: the pooled states themselves are the answer,
    and there is no parameter."""
    pool: Literal["first", "last", "mean", "attention"] | None = None
    """What is made of a segment's states: target position p is that of segment p + 1; attention
    is their mean, weighted by a learnt query. None: it is a token's, as with the vocabulary."""


class Source(NamedTuple):
    """What the encoder of an encoder-decoder body sees."""

    inputs_BM: jax.Array
    segments_BM: jax.Array
    positions_BM: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Example:
    """What a model sees, where it must speak, and what it should say there."""

    inputs: jax.Array
    """int32[B, L]: what the model sees."""
    target_positions: jax.Array | None
    """int32[B, P]: the row positions it must speak at; None: all of them in order, P = L, or
    those that its head pools."""
    targets: jax.Array
    """int32[B, P]: what it should say there: ids, or numbers of classes; of a head of one
    output float32."""
    weights: jax.Array
    """float32[B, P]: how much that counts; 0 marks an unused target position."""
    segments: jax.Array
    """int32[B, L]: which document of the row, from 1; 0 is padding."""
    positions: jax.Array
    """int32[B, L]: where in its segment."""
    attention_mask: AttentionMask
    source: Source | None = None
    head: Head | None = None
    """What speaks; None: the vocabulary."""
    token_types: jax.Array | None = None
    """int32[B, L]: which of a model's kinds each token is, as which text of two; None: 0."""
    facts: Mapping[str, jax.Array] = field(default_factory=dict)
    """By name, what the loss needs to know beside targets, [B, P, ...]: a reference's log p of
    each target, say. No model reads them."""


class Output(NamedTuple):
    """What a model answers: a state at each target position, and how it becomes logits.

    logits = states x table, with a bias if there is one, and capped if there is a cap.
    """

    hidden_BPD: jax.Array
    unembedding_VD: jax.Array
    bias_V: jax.Array | None = None
    softcap: jax.Array | float | None = None
    """c: logits z become c tanh(z / c) (Bello et al. 2016, section 5.1; Gemma 2)."""
    terms: Mapping[str, Any] | None = None
    """By name, each a `lm.loss.Sum`: what the model itself adds to what training makes small,
    and what is to be recorded of it. No logits depend on them."""


def positions_of(segments_BL: jax.Array) -> jax.Array:
    """Position of each token within its segment, int32[B, L].

    >>> positions_of(jnp.array([[1, 1, 1, 2, 2, 0]])).tolist()
    [[0, 1, 2, 0, 1, 0]]
    """
    index_BL = jnp.broadcast_to(jnp.arange(segments_BL.shape[1]), segments_BL.shape)
    first_BL = jnp.pad(
        segments_BL[:, 1:] != segments_BL[:, :-1], ((0, 0), (1, 0)), constant_values=True
    )
    start_BL = jax.lax.cummax(jnp.where(first_BL, index_BL, 0), axis=1)
    return index_BL - start_BL


def unanswered(
    inputs_BL: jax.Array,
    segments_BL: jax.Array,
    attention_mask: AttentionMask,
    *,
    positions_BL: jax.Array | None = None,
    target_positions_BP: jax.Array | None = None,
    source: Source | None = None,
    token_types_BL: jax.Array | None = None,
) -> Example:
    """An example that has no answer to hold a model to: what it says there, is asked.

    It speaks at the target positions; None: at all.
    """
    asked_BP = inputs_BL if target_positions_BP is None else target_positions_BP
    return Example(
        inputs=inputs_BL,
        target_positions=target_positions_BP,
        targets=jnp.zeros_like(asked_BP),
        weights=jnp.zeros(asked_BP.shape),
        segments=segments_BL,
        positions=positions_of(segments_BL) if positions_BL is None else positions_BL,
        attention_mask=attention_mask,
        source=source,
        token_types=token_types_BL,
    )


def content_of(
    tokens_BL: jax.Array, segments_BL: jax.Array, vocabulary: Vocabulary
) -> jax.Array:
    """Which positions hold text (or an eos token that counts), bool[B, L]: possible targets.

    >>> vocabulary = Vocabulary(
    ...     size=9, pad=0, mask=1, bos=2, eos=3, first_ordinary=4, begins_word=(True,) * 9
    ... )
    >>> row = jnp.array([[2, 5, 3, 0]]), jnp.array([[1, 1, 1, 0]])
    >>> content_of(*row, vocabulary).tolist()
    [[False, True, True, False]]
    >>> from dataclasses import replace
    >>> content_of(*row, replace(vocabulary, eos_counts=False)).tolist()
    [[False, True, False, False]]
    """
    content_BL = (segments_BL > 0) & (tokens_BL != vocabulary.bos)
    return content_BL if vocabulary.eos_counts else content_BL & (tokens_BL != vocabulary.eos)


def mask_array(attention_mask: AttentionMask, segments_BL: jax.Array) -> jax.Array:
    """What each query may see, bool[B, L, M]: the definition all attention is held to.

    >>> mask_array(CausalMask(), jnp.array([[1, 1, 2, 0]]))[0].astype(int).tolist()
    [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    """
    length = segments_BL.shape[1]
    query_L1, key_1M = jnp.arange(length)[:, None], jnp.arange(length)[None, :]
    same_BLM = (segments_BL[:, :, None] == segments_BL[:, None, :]) & (
        segments_BL[:, :, None] > 0
    )
    match attention_mask:
        case CausalMask():
            return same_BLM & (key_1M <= query_L1)[None]
        case BidirectionalMask():
            return same_BLM
        case UntilMask(until_BL):
            return same_BLM & (key_1M[None] <= until_BL[:, :, None])
