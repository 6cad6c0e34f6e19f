"""How many devices a test has: one, unless it says that it is about a mesh."""

import os
from pathlib import Path

import jax
import pytest

from lm.distributed import mesh

HERE = Path(__file__).parent
ABOUT_MESHES = {
    "cost/test_count.py",
    "cost/test_ledger.py",  # devices that share rows share all products
    "distributed/test_hosts.py",  # held to as many devices of one process
    "distributed/test_mesh.py",
    "evaluate/tasks/test_candidate.py",  # rows over devices, as in the next two
    "evaluate/test_evaluate.py",
    "evaluate/test_likelihood.py",
    "model/attention/test_kernels.py",
    "model/test_experts.py",
    "model/test_kinds.py",  # every kind of model
    "model/test_transformer.py",
    "objectives/test_classify.py",  # a head over a mesh
    "objectives/test_contrastive.py",  # texts of all devices
    "optimizer/test_sharding.py",  # every optimizer
    "plan/test_hlo.py",
    "plan/test_plan.py",
    "plan/test_tune.py",
    "study/test_runner.py",  # every study's largest run is traced
    "test_devices.py",
    "test_loss.py",
    "train/test_checkpoint.py",
    "train/test_lora.py",
    "train/test_members.py",  # whole ones a device
    "train/test_meshes.py",  # losses, layouts, restarts and models on any
    "train/test_preferences.py",
    "train/test_rollout.py",
    "verify/test_leaks.py",
}
"""Where tests are marked `eight_devices`. What is not asked here is asked of one device."""


def test_a_test_has_one_device_and_so_have_its_children():
    """Fails if runs are again trained on eight devices that are of two cores."""
    assert jax.device_count() == len(jax.devices()) == mesh.make(mesh.Mesh()).size == 1
    assert os.environ["JAX_NUM_CPU_DEVICES"] == "1"


@pytest.mark.eight_devices
def test_a_test_about_meshes_has_eight():
    """Fails if the mark does nothing: a mesh of one passes most that is asked of a mesh."""
    assert jax.device_count() == len(jax.devices()) == mesh.make(mesh.Mesh()).size == 8
    assert os.environ["JAX_NUM_CPU_DEVICES"] == "8"


def test_tests_about_meshes_are_marked():
    """Fails if a file's mark is lost, and what it says of meshes is asked of one device."""
    mark = "pytest.mark.eight_devices"
    found = {
        path.relative_to(HERE).as_posix()
        for path in HERE.rglob("test_*.py")
        if mark in path.read_text()
    }
    assert found == ABOUT_MESHES
