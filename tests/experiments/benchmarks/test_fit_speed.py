"""The benchmark of fits runs."""

import re

from experiments.benchmarks.fit_speed import main


def test_every_law_is_timed(capsys):
    """Fails when a fit's arguments change and the benchmark's do not."""
    main(["--repeats", "1", "--rows", "40", "--draws", "20"])
    printed = capsys.readouterr().out
    for law in ("parametric", "data-constrained", "isoflop", "envelope", "power"):
        assert re.search(rf"^{law} +20 resamples +\d+\.\d+ ", printed, re.MULTILINE)
