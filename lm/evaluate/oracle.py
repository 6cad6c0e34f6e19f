"""The source itself in the place of a model: what it is asked, it answers with the truth."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from lm.data.sources.hmm import ALPHABET, Hmm
from lm.example import BidirectionalMask, CausalMask, Example, Output, Vocabulary
from lm.numerics import Einsum


@dataclass(frozen=True)
class Oracle:
    """A module without parameters that knows a hidden Markov source: no model does better.

    Every scorer takes it, so each number of a model has its optimum, on the same text under the
    same masks. A token is a symbol, a row is one document (`Hmm.row_length`); what is shown is
    taken for true, so it is no optimum where an objective shows random tokens.
    """

    source: Hmm
    vocabulary: Vocabulary
    einsum: ClassVar[Einsum] = Einsum("float32")
    mesh: ClassVar[None] = None

    def apply(self, variables: Any, example: Example) -> Output:
        """p(token | what is visible): the next token (causal), or what a mask token hides."""
        del variables
        if isinstance(example.attention_mask, CausalMask):
            fraction_BLV = self._next(example.inputs)
        elif isinstance(example.attention_mask, BidirectionalMask):
            fraction_BLV = self._masked(example.inputs)
        else:
            raise ValueError("the source answers causal rows and rows that are seen whole")
        if example.target_positions is not None:
            fraction_BLV = jnp.take_along_axis(
                fraction_BLV, example.target_positions[..., None], axis=1
            )
        # What cannot be gets what a float32 softmax cannot tell from nothing.
        log_BPV = jnp.log(jnp.maximum(fraction_BLV, 1e-30))
        return Output(log_BPV, jnp.eye(self.vocabulary.size))

    def init_cache(self, rows: int, capacity: int) -> Any:
        raise NotImplementedError("the source reads whole rows")

    def _next(self, tokens_BL: jax.Array) -> jax.Array:
        """Of the token after each position, given all up to it, float32[B, L, V]."""
        tables = self.source.source()
        start_S, move_SS = jnp.array(tables.initial_S), jnp.array(tables.transition_SS)

        def one(before_BS: jax.Array, seen_BS: jax.Array) -> tuple[jax.Array, jax.Array]:
            next_BS = _product(_normalized(before_BS * seen_BS), move_SS)
            return next_BS, next_BS

        evidence_BTS = self._evidence(tokens_BL)
        first_BS = jnp.broadcast_to(start_S, (len(tokens_BL), len(start_S)))
        _, next_TBS = jax.lax.scan(one, first_BS, jnp.swapaxes(evidence_BTS, 0, 1)[:-1])
        before_BTS = jnp.concatenate([first_BS[:, None], jnp.swapaxes(next_TBS, 0, 1)], axis=1)
        # Asked at the position before: begin for the first symbol.
        return jnp.roll(self._pieces(before_BTS, tokens_BL.shape[1]), -1, axis=1)

    def _masked(self, tokens_BL: jax.Array) -> jax.Array:
        """Of the token at each position, given all that are no mask token, float32[B, L, V]."""
        tables = self.source.source()
        start_S, move_SS = jnp.array(tables.initial_S), jnp.array(tables.transition_SS)
        evidence_TBS = jnp.swapaxes(self._evidence(tokens_BL), 0, 1)
        first_BS = jnp.broadcast_to(start_S, evidence_TBS.shape[1:])

        def forward(before_BS: jax.Array, seen_BS: jax.Array) -> tuple[jax.Array, jax.Array]:
            return _product(_normalized(before_BS * seen_BS), move_SS), before_BS

        def backward(after_BS: jax.Array, seen_BS: jax.Array) -> tuple[jax.Array, jax.Array]:
            return _normalized(_product(after_BS * seen_BS, move_SS.T)), after_BS

        _, before_TBS = jax.lax.scan(forward, first_BS, evidence_TBS)
        ones_BS = jnp.ones_like(first_BS)
        _, after_TBS = jax.lax.scan(backward, ones_BS, evidence_TBS, reverse=True)
        state_TBS = _normalized(before_TBS * after_TBS * evidence_TBS)
        return self._pieces(jnp.swapaxes(state_TBS, 0, 1), tokens_BL.shape[1])

    def _evidence(self, tokens_BL: jax.Array) -> jax.Array:
        """p(token | state) of the row's symbols, 1 where one is hidden, float32[B, T, S]."""
        emission_SK = self.source.source().emission_SK
        known_VS = np.ones((self.vocabulary.size, len(emission_SK)))
        known_VS[self._tokens_of_symbols] = emission_SK.T
        return jnp.array(known_VS)[tokens_BL[:, 1 : 1 + self.source.length]]

    def _pieces(self, state_BTS: jax.Array, length: int) -> jax.Array:
        """p(token) at each position of the row: symbols at theirs, then the eos token."""
        emission_SK, size = self.source.source().emission_SK, self.vocabulary.size
        said_SV = np.zeros((len(emission_SK), size))
        said_SV[:, self._tokens_of_symbols] = emission_SK
        fraction_BTV = _product(state_BTS, jnp.array(said_SV))
        rest = length - 1 - self.source.length
        end_BRV = jnp.zeros((len(state_BTS), rest, size)).at[..., self.vocabulary.eos].set(1.0)
        return jnp.concatenate([end_BRV[:, :1], fraction_BTV, end_BRV], axis=1)

    @property
    def _tokens_of_symbols(self) -> np.ndarray:
        letters = ALPHABET[: self.source.symbols].encode()
        return self.vocabulary.first_ordinary + np.frombuffer(letters, np.uint8).astype(int)


_product = partial(jnp.matmul, precision="highest")
"""In float32 on accelerators too, which would round to bfloat16."""


def _normalized(weight_BS: jax.Array) -> jax.Array:
    return weight_BS / jnp.maximum(weight_BS.sum(axis=-1, keepdims=True), 1e-30)
