"""What is to run, read without importing it."""

import importlib

import pytest

from tpu import study
from tpu.errors import UserError
from tpu.study import Study, find, scales


def test_scales_are_read_as_importing_would():
    """Fails if a study writes its SCALES in a way that the launcher does not understand."""
    for path in sorted((study.ROOT / "experiments").glob("[!_]*.py")):
        module = importlib.import_module(f"experiments.{path.stem}")
        assert scales(path) == tuple(getattr(module, "SCALES", ()))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('SCALES = ("smoke", "big")', ("smoke", "big")),
        ('SCALES: list[str] = ["smoke"]', ("smoke",)),
        ('PLANS: dict[str, int] = {"a": 1}\nSCALES = tuple(PLANS)', ("a",)),
        ("ANSWER = 42", ()),
    ],
)
def test_scales_may_be_written_in_these_ways(tmp_path, source, found):
    """Fails if annotated assignments, lists or dictionaries are not seen."""
    (tmp_path / "one.py").write_text(source)
    assert scales(tmp_path / "one.py") == found


def test_scales_that_only_python_knows_are_one_line(tmp_path):
    """Fails if computed scales are taken for none, so that the study is `no such study`."""
    (tmp_path / "one.py").write_text("SCALES = tuple(f'v5e-{n}' for n in (8, 16))")
    with pytest.raises(UserError, match="SCALES must be strings"):
        scales(tmp_path / "one.py")


def test_a_wrong_study_scale_or_override_is_one_line(checkout):
    """Fails if any is only noticed by the hosts, which by then are paid for."""
    assert find("toy_study", "smoke", ["tokens=1"], checkout).overrides == ("tokens=1",)
    with pytest.raises(UserError, match=r"toy-study: no such study; .*did you mean toy_study"):
        find("toy-study", "smoke", [], checkout)
    with pytest.raises(UserError, match="helper: no such study"):
        find("helper", "smoke", [], checkout)
    with pytest.raises(UserError, match=r"v5e-61: not of toy_study; .*did you mean v5e-16"):
        find("toy_study", "v5e-61", [], checkout)
    for override in ("model.depth", "--report", "a=b\nc=d"):
        with pytest.raises(UserError, match="not an override"):
            find("toy_study", "smoke", [override], checkout)


def test_names_are_the_same_again_and_differ_with_the_experiment():
    """Fails if a name holds the time or the commit, or overrides do not count."""
    plain = Study("toy_study", "v5e-16", ())
    assert plain.name == "yardstick-toy-study-v5e-16"
    one, other = Study("toy", "smoke", ("a=1", "b=2")), Study("toy", "smoke", ("b=2", "a=1"))
    assert one.name == other.name != Study("toy", "smoke", ("a=1", "b=3")).name


def test_what_is_not_committed_is_refused(checkout):
    """Fails if a changed or a new file would silently not be part of what runs."""
    assert len(study.commit(checkout)) == 40
    (checkout / "experiments" / "new.py").write_text("")
    with pytest.raises(UserError, match=r"experiments/new.py: not committed"):
        study.commit(checkout)
    (checkout / "constraints.txt").write_text("numpy\n")
    with pytest.raises(UserError, match=r"constraints.txt and 1 more: not committed"):
        study.commit(checkout)


def test_no_repository_is_one_line(tmp_path):
    """Fails if git's own words come as a traceback."""
    with pytest.raises(UserError, match="not a git repository"):
        study.commit(tmp_path)
