"""What whoever uses a model may know of it."""

from collections.abc import Callable
from typing import Any, Protocol

import jax


class Body(Protocol):
    """Hashable; `apply({"params": params}, example)` gives (hidden_BPD, unembedding_VD).

    A body that generates goes on from what it has read: `nothing(rows, capacity)` is an empty
    past, and `apply({"params": params}, example, past)` gives the output and the next past.
    """

    @property
    def einsum(self) -> Any: ...
    @property
    def mesh(self) -> jax.sharding.Mesh | None: ...
    @property
    def apply(self) -> Callable[..., Any]: ...
    @property
    def nothing(self) -> Callable[[int, int], Any]: ...
