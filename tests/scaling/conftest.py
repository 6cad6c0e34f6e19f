"""Runs whose law is known, and published data, where they stand beside the repository."""

from pathlib import Path

import numpy as np
import pytest

from lm.scaling.laws import BESIROGLU, parametric_loss
from lm.scaling.table import Runs

SHARED = Path(__file__).parents[2].parent / "shared" / "scaling"


@pytest.fixture(scope="session")
def published():
    if not SHARED.is_dir():
        pytest.skip("published data sets are not beside the repository")
    return SHARED


@pytest.fixture(scope="session")
def make_runs():
    def make(law=BESIROGLU, *, rows=60, noise=0.005, seed=0, factor=1.0) -> Runs:
        """Runs of random sizes and data, their loss multiplied by noise and a factor."""
        random = np.random.default_rng(seed)
        N, D = 10 ** random.uniform(7.5, 10.3, rows), 10 ** random.uniform(9.2, 11.7, rows)
        loss = parametric_loss(law, N, D) * factor * np.exp(noise * random.normal(size=rows))
        return Runs(loss, params_R=N, tokens_R=D)

    return make
