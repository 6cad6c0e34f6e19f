"""Does an index of 100,000 passages build, go on after a kill, and take more, in which memory?

    YARDSTICK_ASSETS=... python -m experiments.benchmarks.retrieval [--passages 100000] \
        [--model FOLDER] [--dtype float16] [--keep DIR]

Makes files of sentences of this package's own words (Zipf's frequencies), and has processes of
their own index them: the first is killed (SIGKILL) once three tenths of its passages are there,
the second goes on, the third adds a tenth more, the fourth deletes one file. Then it checks
that each file is there once and whole, and that vectors drawn at random are those of their
texts. It prints passages a second of each, the most memory that each held (proportional set
size, five times a second, pages of mapped files included), what the kill cost, and how long a
query takes: by words, by exact comparison, by both, and by usearch, of which the part of the
ten nearest that it finds is printed too. It ends with code 1 where a check fails.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.cleaning import look_at
from lm.distributed.process import prepare_machine
from lm.retrieval.index import IndexBuilder
from lm.retrieval.near import made_from
from lm.retrieval.search import TextIndex, open_index
from lm.retrieval.store import IndexFolder

MODEL = "minilm"
"""The folder in `YARDSTICK_ASSETS`."""
EACH = 100
"""Passages of a file, about."""
WORDS = 75
"""Words of which a passage has about 126 tokens, less what it shares with the one before."""
QUERIES = 50


def write(folder: Path, first: int, files: int) -> None:
    """Writes files of sentences, each of about a hundred passages."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.Generator(np.random.Philox(first))
    words = vocabulary()
    chance = 1 / np.arange(3, len(words) + 3)
    chance /= chance.sum()
    for number in range(first, first + files):
        found = draw.choice(words, size=EACH * WORDS, p=chance)
        lines = [" ".join(found[at : at + 15]) + "." for at in range(0, len(found), 15)]
        (folder / f"{number:05}.txt").write_text(f"file {number}.\n" + "\n".join(lines))


def vocabulary() -> np.ndarray:
    """The words of this package's documents, the most frequent first."""
    pages = sorted((Path(__file__).parents[2] / "docs").glob("*.md"))
    found = re.findall(r"\b[a-z]{2,12}\b", "\n".join(page.read_text() for page in pages))
    words, counts = np.unique(found, return_counts=True)
    return words[np.argsort(-counts, kind="stable")]


class Worked:
    """What one process did."""

    def __init__(self, seconds: float, most: int, used: float, said: Any) -> None:
        self.seconds, self.most, self.used, self.said = seconds, most, used, said


def index(folder: Path, *words: str, stop: Callable[[], bool] = lambda: False) -> Worked:
    """Runs `lm index` as a process; it is killed once `stop` says so."""
    begin, most, used = time.perf_counter(), 0, dict[str, float]()
    command = [sys.executable, "-m", "lm", "index", *words, "--json"]
    home = str(Path(__file__).parents[2])
    with (folder / "said.json").open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=output,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": home},
        )
        killed = False
        while process.poll() is None:
            most = max(most, look_at(process.pid, used))
            if not killed and stop():
                os.killpg(process.pid, signal.SIGKILL)
                killed = True
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
    seconds = time.perf_counter() - begin
    if process.returncode and not killed:
        sys.exit(process.returncode)
    said = None if killed else json.loads((folder / "said.json").read_text())["done"]
    return Worked(seconds, most, sum(used.values()), said)


def count(folder: Path) -> int:
    """Passages that an index has by now."""
    store = IndexFolder(folder)
    return store.manifest().passages if store.is_there else 0


def timed(ask: Callable[[str], Any], queries: list[str]) -> float:
    """The median of milliseconds a query, after a first one."""
    ask(queries[0])
    found = []
    for query in queries:
        start = time.perf_counter()
        ask(query)
        found.append(time.perf_counter() - start)
    return 1e3 * float(np.median(found))


def check(made: TextIndex, files: int) -> Iterator[str]:
    """What is wrong with an index: a line for each thing."""
    held = IndexBuilder(made.store.folder, made.manifest, lambda: None).held()
    whole = [each for each in held.values() if each.complete]
    if len(whole) != files:
        yield f"{len(whole)} files are there and whole, of {files}"
    if sum(each.passages for each in whole) != len(made):
        yield f"{len(made)} passages, and its files have others"
    if made.embedder is not None:
        drawn = np.random.default_rng(0).choice(len(made), size=min(64, len(made)))
        texts = [made.passage(int(number)).text for number in drawn]
        kept_ND = made.vectors(drawn.tolist())
        cosine = (kept_ND * made.embedder(texts)).sum(axis=1)
        if cosine.min() < 0.999:
            yield f"a vector is not its text's: cosine {cosine.min():.4f}"


def neighbours(made: TextIndex, queries: list[str]) -> None:
    """How long usearch takes, and what it finds of what is nearest."""
    settings = made.manifest.settings
    assert settings.model is not None and made.embedder is not None
    start = time.perf_counter()
    near = made_from(
        [*zip(made.manifest.names, made.shards, strict=True)],
        width=settings.model.width,
        dtype=settings.dtype,
        before=None,
    )
    built = time.perf_counter() - start
    firsts = {name: made.number(shard, 0) for shard, name in enumerate(made.manifest.names)}
    vectors = {query: made.embedder([query])[0] for query in queries}
    agreed = 0
    for query in queries:
        found = {firsts[name] + row for name, row in near.search(vectors[query], 10)}
        agreed += len(found & {*made.nearest(vectors[query], 10, exact=True)[0].tolist()})
    print(
        f"usearch: built in {built:.1f} s, {len(made) / built:,.0f} passages a second;"
        f" {timed(lambda q: near.search(vectors[q], 10), queries):.2f} ms a query;"
        f" {agreed / (10 * len(queries)):.1%} of the ten nearest"
    )


def main(arguments: list[str] | None = None) -> None:
    """Builds, kills, resumes, appends, deletes, checks and asks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--model", type=Path, help=f"{MODEL} of YARDSTICK_ASSETS unless given")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    parser.add_argument("--shard", type=int, default=1024)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep what is made there")
    given = parser.parse_args(arguments)
    model = given.model or Path(os.environ["YARDSTICK_ASSETS"]) / MODEL
    files = max(2, given.passages // EACH)
    later = max(1, files // 10)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.keep or Path(temporary)).resolve()
        write(folder / "first", 0, files - later)
        write(folder / "later", files - later, later)
        size = sum(path.stat().st_size for path in folder.glob("*/*.txt"))
        print(f"{files:,} files, {size / 1e6:,.1f} MB; {given.dtype} vectors", flush=True)
        made = folder / "made"
        wanted = int(0.3 * given.passages * (files - later) / files)
        build = ["first", "made", "--model", str(model.resolve()), "--dtype", given.dtype]
        build += ["--shard", str(given.shard)]
        killed = index(folder, *build, stop=lambda: count(made) >= wanted)
        kept = count(made)
        show("built, then killed", kept, killed)
        resumed = index(folder, *build)
        show("gone on", resumed.said["passages_added"], resumed)
        added = index(folder, "later", "made")
        show("added", added.said["passages_added"], added)
        gone = index(folder, "--delete", "first/00001.txt", "made")
        show("deleted one file", added.said["passages"] - gone.said["passages"], gone)
        prepare_machine()
        searched = open_index(made)
        wrong = [*check(searched, files - 1)]
        size = sum(path.stat().st_size for path in made.rglob("*") if path.is_file())
        print(
            f"{len(searched):,} passages in {size / 1e6:,.1f} MB on the disk,"
            f" {len(searched.shards)} shards; load {os.getloadavg()[0]:.1f}"
        )
        draw = np.random.default_rng(1)
        queries = [" ".join(draw.choice(vocabulary()[:2000], 6)) for _ in range(QUERIES)]
        embedder = searched.embedder
        assert embedder is not None
        vectors = {query: embedder([query])[0] for query in queries}
        for name, ask in (
            ("embedding a query", lambda q: embedder([q])),
            ("words", lambda q: searched.words.rank(q, 10)),
            ("exact comparison", lambda q: searched.nearest(vectors[q], 10, exact=True)),
            ("both, embedded", lambda q: searched.search(q, 10)),
        ):
            print(f"{name}: {timed(ask, queries):.2f} ms a query")
        neighbours(searched, queries)
    for line in wrong:
        print(f"wrong: {line}")
    if wrong:
        sys.exit(1)


def show(what: str, passages: int, worked: Worked) -> None:
    """A line of what a process did."""
    rate = passages / worked.seconds
    embedded = worked.said and worked.said["embedding_seconds"]
    apart = f", {passages / embedded:,.1f} while it embeds" if embedded else ""
    print(
        f"{what}: {passages:,} passages in {worked.seconds:,.1f} s from start to end,"
        f" {rate:,.1f} a second{apart}; {worked.used:,.1f} s of processors;"
        f" {worked.most / 1e6:,.0f} MB at most",
        flush=True,
    )


if __name__ == "__main__":
    main()
