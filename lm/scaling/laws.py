"""The laws in closed form: loss from size and data, and the best split of a compute budget.

Parameters are a mapping from name to number, or to an array (a bootstrap's draws): everything
here broadcasts. N is parameters, D tokens, U unique tokens, C floating-point operations, with
C = 6 N D unless a function says otherwise.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

LawValues = Mapping[str, Any]
Convention = Literal["total", "non_embedding", "matmul"]
"""Which parameters N counts: all, all but the embedding's, or those of matrix products."""

FLOPS_PER_PARAMETER_AND_TOKEN = 6
"""Multiplications and additions, forward and backward (Kaplan et al. 2020, section 2.1)."""

HOFFMANN = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
"""As printed by Hoffmann et al. 2022 (equation 10); rounding alone moves N* by a quarter."""
BESIROGLU = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}
"""The same data fit again by Besiroglu et al. 2024 (equation 3)."""
MUENNIGHOFF = {
    "E": np.exp(0.6254804),
    "A": np.exp(6.255414),
    "B": np.exp(7.3049974),
    "alpha": 0.3526596,
    "beta": 0.3526596,
    "R_D": 15.387756,
    "R_N": 5.309743,
}
"""Repeated data: Muennighoff et al. 2023 (appendix A), unrounded."""
KAPLAN = {"N_c": 6.4e13, "D_c": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103}
"""Size and data together: Kaplan et al. 2020 (table 2); N is without embeddings."""


def parametric_loss(parameters: LawValues, params: Any, tokens: Any) -> Any:
    """L = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, equation 2).

    >>> float(parametric_loss(HOFFMANN, 70e9, 1.4e12).round(4))
    1.9366
    """
    return (
        parameters["E"]
        + parameters["A"] * np.power(params, -parameters["alpha"])
        + parameters["B"] * np.power(tokens, -parameters["beta"])
    )


def parametric_optimum(parameters: LawValues, flops: Any) -> tuple[Any, Any]:
    """The N and D that minimize the loss under C = 6 N D (Hoffmann et al. 2022, equation 4).

    >>> "{:.3e} {:.3e}".format(*parametric_optimum(BESIROGLU, 5.76e23))
    '7.225e+10 1.329e+12'
    """
    exponents = parametric_exponents(parameters)
    each = flops / FLOPS_PER_PARAMETER_AND_TOKEN
    ratio = np.exp(_log_ratio(parameters))
    return ratio * np.power(each, exponents["a"]), np.power(each, exponents["b"]) / ratio


def parametric_exponents(parameters: LawValues) -> dict[str, Any]:
    """N* ~ C^a and D* ~ C^b, with a = beta / (alpha + beta) and b = alpha / (alpha + beta).

    >>> round(parametric_exponents(HOFFMANN)["a"], 4)
    0.4516
    """
    alpha, beta = parameters["alpha"], parameters["beta"]
    return {"a": beta / (alpha + beta), "b": alpha / (alpha + beta)}


def kaplan_loss(parameters: LawValues, params: Any, tokens: Any) -> Any:
    """L = ((N_c / N)^(alpha_N / alpha_D) + D_c / D)^alpha_D (Kaplan et al. 2020, equation 1.5).

    >>> float(kaplan_loss(KAPLAN, 1e9, 1e30).round(4))  # (N_c / N)^alpha_N
    2.3188
    """
    ratio = parameters["alpha_N"] / parameters["alpha_D"]
    size = np.power(parameters["N_c"] / params, ratio)
    return np.power(size + parameters["D_c"] / tokens, parameters["alpha_D"])


def kaplan_optimum(parameters: LawValues, flops: Any) -> tuple[Any, Any]:
    """The N and D that minimize that loss under C = 6 N D, where rho (N_c / N)^rho = D_c / D.

    >>> N, D = kaplan_optimum(KAPLAN, 1e21)
    >>> best = kaplan_loss(KAPLAN, N, D)
    >>> [bool(best < kaplan_loss(KAPLAN, N * t, D / t)) for t in (0.9, 1.1)]
    [True, True]
    """
    rho = parameters["alpha_N"] / parameters["alpha_D"]
    each = np.log(flops / FLOPS_PER_PARAMETER_AND_TOKEN)
    log_params = (
        np.log(rho) + rho * np.log(parameters["N_c"]) + each - np.log(parameters["D_c"])
    ) / (1 + rho)
    return np.exp(log_params), np.exp(each - log_params)


def kaplan_exponents(parameters: LawValues) -> dict[str, Any]:
    """N* ~ C^a with a = alpha_D / (alpha_N + alpha_D), and b = 1 - a.

    >>> round(kaplan_exponents(KAPLAN)["a"], 3)
    0.575
    """
    alpha_N, alpha_D = parameters["alpha_N"], parameters["alpha_D"]
    return {"a": alpha_D / (alpha_N + alpha_D), "b": alpha_N / (alpha_N + alpha_D)}


def data_constrained_loss(parameters: LawValues, params: Any, tokens: Any, unique: Any) -> Any:
    """The parametric loss of what size and data are worth when data repeat.

    Muennighoff et al. 2023 (equations 5 to 7): the k-th pass over data is worth less and less,
    and so are parameters beyond those that are best for the unique data.

    >>> float(data_constrained_loss(MUENNIGHOFF, 6.34e9, 242e9, 25e9).round(12))
    2.225644088998
    >>> once = data_constrained_loss(MUENNIGHOFF, 1e9, 20e9, 20e9)  # nothing repeats
    >>> float((once - parametric_loss(MUENNIGHOFF, 1e9, 20e9)).round(9))
    0.0
    """
    return parametric_loss(
        parameters,
        effective_params(parameters, params, np.minimum(tokens, unique)),
        effective_tokens(parameters["R_D"], tokens, unique),
    )


def effective_tokens(r_d: Any, tokens: Any, unique: Any) -> Any:
    """D' = U + U R_D (1 - exp(-(D / U - 1) / R_D)): repeated tokens in units of new ones.

    >>> effective_tokens(15.0, np.array([1e9, 4e9, 1e12]), 1e9).round(-6).tolist()
    [1000000000.0, 3719000000.0, 16000000000.0]
    """
    unique = np.minimum(tokens, unique)
    return _worth(unique, tokens / unique - 1, r_d)


def effective_params(parameters: LawValues, params: Any, unique: Any) -> Any:
    """N', the same for parameters beyond the U_N that is best for the unique tokens."""
    ratio, alpha, beta = _log_ratio(parameters), parameters["alpha"], parameters["beta"]
    best = np.exp(beta / alpha * (np.log(unique) + ratio) + ratio)
    enough = np.minimum(params, best)
    return _worth(enough, params / enough - 1, parameters["R_N"])


def data_constrained_optimum(parameters: LawValues, flops: Any, unique: Any) -> tuple[Any, Any]:
    """The N and D that minimize the loss under C = 6 N D with so many unique tokens.

    Found by cutting a bracket in ln N (golden sections), as there is no closed form.

    >>> once = parametric_optimum(MUENNIGHOFF, 1e21)
    >>> bool(np.allclose(data_constrained_optimum(MUENNIGHOFF, 1e21, 1e13), once, rtol=1e-4))
    True
    >>> N, D = data_constrained_optimum(MUENNIGHOFF, 1e21, 1e9)
    >>> bool(N < once[0]), bool(D > once[1])  # more passes rather than more parameters
    (True, True)
    """
    each = np.log(flops / FLOPS_PER_PARAMETER_AND_TOKEN)
    start = np.log(parametric_optimum(parameters, flops)[0])
    low, high = start - np.log(1e4), np.minimum(start + np.log(1e4), each)

    def loss(log_params: Any) -> Any:
        tokens = np.exp(each - log_params)
        return data_constrained_loss(parameters, np.exp(log_params), tokens, unique)

    golden = (np.sqrt(5) - 1) / 2
    for _ in range(60):
        left, right = high - golden * (high - low), low + golden * (high - low)
        to_left = loss(left) < loss(right)
        low, high = np.where(to_left, low, left), np.where(to_left, right, high)
    log_params = (low + high) / 2
    return np.exp(log_params), np.exp(each - log_params)


def power_optimum(parameters: LawValues, flops: Any) -> dict[str, Any]:
    """What power laws of compute say of it: N = k_N C^a, D = k_D C^b, L = E + k_L C^-x.

    >>> found = power_optimum({"k_N": 0.1, "a": 0.5, "k_L": 20.0, "x": 0.05}, 1e20)
    >>> {name: float(value.round(6)) for name, value in found.items()}
    {'params': 1000000000.0, 'loss': 2.0}
    """
    found = {}
    for name, coefficient, exponent in (("params", "k_N", "a"), ("tokens", "k_D", "b")):
        if coefficient in parameters:
            found[name] = parameters[coefficient] * np.power(flops, parameters[exponent])
    if "k_L" in parameters:
        loss = parameters["k_L"] * np.power(flops, -parameters["x"])
        found["loss"] = parameters.get("E", 0.0) + loss
    return found


def _log_ratio(parameters: LawValues) -> Any:
    """The log of G = (alpha A / (beta B))^(1 / (alpha + beta))."""
    alpha, beta = parameters["alpha"], parameters["beta"]
    coefficients = np.log(alpha * parameters["A"]) - np.log(beta * parameters["B"])
    return coefficients / (alpha + beta)


def _worth(unique: Any, repeats: Any, half_life: Any) -> Any:
    # expm1, as 1 - exp(-x) loses all digits where little repeats.
    return unique * (1 - half_life * np.expm1(-np.maximum(repeats, 0) / half_life))
