"""Whether two runs saw the same rows in the same order, by the digests that training chained.

Each step digests its global batch on the devices and chains the digest to those before it:
equal chains after a step are equal batches in every step up to it, whatever the objective, the
mesh, the number of hosts and the restarts. Once two chains differ they differ for ever, so the
first step at which they do is where the runs part.

Runs record every step. Records may be lost: a pod's checkpoints are in the bucket minutes
before its metrics. Such gaps are said; the batches in one follow from the settings, and are
believed if their digests lead from the record before it to the one after it.
"""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
import msgspec
import numpy as np

from lm.config import UserError, read_json
from lm.data import TextMixture, open_tokens
from lm.data.digest import chain_text, chained
from lm.run import Run, read_run
from lm.train.directory import component_digests, data_digests
from lm.train.trackers.jsonl import missing_steps, read_metrics, spans

_chained = jax.jit(chained)


class Audit(NamedTuple):
    """What two runs have in common."""

    steps: int
    """So many steps had the same batches in both."""
    digest: str
    """The chained digest after the last step that both recorded alike; "" if there is none."""
    lengths: tuple[int, int]
    """How many steps each run recorded."""
    parted: int | None
    """After this step their chains differ; None: the shorter run ends alike.

    It is the next step, unless records are lost and the settings do not tell the batches."""
    why: list[str]
    """Settings and digests in which what decides the batches differs: `seed is 0 and 1`."""
    lost: tuple[str, str] = ("", "")
    """Steps of which each run has no record, in words."""

    @property
    def same(self) -> bool:
        return self.parted is None and self.lengths[0] == self.lengths[1]


def audit(a: Path, b: Path) -> Audit:
    """Compares what two runs recorded; raises UserError where one recorded nothing."""
    runs = read_run(a), read_run(b)
    chains = chain_of(a), chain_of(b)
    lengths = max(chains[0]), max(chains[1])
    why, lost = _why((a, b), runs), (_lost(a, lengths[0]), _lost(b, lengths[1]))
    alike, parted = _compared(*chains)
    if parted is not None and parted > alike + 1:
        within = alike, parted
        chains = (
            _filled(a, runs[0], chains[0], *within),
            _filled(b, runs[1], chains[1], *within),
        )
        alike, parted = _compared(*chains)
    if parted is None and not alike:
        raise UserError(f"{a} and {b} recorded no step in common; finish one of them first")
    return Audit(alike, chains[0].get(alike, ""), lengths, parted, why, lost)


def _compared(a: dict[int, str], b: dict[int, str]) -> tuple[int, int | None]:
    """The last common step before the chains differ (0: none), and the first where they do."""
    alike = 0
    for step in sorted(a.keys() & b.keys()):
        if a[step] != b[step]:
            return alike, step
        alike = step
    return alike, None


def report(a: Path, b: Path, found: Audit) -> str:
    """The finding in one line, and one for each run that has lost records."""
    lines = [_finding(a, b, found)]
    for directory, lost in zip((a, b), found.lost, strict=True):
        if lost:
            lines.append(
                f"{directory} has no record of steps {lost}: only digests after them are known"
            )
    return "\n".join(lines)


def _finding(a: Path, b: Path, found: Audit) -> str:
    if found.same:
        return f"{a} and {b} saw the same batches in all {found.steps:,} steps: {found.digest}"
    if found.parted is not None:
        why = "; ".join(found.why) or "nothing in their settings says why"
        if found.parted == found.steps + 1:
            return f"{a} and {b} part at step {found.parted:,}: {why}"
        return (
            f"{a} and {b} part in steps {found.steps + 1:,} to {found.parted:,}, which not both"
            " recorded, and to which their settings with the corpus as it is now do not lead:"
            f" {why}"
        )
    longer, shorter = (a, b) if found.lengths[0] > found.lengths[1] else (b, a)
    return (
        f"{a} and {b} saw the same batches up to step {found.steps:,}, where {shorter} ends;"
        f" {longer} has {max(found.lengths):,}"
    )


def chain_of(directory: Path) -> dict[int, str]:
    """The chained digest after each step that a run recorded."""
    chain: dict[int, str] = {}
    for record in read_metrics(directory):
        step, digest = record["step"], record.get("batches")
        if digest is not None and chain.setdefault(step, digest) != digest:
            raise UserError(
                f"{directory}/metrics.jsonl: step {step} is recorded twice, with other batches:"
                " two runs wrote it"
            )
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


def _lost(directory: Path, end: int) -> str:
    """The steps up to `end` that metrics.jsonl does not record, in words."""
    recorded = {r["step"] for r in read_metrics(directory) if "batches" in r}
    return spans(missing_steps(recorded, end))


def _filled(
    directory: Path, run: Run, chain: dict[int, str], start: int, end: int
) -> dict[int, str]:
    """The chain from `start` to `end`, with the steps between two records that lead there.

    A batch is a pure function of the settings and of how many batches were left out before it
    when the run rolled back, which records say. Where they differ before and after a gap, or
    the corpus is another by now, the gap stays.
    """
    try:
        copies = run.objective.copies
        batches = open_tokens(run.data).batches(run.data, run.seed, copies)
    except UserError:  # the corpus is not there any more
        return chain
    left_out = {r["step"]: r.get("left_out", 0) for r in read_metrics(directory)}
    result = directory / "result.json"
    if result.exists():
        left_out.setdefault(max(chain), read_json(result).get("left_out", 0))
    filled = {step: digest for step, digest in chain.items() if start < step <= end}
    for before, after in pairwise([start, *sorted(filled)]):
        ahead = left_out.get(before, 0)
        if after == before + 1 or ahead != left_out.get(after, 0):
            continue
        text, between = chain.get(before, "0" * 16), {}
        for step in range(before, after):
            text = chain_text(_chained(_words(text), batches(step + ahead)))
            between[step + 1] = text
        if between[after] == chain[after]:
            filled |= between
    return filled | ({start: chain[start]} if start else {})


def _words(text: str) -> np.ndarray:
    """What `chain_text` wrote, uint32[2].

    >>> chain_text(_words("00000001000000ff"))
    '00000001000000ff'
    """
    return np.array([int(text[:8], 16), int(text[8:], 16)], np.uint32)


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
    if isinstance(run.data.corpus, TextMixture):
        settings = plain["corpus"]
        found |= {f"component {each['name']}": each for each in settings.pop("components")}
        found |= component_digests(directory)
    return found | data_digests(directory)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
