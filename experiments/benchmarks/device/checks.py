"""Whether kernels of attention, and a run, do on a device what they do on a CPU."""

import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from msgspec.structs import replace

from experiments import known_truth
from lm.distributed import mesh as _mesh
from lm.example import AttentionMask, BidirectionalMask, CausalMask, UntilMask, mask_array
from lm.model.attention import KERNELS, attend, attend_in_blocks, key_extents
from lm.numerics import Einsum, Precision
from lm.train.train import train_run

LENGTH = 200
"""Positions of a row: two blocks of the smallest size, the second one in part."""
MASKS = ("causal", "full", "until")
TOLERANCES: dict[Precision, float] = {"float32": 2e-6, "bfloat16": 0.02}
"""Fractions of the largest value: an operand in bfloat16 is off by up to 2^-9."""
CELL_TOLERANCE = 1e-3
"""Nats a token, between losses of one run on two platforms in float32."""


def attention_mask_of(kind: str) -> AttentionMask:
    """The mask of a kind.

    Prefixes end within blocks; one query sees nothing, as its segment begins later.
    """
    until = np.minimum(np.arange(LENGTH) // 50 * 50 + 60, LENGTH - 1).astype(np.int32)
    until = np.tile(until, (2, 1))
    until[0, 100] = 3
    masks: dict[str, AttentionMask] = {
        "causal": CausalMask(),
        "full": BidirectionalMask(),
        "until": UntilMask(jnp.array(until)),
    }
    return masks[kind]


def deviations(
    backend: str,
    kind: str,
    *,
    mesh: jax.sharding.Mesh,
    precision: Precision = "bfloat16",
    groups: int = 2,
    size: int = 64,
) -> dict[str, float]:
    """How far a backend's values and gradients are from the reference's, at most.

    Fractions of the largest value, where somebody looks. The reference is XLA's form, in the
    same precision, on this machine's CPU. One row has two documents and padding, one has one.
    """
    random = np.random.default_rng(0)
    query, wanted = random.standard_normal((2, 2, LENGTH, 4, size), np.float32)
    key, value = random.standard_normal((2, 2, LENGTH, groups, size), np.float32)
    segments = np.array([[1] * 70 + [2] * 100 + [0] * 30, [1] * LENGTH], np.int32)
    attention_mask, einsum = attention_mask_of(kind), Einsum(precision)
    mask_BLM = np.asarray(mask_array(attention_mask, jnp.asarray(segments)))
    seen = np.asarray(mask_BLM.any(axis=2))[:, :, None, None]
    blocks = key_extents(attention_mask, LENGTH)

    def reference(query: Any, key: Any, value: Any) -> jax.Array:
        return attend(query, key, value, jnp.asarray(mask_BLM), blocks, einsum=einsum)

    def kernel(query: Any, key: Any, value: Any) -> jax.Array:
        given = query, key, value, jnp.asarray(segments)
        return attend_in_blocks(backend, *given, attention_mask, mesh=mesh, einsum=einsum)

    def both(attention: Any) -> Any:
        def loss(*qkv: Any) -> tuple[jax.Array, jax.Array]:
            mixed = jnp.where(seen, attention(*qkv), 0)
            return (mixed * wanted).sum(), mixed

        gradients, mixed = jax.grad(loss, (0, 1, 2), has_aux=True)(query, key, value)
        return mixed, *gradients

    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        expected = [np.asarray(array) for array in jax.jit(lambda: both(reference))()]
    found = [np.asarray(array) for array in jax.jit(lambda: both(kernel))()]
    names = "values", "queries", "keys", "values' gradients"
    return {
        name: float(np.abs(was - should).max() / np.abs(should).max())
        for name, was, should in zip(names, found, expected, strict=True)
    }


def attention_rows(backend: str) -> list[dict[str, Any]]:
    """`deviations` in each mask, on its platform also where no heads share keys, a row each."""
    mesh = _mesh.make(_mesh.Mesh(), jax.devices()[:1])
    home = KERNELS[backend].home if backend in KERNELS else ""
    # Off its platform a kernel is computed as it is written, at any precision.
    at_home = jax.devices()[0].platform == home
    precision: Precision = "bfloat16" if at_home else "float32"
    rows = []
    for kind in MASKS:
        for groups in (2, 4) if at_home else (2,):
            row: dict[str, Any] = {"backend": backend, "mask": kind, "heads": 4, "keys": groups}
            size = 64 if at_home else 16
            try:
                found = deviations(
                    backend, kind, mesh=mesh, precision=precision, groups=groups, size=size
                )
            except Exception as error:  # a kernel that its compiler refuses, in its own words
                line = next(iter(str(error).splitlines()), "")
                rows.append(row | {"error": f"{type(error).__name__}: {line}"[:300]})
                continue
            worst = max(found.values())
            right = worst <= TOLERANCES[precision]  # which NaN is not
            rows.append(row | {"precision": precision, "worst": worst, "right": right})
    return rows


def trained_cell() -> dict[str, Any]:
    """A tiny run of a study, in float32, trained on the device that is there."""
    name, run = next(iter(known_truth.runs("smoke").items()))
    with tempfile.TemporaryDirectory() as folder:
        result = train_run(replace(run, precision="float32", trackers=()), Path(folder) / name)
    device = jax.devices()[0]
    return {
        "run": name,
        "device": device.device_kind,
        "loss": result["validation_loss"],
        "batches": result["batches_digest"],
    }


def same_cell(here: dict[str, Any], there: dict[str, Any]) -> bool:
    """Whether two trained cells read the same rows and came to the same loss.

    >>> cell = {"loss": 2.0, "batches": "a"}
    >>> same_cell(cell, cell | {"loss": 2.0005}), same_cell(cell, cell | {"loss": 2.1})
    (True, False)
    """
    near = abs(here["loss"] - there["loss"]) <= CELL_TOLERANCE
    return bool(near and here["batches"] == there["batches"])
