"""Two runs' recorded chains compared: what a run directory says, without training one.

tests/commands/test_trained.py audits runs that were trained.
"""

import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import pytest

from lm.config import UserError, dump, override
from lm.data import Bytes, Data, Text, open_tokens
from lm.data.digest import array_digest, chain_text
from lm.run import Run
from lm.verify import batches as audit


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """Few rows, so that no two seeds begin with the same."""
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(40):
        (folder / f"{number}.txt").write_text(f"text {number} " * 9)
    corpus = Text(paths=(f"{folder}/*.txt",))
    data = Data(corpus=corpus, tokenizer=Bytes(), length=32, batch=4, validation=0.2)
    return Run(data=data, tokens=6 * 4 * 32)


def directory(
    path: Path,
    run: Run,
    chain: dict[int, str],
    end: str | None = None,
    left_out: dict[int, int] | None = None,
) -> Path:
    """A run directory that recorded this chain, and `end` as its last."""
    path.mkdir()
    (path / "config.json").write_text(dump(run))
    lines = [
        json.dumps({"step": step, "batches": text, "left_out": (left_out or {}).get(step, 0)})
        for step, text in chain.items()
    ]
    lines.insert(1, json.dumps({"step": 1, "validation_loss": 2.0}))
    (path / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    if end:
        result = {"steps": 6, "batches_digest": end}
        (path / "result.json").write_text(json.dumps(result))
    return path


WHOLE = {step: f"{step:016x}" for step in range(1, 7)}


def other_from(step: int) -> dict[int, str]:
    return {s: text if s < step else f"f{text[1:]}" for s, text in WHOLE.items()}


@pytest.mark.parametrize("parted", [1, 4, 6])
def test_the_first_step_that_differs_is_named_and_why(run, tmp_path, parted):
    """Fails if a step is counted from 0, the last compared alone, or a reason left out."""
    a = directory(tmp_path / "a", run, WHOLE, WHOLE[6])
    other = override(run, ["seed=3", "objective.type=masked"])
    b = directory(tmp_path / "b", other, other_from(parted))
    found = audit.audit(a, b)
    assert (found.steps, found.parted, found.same) == (parted - 1, parted, False)
    assert audit.report(a, b, found) == f"{a} and {b} part at step {parted}: seed is 0 and 3"


def test_equal_chains_are_the_same_and_a_shorter_one_is_not(run, tmp_path):
    """Fails if a run that ends early passes for one that saw all."""
    a = directory(tmp_path / "a", run, WHOLE, WHOLE[6])
    b = directory(tmp_path / "b", override(run, ["mesh.fsdp=2"]), WHOLE)
    assert audit.audit(a, b).same
    assert WHOLE[6] in audit.report(a, b, audit.audit(a, b))
    c = directory(tmp_path / "c", run, {s: WHOLE[s] for s in (1, 2, 3)})
    found = audit.audit(c, a)
    assert (found.steps, found.parted, found.same) == (3, None, False)
    assert f"up to step 3, where {c} ends; {a} has 6" in audit.report(c, a, found)


def real_chain(run: Run, left_out: dict[int, int] | None = None) -> dict[int, str]:
    """The chain of a run as training computes it; `left_out` batches before each step."""
    batches = open_tokens(run.data).batches(run.data, run.seed)
    digest, chain = jnp.zeros(2, jnp.uint32), {}
    for step in range(1, 7):
        batch = batches(step - 1 + (left_out or {}).get(step, 0))
        rows = (batch.tokens_BL, batch.segments_BL)
        parts = [digest, *(array_digest(jnp.asarray(each)) for each in rows)]
        digest = array_digest(jnp.concatenate(parts))
        chain[step] = chain_text(digest)
    return chain


def only(chain: dict[int, str], *steps: int) -> dict[int, str]:
    return {step: chain[step] for step in steps}


def test_r3_steps_that_were_not_recorded_are_said(run, tmp_path):
    """Fails if lost records pass for a whole run's, or make equal batches other ones."""
    a = directory(tmp_path / "a", run, WHOLE, WHOLE[6])
    b = directory(tmp_path / "b", run, only(WHOLE, 1, 2, 5), WHOLE[6])
    found = audit.audit(a, b)
    assert found.same
    first, second = audit.report(a, b, found).splitlines()
    assert first.startswith(f"{a} and {b} saw the same batches in all 6 steps")
    assert second.startswith(f"{b} has no record of steps 3 to 4, 6")


def test_steps_that_no_run_recorded_are_read_again(run, tmp_path):
    """Fails if runs whose end alone is known are not narrowed down by their settings."""
    a = directory(tmp_path / "a", run, {}, real_chain(run)[6])
    longer = override(run, ["data.length=33"])
    b = directory(tmp_path / "b", longer, {}, real_chain(longer)[6])
    found = audit.audit(a, b)
    assert (found.steps, found.parted) == (0, 1)
    assert found.why == ["data.length is 32 and 33"]


def test_a_gap_in_which_batches_were_left_out_names_the_right_step(run, tmp_path):
    """Fails if batches that a roll-back left out are read again in a gap after it."""
    rolled = dict.fromkeys((4, 5, 6), 2)
    chain = real_chain(run, rolled)
    a = directory(tmp_path / "a", run, only(real_chain(run), 1, 6))
    b = directory(tmp_path / "b", run, only(chain, 1, 4, 6), left_out=rolled)
    found = audit.audit(a, b)
    # What b read in steps 2 to 4 is not known: the roll-back was in one of them.
    assert (found.steps, found.parted) == (1, 4)
    assert f"{a} and {b} part in steps 2 to 4, which not both recorded" in audit.report(
        a, b, found
    )
    c = directory(tmp_path / "c", run, only(chain, 1, 3, 4, 6), left_out=rolled)
    assert audit.audit(a, c)[::3] == (3, 4)
    # With as many left out before a gap as after it, its steps are known.
    once = {2: 2, 3: 2, 4: 2, 5: 2, 6: 2}
    twice = once | {5: 4, 6: 4}
    d = directory(tmp_path / "d", run, only(real_chain(run, once), 3, 6), left_out=once)
    e = directory(tmp_path / "e", run, only(real_chain(run, twice), 3, 5, 6), left_out=twice)
    found = audit.audit(d, e)
    assert (found.steps, found.parted) == (3, 5)


def test_a_gap_that_settings_do_not_explain_names_no_step(run, tmp_path):
    """Fails if a step is named from settings, or a corpus, that recorded other digests."""
    a = directory(tmp_path / "a", run, {}, real_chain(run)[6])
    c = directory(tmp_path / "c", override(run, ["seed=3"]), {}, other_from(1)[6])
    found = audit.audit(a, c)
    assert (found.steps, found.parted) == (0, 6)
    assert "part in steps 1 to 6" in audit.report(a, c, found)


def test_r3_a_step_recorded_twice_with_other_batches_is_refused(run, tmp_path):
    """Fails if the last of two records counts, as two processes wrote them."""
    a = directory(tmp_path / "a", run, WHOLE, WHOLE[6])
    with (a / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 5, "batches": other_from(5)[5]}) + "\n")
    with pytest.raises(UserError, match=r"step 5 is recorded twice, with other batches"):
        audit.audit(a, a)


def test_what_cannot_be_audited_is_one_line(run, tmp_path):
    """Fails if records that contradict each other, or none, prove anything."""
    a = directory(tmp_path / "a", run, WHOLE, WHOLE[6])
    forged = directory(tmp_path / "forged", run, WHOLE, other_from(6)[6])
    with pytest.raises(UserError, match=r"disagree on the batches up to step 6"):
        audit.audit(a, forged)
    empty = directory(tmp_path / "empty", run, {})
    with pytest.raises(UserError, match=r"no step is recorded"):
        audit.audit(a, empty)
    broken = shutil.copytree(a, tmp_path / "broken")
    (broken / "metrics.jsonl").write_text("{\n")
    with pytest.raises(UserError, match=r"metrics.jsonl: line 1 is damaged"):
        audit.audit(broken, a)
    with pytest.raises(UserError, match=r"nowhere: no such file"):
        audit.audit(tmp_path / "nowhere", a)
