"""The floors of published runs against the time that they took."""

import re
from pathlib import Path

import pytest

from experiments.benchmarks import published_runs
from experiments.benchmarks.published_runs import doubted_runs, markdown
from lm.cost import ledger
from lm.cost.chips import parse_slice
from lm.data import vocabulary_size
from lm.run import validate

RUNS = published_runs.published_runs()
PAGE = Path(__file__).parents[3] / "docs" / "plans.md"


@pytest.mark.parametrize("each", RUNS, ids=lambda each: f"{each.name}, {each.slice}")
def test_no_floor_is_above_what_was_measured(each):
    """Fails if FLOPs, bytes or devices are counted wrong, or a chip is too slow in the table.

    A floor of less than a fifth would hold as well, and say nothing.
    """
    validate(each.run)
    assert 0.2 * each.seconds < each.floor <= each.seconds
    assert re.match(r"https://github\.com/[\w./-]+$", each.source)


def test_what_lies_below_its_floor_is_doubted():
    """Fails if a run that its chips are too slow for is believed."""
    assert all(each.floor > each.seconds for each in doubted_runs())


@pytest.mark.parametrize(
    ("name", "slice_", "parameters"),
    [
        ("Levanter Llama 300M", "v5p-32", 299_649_792),
        ("Levanter Llama 1.4B", "v5p-32", 1_431_373_824),
        ("LLM Foundry MPT-1b", "h100-8", 1_315_950_592),
        ("LLM Foundry MPT-7b", "h100-8", 6_658_859_008),
        ("LLM Foundry MPT-13b", "h100-64", 12_853_954_560),
        ("LLM Foundry MPT-30b", "h100-32", 29_975_214_080),
    ],
)
def test_the_models_have_as_many_parameters_as_the_sources_print(name, slice_, parameters):
    """Fails if a depth, a width or a table differs from what was trained."""
    (each,) = (run for run in RUNS if (run.name, run.slice) == (name, slice_))
    vocabulary = vocabulary_size(each.run.data.tokenizer)
    assert ledger.parameters(each.run, vocabulary).total == parameters


def test_maxtext_models_are_as_large_as_their_names():
    """Fails if a power of two goes to another of a model's sizes."""
    for each in RUNS:
        if found := re.match(r"MaxText (\d+)B", each.name):
            counted = ledger.parameters(each.run, 32_000).total
            assert counted == pytest.approx(int(found[1]) * 1e9, rel=0.1)


def test_collectives_take_the_wires_that_there_are():
    """Fails if slices are joined by wires, GPUs of two machines too, or bytes go no way."""
    one, many = RUNS[0], RUNS[1]
    alone, joined = (each.machine.floors(each.found) for each in (one, many))
    weights = 2 * ledger.parameters(one.run, 32_000).matmul
    assert alone["ici"] == pytest.approx(3 * weights * 255 / 256 / 200e9, rel=1e-6)
    assert alone["dcn"] == 0
    # A chip sums its 256th of the gradients with 31 others: twice 31/32 of it come to it.
    assert joined["dcn"] == pytest.approx(2 * weights / 256 * 31 / 32 / 3.125e9, rel=1e-5)
    (gpus,) = (each for each in RUNS if each.slice == "h100-64")
    assert gpus.machine.floors(gpus.found)["dcn"] > 0
    assert len(published_runs._places("v3-8", 2)) == 2 * parse_slice("v3-8").chips * 2


def test_the_page_shows_what_the_command_prints(capsys):
    """Fails if a number of a run, a chip or the ledger changes and the page stays."""
    published_runs.main([])
    printed = capsys.readouterr().out
    text = PAGE.read_text()
    assert markdown(RUNS) in printed
    lines = [line for line in printed.splitlines() if line.startswith(("|", "- "))]
    missing = [line for line in lines if line not in text.splitlines()]
    assert not missing, "python -m experiments.benchmarks.published_runs prints otherwise"
