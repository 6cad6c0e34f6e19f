"""Which kernel a GPU of this machine was seen to be right, and fastest, with.

`python -m experiments.benchmarks.device` notes it once its checks are right. Without a note
`attention=auto` is XLA's form on GPUs: no kernel is taken there that nobody has seen run.
"""

import json
import os
from pathlib import Path
from typing import Any, cast

import jax

from lm.model.attention.choose import Backend
from lm.model.attention.kernels import KERNELS
from lm.output.files import write_whole


def note_file() -> Path:
    """Where it is noted, beside what jax has compiled."""
    cache = os.environ.get("LM_CACHE") or "~/.cache/yardstick"
    return Path(cache).expanduser() / "attention.json"


def noted_backend(device_kind: str) -> Backend | None:
    """The kernel that was noted for such a device under this version of jax, or None."""
    noted = _notes().get(device_kind)
    if not isinstance(noted, dict) or noted.get("jax") != jax.__version__:
        return None
    backend = noted.get("attention")
    return cast(Backend, backend) if backend in KERNELS else None


def note_backend(device_kind: str, backend: str) -> None:
    """Notes what `auto` is to take on such a device; "xla": no kernel."""
    noted = _notes() | {device_kind: {"attention": backend, "jax": jax.__version__}}
    note_file().parent.mkdir(parents=True, exist_ok=True)
    write_whole(note_file(), json.dumps(noted, indent=1) + "\n")


def _notes() -> dict[str, Any]:
    try:
        found = json.loads(note_file().read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
