"""The runs of a study, trained one after the other or side by side on cores of their own.

A small model keeps few cores busy: steps of two on a core each take less time than one after
the other on both. Side by side, each of several processes (`python -m lm.study.jobs`) has a
share of this process's cores and trains one run after another. It reads a run as a line of JSON
and answers with a line when it is done; all else that it says is passed on by this process. The
largest runs come first, so that few cores are idle at the end; but a process goes on with runs
that have the programs of its last one, which are compiled.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Self

import jax
from msgspec import to_builtins
from rich.console import Console
from rich.live import Live
from rich.text import Text

from lm.config import Config, UserError, parse
from lm.cost import ledger, memory
from lm.data import vocabulary_size
from lm.distributed import hosts, signals
from lm.distributed.process import (
    forget_programs,
    one_line_errors,
    prepare_machine,
    usable_cores,
)
from lm.distributed.signals import Stopped, stop_requests
from lm.evaluate.evaluate import evaluate
from lm.evaluate.evaluators import check_evaluators, evaluate_during
from lm.evaluate.scoring import Effort
from lm.run import Run, compiled_settings
from lm.study.together import train_together
from lm.train.bookkeeping import Diverged
from lm.train.companions import companion_settings
from lm.train.trackers import bar
from lm.train.train import train_run

PROCESS = 1 << 30
"""Bytes of memory that a process takes beside what its run needs."""


class TrainRequest(Config):
    """What is to be trained, where, and how it is scored."""

    name: str
    run: Run
    directory: str
    effort: Effort


def train(
    runs: Mapping[str, Run],
    names: Sequence[str],
    directory: Path,
    effort: Effort,
    *,
    jobs: int = 1,
    members: int = 1,
) -> list[str]:
    """Trains and evaluates the named runs, so many at a time; finished ones are skipped.

    Groups of up to so many `members` come first, and are then scored as the others are.

    Returns the names of those that diverged, and of those that were to start from them, which
    keeps nobody from running the others. Raises UserError where a run starts from another that
    is not finished and not among the named.
    """
    for run in runs.values():
        check_evaluators(run)
    turns = _Turns(runs, names, directory)
    for diverged in train_together(runs, names, directory, members=members, beside=jobs):
        turns.leave_out(diverged)

    def asked(name: str) -> TrainRequest:
        return TrainRequest(name=name, run=runs[name], directory=str(directory), effort=effort)

    if jobs > 1:
        turns.largest_first()
        _side_by_side(turns, asked, jobs)
    else:
        while (name := turns.take()) is not None:
            turns.done(name, well=_train_one(asked(name)))
    return turns.failed


def how_many(
    asked: int | None, runs: Mapping[str, Run], names: Sequence[str], directory: Path
) -> int:
    """How many runs are trained at a time, where so many are asked for.

    Unasked it is, on CPUs, one for each core that this process may use, as far as memory holds
    the largest run so often. It is one where devices are an accelerator's, several, or other
    hosts' too, which raises UserError where more are asked for, and where the system gives
    nobody cores of their own.
    """
    alone = jax.default_backend() != "cpu" or jax.device_count() > 1
    if asked is not None:
        if asked < 1 or (alone and asked > 1):
            most = f"1 on {hosts.described()}" if alone else ">= 1"
            raise UserError(f"--jobs {asked}: must be {most}")
        return asked
    left = [name for name in names if not (directory / name / "result.json").exists()]
    if alone or not left or not hasattr(os, "sched_setaffinity"):
        return 1
    # What is counted is the least, about half of what a run takes.
    largest = 2 * max(sum(memory.least(runs[name], "cpu").values()) for name in left) + PROCESS
    return max(1, min(len(usable_cores()), len(left), memory.machine_memory() // largest))


def _train_one(asked: TrainRequest) -> bool:
    """Trains and evaluates a run, unless it is finished; False: it diverged."""
    try:
        train_run(
            asked.run,
            Path(asked.directory) / asked.name,
            evaluate=partial(evaluate, effort=asked.effort),
            evaluate_during=evaluate_during,
            label=asked.name,
        )
    except Diverged as error:
        print(f"lm: {error}", file=sys.stderr, flush=True)
        return False
    forget_programs()
    return True


class _Turns:
    """Which run is next: none before those that it starts from, or asks."""

    def __init__(self, runs: Mapping[str, Run], names: Sequence[str], directory: Path) -> None:
        self._runs, self._directory = runs, directory
        self._needed = {name: _needed(runs[name], directory) for name in names}
        self._waiting, self._running = list(names), set[str]()
        self._programs = dict[object, Run]()
        """What compiled programs each process's last run has."""
        self.failed = list[str]()

    def largest_first(self) -> None:
        """Puts what takes the most FLOPs in front."""

        def flops(name: str) -> int:
            run = self._runs[name]
            size = vocabulary_size(run.data.tokenizer)
            return ledger.cost(run, size, asked_models(run, self._runs)).flops

        self._waiting.sort(key=flops, reverse=True)

    def take(self, process: object = None) -> str | None:
        """A run that can begin; None: all have, or they wait for some that are not done.

        First come those with the programs of this process's last run, and last those with the
        programs of another's.
        """

        def order(name: str) -> int:
            programs = compiled_settings(self._runs[name])
            if programs == self._programs.get(process):
                return 0
            return 2 if programs in self._programs.values() else 1

        for name in sorted(self._waiting, key=order):
            needed = self._needed[name]
            if any(each in self._waiting or each in self._running for each in needed):
                continue
            self._waiting.remove(name)
            if lost := [each for each in needed if each in self.failed]:
                said = f"lm: {name}: not trained: it {needed[lost[0]]} {lost[0]}"
                print(said, file=sys.stderr, flush=True)
                self.failed.append(name)
                continue
            for each, how in needed.items():
                if not (self._directory / each / "result.json").exists():
                    raise UserError(f"--run {name}: it {how} {each}, which is to be run first")
            self._running.add(name)
            if process is not None:
                self._programs[process] = compiled_settings(self._runs[name])
            return name
        return None

    def leave_out(self, name: str) -> None:
        """Notes that a run diverged before it was its turn."""
        self._waiting.remove(name)
        self.failed.append(name)

    def done(self, name: str, *, well: bool) -> None:
        """Notes what came of a run."""
        self._running.remove(name)
        if not well:
            self.failed.append(name)

    @property
    def left(self) -> int:
        """How many are not done."""
        return len(self._waiting) + len(self._running)


def _needed(run: Run, directory: Path) -> dict[str, str]:
    """Names of the study's runs that a run needs: it starts from them, or asks them."""
    asked = {**run.objective.companions, **run.objective.derived}
    paths = {Path(named.path): "asks" for named in asked.values() if named is not None}
    paths |= {} if run.start is None else {Path(run.start.path): "starts from"}
    return {
        path.name: how for path, how in paths.items() if path.parent == directory.absolute()
    }


def asked_models(run: Run, runs: Mapping[str, Run]) -> Mapping[str, Run]:
    """The settings of the models that a run asks: the study's own may not be there yet."""
    asked = {**run.objective.companions, **run.objective.derived}
    names = {key: Path(named.path).name for key, named in asked.items() if named is not None}
    if all(name in runs for name in names.values()):
        return {key: runs[name] for key, name in names.items()}
    return companion_settings(run)


# The process that hands out runs


def _side_by_side(turns: _Turns, asked: Callable[[str], TrainRequest], jobs: int) -> None:
    """Trains all runs in processes of their own; raises UserError where one of these does.

    Raises Stopped after SIGINT or SIGTERM, when all have saved what they had.
    """
    running: dict[Future[bool], tuple[str, _Process]] = {}
    with stop_requests() as requests, ThreadPoolExecutor(2 * jobs) as pool:
        signals.keep_alive(True)  # they save, which takes its time
        with _Display(jobs) as display, _processes(jobs, display, pool) as free:
            while not requests:
                while free and (name := turns.take(free[-1])) is not None:
                    process = free.pop()
                    running[pool.submit(process.train, asked(name))] = name, process
                if not running:
                    break
                for future in wait(running, MOMENT, FIRST_COMPLETED).done:
                    name, process = running.pop(future)
                    turns.done(name, well=future.result())
                    free.append(process)
            if requests:
                raise Stopped(f"{turns.left} runs are left")


MOMENT = 0.2
"""Seconds after which a request to stop is heard at the latest."""


@contextmanager
def _processes(
    jobs: int, display: "_Display", pool: ThreadPoolExecutor
) -> Iterator[list["_Process"]]:
    """Processes that each have a share of the cores; in the end they save, and are no more."""
    cores = usable_cores()
    found = list[_Process]()
    try:
        for number in range(jobs):
            share = cores[number * len(cores) // jobs : (number + 1) * len(cores) // jobs]
            found.append(_Process(share or cores, display.seconds))
            pool.submit(found[-1].pass_on, partial(display.say, number))
        yield [*found]
        for process in found:
            process.done()
    except BaseException as error:
        # Where it is an error the others are ended, and it is of no interest how.
        display.muted = not isinstance(error, Stopped)
        for process in found:
            process.end()
        raise
    finally:
        for process in found:
            try:
                process.wait()
            except KeyboardInterrupt:  # a second request ends all of them at once
                for each in found:
                    each.end()
                process.wait()


class _Process:
    """Another process that trains, on cores of its own."""

    def __init__(self, cores: Sequence[int], seconds: float) -> None:
        """It says every so many seconds how far a run is."""
        self._said_all = threading.Event()
        with _on(cores):
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lm.study.jobs", str(seconds)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                # Ctrl-C at a terminal is for this process, which tells the others once.
                start_new_session=True,
            )

    def train(self, asked: TrainRequest) -> bool:
        """Waits until it has trained a run; False: it diverged.

        Raises UserError where the run cannot be trained, and where its process has ended.
        """
        assert self._process.stdin and self._process.stdout
        with suppress(OSError):  # that it has ended is seen below
            self._process.stdin.write(json.dumps(to_builtins(asked)) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._said_all.wait(MOMENT)
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            raise UserError(f"{asked.name}: its process has ended {how}")
        answer = parse(TrainReply, line, asked.name)
        if answer.error is not None:
            raise UserError(answer.error)
        return answer.well

    def pass_on(self, say: Callable[[str], None]) -> None:
        """Says what it says, until it ends."""
        assert self._process.stderr
        with self._process.stderr as lines:
            for line in lines:
                say(line.rstrip("\n"))
        self._said_all.set()

    def done(self) -> None:
        """Tells it that there are no more runs."""
        assert self._process.stdin
        with suppress(OSError):
            self._process.stdin.close()

    def end(self) -> None:
        """Asks it to save and to end; a second time, to end at once."""
        self.done()
        self._process.terminate()

    def wait(self) -> None:
        """Waits until it has ended."""
        assert self._process.stdout
        self._process.wait()
        self._process.stdout.close()


@contextmanager
def _on(cores: Sequence[int]) -> Iterator[None]:
    """What is started within runs on these cores alone, where the system can say so."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class _Display:
    """What all processes say; at a terminal, how far they are is a line each that moves."""

    def __init__(self, jobs: int) -> None:
        self._console = Console(file=sys.stderr)
        self._lines = [""] * jobs
        self._live = Live(console=self._console, get_renderable=self._now, transient=True)
        self.seconds = 1.0 if self._console.is_terminal else bar.SECONDS
        """How often each is to say how far it is."""
        self.muted = False

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, number: int, line: str) -> None:
        """Shows a line of a process."""
        if self.muted:
            return
        if not self._console.is_terminal:
            print(line, file=sys.stderr, flush=True)
        elif bar.LINE.match(line):
            self._lines[number] = line
        else:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _now(self) -> Text:
        return Text("\n".join(self._lines), no_wrap=True, overflow="ellipsis")


# The processes that train


class TrainReply(Config):
    """What came of a run."""

    well: bool = True
    """False: it diverged."""
    error: str | None = None
    """Why it could not be trained."""


def work(seconds: float) -> None:
    """Trains each run that stdin asks for, and answers on stdout, until stdin ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    bar.SECONDS = seconds
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    prepare_machine()
    for line in sys.stdin:
        try:
            answer = TrainReply(well=_train_one(parse(TrainRequest, line, "stdin")))
        except UserError as error:
            answer = TrainReply(error=str(error))
        answers.write(json.dumps(to_builtins(answer)) + "\n")
        answers.flush()


def _end_with(parent: int) -> None:
    """Asks this process to save and to end as soon as who started it is no more."""
    while os.getppid() == parent:
        time.sleep(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # nobody hears it
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    signals.listen()
    with one_line_errors():
        work(float(sys.argv[1]))
