"""Rotary settings, as transformers 5 writes them and as those before it did."""

from collections.abc import Mapping
from typing import Any

from lm.config import UserError
from lm.hub.base import Options
from lm.model.positions import Linear, Llama3, Rotary, Scaling, Yarn


def read_rotary(options: Options) -> Rotary:
    """The positions of a model with one table.

    The base is in `rope_parameters` (5) or `rope_theta` (before); whoever looks for one alone
    finds 10000 in its place. Raises UserError where there is none, or both are and differ.
    """
    new = options.take("rope_parameters", None)
    theta = options.take("rope_theta", None)
    scaling = options.take("rope_scaling", None)
    fraction = options.take("partial_rotary_factor", None)
    length = options.take("max_position_embeddings", None)
    where = options.where
    beside = {} if fraction is None else {"partial_rotary_factor": fraction}
    new = None if new is None else beside | new
    old = None if theta is None else {"rope_theta": theta} | beside | (scaling or {})
    found = [rotary_of(each, length, where) for each in (new, old) if each is not None]
    if not found:
        raise UserError(
            f"{where}: has neither rope_theta nor rope_parameters, and another base than a"
            " model's own gives other numbers in silence: add rope_theta"
        )
    if old is not None and scaling is None and len(found) == 2:
        # What was written for both: there the scaling is in one alone.
        found[1] = Rotary(theta=theta, fraction=found[0].fraction, scaling=found[0].scaling)
    if any(each != found[0] for each in found):
        raise UserError(
            f"{where}: rope_theta={theta} with rope_scaling={scaling} is not what"
            f" rope_parameters={new} says"
        )
    return found[0]


def rotary_of(given: Mapping[str, Any], length: int | None, where: str) -> Rotary:
    """The positions that one set of parameters says."""
    parameters = dict(given)
    old_kind, kind = parameters.pop("type", None), parameters.pop("rope_type", None)
    kind = kind or old_kind or "default"
    theta = parameters.pop("rope_theta", None)
    if theta is None:
        raise UserError(f"{where}: {dict(given)} of rotary positions has no rope_theta")
    fraction = parameters.pop("partial_rotary_factor", None)
    parameters.pop("finetuned", None)

    def take(name: str, *default: Any) -> Any:
        value = parameters.pop(name, None)
        if value is None and not default:
            raise UserError(f"{where}: rotary positions of type {kind} have no {name}")
        return default[0] if value is None else value

    scaling: Scaling | None
    match kind:
        case "default":
            scaling = None
        case "linear":
            scaling = Linear(factor=float(take("factor")))
        case "llama3":
            scaling = Llama3(
                factor=float(take("factor")),
                low=float(take("low_freq_factor")),
                high=float(take("high_freq_factor")),
                original_length=take("original_max_position_embeddings", length),
            )
        case "yarn":
            factor = take("attention_factor", None)
            scaling = Yarn(
                factor=float(take("factor")),
                original_length=take("original_max_position_embeddings", length),
                beta_fast=float(take("beta_fast", 32)),
                beta_slow=float(take("beta_slow", 1)),
                attention_factor=None if factor is None else float(factor),
                rounding="whole" if take("truncate", True) else "none",
            )
        case _:
            raise UserError(
                f"{where}: rotary positions of type {kind} are not computed here; default,"
                " linear, llama3 or yarn"
            )
    parameters = {name: value for name, value in parameters.items() if value is not None}
    if parameters:
        name = next(iter(parameters))
        raise UserError(
            f"{where}: {name}={parameters[name]} of rotary positions is not known here"
        )
    return Rotary(
        theta=float(theta),
        fraction=1.0 if fraction is None else float(fraction),
        scaling=scaling,
    )


def written_rotary(positions: Any) -> dict[str, Any]:
    """The options of a model with one table, for transformers 5 and for those before."""
    rotary = positions if isinstance(positions, Rotary) else Rotary()
    parameters = parameters_of(rotary)
    scaling = {name: value for name, value in parameters.items() if name != "rope_theta"}
    fraction = scaling.pop("partial_rotary_factor", None)
    return {
        "rope_parameters": parameters,
        "rope_theta": rotary.theta,
        "rope_scaling": scaling if rotary.scaling is not None else None,
        **({} if fraction is None else {"partial_rotary_factor": fraction}),
    }


def parameters_of(rotary: Rotary) -> dict[str, Any]:
    """The positions as `rope_parameters` has them.

    >>> parameters_of(Rotary(scaling=Linear(factor=2.0)))
    {'rope_type': 'linear', 'rope_theta': 10000.0, 'factor': 2.0}
    """
    found: dict[str, Any] = {"rope_type": "default", "rope_theta": rotary.theta}
    match rotary.scaling:
        case Linear(factor=factor):
            found |= {"rope_type": "linear", "factor": factor}
        case Llama3() as scaling:
            found |= {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low,
                "high_freq_factor": scaling.high,
                "original_max_position_embeddings": scaling.original_length,
            }
        case Yarn() as scaling:
            found |= {
                "rope_type": "yarn",
                "factor": scaling.factor,
                "original_max_position_embeddings": scaling.original_length,
                "beta_fast": scaling.beta_fast,
                "beta_slow": scaling.beta_slow,
            }
            if scaling.attention_factor is not None:
                found["attention_factor"] = scaling.attention_factor
            if scaling.rounding == "none":
                found["truncate"] = False
    if rotary.fraction != 1:
        found["partial_rotary_factor"] = rotary.fraction
    return found
