"""The progress bar: what it says, and how often where nobody watches."""

import pytest

from lm.run import Run
from lm.train.trackers import bar
from lm.train.trackers.base import Session


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(bar.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(bar, "device_peak", lambda: 500.0)
    monkeypatch.setattr(bar.jax, "device_count", lambda: 2)
    return now


def test_a_line_each_half_minute_says_how_far_and_how_fast(tmp_path, clock, capfd):
    """Fails if a log is flooded, or the rate, the peak's share or the time left is wrong."""
    session = Session(Run(), tmp_path, "cell", step=10, steps=110, token_flops=5.0)
    shown = bar.Bar(session)
    clock[0] += 20
    shown.update(20, 3.25, tokens=400, seconds=4.0)
    assert capfd.readouterr().err == ""
    clock[0] += 20
    shown.update(30, 3.0, tokens=400, seconds=4.0)
    # 100 tokens/s x 5 FLOPs of 2 x 500; 20 steps took 40 s, and 80 are left.
    assert capfd.readouterr().err == (
        "cell  30/110  loss 3.000  0.1k tokens/s  50% of peak  2:40 left\n"
    )
    shown.close()


def test_without_known_costs_nothing_is_measured(tmp_path, clock, monkeypatch):
    """Fails if the device's peak, which takes seconds, is measured for no use."""
    monkeypatch.setattr(bar, "device_peak", pytest.fail)
    bar.Bar(Session(Run(), tmp_path, "cell", 0, 10, token_flops=0.0)).close()
