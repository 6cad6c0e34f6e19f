"""Checkpoints: whatever is on the disk, what comes back is what was saved, or an older one."""

import errno
import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lm.config import UserError
from lm.train.checkpoint import Checkpoints, leaf_digests, restore

pytestmark = pytest.mark.eight_devices


def mesh(*shape):
    devices = np.array(jax.devices()[: int(np.prod(shape))]).reshape(shape)
    return jax.sharding.Mesh(devices, ("a", "b")[: len(shape)])


MESHES = [(1,), (8,), (2, 4)]


def shardings(shape):
    split = PartitionSpec("a", "b") if len(shape) == 2 else PartitionSpec("a")
    whole = NamedSharding(mesh(*shape), PartitionSpec())
    return {
        "params": {"w": NamedSharding(mesh(*shape), split), "norm": whole},
        "moments": (NamedSharding(mesh(*shape), split), whole),
        "step": whole,
    }


def state_of(step, shape=(8,)):
    w, moment = jax.random.normal(jax.random.key(step), (2, 64, 40))
    state = {
        "params": {"w": w, "norm": w[0].astype(jnp.bfloat16)},
        "moments": (moment, moment[0] > 0),
        "step": jnp.int32(step),
    }
    return jax.device_put(state, shardings(shape))


def abstract_of(shape=(8,)):
    abstract = jax.eval_shape(lambda: state_of(0))
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        abstract,
        shardings(shape),
    )


def assert_is(restored, step):
    assert (restored.step, restored.extra) == (step, {"chain": f"{step:x}", "loss": 1 / step})
    for got, want in zip(
        jax.tree.leaves(restored.state), jax.tree.leaves(state_of(step)), strict=True
    ):
        assert np.array_equal(got, want) and got.dtype == want.dtype


def save(checkpoints, step):
    checkpoints.save(step, state_of(step), {"chain": f"{step:x}", "loss": 1 / step})


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A directory that holds steps 1 and 2."""
    directory = tmp_path_factory.mktemp("saved")
    with Checkpoints(str(directory), keep=2) as checkpoints:
        save(checkpoints, 1)
        save(checkpoints, 2)
    return directory


@pytest.fixture
def directory(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "checkpoints"))


@pytest.mark.parametrize("shape", MESHES)
def test_digests_do_not_depend_on_the_mesh(shape):
    """Catches: an index within the shard, a sum in floating point, a digest per device."""
    assert leaf_digests(state_of(3, shape)) == leaf_digests(jax.device_get(state_of(3)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint32", "int8", "bool"])
def test_digests_see_one_bit_and_the_order(dtype):
    """Catches: ignoring the index, only some of the bits, -0 equal to 0."""
    x = np.asarray(jnp.asarray(np.arange(12).reshape(3, 4) % 7).astype(dtype))
    seen = {leaf_digests({"x": x})["x"]}
    for place in range(x.size):
        for bit in range(1 if dtype == "bool" else 8 * x.itemsize):
            changed = x.copy()
            changed.view(f"u{x.itemsize}").reshape(-1)[place] ^= np.array(1 << bit).astype(
                f"u{x.itemsize}"
            )
            seen.add(leaf_digests({"x": changed})["x"])
    assert len(seen) == 1 + x.size * (1 if dtype == "bool" else 8 * x.itemsize)
    swapped = x.copy()
    swapped[0, 0], swapped[2, 1] = x[2, 1], x[0, 0]
    assert (swapped != x).any() and leaf_digests({"x": swapped}) != leaf_digests({"x": x})


def test_digests_of_nothing():
    """Catches: an empty leaf or tree that fails."""
    assert leaf_digests({}) == {}
    assert leaf_digests({"x": jnp.zeros((0, 3))}) == {"x": "0" * 16}


@pytest.mark.parametrize("shape", MESHES)
def test_restores_bitwise_onto_another_mesh(saved, shape):
    """Catches: a lost leaf, dtype or sharding; state saved on 8 devices that needs 8."""
    restored = restore(str(saved), abstract_of(shape))
    assert_is(restored, 2)
    assert restored.state["params"]["w"].sharding == shardings(shape)["params"]["w"]
    assert isinstance(restored.state["moments"], tuple)


def test_a_part_is_read_alone(saved):
    """Catches: scoring that needs the optimizer's state."""
    part = {"params": abstract_of()["params"]}
    params = restore(str(saved), part).state["params"]
    assert np.array_equal(params["w"], state_of(2)["params"]["w"])


def test_what_is_saved_may_be_donated_at_once(tmp_path):
    """Catches: an asynchronous write from buffers that the next step overwrites."""
    step = jax.jit(lambda state: jax.tree.map(jnp.logical_not, state), donate_argnums=0)
    flags = jax.device_put(
        jnp.zeros((512, 1024), bool), NamedSharding(mesh(8), PartitionSpec("a"))
    )
    abstract = jax.ShapeDtypeStruct(flags.shape, flags.dtype, sharding=flags.sharding)
    with Checkpoints(str(tmp_path), keep=1) as checkpoints:
        for number in range(4):
            checkpoints.save(number, {"flags": flags}, {})
            flags = step(step(step(flags)))
            found = checkpoints.restore_newest({"flags": abstract})
            assert found.step == number and bool((found.state["flags"] == number % 2).all())


def test_only_the_newest_are_kept(tmp_path):
    """Catches: `keep` ignored, the oldest kept; a second save of a step that raises."""
    with Checkpoints(str(tmp_path), keep=2) as checkpoints:
        for step in (1, 2, 3, 3):
            save(checkpoints, step)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "3"]


FILES = [
    "meta/metadata",
    "state/_METADATA",
    "state/_sharding",
    "state/manifest.ocdbt",
    "state/array_metadatas/process_0",
    "state/d/*",
    "state/ocdbt.process_0/manifest.ocdbt",
    "state/ocdbt.process_0/d/*",
    "_CHECKPOINT_METADATA",
]
NEEDED = {"meta/metadata", "state/manifest.ocdbt", "state/d/*", "state/ocdbt.process_0/d/*"}


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
@pytest.mark.parametrize("file", FILES)
def test_damage_to_any_file(directory, damage, file, capfd):
    """Catches: unverified digests or metadata, an exception of orbax that is let through."""
    damage(max((directory / "2").glob(file), key=lambda path: path.stat().st_size))
    lines = []
    with Checkpoints(str(directory), keep=2, report=lines.append) as checkpoints:
        restored = checkpoints.restore_newest(abstract_of())
        # Orbax does not read every file; where it can do without, nothing is lost.
        assert_is(restored, restored.step)
        assert restored.step == 1 or file not in NEEDED
        assert len(lines) == (restored.step == 1)
        assert all(
            line.startswith("checkpoint 2 is damaged") and "\n" not in line for line in lines
        )
        save(checkpoints, 2)
        assert_is(checkpoints.restore_newest(abstract_of()), 2)
    assert (directory / "damaged" / "2").exists() == bool(lines)
    gc.collect(1)  # what a coroutine that was given up has to say, it says now; it is young
    assert capfd.readouterr() == ("", "")


def test_damage_to_what_was_saved_beside_the_state(directory):
    """Catches: digests of the arrays alone; the chain of batches is in the metadata."""
    path = directory / "2" / "meta" / "metadata"
    path.write_text(path.read_text().replace('"chain": "2"', '"chain": "3"'))
    with Checkpoints(str(directory), keep=2, report=lambda line: None) as checkpoints:
        assert_is(checkpoints.restore_newest(abstract_of()), 1)


def test_a_reader_reports_damage_and_touches_nothing(directory):
    """Catches: scoring that moves the checkpoints of a run that is still training."""
    flip(
        max((directory / "2").glob("state/ocdbt.process_0/d/*"), key=lambda p: p.stat().st_size)
    )
    temporary = directory / "3.orbax-checkpoint-tmp"
    temporary.mkdir()
    before = sorted(directory.rglob("*"))
    lines = []
    assert_is(restore(str(directory), abstract_of(), report=lines.append), 1)
    assert len(lines) == 1 and "2" in lines[0]
    assert sorted(directory.rglob("*")) == before


def test_none_intact(directory):
    """Catches: an endless loop, a silent start; a reader that returns what is not there."""
    for step in ("1", "2"):
        (directory / step / "meta" / "metadata").write_text("{}")
    with pytest.raises(UserError, match="no intact checkpoint"):
        restore(str(directory), abstract_of(), report=lambda line: None)
    lines = []
    with Checkpoints(str(directory), keep=2, report=lines.append) as checkpoints:
        assert checkpoints.restore_newest(abstract_of()) is None
    assert [line.split()[1] for line in lines] == ["2", "1", "checkpoint"]


@pytest.mark.parametrize("item", ["meta", "state"])
@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no room"),
        OSError(errno.EIO, "Input/output error"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
        ValueError("PERMISSION_DENIED: reading checkpoints/2"),
    ],
    ids=str,
)
def test_what_is_no_fault_of_a_checkpoint_moves_none(directory, monkeypatch, item, error):
    """Catches: whole checkpoints moved aside, and training begun anew, for want of memory."""
    whole = ocp.CheckpointManager.restore

    def restoring(manager, step, args):
        if item in args.keys():  # noqa: SIM118
            raise error
        return whole(manager, step, args=args)

    monkeypatch.setattr(ocp.CheckpointManager, "restore", restoring)
    with (
        Checkpoints(str(directory), keep=2, report=pytest.fail) as checkpoints,
        pytest.raises(UserError, match=f"checkpoint 2 cannot be read, .* as it is: {item}: "),
    ):
        checkpoints.restore_newest(abstract_of())
    assert not (directory / "damaged").exists()


def test_no_checkpoint_yet(tmp_path):
    """Catches: an error, or a report, at the first start; a traceback for a wrong path."""
    lines = []
    with Checkpoints(str(tmp_path / "new"), keep=2, report=lines.append) as checkpoints:
        assert checkpoints.restore_newest(abstract_of()) is None and lines == []
    for path in (tmp_path / "new", tmp_path / "absent"):
        with pytest.raises(UserError, match="no checkpoint"):
            restore(str(path), abstract_of())
    assert not (tmp_path / "absent").exists()


def test_another_model_is_not_damage(directory):
    """Catches: every checkpoint moved aside because the configuration was changed."""
    wider = abstract_of()
    wider["params"]["w"] = jax.ShapeDtypeStruct(
        (64, 48), jnp.float32, sharding=wider["params"]["w"].sharding
    )
    deeper = {**abstract_of(), "more": wider["step"]}
    with Checkpoints(str(directory), keep=2) as checkpoints:
        with pytest.raises(UserError, match=r"params/w as float32\[64, 40\], not .*\[64, 48\]"):
            checkpoints.restore_newest(wider)
        with pytest.raises(UserError, match="holds no more"):
            checkpoints.restore_newest(deeper)
        assert_is(checkpoints.restore_newest(abstract_of()), 2)


KILLED = """
import os, signal, sys, threading, time
import jax.numpy as jnp
from lm.train.checkpoint import Checkpoints
checkpoints = Checkpoints(sys.argv[1], keep=2)
state = {"w": jnp.arange(2**20)}
for step in range(10**6):
    checkpoints.save(step, state, {})
    print(step, flush=True)
    if step == 1:
        threading.Timer(float(sys.argv[2]), os.kill, (os.getpid(), signal.SIGKILL)).start()
"""


def test_kill_at_any_moment(tmp_path):
    """Catches: a checkpoint visible before it is whole; leftovers of a kill that stay."""
    state = {"w": jnp.arange(2**20)}
    for delay in ("0.07", "0.2"):
        child = subprocess.run(
            [sys.executable, "-c", KILLED, str(tmp_path), delay],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            timeout=120,
        )
        assert child.returncode == -signal.SIGKILL
        started = int(child.stdout.split()[-1])
        with Checkpoints(str(tmp_path), keep=2, report=pytest.fail) as checkpoints:
            found = checkpoints.restore_newest(jax.eval_shape(lambda: state))
            checkpoints.save(found.step + 1, state, {})  # waits until leftovers are removed
        # The save that had begun may be lost; the one before it had been waited for.
        assert found.step >= started - 1
        assert np.array_equal(found.state["w"], state["w"])
        assert [path.name for path in tmp_path.iterdir() if not path.name.isdigit()] == []
        shutil.rmtree(tmp_path)


def test_no_thread_is_left(saved, tmp_path):
    """Catches: a manager that is not closed, by either way of using it."""
    before = set(threading.enumerate())
    with Checkpoints(str(tmp_path), keep=1) as checkpoints:
        save(checkpoints, 1)
    restore(str(saved), abstract_of())
    # An event loop that is closed tells its threads to end, and does not wait for them.
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=10)
    assert set(threading.enumerate()) <= before


def test_a_place_that_cannot_hold_checkpoints_is_one_line(tmp_path, monkeypatch):
    """Fails if orbax's traceback is what a user reads, or not what is to be installed."""
    (tmp_path / "file").touch()
    with pytest.raises(
        UserError, match=r"file/here: no place for checkpoints: Not a directory$"
    ):
        Checkpoints(str(tmp_path / "file" / "here"), keep=1)
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(
        UserError, match=r"gs://ours/x: no place .* install 'yardstick-lm\[cloud\]'$"
    ):
        Checkpoints("gs://ours/x", keep=1)
