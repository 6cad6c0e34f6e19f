"""`lm settle`: how the runs of a forecast came out."""

import argparse
from pathlib import Path
from typing import Any

import msgspec

from lm.commands.named import find_study, scale_of
from lm.config import UserError
from lm.distributed.process import Parser
from lm.output.console import add_json, console, print_json, print_table, table
from lm.output.numbers import ends, number


def add_arguments(parser: Parser) -> None:
    """The command line."""
    parser.description = "Holds a forecast of lm predict to the runs that have finished since."
    parser.add_argument("forecast", metavar="FORECAST.json", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR")
    add_json(parser)


def main(given: argparse.Namespace) -> None:
    """Prints each finished run beside its forecast, and how many lie within their intervals."""
    import numpy as np

    from lm.study.forecasts import read_forecast, settled
    from lm.study.runner import cells_of

    forecast = read_forecast(given.forecast)
    study = find_study(forecast.study)
    scale = scale_of(study, forecast.study, forecast.scale)
    found = settled(forecast, cells_of(study, forecast.study, scale, given.runs))
    if not found:
        raise UserError(f"{given.forecast}: none of its {len(forecast.runs)} runs is finished")
    errors = np.array([each.error for each in found])
    with_ends = [each.inside for each in found if each.inside is not None]
    total: dict[str, Any] = {
        "finished": len(found),
        "to_come": len(forecast.runs) - len(found),
        "bias": float(errors.mean()),
        "rms": float(np.sqrt((errors**2).mean())),
        "inside": sum(with_ends),
        "with_interval": len(with_ends),
    }
    if given.json:
        rows = [
            msgspec.structs.asdict(each.forecast)
            | {"measured": each.measured, "error": each.error, "inside": each.inside}
            for each in found
        ]
        print_json({"made": forecast.made, "digest": forecast.digest, **total, "runs": rows})
        return
    titles = ("forecast", "95%", "measured", "ln forecast − ln measured", "")
    shown = table("run", *titles, right=titles[:-1])
    for each in found:
        shown.add_row(
            each.forecast.name,
            number(each.forecast.loss),
            ends(each.forecast.ci95),
            number(each.measured),
            f"{each.error:+.4f}",
            {True: "within", False: "outside", None: "no interval"}[each.inside],
        )
    print_table(shown)
    console().print(
        f"of {forecast.made}: {total['inside']} of {total['with_interval']} within their 95%"
        f" intervals; bias of ln {total['bias']:+.4f}, rms {total['rms']:.4f};"
        f" {total['to_come']} runs to come"
    )
