"""The table of plans: what bounds a step, and a wrong place for it."""

import pytest

from experiments.benchmarks import plans
from experiments.benchmarks.plans import Floors


def test_the_slowest_floor_bounds_a_step_and_links_are_a_part_of_it():
    """Fails if the least bounds it, or links are told of the products alone."""
    found = [Floors("a", 3.0, 4.0, 1.0), Floors("b", 3.0, 1.0, 6.0), Floors("c", 5.0, 4.0, 0.0)]
    assert [(each.bound, each.links) for each in found] == [
        ("memory", 0.25), ("ici", 1.0), ("compute", 0.0),
    ]  # fmt: skip
    assert found[0].row == "| a | 3 | 4 | 1 | memory | 25% |"


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_compiled(
    tmp_path, monkeypatch, capsys
):
    """Fails if minutes of compilation are lost to a misspelt folder."""
    monkeypatch.setattr(plans, "planned", lambda *_, **__: pytest.fail("compiled"))
    with pytest.raises(SystemExit) as ended:
        plans.main(["--out", str(tmp_path / "absent" / "plans.json")])
    assert ended.value.code == 2
    assert "there is no directory" in capsys.readouterr().err
