"""Checkpoints that are saved behind the loop's back, and are proven intact when they are read.

Orbax writes them asynchronously, makes each visible with one rename, and reads them back onto
any mesh. It has no checksum of what it wrote: so every checkpoint carries a digest per leaf,
computed on the devices, that does not depend on how the leaf was sharded.

On disk: `<directory>/<step>/state` (arrays by path) and `<directory>/<step>/meta` (JSON: step,
extra, shape, dtype and digest of each leaf, and the SHA-256 of all that). A damaged checkpoint
is moved to `<directory>/damaged/<step>`.
"""

import asyncio
import contextlib
import errno
import functools
import hashlib
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from lm.config import UserError
from lm.data.digest import array_digest
from lm.distributed import hosts


class Restored(NamedTuple):
    """What a checkpoint held."""

    step: int
    state: Any
    extra: dict[str, Any]


def to_stderr(line: str) -> None:
    """Where a damaged checkpoint is reported unless the caller says otherwise."""
    print(f"lm: {line}", file=sys.stderr, flush=True)


class Checkpoints:
    """The checkpoints of the run that is being trained: the only writer of `directory`.

    Opening it begins to remove what a killed process left unfinished, and the first save waits
    for that. `keep` is how many of the newest stay. Use it as a context, or `close` it: the
    last save finishes then.
    """

    def __init__(
        self, directory: str, *, keep: int, report: Callable[[str], None] = to_stderr
    ) -> None:
        self._report = report
        with contextlib.ExitStack() as loops:
            loops.enter_context(_orderly_loops())
            self._manager = _manager(
                directory, max_to_keep=keep, cleanup_tmp_directories=True, create=True
            )
            self._loops = loops.pop_all()  # for the threads that write

    def save(self, step: int, state: Any, extra: dict[str, Any]) -> None:
        """Save behind the caller's back, who may donate `state` to the next step at once.

        Returns as soon as the arrays are copied to the host (or, if the save before is still
        being written, when that one is done). An error of the save before is raised here. A
        step that is there already is left alone: the same step is the same state.
        """
        self.wait()
        if step in self._manager.all_steps():
            return
        leaves = _by_path(state)
        digests = leaf_digests(leaves)
        described = {path: [*_kind(leaf), digests[path]] for path, leaf in leaves.items()}
        meta = {"step": step, "extra": extra, "leaves": described}
        with self._one_line_errors():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(leaves),
                    meta=ocp.args.JsonSave({**meta, "sha256": _sha256(meta)}),
                ),
                force=True,
            )

    def restore_newest(self, abstract: Any) -> Restored | None:
        """The newest intact checkpoint as `abstract` (`ShapeDtypeStruct`s with shardings).

        A damaged one is reported in one line and moved aside, and the one before is taken. None
        if there is none left: a run is a pure function of its configuration, so starting over
        gives the same numbers, and the report says that it does. Raises `UserError`, and moves
        nothing, if an intact checkpoint holds other arrays than `abstract` asks for.
        """
        self.wait()
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            found = _read(self._manager, step, abstract)
            if isinstance(found, Restored):
                return found
            self._set_aside(step)
            self._report(f"checkpoint {step} is damaged ({found}); moved to damaged/{step}")
        if steps:
            self._report("no checkpoint is intact: starting at step 0")
        return None

    def wait(self) -> None:
        """Return when the last save is on disk; raises `UserError` if it cannot be written."""
        with self._one_line_errors():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Finish the last save and end the threads."""
        with self._loops, self._one_line_errors():
            self._manager.close()

    @contextlib.contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        """A full disk is the user's to mend, and orbax raises any type for it."""
        try:
            yield
        except Exception as error:
            if hosts.lost():  # its part is missing, which is no fault of the disk
                raise
            raise UserError(
                f"{self._manager.directory}: a checkpoint could not be written:"
                f" {_refusal(error)}; what was saved before is whole, and the same command goes"
                " on from it"
            ) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _set_aside(self, step: int) -> None:
        if jax.process_index() == 0:
            aside = self._manager.directory / "damaged" / str(step)
            if aside.exists():
                aside.rmtree()
            aside.parent.mkdir(exist_ok=True)
            (self._manager.directory / str(step)).rename(aside)
        multihost_utils.sync_global_devices(f"set aside {step}")
        self._manager.reload()


def restore(
    directory: str, abstract: Any, *, report: Callable[[str], None] = to_stderr
) -> Restored:
    """The newest intact checkpoint, read only: a run that is still training is not disturbed.

    `abstract` may be a part of what was saved, `{"params": ...}` for scoring; only that part is
    read. Raises `UserError` if no checkpoint is there or intact, or if it holds other arrays.
    """
    manager = _manager(directory, read_only=True)
    try:
        steps = sorted(manager.all_steps(), reverse=True)
        for step in steps:
            found = _read(manager, step, abstract)
            if isinstance(found, Restored):
                return found
            report(f"checkpoint {step} is damaged ({found}); trying the one before")
    finally:
        manager.close()
    raise UserError(f"{directory}: {'no intact' if steps else 'no'} checkpoint")


def leaf_digests(tree: Any) -> dict[str, str]:
    """64 bits per leaf that depend on its values and their places, and not on its sharding.

    Each word is mixed with its row-major index by a bijection of 32 bits and the results are
    summed modulo 2^32, twice with different constants: a change of one element always changes
    both sums, and sums of integers have no order.

    >>> leaf_digests({"a": jnp.array([1.0, 2.0])}) == leaf_digests({"a": jnp.array([2.0, 1.0])})
    False
    """
    leaves = _by_path(tree)
    if not leaves:
        return {}
    lanes = np.asarray(_digests(_everywhere(leaves))(list(leaves.values())))
    return {path: f"{a:08x}{b:08x}" for path, (a, b) in zip(leaves, lanes, strict=True)}


def _everywhere(leaves: dict[str, Any]) -> NamedSharding | None:
    """Every process needs every digest, so they are replicated on the leaves' mesh."""
    for leaf in leaves.values():
        if isinstance(leaf, jax.Array) and isinstance(leaf.sharding, NamedSharding):
            return NamedSharding(leaf.sharding.mesh, PartitionSpec())
    return None


@functools.cache
def _digests(out: NamedSharding | None) -> Any:
    def digests(leaves: list[jax.Array]) -> jax.Array:
        return jnp.stack([array_digest(x) for x in leaves])

    return jax.jit(digests, out_shardings=out)


def _read(manager: ocp.CheckpointManager, step: int, abstract: Any) -> Restored | str:
    """The checkpoint, or in one line what is wrong with it. All processes agree on which."""
    leaves = _by_path(abstract)
    fault, error = "", None
    try:
        meta = manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta
        fault = "" if meta.pop("sha256") == _sha256(meta) else "meta: wrong SHA-256"
    except Exception as raised:  # orbax raises any type, bare Exception among them
        fault, error = "meta: " + _one_line(raised), raised
    if fault := _first_fault(step, fault, error):
        return fault

    _check_same_arrays(step, meta["leaves"], leaves)
    wanted = ocp.args.PyTreeRestore(
        leaves,
        restore_args=ocp.checkpoint_utils.construct_restore_args(leaves),
        partial_restore=True,
    )
    try:
        with _orderly_loops():
            arrays = manager.restore(step, args=ocp.args.Composite(state=wanted)).state
    except Exception as raised:
        fault, error = "state: " + _one_line(raised), raised
    if fault := _first_fault(step, fault, error):
        return fault

    for path, digest in leaf_digests(arrays).items():
        if digest != meta["leaves"][path][-1]:
            return f"{path}: digest {digest}, was {meta['leaves'][path][-1]}"
    state = jax.tree.unflatten(jax.tree.structure(abstract), [arrays[path] for path in leaves])
    return Restored(step, state, meta["extra"])


def _check_same_arrays(step: int, saved: dict[str, list[Any]], asked: dict[str, Any]) -> None:
    for path, leaf in asked.items():
        if path not in saved:
            raise UserError(f"checkpoint {step} holds no {path}: it is of another model or run")
        if saved[path][:-1] != _kind(leaf):
            raise UserError(
                f"checkpoint {step} holds {path} as {saved[path][1]}{saved[path][0]}, "
                f"not {leaf.dtype}{list(leaf.shape)}: it is of another model or run"
            )


def _first_fault(step: int, mine: str, error: Exception | None) -> str:
    """The fault of this process or of another: all of them must take the same branch.

    Raises UserError where the checkpoint may be whole: memory was short, its place not there.
    """
    grave = 0 if error is None else 1 + _is_elsewhere(error)
    faults = [max(grave, bool(mine))]
    if jax.process_count() > 1:
        faults = multihost_utils.process_allgather(np.int32(faults[0])).tolist()
    worst = max(faults)
    if faults[jax.process_index()] != worst:
        mine = f"process {faults.index(worst)} cannot read it"
    if worst == 2:
        raise UserError(f"checkpoint {step} cannot be read, and is left as it is: {mine}")
    return mine


def _is_elsewhere(error: BaseException) -> bool:
    """Whether reading failed by no fault of what was read.

    >>> _is_elsewhere(MemoryError()), _is_elsewhere(OSError(errno.ENOENT, "no such file"))
    (True, False)
    """
    error = _first_cause(error)
    if isinstance(error, OSError) and error.errno:
        return error.errno not in (errno.ENOENT, errno.EISDIR, errno.ENOTDIR)
    return isinstance(error, MemoryError) or any(status in str(error) for status in _ELSEWHERE)


_ELSEWHERE = (
    *("RESOURCE_EXHAUSTED", "PERMISSION_DENIED", "UNAUTHENTICATED"),
    *("UNAVAILABLE", "DEADLINE_EXCEEDED"),
)
"""Statuses of devices and stores that say nothing about what is stored."""


class _OrderlyLoop(asyncio.SelectorEventLoop):
    """Waits, before it closes, for what goes on when one of its siblings failed.

    Who calls it later was given up too, and is not heard.
    """

    def close(self) -> None:
        if not self.is_closed() and (left := asyncio.all_tasks(self)):
            self.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        super().close()

    def call_soon_threadsafe(  # type: ignore[override] # of any arguments
        self, callback: Any, *given: Any, context: Any = None
    ) -> Any:
        try:
            return super().call_soon_threadsafe(callback, *given, context=context)
        except RuntimeError:
            if not self.is_closed():
                raise
            return None


@contextlib.contextmanager
def _orderly_loops() -> Iterator[None]:
    """Without it, a damaged file or a full disk costs pages of tracebacks.

    They come from reads and writes that orbax gave up, whose threads call a closed loop.
    """
    original = asyncio.new_event_loop
    asyncio.new_event_loop = _OrderlyLoop
    try:
        yield
    finally:
        asyncio.new_event_loop = original


def _first_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None and not isinstance(error, ImportError):
        error = error.__cause__
    return error


def _one_line(error: BaseException) -> str:
    error = _first_cause(error)
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:120]}"


def _refusal(error: BaseException) -> str:
    """Why a write failed, in the system's words, if they are there.

    >>> _refusal(ValueError("Failed to write 9 bytes: No space left [os_error_code='28']"))
    'No space left on device'
    """
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return os.strerror(int(code[1])) if code else _one_line(error)


def _manager(directory: str, **options: Any) -> ocp.CheckpointManager:
    # Orbax logs its progress, warns about what is meant, and logs errors that it raises too.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    try:
        # Orbax refuses a relative path, but only when it saves.
        return ocp.CheckpointManager(
            directory if "://" in directory else os.path.abspath(directory),
            options=ocp.CheckpointManagerOptions(lightweight_initialize=True, **options),
        )
    except Exception as error:  # of any type: of a file system, or of what stands for a bucket
        if hosts.lost():
            raise
        mend = ": pip install 'yardstick-lm[cloud]'" if isinstance(error, ImportError) else ""
        raise UserError(
            f"{directory}: no place for checkpoints: {_refusal(error)}{mend}"
        ) from error


def _by_path(tree: Any) -> dict[str, Any]:
    """Leaves by path: what is on disk does not depend on the classes that hold the state.

    >>> list(_by_path({"params": {"norm": 0}, "moments": (1, 2)}))
    ['moments/0', 'moments/1', 'params/norm']
    """
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}


def _kind(leaf: Any) -> list[Any]:
    return [list(leaf.shape), str(leaf.dtype)]


def _sha256(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()
