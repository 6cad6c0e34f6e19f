"""What does an accelerator do with this package, in the minutes that it is lent for?

Checks come first: kernels of attention (values and gradients beside the CPU's, in every mask)
and a tiny run of a study beside the same on the CPU. Then the training step's tokens/s,
fraction of the peak and memory at 124M and 0.9B parameters, on packed rows of 1,024 and 2,048,
causal and masked, by each kind of attention beside the others, and compiled PyTorch's where it
is installed; generation; and last, in the minutes left, a study at a scale that no laptop can
do, which the same command goes on with. What matters most comes first, each part in a process
of its own, and after each the file of results and its page are written anew: a cut leaves what
was measured. Where there is no accelerator, or with --tiny, toys stand for the models.

    python -m experiments.benchmarks.device --minutes 12
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from experiments import known_truth
from experiments.benchmarks.device import parts as _parts
from experiments.benchmarks.device.checks import same_cell
from experiments.benchmarks.device.page import answer, page
from experiments.benchmarks.device.parts import Part
from experiments.benchmarks.speed.machine import Child, Failed, complain, made, slug
from lm.config import UserError
from lm.distributed.process import Parser, one_line_errors
from lm.model.attention import note_backend, note_file
from lm.output.files import write_whole

MACHINE = Part("machine", 240, _parts.machine)
STUDY = "study"
RESULTS = Path(__file__).parents[2] / "results" / "device"
STUDY_FRACTION = 0.25
"""Of the time, kept for the study."""
SAVING = 30.0
"""Seconds that the study is given to save what it has."""
LEAST = 5.0
"""Seconds with which a part is begun, at least."""


class Findings:
    """The time that is left, and what was found in it, on disk after each part."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds
        self.file: Path | None = None
        """Where results go, its page beside it; None: not known yet."""
        self.content: dict[str, Any] = {
            "made": made(),
            "seconds": seconds,
            "machine": {},
            "checks": {},
            "parts": {},
        }

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()

    def take(self, part: Part, *, reserve: float = 0.0) -> Any:
        """What a part finds, or None: an error or want of time is noted in its place."""
        start, limit = time.monotonic(), min(part.seconds, self.left - reserve)
        if limit < LEAST:
            self.note(part.name, {"left_out": True})
            return None
        print(f"lm: {part.name} ({self.left:.0f} s left)", file=sys.stderr, flush=True)
        found, noted = None, dict[str, Any]()
        try:
            with _platform("cpu" if part.on_cpu else None):
                child = Child(partial, part.find, limit=limit)
            with child:
                noted["found"] = found = child.ask("__call__")
        except Failed as error:
            complain(f"{part.name}: {error}")
            noted["error"] = str(error)
        self.note(part.name, noted | {"seconds": round(time.monotonic() - start, 1)})
        return found

    def note(self, name: str, found: dict[str, Any]) -> None:
        """Puts a part into the file and on the page, each written whole."""
        self.content["parts"][name] = found
        self.content["checks"] = checks_of(self.content["parts"])
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.file, json.dumps(self.content, indent=1) + "\n")
            write_whole(self.file.with_suffix(".html"), page(self.content))


def checks_of(parts: Mapping[str, Any]) -> dict[str, bool]:
    """Which of the checks that were made came out right."""
    found = {name: part["found"] for name, part in parts.items() if "found" in part}
    checks = {
        name: all(row.get("right", False) for row in rows)
        for name, rows in found.items()
        if name.startswith(_parts.ATTENTION)
    }
    here, there = found.get(_parts.CELL), found.get(_parts.CPU_CELL)
    if here is not None and there is not None:
        checks[_parts.CELL] = same_cell(here, there)
    return checks


def best_attention(content: Mapping[str, Any]) -> str | None:
    """The kernel that passed its check and took least time on the small causal model.

    "xla" where none passed or was faster, None where that was not measured.
    """
    rows = [
        part["found"]
        for part in content["parts"].values()
        if "peak_fraction" in part.get("found", ()) and part["found"]["objective"] == "causal"
    ]
    mine = [row for row in rows if row["attention"] != "PyTorch"]
    same = [row for row in mine if (row["shape"], row["length"]) == _what(mine[0])]
    seconds = {row["attention"]: row["seconds"]["median"] for row in same}
    right = {"xla"} | {
        name.removeprefix(_parts.ATTENTION) for name, well in content["checks"].items() if well
    }
    if len(seconds) < 2 or "xla" not in seconds:
        return None
    return min(seconds.keys() & right, key=lambda name: seconds[name])


def _what(row: Mapping[str, Any]) -> tuple[str, int]:
    return row["shape"], row["length"]


@contextmanager
def _platform(name: str | None) -> Iterator[None]:
    """Within, processes that begin see this platform alone, if one is named."""
    before = dict(os.environ)
    os.environ.update({} if name is None else {"JAX_PLATFORMS": name})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def study(findings: Findings, scale: str, runs: Path) -> None:
    """Trains runs of `known_truth` in the time that is left; the next call goes on.

    Asked to end, it saves what it has.
    """
    seconds = findings.left - SAVING
    if seconds < LEAST:
        findings.note(STUDY, {"left_out": True})
        return
    print(f"lm: known_truth, {scale} ({findings.left:.0f} s left)", file=sys.stderr, flush=True)
    words = ["-m", "experiments.known_truth", "--scale", scale, "--runs", str(runs)]
    runs.mkdir(parents=True, exist_ok=True)
    start, log = time.monotonic(), runs / "log.txt"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *words, "--jobs", "1"], stdout=file, stderr=file
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(SAVING)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        except BaseException:
            process.kill()
            raise
    said = log.read_text(errors="replace").strip().splitlines()[-1:]
    found = {
        "command": f"python {' '.join(words)}",
        "runs": len(known_truth.runs(scale)),
        "finished": len(list((runs / "known_truth").glob("*/*/result.json"))),
        "exit_code": process.returncode,
        "said": said[0][:300] if said else "",
    }
    findings.note(STUDY, {"found": found, "seconds": round(time.monotonic() - start, 1)})


def measure(findings: Findings, parts: Sequence[Part]) -> None:
    """Takes the parts in their order, and keeps time for the study."""
    reserve = STUDY_FRACTION * findings.left
    for part in parts:
        findings.take(part, reserve=reserve)


def main(arguments: list[str] | None = None) -> None:
    """Checks, measures and trains in the minutes that are given."""
    parser = Parser(
        prog="python -m experiments.benchmarks.device",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=12.0, metavar="M", help="at most (12)")
    parser.add_argument("--tiny", action="store_true", help="toys, to see that all works")
    parser.add_argument(
        "--only", nargs="+", metavar="WORD", help="parts whose names have one of these in them"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs", "device"), metavar="DIR", help="the study's"
    )
    given = parser.parse_args(arguments)
    with one_line_errors():
        if not 0 < given.minutes < 10_000:
            raise UserError(f"--minutes {given.minutes:g}: must be above 0 and below 10,000")
        findings = Findings(60 * given.minutes)
        machine = findings.take(MACHINE)
        if machine is None:
            why = findings.content["parts"][MACHINE.name]
            raise UserError(f"no device: {why.get('error', 'the time is too short')}")
        platform = machine["platform"]
        sizes = _parts.sizes_of(platform, tiny=given.tiny)
        tiny = sizes.scale == "smoke"
        title = slug(machine) + ("-tiny" if tiny else "")
        findings.file, findings.content["machine"] = given.results / f"{title}.json", machine
        del findings.content["parts"][MACHINE.name]

        def wanted(name: str) -> bool:
            return given.only is None or any(word in name for word in given.only)

        measure(findings, [p for p in _parts.parts(platform, sizes) if wanted(p.name)])
        best = None if tiny else best_attention(findings.content)
        if platform == "gpu" and best is not None:
            note_backend(machine["device"], best)
            print(f"lm: attention=auto is {best} here from now on: {note_file()}")
        if wanted(STUDY):
            study(findings, sizes.scale, given.runs)
        print(
            f"{answer(findings.content)}\n{findings.file}\n{findings.file.with_suffix('.html')}"
        )
        wrong = [name for name, well in findings.content["checks"].items() if not well]
        if wrong:
            raise UserError(f"{', '.join(wrong)}: not what a CPU finds; see {findings.file}")


if __name__ == "__main__":
    main()
