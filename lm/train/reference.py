"""What a reference says of each token: a channel, computed once."""

import hashlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import msgspec
import numpy as np

from lm.artifact import Artifact
from lm.data import Split, Tokens, n_rows, places, store_key
from lm.data.derived import REFERENCE, is_kept, keep, with_channel
from lm.data.store import Key
from lm.distributed import hosts
from lm.distributed import mesh as _mesh
from lm.example import Batch, Vocabulary, unanswered
from lm.loss import log_p_given
from lm.objectives import Preference
from lm.objectives.pairs import CHOICE, sides
from lm.run import Run
from lm.train.companions import place_params
from lm.train.start import Begun, started_params
from lm.train.step import Program, prepare
from lm.train.validation import placed_rows


def with_reference(
    run: Run, tokens: Tokens, program: Program, begun: Begun, other: Artifact | None = None
) -> Tokens:
    """The run's tokens with what a reference says of them, if the objective asks for it.

    It is what the run starts from, unless another model is given. All hosts compute it
    together, unless each has it in its cache: of the rows that training reads, in the numbers
    that it computes in, by the start with the parameters that training begins with. So at the
    first step the two models say the same, but for how their programs are compiled.
    """
    if REFERENCE.name not in run.objective.needs:
        return tokens
    key = _key(run, tokens, begun, other)
    splits = {"train": tokens.train, "validation": tokens.validation}
    if not hosts.everywhere(lambda: is_kept(key)):
        named = run.objective.derived[REFERENCE.name] or run.start
        if hosts.is_first() and named is not None:
            print(f"lm: computing the reference by {named.path}", file=sys.stderr, flush=True)
        if other is None:
            params, _, _ = started_params(begun, program.init().params)
        else:
            program = _program(run, tokens.tokenizer.vocabulary, program.mesh, other)
            params = place_params(other.params, program.abstract.params)
        found = token_log_p(run, splits, program, params)
        hosts.barrier(lambda: keep(key, REFERENCE, found))
    splits = with_channel(key, REFERENCE, splits)
    return replace(tokens, train=splits["train"], validation=splits["validation"])


def _program(
    run: Run, vocabulary: Vocabulary, mesh: jax.sharding.Mesh, other: Artifact
) -> Program:
    """That of another model on the rows of a run."""
    objective = Preference()  # which asks the start, and so names nobody
    asked = Run(
        data=run.data, objective=objective, model=other.card.model, precision=run.precision
    )
    return prepare(asked, vocabulary, mesh)


def _key(run: Run, tokens: Tokens, begun: Begun, other: Artifact | None) -> Key:
    """What decides the channel: tokens and the rows they are in, the model and its numbers."""
    model = begun.start if other is None else other
    assert model is not None
    key = {
        **store_key(run.data, tokens.corpus_digest, tokens.tokenizer_digest),
        "channel": REFERENCE.name,
        "length": run.data.length,
        "model": model.digest,
        "precision": run.precision,
    }
    start = run.start if other is None else None
    if start is not None and (run.model != model.card.model or start.add_tokens):
        # More than the start's parameters decides: settings, and what is drawn.
        drawn = msgspec.json.encode([run.model, start.add_tokens, run.seed])
        key["beyond"] = hashlib.sha256(drawn).hexdigest()[:16]
    return key


def token_log_p(
    run: Run, splits: Mapping[str, Split], program: Program, params: Any
) -> dict[str, np.ndarray]:
    """Log p in nats of each token of splits' streams given those before it, float32[size] each.

    As the rows of the run hold it, each side of a pair by itself; 0 where nothing is before it.
    """
    score, data = _scorer(program), run.data
    found = {}
    for name, split in splits.items():
        log_p = np.zeros(split.size, np.float32)
        for indices in _batches(n_rows(split, data.length, data.packing), data.batch):
            said_BL = hosts.fetch(score(params, placed_rows(run, split, program, indices)))
            places_BL = places(split, indices, data.length)
            there_BL = places_BL >= 0
            log_p[places_BL[there_BL]] = said_BL[: len(indices)][there_BL]
        found[name] = log_p
    return found


def _batches(count: int, size: int) -> list[np.ndarray]:
    return [np.arange(at, min(at + size, count)) for at in range(0, count, size)]


def _scorer(program: Program) -> Callable[[Any, Batch], jax.Array]:
    """`(params, batch)` to log p of each token given those before it in its segment.

    0 at the first of a segment, and in padding, float32[B, L].
    """
    module, mask = program.module, program.run.objective.attention_mask

    def log_p(params: Any, batch: Batch) -> jax.Array:
        segments_BL = sides(batch) if CHOICE in batch.channels else batch.segments_BL
        example = unanswered(batch.tokens_BL, segments_BL, mask)
        output: Any = module.apply({"params": program.join(params)}, example)
        return log_p_given(
            output, batch.tokens_BL, segments_BL, einsum=module.einsum, mesh=program.mesh
        )

    everywhere = _mesh.sharding(program.mesh)
    return jax.jit(log_p, out_shardings=everywhere)
