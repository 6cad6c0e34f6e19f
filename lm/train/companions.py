"""Frozen models that an objective asks in the step: read once, placed, and never trained."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from lm.artifact import Artifact, as_tree, by_name
from lm.config import UserError
from lm.distributed import hosts
from lm.objectives.rollout import START
from lm.run import Run
from lm.train.load import load_model, settings_of
from lm.train.start import Begun, started_params
from lm.train.step import Program


def companion_settings(run: Run) -> dict[str, Run]:
    """The settings of each companion that the objective names by a path.

    Raises UserError where there is no model, or one that the objective cannot ask.
    """
    found = {}
    for name, named in run.objective.companions.items():
        if named is None:
            continue
        settings = found[name] = settings_of(Path(named.path))
        last = settings.objective.last
        if len(last.heads) != 1 or last.heads[0].pool is None or last.heads[0].outputs > 2:
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


class FrozenModels:
    """What the companions of a run that has begun are, before they are placed."""

    def __init__(self, begun: Begun) -> None:
        """Reads what is named by a path; raises UserError where it is not what it should be."""
        self._begun, run = begun, begun.run
        self.settings = companion_settings(run)
        self._read: dict[str, Artifact] = {}
        companions = run.objective.companions
        if START in companions:
            self._check_start()
        for name in self.settings:
            named = companions[name]
            assert named is not None
            artifact = self._read[name] = load_model(named.path).artifact
            if named.digest not in (None, artifact.digest):
                raise UserError(
                    f"objective.{name}: {named.path}: the model there has the digest"
                    f" {artifact.digest}, and not {named.digest}"
                )
            tokenizer = begun.tokenizer
            if tokenizer is not None and artifact.tokenizer.digest != tokenizer.digest:
                raise UserError(
                    f"objective.{name}: {named.path} has another tokenizer than the run, so its"
                    " ids mean other tokens; train it from the same start"
                )

    @property
    def begun(self) -> Begun:
        """The run with the digest of each companion in its settings."""
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
                placed[name] = _placed(self._read[name].params, wanted)
        return dataclasses.replace(program, companions=placed)

    def _check_start(self) -> None:
        run, start = self._begun.run, self._begun.start
        kind = run.objective.__struct_config__.tag
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


def _placed(params: Mapping[str, Any], wanted: Any) -> Any:
    """Parameters of the host on the devices, as the program wants them."""
    given, places = by_name(params), by_name(wanted)
    return as_tree(
        {
            name: hosts.put(np.asarray(given[name], place.dtype), place.sharding)
            for name, place in places.items()
        }
    )
