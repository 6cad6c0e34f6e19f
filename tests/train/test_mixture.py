"""A run on a mixture: what it says of each component, and that no end changes what it reads."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lm.config import UserError, override
from lm.data import Component, Text, TextMixture, Weights
from lm.evaluate.evaluators.bits_per_byte import BitsPerByte
from lm.results import read_result
from lm.run import Run, validate
from lm.study.grid import StudyRun
from lm.study.tables import components_table
from lm.train.checkpoint import Checkpoints
from lm.train.train import train_run
from lm.verify import batches as audit
from tests import makers


def corpora(folder: Path) -> dict[str, Text]:
    found = {}
    for name in ("old", "new"):
        (folder / name).mkdir()
        found[name] = makers.text(folder / name)
    (folder / "new" / "0.txt").write_text("four five six " * 9)
    return found


def mixed(run: Run, corpus: TextMixture) -> Run:
    return msgspec.structs.replace(run, data=msgspec.structs.replace(run.data, corpus=corpus))


@pytest.fixture(scope="module")
def mixture(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three rows of old text to one of new, then only new text in the last four steps."""
    found = corpora(tmp_path_factory.mktemp("components"))
    corpus = TextMixture(
        components=(
            Component(name="old", corpus=found["old"], weight=3),
            Component(name="new", corpus=found["new"], weight=1),
        ),
        schedule=(Weights(step=12, weights=(0, 1)),),
    )
    return msgspec.structs.replace(mixed(run, corpus), evaluation_windows=8)


@pytest.fixture(scope="module")
def whole(mixture: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("mixtures") / "whole"
    train_run(mixture, directory, evaluate_during=BitsPerByte())
    return directory


def test_a_run_says_what_it_read_of_each_component(mixture: Run, whole: Path) -> None:
    """Fails if rows are counted for another component, or the schedule is not followed."""
    result = read_result(whole / "result.json")
    said = json.loads((whole / "data.json").read_text())["components"]
    found = result.costs.components
    assert found is not None
    rows = {"old": 72, "new": 24 + 32}
    for name, each in found.items():
        assert each.tokens == 32 * rows[name]
        assert each.epochs == rows[name] / said[name]["rows"]
        assert each.unique_bytes == pytest.approx(
            min(1, each.epochs) * said[name]["bytes"], abs=1
        )
    assert said["old"]["of_rows"] == [[0, "3/4"], [96, "0"]]
    assert result.costs.tokens == 16 * 8 * 32
    assert result.costs.unique_tokens == sum(each.unique_tokens for each in found.values())
    table = components_table([StudyRun("a", mixture, result, whole)])
    assert [row["fraction"] for row in table.rows] == [72 / 128, 56 / 128]


def test_bits_per_byte_are_of_each_component(mixture: Run, whole: Path) -> None:
    """Fails if documents are counted with another component, or one has no metric."""
    lines = (whole / "metrics.jsonl").read_text().splitlines()
    found = [each for line in lines if "bits_per_byte" in (each := json.loads(line))]
    for each in found:
        apart = each["bits_per_byte/old"], each["bits_per_byte/new"]
        assert min(apart) < each["bits_per_byte"] < max(apart)
    assert len(found) == mixture.evaluations


def test_an_interrupted_run_reads_the_same(mixture: Run, whole: Path, tmp_path: Path) -> None:
    """Fails if turns are counted from where a run goes on, or an audit sees no mixture."""
    directory = tmp_path / "stopped"
    save = Checkpoints.save

    def save_and_fail(self: Checkpoints, *arguments: Any) -> None:
        save(self, *arguments)
        self.wait()
        raise RuntimeError

    interrupted = override(mixture, ["checkpoints.steps=9"])
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(Checkpoints, "save", save_and_fail)
        train_run(interrupted, directory)
    train_run(interrupted, directory)
    found = audit.audit(whole, directory)
    assert found.same and found.steps == 16
    other = mixture.data.corpus.components[1]
    changed = replace_component(mixture, msgspec.structs.replace(other, weight=2))
    train_run(changed, tmp_path / "other")
    parted = audit.audit(whole, tmp_path / "other")
    assert not parted.same
    assert [why.partition(" is ")[0] for why in parted.why] == ["component new"]


def replace_component(run: Run, component: Component) -> Run:
    old = run.data.corpus
    components = tuple(component if c.name == component.name else c for c in old.components)
    return mixed(run, msgspec.structs.replace(old, components=components))


def test_a_run_that_is_longer_than_its_text_is_refused(mixture: Run, tmp_path: Path) -> None:
    """Fails if training begins, and ends in the middle, or repeats what must not be."""
    old = msgspec.structs.replace(mixture.data.corpus.components[0], epochs=0.2, then="stop")
    with pytest.raises(
        UserError, match=r"component old has been read 0.2 times after \d+ steps"
    ):
        train_run(replace_component(mixture, old), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()
    unique = msgspec.structs.replace(
        mixture, data=msgspec.structs.replace(mixture.data, unique=64)
    )
    with pytest.raises(
        UserError, match=r"data.unique=64: of a mixture each component has its own"
    ):
        validate(unique)
