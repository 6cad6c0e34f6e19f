"""Derived channels: what a model says of each token of a store, computed once and kept.

Under `$LM_CACHE/derived/KEY/` beside the token store, an array for each split that is read by
the same windows as tokens. Its key says of which tokens and by which model it is.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from lm.data import cache
from lm.data.sources import Channel
from lm.data.split import Split
from lm.data.store import Key, damage, open_arrays, write_array, write_store

REFERENCE = Channel("reference", "float32")
"""Log p in nats of each token given those before it, by what a run starts from; 0 where nothing
is before it."""

DERIVED: Mapping[str, Channel] = {REFERENCE.name: REFERENCE}
"""By name, the channels that no source has, and no digest of a batch holds: what they are of
has digests of its own, and two machines may round them differently."""


def is_kept(key: Key) -> bool:
    """Whether a derived channel is in the cache, whole."""
    return damage(_folder(key), key) is None


def keep(key: Key, channel: Channel, values: Mapping[str, np.ndarray]) -> None:
    """Puts a channel into the cache: what it says of each token of the stream, by split."""

    def write(store: Path) -> None:
        for name, array in values.items():
            write_array(store / name, array.astype(channel.dtype))

    write_store(_folder(key), key, write)


def with_channel(key: Key, channel: Channel, splits: Mapping[str, Split]) -> dict[str, Split]:
    """The splits of a store, by name, with a channel that is kept."""
    folder = _folder(key)
    opened = open_arrays([folder / name for name in splits])
    return {
        name: replace(split, channels={**split.channels, channel: stored})
        for (name, split), stored in zip(splits.items(), opened, strict=True)
    }


def _folder(key: Key) -> Path:
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    return cache.folder() / "derived" / name
