"""Runs and studies by the names that a command line gives them."""

import importlib
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm.config import UserError, parse
from lm.output.files import check_exists

if TYPE_CHECKING:
    from lm.run import Run
    from lm.train.train import EvaluateAtEnd

RUN = "a JSON file, STUDY:RUN, STUDY/SCALE:RUN, or - for defaults"
"""How a run is named."""
OVERRIDES = "field.path=value"
"""How its fields are given; where the first stands in a run's place, that is `-`."""


def with_defaults(name: str, overrides: list[str]) -> tuple[str, list[str]]:
    """The name of a run and its overrides; a name that is an override leaves all defaults.

    >>> with_defaults("model.depth=3", ["seed=1"])
    ('-', ['model.depth=3', 'seed=1'])
    """
    return ("-", [name, *overrides]) if "=" in name else (name, overrides)


def find_run(name: str) -> tuple["Run", str, "EvaluateAtEnd | None"]:
    """The run that a file or STUDY[/SCALE]:RUN names, and where it goes by default.

    A study's run goes where the study looks for it, and is asked what the study asks.
    """
    from lm.run import Run

    if name == "-":
        return Run(), "default", None
    path = Path(name)
    if path.is_file():
        return parse(Run, path.read_bytes(), name), path.stem, None
    if ":" not in name:
        check_exists(path, "; give a RUN.json or STUDY:RUN")
        raise UserError(f"{name}: a directory; give its config.json, or STUDY:RUN")
    from lm.evaluate.evaluate import evaluate
    from lm.study.runner import chosen, effort_of

    study_name, scale, title = parts(name)
    study = find_study(study_name)
    scale = scale_of(study, study_name, scale or study.SCALES[0])
    runs = study.runs(scale)
    evaluator = partial(evaluate, effort=effort_of(study, scale))
    return runs[chosen(runs, [title])[0]], f"{study_name}/{scale}/{title}", evaluator


def parts(name: str) -> tuple[str, str, str]:
    """Study, scale and run of a name; what is not named is "".

    >>> parts("mask_rate/laptop:a"), parts("mask_rate")
    (('mask_rate', 'laptop', 'a'), ('mask_rate', '', ''))
    """
    study, _, title = name.partition(":")
    study, _, scale = study.partition("/")
    return study, scale, title


def find_study(name: str) -> Any:
    """The module of a study; UserError where there is none."""
    sys.path.insert(0, str(Path.cwd()))
    study: Any = None
    try:
        if name.isidentifier():
            study = importlib.import_module(f"experiments.{name}")
    except ModuleNotFoundError as error:
        if error.name not in ("experiments", f"experiments.{name}"):
            raise
    if not hasattr(study, "runs"):
        raise UserError(
            f"study {name}: there is no study experiments/{name}.py here;"
            " `python -m experiments` lists the studies"
        )
    return study


def scale_of(study: Any, name: str, scale: str) -> str:
    """The scale, if the study has it; UserError where not."""
    if scale not in study.SCALES:
        raise UserError(f"scale {scale}: {name} has {', '.join(study.SCALES)}")
    return scale
