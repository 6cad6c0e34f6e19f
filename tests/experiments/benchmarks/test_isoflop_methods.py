"""The benchmark that chose how isoFLOP minima are found."""

import numpy as np

from experiments.benchmarks import isoflop_methods
from lm.scaling.isoflop import METHODS


def test_the_default_method_is_the_nearest_to_the_truth():
    """Fails when the default is another than the simulation says, or outliers spoil it."""
    kinds = [
        isoflop_methods.errors(grid, "even", noise, spoiled, 6)
        for grid in list(isoflop_methods.GRIDS.values())[:4]
        for noise, spoiled in isoflop_methods.KINDS[1:]
    ]
    mean = {method: np.mean([found[method][0] for found in kinds]) for method in METHODS}
    assert min(mean, key=mean.__getitem__) == METHODS[0]
    assert mean[METHODS[0]] < 0.04
    assert all(failed == 0 for found in kinds for _, failed in found.values())


def test_a_line_for_every_kind_of_table(capsys, monkeypatch):
    """Fails when the command is broken."""
    monkeypatch.setattr(isoflop_methods, "KINDS", isoflop_methods.KINDS[:1])
    isoflop_methods.main(["--tables", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(isoflop_methods.GRIDS) * len(isoflop_methods.LAWS)
    assert all(method in lines[1] for method in METHODS)
