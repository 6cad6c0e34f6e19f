"""Sitting a task: results are kept, and go on where they were stopped."""

import json
import os

import numpy as np
import pytest

from lm.config import UserError
from lm.evaluate.tasks.base import Conditions
from lm.evaluate.tasks.choice import Choice, Pairs
from lm.evaluate.tasks.last_word import LastWord
from lm.evaluate.tasks.result import above, read_task_result
from lm.evaluate.tasks.sitting import sheet_of, sit

pytestmark = pytest.mark.usefixtures("few_draws")
NONE = Conditions()
ITEMS = [
    {"better": f"good {n}", "worse": f"bad {n}", "kind": "ab"[n % 2], "id": str(n % 3)}
    for n in range(6)
]


@pytest.fixture
def sheet(lines):
    task = Pairs(files=("a.jsonl",), group=("kind", "id"))
    return sheet_of("pairs", task, lines("a.jsonl", ITEMS), NONE)


def said(request):
    """Some number for each text, with many digits."""
    return -sum((n + 1) * ord(letter) for n, letter in enumerate(request.continuation)) / 7


def test_parts_and_parts_of_parts(sheet, oracle):
    """Fails if an item counts in another part, or a part is no more than its parts' mean."""

    def answer(request):
        number = int(request.continuation[-1])
        return -2 if request.continuation.startswith("bad") else -1 - 2 * (number in (0, 2, 5))

    result = sit(oracle(answer), sheet)
    found = {name: (part.value, part.asked) for name, part in result.groups.items()}
    assert found == {
        "a": (pytest.approx(1 / 3), 3), "a/0": (0, 1), "a/1": (1, 1), "a/2": (0, 1),
        "b": (pytest.approx(2 / 3), 3), "b/0": (1, 1), "b/1": (1, 1), "b/2": (0, 1),
    }  # fmt: skip
    assert result.value == 0.5 and result.low <= 0.5 <= result.high


def test_a_result_is_written_and_read_again(sheet, oracle, tmp_path):
    """Fails if who has answered is asked again, or what is read is not what was found."""
    kept = tmp_path / "model" / "eval"
    first = oracle(said)
    result = sit(first, sheet, model="mine", kept=kept)
    (path,) = kept.iterdir()
    assert path.name.startswith("pairs-") and path.suffix == ".json"
    again = oracle(said)
    assert sit(again, sheet, model="mine", kept=kept) == result and not again.asked
    assert read_task_result(path) == result and result.model == "mine"
    assert result.brief().columns == () and result.array.shape == (1, 6, 7)
    path.write_text(path.read_text()[:-40])
    with pytest.raises(UserError, match=r"damaged: .*; remove it and ask again"):
        sit(again, sheet, kept=kept)


def test_other_askers_and_conditions_are_other_files(sheet, lines, oracle, tmp_path):
    """Fails if a result is taken for that of another model, task, item or condition."""
    kept = tmp_path / "eval"
    folder = lines("b.jsonl", [*ITEMS[:5], ITEMS[5] | {"worse": "worse 5"}])
    choices = [{"query": "a", "choices": ["b", "c"], "gold": 0}] * 3
    lines("c.jsonl", choices)
    choice = Choice(files=("c.jsonl",))
    sheets = [
        sheet,
        sheet_of("pairs", Pairs(files=("b.jsonl",)), folder, NONE),
        sheet_of("pairs", Pairs(files=("a.jsonl",), better="worse"), folder, NONE),
        sheet_of("pairs", sheet.task, folder, Conditions(items=5)),
        *(
            sheet_of("c", choice, folder, conditions)
            for conditions in (
                NONE,
                Conditions(shots=1),
                Conditions(shots=1, seeds=(1,)),
                Conditions(calibration="N/A"),
                Conditions(calibration=""),
            )
        ),
    ]
    for each in sheets:
        sit(oracle(said), each, kept=kept)
    sit(oracle(said, name="another"), sheet, kept=kept)
    assert len(list(kept.iterdir())) == len(sheets) + 1
    # The folder's place and the name of who asks are no part of it.
    moved = sheet_of("pairs", sheet.task, folder, Conditions())
    assert moved.digest(oracle(said)) == sheet.digest(oracle(said))


class Killed(Exception):
    pass


def test_a_sitting_goes_on_where_it_was_stopped(lines, oracle, tmp_path):
    """Fails if what was answered is asked again, of any seed, or a digit is lost on the way."""
    items = [{"context": f"it is {n}", "continuation": f"w{n}"} for n in range(7)]
    conditions = Conditions(shots=2, seeds=(0, 1))
    sheet = sheet_of("w", LastWord(files=("w.jsonl",)), lines("w.jsonl", items), conditions)

    def answer(request):
        return said(request) / 3 + len(request.context) / 11

    kept = tmp_path / "eval"
    whole = sit(oracle(answer), sheet)
    for done in (4, 9):
        stopped = oracle(answer, fails_after=4)
        with pytest.raises(KeyboardInterrupt):
            sit(stopped, sheet, kept=kept)
        (part,) = kept.iterdir()
        assert part.suffix == ".part" and len(part.read_text().splitlines()) == done
    # A kill in the middle of a line costs that line alone.
    part.write_text(part.read_text()[:-9])
    progress = []
    last = oracle(answer)
    result = sit(last, sheet, kept=kept, progress=progress.append)
    assert len(last.asked) == 14 - (done - 1) == len({r[:2] for r in last.asked})
    assert result == whole and sum(progress) == 14
    (path,) = kept.iterdir()
    assert path.suffix == ".json" and read_task_result(path) == whole


def test_a_model_goes_on_where_it_was_stopped(model_of, sitting, sheet, lines, tmp_path):
    """Fails if what it answers depends on which were left to ask, by the last digit."""
    model = model_of("causal")
    items = [{"context": "ab" * (n % 4), "continuation": "cde"[: 1 + n % 3]} for n in range(40)]
    sheet = sheet_of("w", LastWord(files=("w.jsonl",)), lines("w.jsonl", items), NONE)
    candidate = sitting(model, "chain_rule")
    whole = sit(candidate, sheet)

    def kill(done):
        if done:
            raise Killed

    kept = tmp_path / "eval"
    with pytest.raises(Killed):
        sit(candidate, sheet, kept=kept, progress=kill)
    (part,) = kept.iterdir()
    assert 0 < len(part.read_text().splitlines()) < 40
    asked = []
    result = sit(candidate, sheet, kept=kept, progress=asked.append)
    assert asked[0] > 0 and sum(asked) == 40
    assert result == whole


def test_a_damaged_part_is_one_line(sheet, oracle, tmp_path):
    """Fails if a line that is none is taken for answers, or a traceback says so."""
    kept = tmp_path / "eval"
    with pytest.raises(KeyboardInterrupt):
        sit(oracle(said, fails_after=4), sheet, kept=kept)
    (part,) = kept.iterdir()
    good = part.read_bytes()
    for line in (b"{", b"3", b'["a", 1]', b"\xff\xff", b'["a", "b", true, 1, 0]', b"null"):
        part.write_bytes(good + line + b"\n")
        with pytest.raises(UserError, match=r"\.part: damaged; remove it and ask again$"):
            sit(oracle(said), sheet, kept=kept)
    part.write_bytes(b"")
    assert sit(oracle(said), sheet, kept=kept) == sit(oracle(said), sheet)


def test_a_folder_that_takes_no_file_is_one_line(sheet, oracle, tmp_path, monkeypatch):
    """Fails if a model is asked for an hour before nothing can be written."""
    (tmp_path / "file").touch()
    candidate = oracle(said)
    with pytest.raises(UserError, match=r"file: File exists; name another folder .* --out$"):
        sit(candidate, sheet, kept=tmp_path / "file")

    def locked(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.mkdir", locked)
    with pytest.raises(UserError, match="eval: Permission denied; name another folder"):
        sit(candidate, sheet, kept=tmp_path / "eval")
    assert not candidate.asked


def test_two_candidates_differ_by_a_paired_interval(sheet, oracle, lines):
    """Fails if results of other items are compared, or the headline is another's."""
    one, other = sit(oracle(said), sheet), sit(oracle(lambda r: -said(r)), sheet)
    found = above(sheet.task, one, other)
    assert found.value == pytest.approx(one.value - other.value) and one.value != other.value
    same = above(sheet.task, one, one)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    fewer = sheet_of("pairs", sheet.task, lines("a.jsonl", ITEMS[:5]), NONE)
    with pytest.raises(UserError, match="were not asked the same items"):
        above(sheet.task, one, sit(oracle(said), fewer))
    turned = sheet_of("pairs", sheet.task, lines("a.jsonl", ITEMS[::-1]), NONE)
    with pytest.raises(UserError, match="were not asked the same items"):
        above(sheet.task, one, sit(oracle(said), turned))


def test_a_part_file_holds_one_line_an_answer(sheet, oracle, tmp_path):
    """Fails if answers are kept only when all are there, or the rest of a batch is lost."""
    kept = tmp_path / "eval"
    sizes = []

    def look(_):
        parts = list(kept.glob("*.part"))
        lines = parts[0].read_text().splitlines() if parts else []
        sizes.append(len(lines))
        assert all(len(json.loads(line)) == 5 for line in lines)

    sit(oracle(said), sheet, kept=kept, progress=look)
    assert sizes == [0, 2, 4, 6, 8, 10, 12]
    assert [os.path.splitext(name)[1] for name in os.listdir(kept)] == [".json"]


def test_scores_that_are_infinite_are_kept(sheet, oracle, tmp_path):
    """Fails if a probability of nought cannot be written down and read again."""
    kept = tmp_path / "eval"

    def answer(request):
        return -np.inf if "bad" in request.continuation else -1.0

    with pytest.raises(KeyboardInterrupt):
        sit(oracle(answer, fails_after=6), sheet, kept=kept)
    assert sit(oracle(answer), sheet, kept=kept).value == 1
