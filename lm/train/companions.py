"""Frozen models that an objective asks, in the step or once: read, and never trained."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from lm.artifact import Artifact, as_tree, by_name
from lm.config import UserError
from lm.distributed import hosts
from lm.objectives.rollout import START, Named
from lm.run import Run
from lm.train.load import load_model, settings_of
from lm.train.start import Begun, started_params
from lm.train.step import Program


def companion_settings(run: Run) -> dict[str, Run]:
    """The settings of each model that the objective names by a path.

    Raises UserError where there is no model, or one that the objective cannot ask.
    """
    found = {}
    for name, named in _named(run).items():
        settings = found[name] = settings_of(Path(named.path))
        last = settings.objective.last
        if name == run.objective.taught_by:
            _check_teacher(run, name, named.path, settings)
        elif name in run.objective.derived:
            if "next" not in last.predictions or settings.model.reads_source:
                raise UserError(
                    f"objective.{name}: {named.path} says of no token how likely it is after"
                    " those before it; take a causal model"
                )
        elif (
            len(last.heads) != 1
            or last.heads[0].pool is None
            or last.heads[0].outputs not in (1, 2)
        ):
            raise UserError(
                f"objective.{name}: {named.path} gives no document a score: it takes a head of"
                " one output or of two classes, as objective.type=classify trains"
            )
        longest = settings.model.longest
        if longest is not None and longest < run.data.length:
            raise UserError(
                f"data.length={run.data.length}: objective.{name}: {named.path} has places for"
                f" {longest} positions"
            )
    return found


def _check_teacher(run: Run, name: str, path: str, settings: Run) -> None:
    """Raises UserError where a model cannot answer what a run's student is asked."""
    objective, there = run.objective, settings.objective.predictions
    if objective.predictions - there:
        asked, told = (
            ", ".join(sorted(each)) or "nothing" for each in (objective.predictions, there)
        )
        raise UserError(
            f"objective.{name}: {path} predicts {told}, and the student is asked"
            f" for {asked}; take a teacher that was trained with the objective of the student"
        )
    if why := settings.model.refuse_objective(objective.masks, source=objective.source):
        raise UserError(f"objective.{name}: {path}: {why}")


def _named(run: Run) -> dict[str, Named]:
    """What the objective names by a path: its companions, and what computes channels."""
    both = {**run.objective.companions, **run.objective.derived}
    return {name: named for name, named in both.items() if named is not None}


class FrozenModels:
    """What the frozen models of a run that has begun are, before they are placed."""

    def __init__(self, begun: Begun) -> None:
        """Reads what is named by a path; raises UserError where it is not what it should be."""
        self._begun, run = begun, begun.run
        self.settings = companion_settings(run)
        self._read: dict[str, Artifact] = {}
        if START in run.objective.companions:
            self._check_start()
        for name, named in _named(run).items():
            artifact = self._read[name] = load_model(named.path).dequantized().artifact
            if named.digest not in (None, artifact.digest):
                raise UserError(
                    f"objective.{name}: {named.path}: the model there has the digest"
                    f" {artifact.digest}, and not {named.digest}"
                )
            if begun.tokenizer is not None:
                self.check_tokenizer(begun.tokenizer.digest)

    def check_tokenizer(self, digest: str) -> None:
        """Raises UserError where a model has another tokenizer than the run."""
        for name, artifact in self._read.items():
            if artifact.tokenizer.digest != digest:
                raise UserError(
                    f"objective.{name}: {_named(self._begun.run)[name].path} has another"
                    " tokenizer than the run, so its ids mean other tokens; train it from the"
                    " same start"
                )

    def artifact(self, name: str) -> Artifact | None:
        """A model that the objective names by a path; None: it names none so."""
        return self._read.get(name)

    @property
    def begun(self) -> Begun:
        """The run with the digest of each of them in its settings."""
        digests = {name: artifact.digest for name, artifact in self._read.items()}
        objective = self._begun.run.objective.with_digests(digests)
        run = msgspec.structs.replace(self._begun.run, objective=objective)
        return self._begun._replace(run=run)

    def place(self, program: Program) -> Program:
        """The program with the companions' parameters on its mesh."""
        if not program.companions:
            return program
        placed: dict[str, Any] = {}
        for name, wanted in program.companions.items():
            if name == START:
                drawn = program.init().params
                placed[name] = program.merge(started_params(self._begun, drawn)[0])
            else:
                placed[name] = place_params(self._read[name].params, wanted)
        return dataclasses.replace(program, companions=placed)

    def _check_start(self) -> None:
        run, start = self._begun.run, self._begun.start
        kind = run.objective.__struct_config__.tag
        if run.objective.taught_by is not None:
            if start is None or run.start is None:
                raise UserError(
                    f"objective.type={kind}: its teacher is what the run starts from; say"
                    " which, by start.path, or name another by objective.teacher.path"
                )
            settings = settings_of(Path(run.start.path))
            _check_teacher(run, "teacher", run.start.path, settings)
            return
        if start is None:
            raise UserError(
                f"objective.type={kind}: it goes away from a model that is there, and asks how"
                " far; say from which, by start.path"
            )
        if "next" not in start.card.objective.predictions:
            there = start.card.objective.__struct_config__.tag
            raise UserError(
                f"objective.type={kind}: start.path was trained with objective.type={there} and"
                " predicts no next token; start from a causal model"
            )


def place_params(params: Mapping[str, Any], wanted: Any) -> Any:
    """Parameters of the host on the devices, as the program wants them."""
    given, places = by_name(params), by_name(wanted)
    return as_tree(
        {
            name: hosts.put(np.asarray(given[name], place.dtype), place.sharding)
            for name, place in places.items()
        }
    )
