"""What `lm plan` prints: a table of runs, the largest one in detail, and all numbers."""

import importlib.metadata
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cmp_to_key
from typing import Any

import msgspec
from rich.table import Table

from lm.cost import ledger
from lm.data import vocabulary_size
from lm.output.console import console, print_notes, print_table, table
from lm.output.numbers import gigabytes
from lm.plan.found import HERE, Found
from lm.plan.machine import Machine
from lm.plan.plan import CALIBRATION, Plan, derived_flops, ledger_flops
from lm.plan.tune import Tried
from lm.run import steps


def plan_report(
    plans: Mapping[str, Plan], machine: Machine, tried: Iterable[Tried] = ()
) -> dict[str, Any]:
    """All numbers, as `--json` prints them: bytes, FLOPs and seconds, of one device.

    Of those that were tried there are the changes, bytes and seconds, in their order.
    """
    return {
        "machine": machine._asdict(),
        "compiler": _compiler_version(machine),
        "runs": {name: _plain(found, machine) for name, found in plans.items()},
        "seconds": _known(sum(found.seconds(machine) for found in plans.values())),
        "tried": [
            {
                "changes": each.changes,
                "fits": each.fits,
                "used_bytes": each.used,
                "seconds": _known(each.seconds),
                "steps": [_step_of(found, machine) for found in each.founds],
            }
            for each in tried
        ],
    }


def _plain(of: Plan, machine: Machine) -> dict[str, Any]:
    counts: Mapping[Any, int] = of.run.objective.parts(steps(of.run), of.run.seed)
    return {
        "mesh": of.mesh,
        **({"members": of.members} if of.members else {}),
        "fits": of.fits(machine),
        "steps": steps(of.run),
        "tokens": ledger.cost(of.run, vocabulary_size(of.run.data.tokenizer)).tokens,
        "train": [
            {
                "objective": msgspec.to_builtins(part),
                "count": counts[part],
                "flops_ledger": ledger_flops(of.run, part, machine, of.members),
                **_step_of(found, machine),
            }
            for part, found in of.train.items()
        ],
        "flops_derived": derived_flops(of.run, machine),
        **{step: _step_of(found, machine) for step, found in of.others.items()},
        "seconds": _known(of.seconds(machine)),
        "suggestions": {c: _step_of(f, machine) for c, f in of.suggestions.items()},
        "tried": {change: _step_of(found, machine) for change, found in of.tried.items()},
    }


def _step_of(found: Found, machine: Machine) -> dict[str, Any]:
    return msgspec.to_builtins(found) | {
        "used_bytes": found.used,
        "floors": machine.floors(found),
        "seconds": _known(machine.seconds(found)),
    }


def _known(seconds: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(seconds) else seconds


def _compiler_version(machine: Machine) -> str:
    package = "jaxlib" if machine.name == HERE or machine.estimate else "libtpu"
    return f"{package} {importlib.metadata.version(package)}"


def show(
    plans: Mapping[str, Plan], machine: Machine, *, quick: bool, traffic: bool = False
) -> None:
    """A table of all runs, and the largest one in detail; also of its traffic, if asked."""
    out = console()
    many = f"{machine.slices} x " if machine.slices > 1 else ""
    chips = f"{machine.chips} chips" + (
        f", {machine.devices} devices" if machine.devices != machine.chips else ""
    )
    out.print(
        f"{many}{machine.name}: {chips}; a device does {machine.flops / 1e12:.4g} TFLOP/s and"
        f" has {machine.memory / 1e9:.4g} GB at {machine.bandwidth / 1e9:.4g} GB/s",
        soft_wrap=True,
    )
    if len(plans) > 1:
        print_table(_table(plans, machine))
    name, largest = max(plans.items(), key=lambda item: item[1].used().used)
    for line in _details(name, largest, machine):
        out.print(line, soft_wrap=True)
    if traffic:
        for step, found in [
            *(("train", found) for found in largest.train.values()),
            *largest.others.items(),
        ]:
            _show_traffic(step, found)
    print_notes(_notes(plans, machine, quick=quick))


def _show_traffic(step: str, found: Found) -> None:
    """What moves the most in a step."""
    titles = ("GB", "of all", "times")
    made = table(*titles, f"most traffic in {step}", right=titles)
    for each in found.traffic:
        share = each.bytes / found.bytes
        made.add_row(gigabytes(each.bytes), f"{share:.1%}", f"{each.times:,}", each.name)
    print_table(made)


def tried_line(tried: Tried, machine: Machine) -> str:
    """What one way of executing a run came to, in a line."""
    milliseconds, used, bound, *_ = _tried_cells(tried, machine)
    time = f"{milliseconds} ms, bound by {bound}" if milliseconds else bound
    return f"{time}, {used} GB: {_words_of(tried)}"


def show_tried(tried: Sequence[Tried], machine: Machine) -> None:
    """A table of what was compiled, the fastest that fits first, and that one's overrides."""

    def order(a: Tried, b: Tried) -> int:
        return -1 if a.before(b) else 1

    first, *_ = ranked = sorted(tried, key=cmp_to_key(order))
    titles = ("ms a step", "GB", "bound by", "compute", "memory", "interconnect", "network")
    made = table(*titles, "changes", right=titles)
    for each in ranked:
        made.add_row(*_tried_cells(each, machine), _words_of(each))
    print_table(made)
    if not first.fits:
        print("none of these fits: take a larger slice, or a smaller batch")
    elif not first.changes:
        print("the run is as fast as it was found to be as it is")
    else:
        times = tried[0].seconds / first.seconds
        than = f", {times:.2f} times as fast as it is" if tried[0].fits else ""
        print(f"fastest{than}: {_words_of(first)}")


def _words_of(tried: Tried) -> str:
    return " ".join(tried.changes) or "as it is"


def _tried_cells(tried: Tried, machine: Machine) -> list[str]:
    if not tried.fits:
        return ["", gigabytes(tried.used), "does not fit", *[""] * len(_SAID)]
    slowest = max(tried.founds, key=machine.seconds)
    floors = machine.floors(slowest)
    return [
        f"{1e3 * tried.seconds:.4g}",
        gigabytes(tried.used),
        _bound(slowest, machine),
        *(f"{1e3 * floors[name]:.4g}" if floors[name] else "-" for name in _SAID),
    ]


def _table(plans: Mapping[str, Plan], machine: Machine) -> Table:
    titles = ("GB", "fits", "ms a step", "bound by", "tokens/s", "hours", "chip-hours")
    made = table("run", *titles, right=titles)
    for name, of in plans.items():
        made.add_row(
            name,
            gigabytes(of.used().used),
            "yes" if of.fits(machine) else "no",
            *_pace(of, machine),
        )
    known = [
        hours for of in plans.values() if not math.isnan(hours := of.seconds(machine) / 3600)
    ]
    if known:
        name = "all" if len(known) == len(plans) else "all that fit"
        made.add_row(name, *[""] * 5, f"{sum(known):.3g}", f"{sum(known) * machine.chips:.3g}")
    return made


def _pace(of: Plan, machine: Machine) -> Sequence[str]:
    seconds = of.train_seconds(machine)
    if math.isnan(of.seconds(machine)):
        return [""] * 5
    found = max(of.train.values(), key=machine.seconds)
    hours = of.seconds(machine) / 3600
    return (
        f"{1e3 * seconds / steps(of.run):.3g}",
        _bound(found, machine),
        f"{_rate(of, machine):.3g}",
        f"{hours:.3g}",
        f"{hours * machine.chips:.3g}",
    )


def _rate(of: Plan, machine: Machine) -> float:
    positions = of.run.data.batch * of.run.data.length
    return max(of.members, 1) * positions * steps(of.run) / of.train_seconds(machine)


def _bound(found: Found, machine: Machine) -> str:
    floors = machine.floors(found)
    return _SAID[max(floors, key=lambda name: floors[name])]


_SAID = {"compute": "compute", "memory": "memory", "ici": "interconnect", "dcn": "network"}


def _details(name: str, of: Plan, machine: Machine) -> Iterator[str]:
    mesh = " x ".join(f"{axis} {size}" for axis, size in of.mesh.items() if size > 1)
    many = f" and {of.members - 1} more like it as one program" if of.members else ""
    yield f"{name}{many}, on mesh {mesh or 'of one'}"
    for part, found in of.train.items():
        yield from _step_lines(
            "train", found, machine, ledger_flops(of.run, part, machine, of.members)
        )
    for step, found in of.others.items():
        yield from _step_lines(step, found, machine, None)
    if of.train and of.fits(machine):
        hours = of.seconds(machine) / 3600
        yield (
            f"  whole run  {steps(of.run):,} steps, {_rate(of, machine):.3g} tokens/s,"
            f" {hours:.3g} hours, {hours * machine.chips:.3g} chip-hours"
        )
    for change, found in of.suggestions.items():
        yield (
            f"  fits with  {change}: {gigabytes(found.used)} GB,"
            f" {1e3 * machine.seconds(found):.3g} ms a step"
        )
    for change, found in of.tried.items():
        yield f"  not with   {change}: {gigabytes(found.used)} GB"
    if of.train and not of.fits(machine) and not of.suggestions:
        fewer = "fewer members" if of.members else "a larger slice, or a smaller batch"
        yield f"  nothing that was tried makes it fit: take {fewer}"


def _step_lines(
    step: str, found: Found, machine: Machine, counted: float | None
) -> Iterator[str]:
    if found.refused:
        needs = (
            f"needs {gigabytes(found.used)} of {gigabytes(machine.memory)} GB"
            if found.refused_bytes
            else ""
        )
        yield f"  {step:<10} does not fit: {needs or found.refused}"
        return
    parts = [*found.arguments.items(), ("temporaries", found.temporary_bytes)]
    parts += [("results", found.output_bytes), ("program", found.code_bytes)]
    said = " + ".join(f"{name} {gigabytes(size)}" for name, size in parts)
    verdict = "" if machine.fits(found) else ": does not fit"
    used = f"{gigabytes(found.used)} of {gigabytes(machine.memory)} GB"
    yield f"  {step:<10} {said} = {used}{verdict}"
    floors = {_SAID[n]: seconds for n, seconds in machine.floors(found).items() if seconds}
    took = ", ".join(f"{name} {1e3 * seconds:.3g}" for name, seconds in floors.items())
    products = f"{(found.flops + found.kernel_flops) / 1e12:.4g} TFLOP"
    if counted:
        products += f" (ledger {counted / 1e12:.4g})"
    if found.kernel_flops:
        products += f", {found.kernel_flops / 1e12:.4g} in kernels"
    yield (
        f"             {products}, {found.bytes / 1e9:.3g} GB moved;"
        f" ms: {took}; {1e3 * machine.seconds(found):.3g} a step, bound by"
        f" {_bound(found, machine)}"
    )
    if found.measured_seconds:
        median = statistics.median(found.measured_seconds)
        ratio = machine.seconds(found) / median
        yield f"             measured {1e3 * median:.3g} ms; planned is {ratio:.2f} of that"
    for moved in found.collectives:
        if moved.dcn_seconds or moved.bytes >= 0.01 * sum(m.bytes for m in found.collectives):
            yield (
                f"             {moved.kind} along {moved.axes}: {moved.times:,} times,"
                f" {moved.bytes / 1e9:.3g} GB"
            )
    if found.rematerialized:
        yield "             the partitioner copies an array whole (involuntary full remat)"


def _notes(plans: Mapping[str, Plan], machine: Machine, *, quick: bool) -> Iterator[str]:
    yield f"compiled by {_compiler_version(machine)}" + (
        ", with few optimizations: traffic and times are too high (--quick)" if quick else ""
    )
    if machine.estimate:
        yield f"an estimate: {machine.estimate}"
    for name, of in plans.items():
        unread = {step.unread for step in of.found() if step.unread}
        if unread:
            yield (
                f"{name}: the compiled program could not be read ({'; '.join(unread)}): memory"
                " is by the compiler, FLOPs by the ledger, and times are of products alone,"
                " without traffic and collectives"
            )
    for name, of in plans.items():
        if derived := derived_flops(of.run, machine):
            yield (
                f"{name}: beside its steps, what a reference says of each batch of the text"
                f" takes {derived / 1e12:.4g} TFLOP, once"
            )
    if any(of.train and "validate" not in of.others for of in plans.values()):
        yield "hours are of training alone: validation was not asked for (--step)"
    if machine.name == HERE:
        yield f"speeds are measured; a step reaches {machine.efficiency:.0%} of them, " + (
            "as --efficiency says"
            if machine.told
            else f"as one of {CALIBRATION.model.depth} layers of width"
            f" {CALIBRATION.model.width} does"
        )
    else:
        yield (
            f"times are floors divided by an efficiency of {machine.efficiency:g}: a real step"
            " takes longer than its slowest part"
        )
    if all("validate" in of.others for of in plans.values()):
        yield "hours are of training and validation"
