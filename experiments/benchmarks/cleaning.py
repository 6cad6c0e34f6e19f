"""How fast does `lm data prepare` clean, in how much memory, and does it find what is planted?

    python -m experiments.benchmarks.cleaning [--documents 1000000] [--workers 2] [--keep DIR]
        [--kills 5] [--twice] [--beam]

Makes documents of about 300 made-up words, of which known numbers are dirty in known ways:
menus and notices about cookies beside sentences, code, dummy text, lists without sentences,
pages that repeat themselves, copies, near-copies of which every 50th word is another,
addresses, and texts of an evaluation set. Cleans them by the command itself, in processes of
its own. Prints documents a second of the clock and of a processor, which is what counts where
others are at work too, the most memory that these processes held together (proportional set
size, five times a second), and of each way to be dirty how many were planted and found.

With `--kills` the command is killed at random and given again, until it ends; `--twice` then
cleans once more without, and says whether each file is the same to the last byte; `--beam` does
it by Apache Beam, and says whether each document that one removes or changes the other does.
"""

import argparse
import contextlib
import gzip
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm.distributed.process import usable_cores

COMMON = (
    *(
        "the",
        "of",
        "and",
        "to",
        "in",
        "a",
        "is",
        "that",
        "for",
        "it",
        "as",
        "was",
        "with",
        "be",
    ),
    *("by", "on", "not", "he", "this", "are"),
)
WAYS = {
    "clean": 0.55,
    "menu": 0.08,
    "cookies": 0.04,
    "code": 0.03,
    "dummy text": 0.02,
    "list": 0.04,
    "repeated": 0.04,
    "copy": 0.06,
    "near-copy": 0.08,
    "address": 0.05,
    "evaluation": 0.01,
}
"""What documents are, and how many of them (fractions)."""
FOUND = {
    "code": ("c4", "curly bracket"),
    "dummy text": ("c4", "lorem ipsum"),
    "list": ("c4", "sentences"),
    "menu": ("c4", "terminal punctuation"),
    "cookies": ("c4", "policy"),
    "repeated": ("gopher_repetition", "duplicate n-grams"),
    "copy": ("exact", "same document"),
    "near-copy": ("near", "near-duplicate"),
    "address": ("pii", "email"),
    "evaluation": ("decontaminate", "evaluation text"),
}
"""The step and rule that each way to be dirty is found by."""
NEAR = 50
"""One word of so many is another in a near-copy: similarity about 0.82."""


def words_of() -> np.ndarray:
    """20,000 made-up words, the common ones in front, with Zipf's frequencies to be drawn."""
    draw = np.random.Generator(np.random.Philox(1))
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    made = {"".join(draw.choice(letters, size)) for size in draw.integers(3, 10, 24_000)}
    return np.array([*COMMON, *sorted(made - set(COMMON))][:20_000], object)


class Maker:
    """Makes documents, the same for the same seed."""

    def __init__(self) -> None:
        self._words = words_of()
        weights = 1 / (np.arange(len(self._words)) + 3.0)
        self._sums = np.cumsum(weights / weights.sum())
        self._draw = np.random.Generator(np.random.Philox(2))

    def draw(self, size: int) -> list[str]:
        """Words by their frequencies."""
        places = np.searchsorted(self._sums, self._draw.random(size))
        return list(self._words[np.minimum(places, len(self._words) - 1)])

    def text(self, words: list[str], width: int = 15) -> str:
        """Sentences of words, three a line."""
        sentences = [
            " ".join(words[first : first + width]).capitalize() + "."
            for first in range(0, len(words) - width + 1, width)
        ]
        return "\n".join(" ".join(sentences[n : n + 3]) for n in range(0, len(sentences), 3))

    def documents(self, number: int) -> Iterator[tuple[str, str]]:
        """(what it is, the text) of so many documents."""
        ways = self._draw.choice(list(WAYS), number, p=np.array([*WAYS.values()]))
        sizes = self._draw.integers(12, 28, number) * 15
        earlier: list[list[str]] = []
        for way, size in zip(ways, sizes, strict=True):
            words = self.draw(int(size))
            if way in ("copy", "near-copy"):
                if not earlier:
                    way = "clean"
                else:
                    # One of the last, each once: so that what is found can be counted.
                    words = earlier.pop(int(self._draw.integers(len(earlier))))
            if way == "near-copy":
                words = list(words)
                words[NEAR // 2 :: NEAR] = self.draw(len(words[NEAR // 2 :: NEAR]))
            if way == "clean":
                earlier = [*earlier[-500:], words]
            yield str(way), self._dirty(way, words)

    def _dirty(self, way: str, words: list[str]) -> str:
        text = self.text(words)
        match way:
            case "menu":
                return "Home | News | About us\n" + text + "\nShare this page"
            case "cookies":
                return text + "\nThis site uses cookies to serve all of you better."
            case "code":
                return text + "\nfunction go() { return 1 }"
            case "dummy text":
                return text + "\nLorem ipsum dolor sit amet, and so it goes on."
            case "list":
                return "\n".join(words)
            case "repeated":
                return text + "\n" + self.text(words[:30] * 4)
            case "address":
                return text + f"\nWrite to {words[-1]}.{words[-2]}@example.org about all of it."
            case "evaluation":
                return text + "\n" + QUESTION
        return text


QUESTION = (
    "Which of these six large planets has the shortest year of all, and who was the first?"
)


def write(folder: Path, number: int) -> Counter[str]:
    """Writes the documents and the recipe; returns how many of each way there are."""
    counts: Counter[str] = Counter()
    with (folder / "dirty.jsonl").open("w") as file:
        for way, text in Maker().documents(number):
            counts[way] += 1
            file.write(json.dumps({"text": text}) + "\n")
    (folder / "questions.txt").write_text(QUESTION)
    corpus = {"type": "shards", "paths": [str(folder / "dirty.jsonl")]}
    questions = {"type": "text", "paths": [str(folder / "questions.txt")]}
    steps = [
        {"type": "pii"},
        {"type": "c4"},
        {"type": "gopher_quality"},
        {"type": "gopher_repetition"},
        {"type": "exact"},
        {"type": "near"},
        {"type": "decontaminate", "against": [{"name": "questions", "corpus": questions}]},
        {"type": "exact", "by": "line"},
    ]
    recipe = {"sources": [{"name": "dirty", "corpus": corpus}], "steps": steps}
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=2))
    return counts


def look_at(session: int, seconds: dict[str, float]) -> int:
    """Bytes that all processes of a session hold (proportional set size).

    Notes the processor's seconds that each has used so far.
    """
    total, ticks = 0, os.sysconf("SC_CLK_TCK")
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                seconds[process.name] = (int(fields[11]) + int(fields[12])) / ticks
                rollup = (process / "smaps_rollup").read_text()
                total += 1024 * int(rollup.partition("\nPss:")[2].split()[0])
        except (OSError, IndexError):
            continue  # it has ended
    return total


class Measured(NamedTuple):
    """What cleaning took."""

    manifest: dict[str, Any]
    seconds: float
    """Of the clock, with what was lost by kills."""
    used: float
    """Seconds of processors."""
    memory: int
    """Bytes, at most."""
    kills: int


def prepare(folder: Path, out: str, options: list[str], kills: int, every: float) -> Measured:
    """Runs the command to its end; killed it is given again."""
    command = [sys.executable, "-m", "lm", "data", "prepare", "recipe.json", out, "--json"]
    draw = np.random.default_rng()
    begin, most, used, done = time.perf_counter(), 0, 0.0, 0
    while True:
        seconds = dict[str, float]()
        until = time.perf_counter() + draw.uniform(0, 2 * every)
        with (folder / f"{out}.json").open("w") as output:
            process = subprocess.Popen(
                command + options, cwd=folder, stdout=output, start_new_session=True
            )
        while process.poll() is None:
            most = max(most, look_at(process.pid, seconds))
            if done < kills and time.perf_counter() > until:
                process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
        used += sum(seconds.values())
        if process.returncode == 0:
            break
        if process.returncode != -signal.SIGKILL or done == kills:
            sys.exit(process.returncode)
        done += 1
    manifest = json.loads((folder / f"{out}.json").read_text())
    return Measured(manifest, time.perf_counter() - begin, used, most, done)


def digests_of(measured: Measured) -> list[str]:
    """The digest of each file."""
    return [shard["sha256"] for shard in measured.manifest["shards"]]


def lines_of(folder: Path) -> list[bytes]:
    """All lines of the files that were written, in an order of their own."""
    return sorted(
        line
        for path in folder.glob("*.jsonl.gz")
        for line in gzip.decompress(path.read_bytes()).splitlines()
    )


def main(arguments: list[str] | None = None) -> None:
    """Prints what was planted and found, the rate and the memory."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=len(usable_cores()))
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep what is made there")
    parser.add_argument("--kills", type=int, default=0, help="kill it so often, if it lives")
    parser.add_argument("--every", type=float, default=60, help="mean seconds between kills")
    parser.add_argument("--twice", action="store_true", help="compare with one without kills")
    parser.add_argument("--beam", action="store_true", help="compare with Apache Beam")
    given = parser.parse_args(arguments)
    workers = ["--workers", str(given.workers)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        counts = write(folder, given.documents)
        size = (folder / "dirty.jsonl").stat().st_size
        print(f"{given.documents:,} documents, {size / 1e6:,.0f} MB", flush=True)
        first = prepare(folder, "cleaned", workers, given.kills, given.every)
        show(first.manifest, counts)
        print(told(given.documents, f"{given.workers} workers", first), flush=True)
        if given.twice:
            again = prepare(folder, "again", workers, 0, given.every)
            print(told(given.documents, "the same without a kill", again))
            same = digests_of(first) == digests_of(again)
            print("each file is the same to the last byte" if same else "FILES DIFFER")
        if given.beam:
            beam = prepare(folder, "beam", ["--beam"], 0, given.every)
            print(told(given.documents, "Beam's runner in Python", beam))
            same = lines_of(folder / "cleaned") == lines_of(folder / "beam")
            counted = all(first.manifest[k] == beam.manifest[k] for k in ("sources", "steps"))
            print("Beam leaves the same lines" if same else "BEAM LEAVES OTHER LINES")
            print("and counts the same" if counted else "AND COUNTS DIFFER")


def told(documents: int, by: str, measured: Measured) -> str:
    """A line of what it took."""
    return (
        f"{documents / measured.seconds:,.0f} documents a second by {by}"
        f" ({measured.seconds:,.0f} s from start to end, {measured.kills} kills, load"
        f" {os.getloadavg()[0]:.1f}), {documents / measured.used:,.0f} a second of a processor;"
        f" {measured.memory / 1e6:,.0f} MB at most"
    )


def show(manifest: dict, counts: Counter[str]) -> None:
    """A line for each way to be dirty."""
    for way, (step, rule) in FOUND.items():
        found = sum(
            removal["documents"] + removal["changed"]
            for each in manifest["steps"]
            if each["type"] == step
            for removal in each["tally"]["rules"].get(rule, {}).values()
        )
        print(f"{way:<12} planted {counts[way]:>8,}  found {found:>8,}  by {step}: {rule}")
    kept = sum(source["kept_documents"] for source in manifest["sources"].values())
    print(f"{kept:,} are left")


if __name__ == "__main__":
    main()
