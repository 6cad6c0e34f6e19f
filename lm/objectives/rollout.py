"""What an objective that learns from a model's own samples is given, inside the step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from msgspec import Meta

from lm.config import Config
from lm.example import (
    AttentionMask,
    CausalMask,
    Example,
    Head,
    Output,
    positions_of,
    unanswered,
)
from lm.loss import log_p_given, logits
from lm.numerics import Einsum

START = "start"
"""The companion that is what the run starts from."""


class Named(Config):
    """A trained model that is asked, and never trained, by its path."""

    path: Annotated[
        str, Meta(min_length=1, description="an artifact, or the directory of a run")
    ]
    digest: Annotated[
        str | None,
        Meta(description="of the model there; null: whichever it is, and noted here"),
    ] = None


class RolledOut(NamedTuple):
    """Rows of prompts with what a model put behind each, in nats where it says so."""

    tokens_BL: jax.Array
    """int32[B, L]: prompts, samples, padding."""
    sampled_BL: jax.Array
    """bool[B, L]: which of them were sampled, with the token that ends each sample."""
    log_p_BL: jax.Array
    """float32[B, L]: log p of each sampled token when it was drawn; 0 elsewhere."""
    entropy_BL: jax.Array
    """float32[B, L]: of the distribution that it was drawn from; 0 elsewhere."""
    ended_B: jax.Array
    """bool[B]: whether a sample came to its end, and was not cut."""


Generate = Callable[[jax.Array, jax.Array, jax.Array, jax.Array, int], RolledOut]
"""`(tokens_BL, prompt_B, end_B, key, count)` to samples of the model as it is in this step.

Row b goes on behind its first `prompt_B[b]` tokens until it draws the token `end_B[b]` or eos,
has `count` more, or is full; a row without a prompt stays empty.
"""


class Taught(NamedTuple):
    """What a teacher answers to an example, and the products that make logits of it."""

    output: Output
    einsum: Einsum


@dataclass(frozen=True)
class Companion:
    """A frozen model, as an objective may ask it inside the step."""

    ask: Callable[[Example], Output]
    einsum: Einsum
    mesh: jax.sharding.Mesh | None
    head: Head | None
    """What it speaks with; None: the vocabulary."""
    attention_mask: AttentionMask
    """What its tokens see of their segment."""

    def log_p(self, tokens_BL: jax.Array, segments_BL: jax.Array) -> jax.Array:
        """Log p of each token given those before it in its segment, float32[B, L]; 0 of first
        ones.
        """
        output = self.ask(unanswered(tokens_BL, segments_BL, CausalMask()))
        return log_p_given(output, tokens_BL, segments_BL, einsum=self.einsum, mesh=self.mesh)

    def scores(self, tokens_BL: jax.Array, segments_BL: jax.Array) -> jax.Array:
        """What its head gives the one document of each row, float32[B].

        Of one output its value; of two classes the log-odds of the second.
        """
        assert self.head is not None
        rows = len(tokens_BL)
        example = Example(
            inputs=tokens_BL,
            target_positions=None,
            targets=jnp.zeros((rows, 1), jnp.int32),
            weights=jnp.zeros((rows, 1)),
            segments=segments_BL,
            positions=positions_of(segments_BL),
            attention_mask=self.attention_mask,
            head=self.head,
        )
        scores_BC: Any = logits(self.ask(example), einsum=self.einsum)[:, 0]
        return scores_BC[:, -1] - (scores_BC[:, 0] if self.head.outputs == 2 else 0.0)
