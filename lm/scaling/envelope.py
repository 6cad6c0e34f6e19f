"""The lowest loss at each compute and who reached it (approach 1 of Hoffmann et al. 2022)."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from lm.scaling.bootstrap import resample
from lm.scaling.fit import Fit, ranges_of
from lm.scaling.power import LineLaw, line_doubts, lines
from lm.scaling.table import DataError, Runs

EnvelopeMethod = Literal["hull", "bins"]
METHODS: tuple[EnvelopeMethod, ...] = get_args(EnvelopeMethod)

_BINS_A_DECADE = 10


@dataclass(frozen=True)
class Envelope(LineLaw):
    """N, D and L of the runs on the envelope as power laws of compute."""

    name = "envelope"
    needs = ("loss", "flops")
    methods = METHODS

    method: EnvelopeMethod = METHODS[0]
    """The lower convex hull, or the best of each bin of compute."""

    def fit(self, runs: Runs, *, bootstrap: int = 1000, seed: int = 0) -> Fit:
        """Least squares of logarithms over the runs on the envelope.

        What is resampled are clusters, or else sizes, with all of their rows, as these are
        often points of one run and not independent.

        >>> from lm.scaling.laws import HOFFMANN, parametric_loss
        >>> axes = np.geomspace(1e18, 1e22, 81), 10.0 ** np.arange(7, 12)
        >>> C, N = (axis.ravel() for axis in np.meshgrid(*axes))
        >>> loss = parametric_loss(HOFFMANN, N, C / 6 / N)
        >>> fit = Envelope().fit(Runs(loss, params_R=N, flops_R=C).completed(), bootstrap=0)
        >>> 0.40 < fit.exponents["a"] < 0.55  # five sizes are coarse: .4516
        True
        """
        (flops_R,) = runs.known("flops")
        rows_R = on_envelope(flops_R, runs.loss_R, self.method)
        if len(rows_R) < 3:
            raise DataError(
                f"{len(rows_R)} of {len(runs)} rows lie on the envelope; a law needs 3"
            )
        parameters, objective = _law_of(runs, rows_R)
        draws = _draws(runs, self.method, bootstrap, seed)
        return Fit(
            law=self,
            parameters=parameters,
            objective=objective,
            rows_used=len(rows_R),
            degrees=len(rows_R) - 2,
            draws=draws,
            warnings=(*_warnings(runs, rows_R), *line_doubts(parameters, draws)),
            ranges=ranges_of(runs.take(rows_R)),
            details={"rows": rows_R},
        )


def on_envelope(flops_R: np.ndarray, loss_R: np.ndarray, method: EnvelopeMethod) -> np.ndarray:
    """The rows on the envelope, by compute.

    Those of the lower convex hull in logarithms, or the best of each bin of compute; both end
    at the lowest loss. A bin is a tenth of a decade.

    >>> flops_R, loss_R = np.array([1e18, 1e19, 1e19, 1e20]), np.array([4.0, 3.5, 3.0, 2.5])
    >>> on_envelope(flops_R, loss_R, "hull").tolist()
    [0, 2, 3]
    """
    log_C_R, log_L_R = np.log(flops_R), np.log(loss_R)
    if method == "bins":
        bin_R = np.floor(np.log10(flops_R) * _BINS_A_DECADE + 1e-9)
        order_R = np.lexsort((log_L_R, bin_R))
        _, first = np.unique(bin_R[order_R], return_index=True)
        rows_R = order_R[first]
        # What more compute did not improve is not the best for it.
        best_R = np.minimum.accumulate(log_L_R[rows_R])
        return rows_R[log_L_R[rows_R] <= best_R]
    return _lower_hull(log_C_R, log_L_R)


def _lower_hull(x_R: np.ndarray, y_R: np.ndarray) -> np.ndarray:
    """Andrew's monotone chain (1979), from the left to the lowest point."""
    order_R = np.lexsort((y_R, x_R))
    order_R = order_R[: int(y_R[order_R].argmin()) + 1]
    x, y = x_R[order_R].tolist(), y_R[order_R].tolist()
    chain: list[int] = []
    for i in range(len(x)):
        if chain and x[i] == x[chain[-1]]:
            continue
        while len(chain) > 1:
            j, k = chain[-1], chain[-2]
            # Points on one line all stay: an exact power law is its own envelope.
            below = (y[i] - y[k]) * (x[j] - x[k]) / (x[i] - x[k]) - (y[j] - y[k])
            if below > -1e-9:
                break
            chain.pop()
        chain.append(i)
    return order_R[np.array(chain)]


def _law_of(runs: Runs, rows_R: np.ndarray) -> tuple[dict[str, float], float]:
    best = runs.take(rows_R)
    values = {"params": best.params_R, "tokens": best.tokens_R, "loss": best.loss_R}
    known = {name: values_R for name, values_R in values.items() if values_R is not None}
    (flops_R,) = best.known("flops")
    parameters, _, objective = lines(flops_R, known, bootstrap=0, seed=0)
    return parameters, objective


def _draws(
    runs: Runs, method: EnvelopeMethod, bootstrap: int, seed: int
) -> dict[str, np.ndarray]:
    """The law of each draw of clusters; where none are named, of sizes if there are five."""
    sizes_R = runs.params_R
    if runs.cluster_R is None and sizes_R is not None and len(np.unique(sizes_R)) >= 5:
        runs = replace(runs, cluster_R=sizes_R)
    (flops_R,) = runs.known("flops")
    found: dict[str, list[float]] = {}
    for counts_R in resample(runs, bootstrap, seed):
        rows_R = np.flatnonzero(counts_R)
        best_R = rows_R[on_envelope(flops_R[rows_R], runs.loss_R[rows_R], method)]
        if len(best_R) < 3:
            continue
        for name, value in _law_of(runs, best_R)[0].items():
            found.setdefault(name, []).append(value)
    return {name: np.array(values) for name, values in found.items()}


def _warnings(runs: Runs, rows_R: np.ndarray) -> list[str]:
    warnings = []
    if len(rows_R) < 5:
        warnings.append(f"too few points: {len(rows_R)} on the envelope; error bars are rough")
    if runs.params_R is not None:
        sizes_R = runs.params_R[rows_R]
        for name, edge in (("smallest", runs.params_R.min()), ("largest", runs.params_R.max())):
            share = float((sizes_R == edge).mean())
            if share > 1 / 3:
                warnings.append(
                    f"minima at an edge: {share:.0%} of the envelope is of the {name} size;"
                    " another beyond it may have been better"
                )
    return warnings
