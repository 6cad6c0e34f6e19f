"""The fastest way of executing a run that fits, by what the compiler makes of each."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain, permutations, product
from typing import Any, NamedTuple, get_args

from lm.config import override
from lm.model import Remat
from lm.model.attention.choose import Backend, choose
from lm.plan.client import Compiler
from lm.plan.compile import CompileRequest
from lm.plan.found import Found
from lm.plan.machine import Machine
from lm.plan.plan import is_legal, ledger_flops, mesh_of, same_program
from lm.run import Run, steps

Overrides = tuple[str, ...]
"""Fields of a run, each as `name=value`."""


class Tried(NamedTuple):
    """A way of executing a run, and what a step then is on a device."""

    run: Run
    changes: Overrides
    """What makes it of the run that was given; () is that one."""
    founds: tuple[Found, ...]
    """The training step of each objective of the run."""
    seconds: float
    """Of a step, the mean over the run; NaN where one was refused."""
    fits: bool

    @property
    def used(self) -> float:
        """Bytes that the largest step needs."""
        return max(found.used for found in self.founds)

    def before(self, other: "Tried") -> bool:
        """Whether it is the better one: it fits, then it is faster, else it is smaller."""
        if self.fits != other.fits:
            return self.fits
        if self.fits:
            return self.seconds < other.seconds
        return self.used < other.used


def tune(
    run: Run,
    machine: Machine,
    compiled: Compiler,
    *,
    most: int = 40,
    quick: bool = False,
    say: Callable[[Tried], None] = lambda tried: None,
) -> Tried:
    """The fastest of at most `most` ways that are compiled, from the run's own on.

    One thing is changed at a time, by one step: `remat`, `microbatches`, a factor of the mesh
    from one axis to another, the kind of attention. Of the changes of the best way so far the
    one with the fewest FLOPs is compiled first. One whose products alone take as long as the
    best step does is not compiled. Where no single change is better, those that did not fit are
    tried with those that save memory; where none of these is better either, it ends. The batch
    and the model stay: what is trained does not change.

    `say` is told of each way as it is compiled.
    """
    known: dict[Any, Tried] = {}

    def look(changes: Overrides, best: Tried | None = None) -> Tried | None:
        """What a way comes to; None where it is not legal, or cannot be better."""
        if not is_legal(run, changes, machine):
            return None
        changed = override(run, changes)
        mesh = mesh_of(changed, machine).values()
        key = (changed.remat, changed.microbatches, changed.attention, *mesh)
        if key not in known:
            if best and best.fits and _least_seconds(changed, machine) >= best.seconds:
                return None
            if len(known) == most:
                return None
            known[key] = _compiled(changed, changes, machine, compiled, quick=quick)
            say(known[key])
        return known[key]

    best = look(())
    assert best is not None
    while better := next(
        (each for each in _ahead(best, machine, look) if each.before(best)), None
    ):
        best = better
    return best


def _ahead(
    best: Tried, machine: Machine, look: Callable[[Overrides, Tried], Tried | None]
) -> Iterator[Tried]:
    """Changes of the best by one step, then of what did not fit with what saves memory."""
    single = list[tuple[Overrides, Tried]]()
    for change in _neighbours(best.run, machine):
        if tried := look(_merged(best.changes, change), best):
            single.append((change, tried))
            yield tried
    too_large = [change for change, tried in single if not tried.fits]
    smaller = [change for change, tried in single if tried.used < best.used]
    for pair in product(too_large, smaller):
        if tried := look(_merged(best.changes, *pair), best):
            yield tried


def _compiled(
    run: Run, changes: Overrides, machine: Machine, compiled: Compiler, *, quick: bool
) -> Tried:
    parts = run.objective.parts(steps(run), run.seed)
    founds = tuple(
        compiled.find(
            CompileRequest(same_program(run, part), machine.name, machine.slices, quick=quick)
        )
        for part in parts
    )
    seconds = sum(
        count * machine.seconds(found)
        for count, found in zip(parts.values(), founds, strict=True)
    )
    fits = all(map(machine.fits, founds))
    return Tried(run, changes, founds, seconds / sum(parts.values()), fits)


def _merged(*changes: Overrides) -> Overrides:
    """All of them, of which a later one counts."""
    fields = dict(text.split("=") for text in chain.from_iterable(changes))
    return tuple(f"{name}={value}" for name, value in fields.items())


def _least_seconds(run: Run, machine: Machine) -> float:
    """Seconds that a step's products take at the least: its ledger at the maker's speed."""
    parts = run.objective.parts(steps(run), run.seed)
    total = sum(count * ledger_flops(run, part, machine) for part, count in parts.items())
    return total / sum(parts.values()) / machine.flops / machine.efficiency


def _neighbours(run: Run, machine: Machine) -> list[Overrides]:
    """Every legal change by one step, the one with the fewest FLOPs first."""
    legal = [
        change
        for change in _changes(run, mesh_of(run, machine), machine)
        if is_legal(run, change, machine)
    ]
    return sorted(legal, key=lambda change: _least_seconds(override(run, change), machine))


def _changes(run: Run, mesh: Mapping[str, int], machine: Machine) -> Iterator[tuple[str, ...]]:
    policies = get_args(Remat)
    place = policies.index(run.remat)
    for policy in policies[max(place - 1, 0) : place + 2]:
        yield (f"remat={policy}",)
    if not run.objective.couples_rows:
        rows = run.data.batch // (mesh["replica"] * mesh["fsdp"])
        for number in (2 * run.microbatches, run.microbatches // 2):
            if number and rows % number == 0:
                yield (f"microbatches={number}",)
    for source, target in permutations(mesh, 2):
        factor = next((n for n in (2, 3, 5, 7) if mesh[source] % n == 0), None)
        if factor:
            sizes = {source: mesh[source] // factor, target: mesh[target] * factor}
            yield tuple(f"mesh.{axis}={size}" for axis, size in ({**mesh, **sizes}).items())
    if not machine.estimate:  # another platform's kernels are not in its program
        on = partial(
            choose, platform=machine.platform, precision=run.precision, length=run.data.length
        )
        now, *kinds = map(on, (run.attention, *get_args(Backend)))
        yield from ((f"attention={kind}",) for kind in kinds if kind != now)
