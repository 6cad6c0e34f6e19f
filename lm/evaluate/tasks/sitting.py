"""A candidate sits a task: items read, answers kept as they come, the result written."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np

from lm.config import UserError, essence_text
from lm.distributed import hosts
from lm.evaluate.tasks.base import (
    Answers,
    Candidate,
    Completion,
    Conditions,
    HubFiles,
    Item,
    Likelihood,
    Note,
    Query,
    Ranking,
    Task,
    TextStates,
)
from lm.evaluate.tasks.files import read_beside, read_items
from lm.evaluate.tasks.metrics import estimate_all
from lm.evaluate.tasks.result import GroupResult, TaskResult, as_task_result
from lm.output.files import write_whole
from lm.output.plain import to_json
from lm.results import Kind

_Found = TypeVar("_Found", bound=tuple[Any, ...])


class Sheet(NamedTuple):
    """A task with its items, read once for all candidates."""

    name: str
    task: Task
    items: list[Item]
    pool: list[Item]
    """Solved items that demonstrations are drawn from, or what a task gathers beside its items;
    empty: nothing is asked for."""
    conditions: Conditions

    @property
    def places(self) -> str:
        """The digest of the items, in order."""
        content = json.dumps([dict(item.fields) for item in self.items], default=str)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def digest(self, candidate: Candidate) -> str:
        """What decides the result: the task, its items, the conditions, and who sits it."""
        pool = json.dumps([dict(item.fields) for item in self.pool], default=str)
        task, conditions = essence_text(self.task), essence_text(self.conditions)
        parts = [task, self.places, pool, conditions, candidate.digest]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def sheet_of(
    name: str,
    task: Task,
    folder: Path | None,
    conditions: Conditions,
    hub: HubFiles | None = None,
) -> Sheet:
    """Reads a task's items; raises UserError where there are none, or too few to draw from."""
    task.check_conditions(conditions)
    items = read_items(task, folder, hub=hub, most=conditions.items)
    items, pool = task.gather(items, partial(read_beside, folder))
    if conditions.shots:
        # Files of one's own may have no solved items apart; the hub's sets mostly do.
        files, split = task.demonstrations or None, hub.demonstrations if hub else None
        pool = read_items(task, folder, of=files, hub=hub, split=split)
    return Sheet(name, task, items, pool, conditions)


def sit(
    candidate: Candidate,
    sheet: Sheet,
    *,
    model: str = "",
    kept: Path | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> TaskResult:
    """How a candidate does at a task.

    With a folder `kept`, the result is written there as TASK-DIGEST.json, what is there already
    is read, and answers are kept as they come, so that the same call goes on after an
    interruption. `progress` is told of how many requests were answered.
    """
    path = None if kept is None else kept / f"{sheet.name}-{sheet.digest(candidate)}.json"
    part = None
    if path is not None:
        if (there := hosts.broadcast_from_first(partial(_finished, path))) is not None:
            return as_task_result(there, path)
        part = path.with_suffix(".part")
    remembering = Remembering(candidate, part, progress)
    answers = sheet.task.sit(remembering, sheet.items, sheet.pool, sheet.conditions)
    found = _result(sheet, candidate, answers, model)
    if path is not None and part is not None and hosts.is_first():
        write_whole(path, to_json(found) + "\n")
        part.unlink(missing_ok=True)
    return found


def _finished(path: Path) -> str | None:
    """What a finished result's file holds; where there is none, its folder is made."""
    if path.exists():
        return path.read_text()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{path.parent}: {error.strerror}; name another folder for results with --out"
        ) from None
    return None


def _result(sheet: Sheet, candidate: Candidate, answers: Answers, model: str) -> TaskResult:
    task, conditions, columns_SIK = sheet.task, sheet.conditions, answers.columns
    if not np.isfinite(columns_SIK).all():
        raise UserError(f"{sheet.name}: the model answers with what is no number")
    statistics = {name: each.of for name, each in task.statistics.items()}
    metrics = estimate_all(statistics, columns_SIK)
    headline, of = metrics[task.metric], statistics[task.metric]
    several = len(columns_SIK) > 1
    cut_I = answers.cut.max(axis=0)
    return TaskResult(
        task=sheet.name,
        model=model,
        metric=task.metric,
        value=headline.value,
        low=headline.low,
        high=headline.high,
        metrics=metrics,
        by_seed={
            str(seed): of(columns_IK)
            for seed, columns_IK in zip(conditions.draws, columns_SIK, strict=True)
        }
        if several
        else {},
        groups=_groups(of, sheet.items, columns_SIK),
        baselines=task.baselines(sheet.items),
        scorer=candidate.scorer,
        kind=candidate.kind,
        around=candidate.around,
        prompt=task.prompt_text(candidate),
        shots=conditions.shots,
        seeds=conditions.draws,
        calibration=conditions.calibration,
        asked=len(sheet.items),
        cut=int((cut_I > 0).sum()),
        cut_tokens=int(cut_I.sum()),
        places=sheet.places,
        columns=tuple(
            tuple(tuple(map(float, row)) for row in columns_IK) for columns_IK in columns_SIK
        ),
        texts=answers.texts,
    )


def _groups(
    of: Callable[[np.ndarray], float], items: Sequence[Item], columns_SIK: np.ndarray
) -> dict[str, GroupResult]:
    """The headline of each part, and of each part that these are parts of."""
    found: dict[str, list[int]] = {}
    for number, item in enumerate(items):
        names = item.group.split("/") if item.group else []
        for depth in range(1, len(names) + 1):
            found.setdefault("/".join(names[:depth]), []).append(number)
    return {
        name: GroupResult(
            value=float(np.mean([of(columns_IK[rows]) for columns_IK in columns_SIK])),
            asked=len(rows),
        )
        for name, rows in sorted(found.items())
    }


@dataclass(frozen=True)
class Remembering:
    """A candidate whose answers are written down as they come, and read again."""

    candidate: Candidate
    path: Path | None
    progress: Callable[[int], None]

    @property
    def digest(self) -> str:
        return self.candidate.digest

    @property
    def scorer(self) -> str:
        return self.candidate.scorer

    @property
    def kind(self) -> Kind:
        return self.candidate.kind

    @property
    def around(self) -> str:
        return self.candidate.around

    @property
    def sees_after(self) -> bool:
        return self.candidate.sees_after

    def states(self, texts: Sequence[str]) -> TextStates:
        return self.candidate.states(texts)

    def ranked(self, queries: Sequence[str], documents: Sequence[str], count: int) -> Ranking:
        return self.candidate.ranked(queries, documents, count)

    def written(
        self,
        prompts: Sequence[str],
        *,
        count: int,
        stop: Sequence[str],
        note: Note = lambda *_: None,
    ) -> list[Completion]:
        ask = partial(self.candidate.written, count=count, stop=stop)
        names = [_name((prompt, count, stop)) for prompt in prompts]
        return self._remembered(Completion, names, prompts, ask, note)

    def answered(
        self,
        messages: Sequence[str],
        *,
        count: int,
        stop: Sequence[str],
        note: Note = lambda *_: None,
    ) -> list[Completion]:
        ask = partial(self.candidate.answered, count=count, stop=stop)
        names = [_name((message, count, stop, "answered")) for message in messages]
        return self._remembered(Completion, names, messages, ask, note)

    def likelihoods(
        self, queries: Sequence[Query], note: Note = lambda *_: None
    ) -> list[Likelihood]:
        names = [_name(query) for query in queries]
        return self._remembered(Likelihood, names, queries, self.candidate.likelihoods, note)

    def _remembered(
        self,
        of: type[_Found],
        names: Sequence[str],
        asked: Sequence[Any],
        ask: Callable[..., list[_Found]],
        note: Note,
    ) -> list[_Found]:
        """What is known of what is asked, by its name, and of the rest what `ask` gives."""
        known = self._known(of)
        missing = [place for place, name in enumerate(names) if name not in known]
        self.progress(len(asked) - len(missing))

        def keep(places: Sequence[int], found: Sequence[_Found]) -> None:
            lines = [
                json.dumps([names[missing[place]], *each]) + "\n"
                for place, each in zip(places, found, strict=True)
            ]
            if self.path is not None and hosts.is_first():
                with self.path.open("a") as file:
                    file.write("".join(lines))
            self.progress(len(places))
            note([missing[place] for place in places], found)

        if missing:
            found = ask([asked[place] for place in missing], note=keep)
            known |= {names[place]: each for place, each in zip(missing, found, strict=True)}
        return [known[name] for name in names]

    def _known(self, of: type[_Found]) -> dict[str, _Found]:
        """What is written down, by its name, as the first host has it."""
        found = {}
        for line in hosts.broadcast_from_first(self._read).splitlines():
            try:
                name, *values = json.loads(line)
                found[name] = msgspec.convert(values, of)
            except (ValueError, TypeError, msgspec.ValidationError):
                raise UserError(f"{self.path}: damaged; remove it and ask again") from None
        return found

    def _read(self) -> str:
        """The lines; a last one that a kill cut off is left out, and cut off."""
        if self.path is None or not self.path.exists():
            return ""
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            os.truncate(self.path, len(whole))
        return whole.decode(errors="replace")


def _name(asked: tuple[Any, ...]) -> str:
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:24]
