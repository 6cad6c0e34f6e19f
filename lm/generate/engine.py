"""What generates: slots on the device, in which requests come, go on and end at any time.

A prompt is read at once, in a bucket whose size is a power of two, so that few programs are
compiled; from then on one program draws the next token of all slots. Prompts of any length and
rows at any place go on together, and what a row draws depends on its own request alone.

A row holds as many positions as the engine has. When another is to be read, the older half is
forgotten: the newest half is read again, behind the bos token where the engine puts one.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import UserError
from lm.distributed.hosts import fetch
from lm.example import CausalMask, Source, Vocabulary, positions_of, unanswered
from lm.generate.sampling import RowSettings, Sampling, draw
from lm.loss import logits
from lm.model import Module

MOST = 20
"""Alternatives to a token that can be asked for."""
LEAST = 16
"""Positions of the smallest bucket."""


@dataclass(frozen=True)
class Request:
    """A text that is to go on, or the source of one that an encoder-decoder writes."""

    number: int
    """What its tokens are known by; no two that run at once have the same."""
    prompt: Sequence[int]
    count: int
    """Tokens to draw, at most; 0: the prompt's log-probabilities alone."""
    sampling: Sampling = field(default_factory=Sampling)
    ends: Sequence[int] | None = None
    """Tokens after which nothing comes; None: the vocabulary's eos."""
    alternatives: int = 0
    """How many of the likeliest tokens are told beside each, `MOST` at most."""
    echo: bool = False
    """Whether the prompt's own tokens are scored too."""
    source: Sequence[int] | None = None
    """What an encoder reads."""


class Scored(NamedTuple):
    """A token with its log-probability, and the likeliest there with theirs."""

    token: int
    log_p: float | None
    """In nats, of the model's own distribution over all tokens; None: nothing stands before."""
    alternatives: tuple[tuple[int, float], ...] = ()


class Emitted(NamedTuple):
    """A token that was drawn for a request."""

    number: int
    token: int | None
    """None where none was asked for. The token of an end is told too."""
    log_p: float
    """In nats, of the model's own distribution over all tokens."""
    alternatives: tuple[tuple[int, float], ...] = ()
    reason: Literal["stop", "length"] | None = None
    """Why it is the last: an end was drawn, or all tokens that were asked for."""
    prompt: tuple[Scored, ...] = ()
    """With the first token, those of a prompt that is echoed."""


class SlotState(NamedTuple):
    """What is kept of all rows on the device, and given away to each program that goes on."""

    cache: Any
    settings: RowSettings
    seen_BV: jax.Array
    """Tokens of each text so far, which repetition is measured by."""
    allowed_BV: jax.Array
    token_B: jax.Array
    """The one that was drawn last, and is read next."""
    position_B: jax.Array
    step_B: jax.Array
    """How many tokens were drawn."""


class DrawnTokens(NamedTuple):
    """A token of each row, its log-probability, and the likeliest with theirs."""

    token_B: Any
    log_p_B: Any
    likeliest_BK: Any
    log_p_BK: Any


@dataclass
class _Row:
    """A request that runs."""

    request: Request
    tokens: list[int]
    """All of the text."""
    read: int = 0
    """How many positions of the row are filled."""
    drawn: int = 0
    first: tuple[DrawnTokens, DrawnTokens | None, int] | None = None
    """What was drawn when the prompt was read, and is not told yet: with the prompt's own
    tokens, of which the last so many are scored."""


class Engine:
    """Slots that texts go on in; for one thread alone."""

    def __init__(
        self,
        module: Module,
        params: Any,
        *,
        vocabulary: Vocabulary,
        slots: int = 8,
        length: int = 2048,
        begin: Literal["bos", "given"] = "bos",
        source: int = 0,
    ) -> None:
        """`length` positions a row, with the bos token that `begin` puts before each prompt;
        prompts that are `given` have what begins a text. An encoder reads `source` positions.
        """
        self.module, self.params = module.for_generating(params, rows=slots)
        self.vocabulary = vocabulary
        self.length, self.source = length, source
        self._before = [vocabulary.bos] if begin == "bos" else []
        self._ordinary_V = np.array(vocabulary.is_ordinary)
        self._rows: list[_Row | None] = [None] * slots
        self._state = _empty(self.module, slots, length, source, vocabulary.size)

    @property
    def free(self) -> int:
        """How many requests may be admitted now."""
        return self._rows.count(None)

    def admit(self, request: Request) -> None:
        """Takes a slot and reads the prompt; `step` tells of it.

        Raises UserError for a prompt that cannot be read, and ValueError where no slot is free.
        """
        self._check(request)
        if None not in self._rows:
            raise ValueError("no slot is free")
        slot = self._rows.index(None)
        row = self._rows[slot] = _Row(request, list(request.prompt))
        self._read(slot, row)

    def cancel(self, number: int) -> None:
        """Ends a request, whose slot is free at once; one that has ended is none."""
        for slot, row in enumerate(self._rows):
            if row is not None and row.request.number == number:
                self._rows[slot] = None

    def step(self) -> list[Emitted]:
        """What was drawn: of prompts that were read since, or else one token for each row."""
        rows = [(slot, row) for slot, row in enumerate(self._rows) if row is not None]
        for slot, row in rows:
            if row.first is None and row.read == self.length:
                self._read(slot, row)
        if firsts := [(slot, row) for slot, row in rows if row.first is not None]:
            return [self._tell_first(slot, row) for slot, row in firsts]
        if not rows:
            return []
        running_B = np.array([row is not None for row in self._rows])
        told = any(row.request.alternatives for _, row in rows)
        self._state, drawn = _go_on(self.module, self.params, self._state, running_B, told)
        drawn = _fetched(drawn)
        for _, row in rows:
            row.read += 1
        return [self._tell(slot, row, drawn, slot) for slot, row in rows]

    def all(self, requests: Iterable[Request]) -> Iterator[Emitted]:
        """What is drawn for all requests as it comes, each as soon as a slot is free."""
        waiting = deque(requests)
        while waiting or self.free < len(self._rows):
            while waiting and self.free:
                self.admit(waiting.popleft())
            yield from self.step()

    def _check(self, request: Request) -> None:
        if not request.prompt and not self._before:
            raise UserError("a prompt of no tokens: give it what begins a text at least")
        if request.echo and (size := len(self._before) + len(request.prompt)) > self.length:
            raise UserError(f"a prompt of {size} tokens to be scored: at most {self.length}")
        if (size := len(request.source or ())) > self.source:
            raise UserError(
                f"a source of {size} tokens: the encoder reads at most {self.source}"
            )
        if not 0 <= request.alternatives <= MOST:
            raise UserError(f"alternatives={request.alternatives}: must be from 0 to {MOST}")

    def _read(self, slot: int, row: _Row) -> None:
        """Reads what the row still knows of its text, and draws the token after it."""
        request, vocabulary = row.request, self.vocabulary
        text = row.tokens
        if len(self._before) + len(text) > self.length:
            text = text[-(self.length // 2) :]
        known = [*self._before, *text]
        row.read = len(known)
        tokens_1L = np.zeros((1, min(self.length, _bucket(row.read))), np.int32)
        tokens_1L[0, : row.read] = known
        seen_1V = np.zeros((1, vocabulary.size), bool)
        seen_1V[0, row.tokens] = True
        allowed_1V = self._ordinary_V[None].copy()
        allowed_1V[0, list(_ends(request, vocabulary))] = True
        source_1M = None
        if request.source is not None:
            allowed_1V[0, list(vocabulary.sentinels)] = True
            size = min(self.source, _bucket(len(request.source)))
            source_1M = np.zeros((2, 1, size), np.int32)
            source_1M[0, 0, : len(request.source)] = request.source
            source_1M[1, 0, : len(request.source)] = 1
        echo = request.echo and row.drawn == 0
        self._state, first, prompt = _read(
            self.module,
            self.params,
            self._state,
            tokens_1L,
            np.int32(row.read),
            np.int32(slot),
            np.full(1, row.drawn, np.int32),
            RowSettings.of(request.sampling, vocabulary.size),
            seen_1V,
            allowed_1V,
            source_1M,
            echo,
        )
        row.first = first, prompt, len(text)

    def _tell_first(self, slot: int, row: _Row) -> Emitted:
        assert row.first is not None
        first, prompt, size = row.first
        row.first = None
        scored: tuple[Scored, ...] = ()
        if prompt is not None:
            found = _fetched(prompt)
            # What is said of a token is said at the one before it.
            before = len(self._before)
            scored = tuple(
                _scored(found, at + before - 1, row) if at + before else Scored(token, None)
                for at, token in enumerate(row.tokens[:size])
            )
        return self._tell(slot, row, _fetched(first), 0)._replace(prompt=scored)

    def _tell(self, slot: int, row: _Row, drawn: DrawnTokens, at: int) -> Emitted:
        """What was drawn for a row; one that ends leaves its slot."""
        request = row.request
        if request.count == 0:
            self._rows[slot] = None
            return Emitted(request.number, None, 0.0, (), "length")
        one = _scored(drawn, at, row)
        row.tokens.append(one.token)
        row.drawn += 1
        reason: Literal["stop", "length"] | None = None
        if one.token in _ends(request, self.vocabulary):
            reason = "stop"
        elif row.drawn == request.count:
            reason = "length"
        if reason is not None:
            self._rows[slot] = None
        return Emitted(request.number, one.token, one.log_p or 0.0, one.alternatives, reason)


def _ends(request: Request, vocabulary: Vocabulary) -> Sequence[int]:
    return (vocabulary.eos,) if request.ends is None else request.ends


def _bucket(size: int) -> int:
    """The least power of two, from `LEAST` on, that holds so many positions."""
    return max(LEAST, 1 << (size - 1).bit_length())


def _fetched(drawn: DrawnTokens) -> DrawnTokens:
    return DrawnTokens(*map(fetch, drawn))


def _scored(drawn: DrawnTokens, at: int, row: _Row) -> Scored:
    few = row.request.alternatives
    pairs = zip(drawn.likeliest_BK[at, :few], drawn.log_p_BK[at, :few], strict=True)
    alternatives = tuple((int(token), float(log_p)) for token, log_p in pairs)
    return Scored(int(drawn.token_B[at]), float(drawn.log_p_B[at]), alternatives)


# The programs, compiled once for a module and a number of slots


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _empty(module: Module, slots: int, length: int, source: int, size: int) -> SlotState:
    """The state of slots in which nothing runs."""
    zeros_B = jnp.zeros(slots, jnp.int32)
    ones_B, none_BV = jnp.ones(slots), jnp.zeros((slots, size), bool)
    settings = RowSettings(
        ones_B, zeros_B + size, ones_B, 0 * ones_B, ones_B, zeros_B.astype("uint32")
    )
    cache = _cache(module, slots, length, source)
    state = SlotState(cache, settings, none_BV, none_BV, zeros_B, zeros_B, zeros_B)
    return _everywhere(module, state)


@partial(jax.jit, static_argnums=(0, 11), donate_argnums=2)
def _read(
    module: Module,
    params: Any,
    state: SlotState,
    tokens_1L: jax.Array,
    size: jax.Array,
    slot: jax.Array,
    step_1: jax.Array,
    settings: RowSettings,
    seen_1V: jax.Array,
    allowed_1V: jax.Array,
    source_1M: jax.Array | None,
    echo: bool,
) -> tuple[SlotState, DrawnTokens, DrawnTokens | None]:
    """Reads the first `size` tokens into a slot and draws the next one.

    With `echo`, what is said of each of the tokens, at the one before it.
    """
    length = tokens_1L.shape[1]
    source = None
    if source_1M is not None:
        inputs_1M, known_1M = source_1M
        source = Source(inputs_1M, known_1M, positions_of(known_1M))
    last_11 = (size - 1)[None, None]
    example = unanswered(
        tokens_1L,
        (jnp.arange(length) < size)[None].astype(jnp.int32),
        CausalMask(),
        target_positions_BP=None if echo else last_11,
        source=source,
    )
    cache = _cache(module, 1, length, 0 if source is None else source.inputs_BM.shape[1])
    output, cache = module.apply({"params": params}, example, cache)
    prompt = None
    if echo:
        states_LD = output.hidden_BPD[0]

        def one(given: tuple[jax.Array, jax.Array]) -> DrawnTokens:
            state_D, token = given
            scores_1V = logits(
                output._replace(hidden_BPD=state_D[None, None]), einsum=module.einsum
            )[0]
            return _told(scores_1V, token[None], True)

        next_L = jnp.roll(tokens_1L[0], -1)
        found = jax.lax.map(one, (states_LD, next_L), batch_size=min(64, length))
        prompt = jax.tree.map(lambda x_L1: x_L1[:, 0], found)
        output = output._replace(hidden_BPD=states_LD[size - 1][None, None])
    scores_1V = logits(output, einsum=module.einsum)[:, 0]
    token_1 = draw(scores_1V, settings, seen_BV=seen_1V, allowed_BV=allowed_1V, step_B=step_1)
    row = SlotState(
        cache,
        settings,
        seen_1V | jax.nn.one_hot(token_1, scores_1V.shape[1], dtype=bool),
        allowed_1V,
        token_1,
        size[None],
        step_1 + 1,
    )
    state = _everywhere(module, _put(state, row, slot))
    return state, _told(scores_1V, token_1, True), prompt


@partial(jax.jit, static_argnums=0, donate_argnums=2)
def _go_on(
    module: Module, params: Any, state: SlotState, running_B: jax.Array, told: jax.Array
) -> tuple[SlotState, DrawnTokens]:
    """Reads the last token of each row that runs, and draws the next one."""
    token_B1 = state.token_B[:, None]
    example = unanswered(
        token_B1,
        running_B[:, None].astype(jnp.int32),
        CausalMask(),
        positions_BL=state.position_B[:, None],
        target_positions_BP=jnp.zeros_like(token_B1),
    )
    output, cache = module.apply({"params": params}, example, state.cache)
    scores_BV = logits(output, einsum=module.einsum)[:, 0]
    token_B = draw(
        scores_BV,
        state.settings,
        seen_BV=state.seen_BV,
        allowed_BV=state.allowed_BV,
        step_B=state.step_B,
    )
    rows_B = jnp.arange(len(token_B))
    state = SlotState(
        cache,
        state.settings,
        state.seen_BV.at[rows_B, token_B].set(True),
        state.allowed_BV,
        token_B,
        state.position_B + 1,
        state.step_B + 1,
    )
    return _everywhere(module, state), _told(scores_BV, token_B, told)


def _told(scores_BV: jax.Array, token_B: jax.Array, told: jax.Array | bool) -> DrawnTokens:
    """The log-probabilities of tokens and, if any are asked for, of the likeliest."""
    few = min(MOST, scores_BV.shape[1])
    sum_B = jax.nn.logsumexp(scores_BV, axis=1)

    def likeliest() -> tuple[jax.Array, jax.Array]:
        found_BK, token_BK = jax.lax.top_k(scores_BV, few)
        return token_BK, found_BK - sum_B[:, None]

    def nothing() -> tuple[jax.Array, jax.Array]:
        shape = len(scores_BV), few
        return jnp.zeros(shape, jnp.int32), jnp.zeros(shape)

    token_BK, log_p_BK = jax.lax.cond(told, likeliest, nothing)
    log_p_B = jnp.take_along_axis(scores_BV, token_B[:, None], axis=1)[:, 0] - sum_B
    return DrawnTokens(token_B, log_p_B, token_BK, log_p_BK)


def _cache(module: Module, rows: int, length: int, source: int) -> Any:
    return module.init_cache(rows, length, *((source,) if source else ()))


def _everywhere(module: Module, state: SlotState) -> SlotState:
    """The state, whole on every device: laid out otherwise by one program than by the next, it
    would have them compiled again.
    """
    if module.mesh is None:
        return state
    whole = jax.sharding.NamedSharding(module.mesh, jax.sharding.PartitionSpec())
    return jax.lax.with_sharding_constraint(state, whole)


def _put(state: SlotState, row: SlotState, slot: jax.Array) -> SlotState:
    """The state with one of its rows replaced by one that may be shorter."""

    def put(whole: jax.Array, part: jax.Array) -> jax.Array:
        # Of what a model keeps the rows' axis is the one along which one row is 1.
        axis = next(
            (at for at, size in enumerate(part.shape) if size == 1 and whole.shape[at] > 1), 0
        )
        if jnp.issubdtype(part.dtype, jnp.integer):
            # What is said of positions that the row before had is not said of this one's.
            sizes = zip(whole.shape, part.shape, strict=True)
            missing = [(0, more - size) for more, size in sizes]
            missing[axis] = (0, 0)
            part = jnp.pad(part, missing)
        start = [jnp.int32(0)] * whole.ndim
        start[axis] = slot
        return jax.lax.dynamic_update_slice(whole, part.astype(whole.dtype), start)

    return jax.tree.map(put, state, row)
