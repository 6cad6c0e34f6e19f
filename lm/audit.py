"""Whether two runs saw the same rows in the same order, by the digests that training chained.

Each step digests its global batch on the devices and chains the digest to those before it:
equal chains after a step are equal batches in every step up to it, whatever the objective, the
mesh, the number of hosts and the restarts. Once two chains differ they differ for ever, so the
first step at which they do is where the runs part.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from lm.config import UserError, read_json
from lm.data import open_tokens
from lm.run import Run, read_run
from lm.train.progress import read_metrics


class Audit(NamedTuple):
    """What two runs have in common."""

    steps: int
    """So many steps had the same batches in both."""
    digest: str
    """The chained digest after the last step that both recorded alike; "" if there is none."""
    lengths: tuple[int, int]
    """How many steps each run recorded."""
    parted: bool
    """Whether the next step had other batches; if not, the shorter run ends there."""
    why: list[str]
    """Settings and digests in which what decides the batches differs: `seed is 0 and 1`."""

    @property
    def same(self) -> bool:
        return not self.parted and self.lengths[0] == self.lengths[1]


def audit(a: Path, b: Path) -> Audit:
    """Compares what two runs recorded; raises UserError where one recorded nothing."""
    runs = read_run(a), read_run(b)
    chains = chain_of(a), chain_of(b)
    lengths = max(chains[0]), max(chains[1])
    why = _why((a, b), runs)
    alike, digest = 0, ""
    for step in sorted(chains[0].keys() & chains[1].keys()):
        if chains[0][step] != chains[1][step]:
            return Audit(_narrowed(runs, alike, step), digest, lengths, True, why)
        alike, digest = step, chains[0][step]
    if not alike:
        raise UserError(f"{a} and {b} recorded no step in common; finish one of them first")
    return Audit(alike, digest, lengths, False, why)


def report(a: Path, b: Path, found: Audit) -> str:
    """The finding in one line."""
    if found.same:
        return f"{a} and {b} saw the same batches in all {found.steps:,} steps: {found.digest}"
    if found.parted:
        why = "; ".join(found.why) or "nothing in their settings says why"
        return f"{a} and {b} part at step {found.steps + 1:,}: {why}"
    longer, shorter = (a, b) if found.lengths[0] > found.lengths[1] else (b, a)
    return (
        f"{a} and {b} saw the same batches up to step {found.steps:,}, where {shorter} ends;"
        f" {longer} has {max(found.lengths):,}"
    )


def chain_of(directory: Path) -> dict[int, str]:
    """The chained digest after each step that a run recorded."""
    chain = {r["step"]: r["batches"] for r in read_metrics(directory) if "batches" in r}
    result = directory / "result.json"
    if result.exists():
        try:
            end = read_json(result)
            step, digest = end["steps"], end["batches_digest"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{result}: damaged: {error!r}") from None
        if chain.setdefault(step, digest) != digest:
            raise UserError(
                f"{directory}: metrics.jsonl and result.json disagree on the batches up to step"
                f" {step}: one of them is of another run"
            )
    if not chain:
        raise UserError(f"{directory}: no step is recorded in its metrics.jsonl yet")
    return chain


def _narrowed(runs: tuple[Run, Run], alike: int, parted: int) -> int:
    """The last step that was the same, of those between two that both runs recorded.

    Runs record every step; of older ones the end alone is known. What lies between follows from
    the settings: a batch is a pure function of them.
    """
    if parted == alike + 1:
        return alike
    batches = [open_tokens(run.data).batches(run.data, run.seed) for run in runs]
    for step in range(alike, parted):
        both = zip(batches[0](step), batches[1](step), strict=True)
        if not all(np.array_equal(one, other) for one, other in both):
            return step
    raise UserError(
        f"the runs part between steps {alike + 1} and {parted}, but by their settings and the"
        " corpus as it is now they would not"
    )


def _why(directories: tuple[Path, Path], runs: tuple[Run, Run]) -> list[str]:
    pairs = [(_decisive(d, run)) for d, run in zip(directories, runs, strict=True)]
    return [
        f"{name} is {_short(pairs[0].get(name))} and {_short(pairs[1].get(name))}"
        for name in pairs[0] | pairs[1]
        if pairs[0].get(name) != pairs[1].get(name)
    ]


def _decisive(directory: Path, run: Run) -> dict[str, Any]:
    """Everything that decides a run's batches, by name."""
    plain = msgspec.to_builtins(run.data)
    found = {"seed": run.seed} | {f"data.{name}": value for name, value in plain.items()}
    path = directory / "data.json"
    if path.exists():
        data = read_json(path)
        found |= {name: data[name] for name in ("corpus_digest", "tokenizer_digest")}
    return found


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
