"""Chips: their peaks, and how slices are named."""

import jax
import pytest

from lm.config import UserError
from lm.cost import chips, peak


@pytest.mark.parametrize(
    ("name", "count", "flops"),
    [
        ("v3-8", 4, 4 * 123e12),
        ("v4-8", 4, 4 * 275e12),
        ("v5e-16", 16, 16 * 197e12),
        ("v5p-8", 4, 4 * 459e12),
        ("V6E-8", 8, 8 * 918e12),
        ("tpu7x-8", 4, 4 * 2307e12),
        ("h100-8", 8, 8 * 989e12),
    ],
)
def test_the_number_of_a_slice_counts_chips_or_cores(name, count, flops):
    """Fails if cores are taken for chips, which doubles a v5p slice, or chips for cores."""
    found = chips.parse_slice(name)
    assert (found.chips, found.flops) == (count, flops)


@pytest.mark.parametrize("name", ["v5-16", "v5e", "v5e-0", "v5e--1", "v5p-7", "cpu-1", "", "-"])
def test_a_slice_that_is_none_is_refused_with_the_nearest(name):
    """Fails if half a chip is rounded, or an error does not name what is legal."""
    with pytest.raises(UserError, match=r"nearest: \S+") as error:
        chips.parse_slice(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("v5e-7", "v5e-4, v5e-8"),
        ("v5e-512", "v5e-256"),
        ("v4-3", "v4-8"),
        ("v4-12", "v4-8, v4-16"),
        ("v5p-7", "v5p-8"),
        ("h100-3", "h100-2, h100-4"),
        ("a100-12", "a100-8, a100-16"),
    ],
)
def test_launching_a_slice_that_nobody_offers_is_refused(name, nearest):
    """Fails when hours are planned on what cannot be had, or the hint cannot either."""
    with pytest.raises(UserError, match=f"nearest: {nearest}$"):
        chips.parse_slice(name)
    for other in nearest.split(", "):
        chips.parse_slice(other)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("v5-7", "v5p-8, v5e-4, v5e-8, v4-8"),
        ("v5e-99999999", "v5e-256, v6e-256, v5p-17920"),
        ("h100-99999999", "h100-1000000, h200-1000000, a100-1000000"),
        ("v5p-400", "v5p-384, v5p-512"),
        ("v4-100", "v4-64, v4-128"),
        ("v5p-9", "v5p-8, v5p-16"),
    ],
)
def test_h13_what_a_refused_slice_is_near_to_is_offered(name, nearest):
    """Fails if the number is put behind each kind unseen, or blocks of 64 chips are left out.

    v5e-99999999 was told that the nearest is v5e-99999999.
    """
    with pytest.raises(UserError, match=f"nearest: {nearest}$"):
        chips.parse_slice(name)
    for other in nearest.split(", "):
        chips.parse_slice(other)


def test_a_devices_peak_is_its_chips_share(monkeypatch):
    """Fails if the two devices of a TPU v3 have a whole chip's peak each, or a kind is lost."""
    kinds = [kind for chip in chips.CHIPS.values() for kind in chip.kinds]
    assert len(kinds) == len(set(kinds))
    assert chips.peak_of("TPU v6 lite") == 918e12
    assert chips.peak_of("TPU v3") == 61.5e12 and chips.peak_of("TPU7x") == 1153.5e12
    monkeypatch.setattr(peak, "matmul_peak", lambda: 7.0)
    assert peak.device_peak() == 7.0
    monkeypatch.setattr(jax, "devices", lambda: [type("Device", (), {"device_kind": "TPU v4"})])
    assert peak.device_peak() == 275e12
