"""One table lays arrays out; what it cannot lay out is an error, not a copy."""

import jax
import pytest
from jax.sharding import PartitionSpec

from lm import mesh
from lm.config import UserError


def test_names_become_mesh_axes():
    """Fails if batch leaves out the replica axis."""
    assert mesh.spec(("batch", "length", "act_embed")) == PartitionSpec(
        ("replica", "fsdp"), "context", None
    )
    assert mesh.spec(()) == PartitionSpec()


@pytest.mark.parametrize("axes", [("embd",), ("embed", "embed"), ("batch", "embed")])
def test_unknown_and_colliding_names_raise(axes):
    """Fails if the resolver replicates what it does not know, as flax's does."""
    with pytest.raises(ValueError, match=r"LAYOUT|claim"):
        mesh.spec(axes)


def test_a_mesh_takes_all_devices_or_says_what_is_wrong():
    """Fails if a product below the number of devices leaves some idle without a word."""
    assert dict(mesh.make(mesh.Mesh(tensor=2)).shape) == {
        "replica": 1,
        "fsdp": 4,
        "tensor": 2,
        "context": 1,
    }
    assert mesh.make(mesh.Mesh(), jax.devices()[:1]).size == 1
    with pytest.raises(UserError, match=r"tensor 3 .* 8 devices"):
        mesh.make(mesh.Mesh(tensor=3))
    with pytest.raises(UserError, match=r"= 4, but there are 8"):
        mesh.make(mesh.Mesh(fsdp=4))
