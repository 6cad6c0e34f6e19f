"""Studies fit the slices that their scales name."""

import contextlib
import pkgutil
from functools import cache

import pytest

import experiments
from experiments.benchmarks.plans import OnSlice, largest, runs_on_slices
from lm.plan import client, plan
from lm.plan import machine as machines
from lm.plan.machine import Machine
from lm.run import Run

pytestmark = pytest.mark.plans


@cache
def largest_cells() -> dict[str, OnSlice]:
    """The largest run of each study and scale, of those that differ in what is compiled."""
    return largest(runs_on_slices())


@pytest.fixture(scope="module")
def compilers():
    """The machine of a slice's name, and its compiler, which is started once."""
    with contextlib.ExitStack() as stack:

        @cache
        def start(slice_: str) -> tuple[Machine, client.Compiler]:
            machine = machines.find_machine(slice_, 1)
            return machine, stack.enter_context(client.compiler(machine))

        yield start


def check_that_it_fits(name: str, run: Run, machine: Machine, there: client.Compiler) -> None:
    found = plan.plan(run, machine, there, wanted=["train"], quick=True)
    assert found.fits(machine), name
    assert not any(f.rematerialized for f in found.train.values()), name


def test_every_cell_divides_over_the_slice_that_its_scale_names():
    """Fails if a study asks for a slice that its rows or its model do not divide over."""
    found = runs_on_slices()
    for slice_, run in found.values():
        plan.mesh_of(run, machines.find_machine(slice_, 1))
    assert len({name.partition(":")[0] for name in found}) > len(largest_cells()) > 5


@pytest.mark.parametrize(
    "study", [each.name for each in pkgutil.iter_modules(experiments.__path__)]
)
def test_a_studys_largest_cell_fits_the_slice_that_its_scale_names(study, compilers):
    """Fails if a study asks for a slice on which it does not fit."""
    found = {
        name: cell for name, cell in largest_cells().items() if name.startswith(f"{study}/")
    }
    if not found:
        pytest.skip("it names no slice, or another study has its model, rows and slice")
    for name, (slice_, run) in found.items():
        check_that_it_fits(name, run, *compilers(slice_))


@pytest.mark.slow
def test_every_cell_fits_the_slice_that_its_scale_names(compilers):
    """The same for all runs of all such scales, with all of their objectives."""
    for name, (slice_, run) in runs_on_slices().items():
        check_that_it_fits(name, run, *compilers(slice_))
