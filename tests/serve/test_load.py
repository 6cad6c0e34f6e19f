"""Fifty clients at once: each gets its own answer, and who leaves harms nobody."""

import asyncio

import pytest

from experiments.benchmarks import serving


async def _loads(url, seconds):
    asked = serving.questions(24, tokens=24)
    expected = await serving.alone(url, asked)
    found = []
    for leaving in (0.0, 0.5):
        measured = await serving.load(
            url, asked, expected, clients=50, seconds=seconds, leaving=leaving
        )
        await serving.idle(url)
        found.append(measured)
    return expected, found, await serving.metrics(url)


@pytest.mark.parametrize("seconds", [2.0, pytest.param(60.0, marks=pytest.mark.slow)])
def test_each_of_fifty_clients_gets_its_own_answer(server, seconds):
    """Fails if an answer is lost, or depends on who else asks; or one who leaves keeps a slot,
    or takes another's answer along.
    """
    expected, (stay, leave), numbers = asyncio.run(_loads(server.url, seconds))
    assert len(set(expected)) > 20
    assert stay.answers >= 50 and leave.answers >= 25 and leave.left >= 25
    assert not stay.lost and not leave.lost
    assert not stay.others and not leave.others
    assert numbers["lm_running_texts"] == numbers["lm_waiting_texts"] == 0
    assert server.server.loop._lanes["gpt"].engine.free == 2
    assert len(stay.first) == stay.answers and min(stay.first) > 0
