"""Slices by name, and the runtimes that fit them."""

import pytest

from tpu.errors import UserError
from tpu.slices import GENERATIONS, SLICES, check_number, check_runtime, find


@pytest.mark.parametrize(
    ("name", "accelerator", "topology", "hosts", "chips_per_host"),
    [
        ("v3-8", "v3-8", "2x2", 1, 4),
        ("v4-32", "v4-32", "2x2x4", 4, 4),
        ("v5e-1", "v5litepod-1", "1x1", 1, 1),
        ("v5e-8", "v5litepod-8", "2x4", 1, 8),
        ("v5e-16", "v5litepod-16", "4x4", 4, 4),
        ("v5p-128", "v5p-128", "4x4x4", 16, 4),
        ("v6e-256", "v6e-256", "16x16", 64, 4),
        ("tpu7x-16", "tpu7x-16", "2x2x2", 2, 4),
    ],
)
def test_slices_are_those_of_google(name, accelerator, topology, hosts, chips_per_host):
    """Fails if cores are counted as chips, or a host of eight chips as two of four."""
    found = find(name)
    assert (found.accelerator, found.topology) == (accelerator, topology)
    assert (found.hosts, found.chips_per_host) == (hosts, chips_per_host)


def test_no_slice_has_half_a_host():
    """Fails if a topology is added whose chips do not fill its hosts."""
    assert all(one.hosts * one.chips_per_host == one.chips for one in SLICES.values())
    assert len(SLICES) == sum(len(one.topologies) for one in GENERATIONS.values())


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("v5e-12", "nearest: v5e-8, v5e-16"),
        ("v5litepod-16", "nearest: v5e-16"),
        ("v6e-1024", "nearest: v6e-128, v6e-256"),
        ("v5e16", "nearest: v5e-16"),
        ("h100", "a generation (v3, v4, v5e, v5p, v6e, tpu7x)"),
        ("v5e-0", "nearest: v5e-1, v5e-4"),
    ],
)
def test_an_unknown_slice_is_one_line_with_the_nearest(name, near):
    """Fails if sizes are compared as text, or Google's own names lead nowhere."""
    with pytest.raises(UserError) as raised:
        find(name)
    assert near in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_runtime_of_another_generation_is_refused():
    """Fails if any known runtime will do; a v6e image does not boot a v5e host's driver."""
    assert check_runtime(find("v5e-16"), None) == "v2-alpha-tpuv5-lite"
    assert check_runtime(find("v6e-16"), "v2-alpha-tpuv6e") == "v2-alpha-tpuv6e"
    with pytest.raises(UserError, match=r"v5e-16 needs v2-alpha-tpuv5-lite \(of another"):
        check_runtime(find("v5e-16"), "v2-alpha-tpuv6e")
    with pytest.raises(UserError, match="did you mean v2-alpha-tpuv6e"):
        check_runtime(find("v6e-8"), "v2-alpha-tpu-v6e")


def test_launching_several_slices_of_v3_is_refused():
    """Fails if a slice is paid for whose hosts never find those of the other."""
    check_number(find("v3-32"), 1)
    for name in ("v4-32", "v5e-16", "tpu7x-16"):
        check_number(find(name), 2)
    with pytest.raises(UserError, match=r"slices of v3 .* v4, v5e, v5p, v6e, tpu7x"):
        check_number(find("v3-32"), 2)


def test_what_only_gke_offers_is_not_asked_of_the_tpu_api():
    """Fails if tpu7x gets a made-up runtime."""
    with pytest.raises(UserError, match="manifest --kind jobset"):
        check_runtime(find("tpu7x-8"), None)
