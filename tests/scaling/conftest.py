"""Runs whose law is known, and published data, where YARDSTICK_SCALING names their folder."""

import os
from pathlib import Path

import numpy as np
import pytest

from lm.scaling.laws import BESIROGLU, parametric_loss
from lm.scaling.table import Runs


@pytest.fixture(scope="session")
def published():
    folder = os.environ.get("YARDSTICK_SCALING")
    if not folder:
        pytest.skip("YARDSTICK_SCALING names no folder of published data")
    return Path(folder)


@pytest.fixture(scope="session")
def make_runs():
    def make(law=BESIROGLU, *, rows=60, noise=0.005, seed=0, factor=1.0) -> Runs:
        """Runs of random sizes and data, their loss multiplied by noise and a factor."""
        random = np.random.default_rng(seed)
        N, D = 10 ** random.uniform(7.5, 10.3, rows), 10 ** random.uniform(9.2, 11.7, rows)
        loss = parametric_loss(law, N, D) * factor * np.exp(noise * random.normal(size=rows))
        return Runs(loss, params_R=N, tokens_R=D)

    return make
