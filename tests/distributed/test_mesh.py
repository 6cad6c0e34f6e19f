"""One table lays arrays out; what it cannot lay out is an error, not a copy."""

from types import SimpleNamespace

import jax
import pytest
from jax.sharding import PartitionSpec

from lm.config import UserError
from lm.distributed import mesh
from lm.distributed.mesh import Divisibility, Mesh

pytestmark = pytest.mark.eight_devices


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
    assert dict(mesh.make(Mesh(tensor=2)).shape) == {
        "replica": 1,
        "fsdp": 4,
        "tensor": 2,
        "context": 1,
    }
    assert mesh.make(Mesh(), jax.devices()[:1]).size == 1
    with pytest.raises(UserError, match=r"tensor 3 .* 8 devices"):
        mesh.make(Mesh(tensor=3))
    with pytest.raises(UserError, match=r"= 4, but there are 8"):
        mesh.make(Mesh(replica=1, fsdp=4, tensor=1, context=1))


SPLITS = [
    Divisibility("batch", 96, "data.batch", each=2),
    Divisibility("length", 1024, "data.length"),
    Divisibility("embed", 768, "model.width"),
    Divisibility("heads", 12, "model.heads"),
    Divisibility("vocab", 32_770, "the vocabulary", is_field=False),
]


@pytest.mark.parametrize(
    ("devices", "slices", "given", "chosen"),
    [
        (1, 1, Mesh(), (1, 1, 1, 1)),
        (16, 1, Mesh(), (1, 16, 1, 1)),
        (32, 2, Mesh(), (2, 8, 2, 1)),  # 48 rows over 16 devices; the vocabulary takes two
        (32, 1, Mesh(tensor=1), (1, 16, 1, 2)),
        (256, 1, Mesh(), (1, 16, 2, 8)),
        (16, 4, Mesh(), (4, 4, 1, 1)),
        (16, 4, Mesh(replica=1), (1, 16, 1, 1)),
        (24, 1, Mesh(fsdp=3), (8, 3, 1, 1)),
    ],
)
def test_what_is_left_open_is_chosen_so_that_it_fits(devices, slices, given, chosen):
    """Fails if a size is left out, slices share a copy unasked, or rows are split first."""
    found = mesh.choose_mesh(given, SPLITS, devices=devices, slices=slices)
    assert tuple(found.values()) == chosen
    # What was chosen is what will be used.
    assert mesh.choose_mesh(Mesh(**found), SPLITS, devices=devices, slices=slices) == found


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            Mesh(fsdp=32),
            "data.batch=96 is not a multiple of 64 (mesh.fsdp=32 x microbatches=2);"
            " nearest: 64 or 128",
        ),
        (
            Mesh(tensor=8, fsdp=4),
            "model.heads=12 is not a multiple of 8 (mesh.tensor=8); nearest: 8 or 16;"
            " mesh.tensor may be 1, 2, 4",
        ),
        (
            Mesh(tensor=4, fsdp=8),
            "the vocabulary is not a multiple of 4 (mesh.tensor=4); mesh.tensor may be 1, 2",
        ),
    ],
)
def test_what_does_not_divide_is_one_line_with_what_would(given, line):
    """Fails if microbatches are forgotten, or the nearest are not multiples."""
    with pytest.raises(UserError) as error:
        mesh.choose_mesh(given, SPLITS, devices=32)
    assert str(error.value) == line


def test_slices_lie_along_replica():
    """Fails if an axis but replica crosses from one slice to another, or a device is lost."""
    ids = [(slice_, at) for at in range(8) for slice_ in (1, 0)]
    devices = [
        SimpleNamespace(slice_index=s, id=at, platform="cpu", device_kind="cpu")
        for s, at in ids
    ]
    assert mesh.count_slices(devices) == 2
    found = mesh._arranged((4, 2, 2, 1), devices, 2)
    for copy in found[:2].flat:
        assert copy.slice_index == 0
    assert {(d.slice_index, d.id) for d in found.flat} == set(ids)
    # A copy of the parameters may be asked to span slices; then it is slices in order.
    across = mesh._arranged((1, 16, 1, 1), devices, 2)
    assert [d.slice_index for d in across.flat] == [0] * 8 + [1] * 8
