"""Items from files of every form, and what is wrong with one, in a line."""

import io
import json
import os
import sys
import tarfile
import types
from pathlib import Path

import pytest

from lm.config import UserError
from lm.evaluate.tasks import TASKS, open_sheet
from lm.evaluate.tasks.base import Conditions, HubFiles, folder_of
from lm.evaluate.tasks.choice import Choice, Pairs
from lm.evaluate.tasks.files import read_items
from lm.evaluate.tasks.last_word import LastWord
from lm.evaluate.tasks.similarity import Similarity

PAIR = {"better": "the cats sit", "worse": "the cats sits"}
NONE = Conditions()


def refused(match, call, *arguments, **settings):
    """Checks that a call is refused in one line."""
    with pytest.raises(UserError, match=match) as error:
        call(*arguments, **settings)
    assert "\n" not in str(error.value)


def test_jsonl_and_json(lines):
    """Fails if an empty line counts, a place is another line's, or a list is not read."""
    folder = lines("a.jsonl", [PAIR])
    with (folder / "a.jsonl").open("a") as file:
        file.write("\n" + json.dumps(PAIR | {"worse": "x\u2028y"}))
    (folder / "b.json").write_text(json.dumps([PAIR, PAIR], indent=1))
    items = read_items(Pairs(files=("*.jsonl", "b.json")), folder)
    assert [item.place for item in items] == ["a.jsonl:1", "a.jsonl:3", "b.json:1", "b.json:2"]
    assert items[0].fields == PAIR and items[1].fields["worse"] == "x\u2028y"


def test_tsv_as_glue_has_it(tmp_path):
    """Fails if quotation marks quote, the BOM is a part of a name, or the header is an item."""
    (tmp_path / "dev.tsv").write_bytes(
        '\ufeffQuality\t#1 String\t#2 String\r\n1\tHe said "no\tShe said "yes" .\r\n'
        "0\té\t'x'\r\n\r\n".encode()
    )
    task = Choice(
        files=("dev.tsv",),
        prompt="{#1 String}",
        words=("no", "yes"),
        gold="Quality",
        classes=("0", "1"),
    )
    first, second = read_items(task, tmp_path)
    assert dict(first.fields) == {
        "Quality": "1", "#1 String": 'He said "no', "#2 String": 'She said "yes" .'
    }  # fmt: skip
    assert (first.place, second.place) == ("dev.tsv:2", "dev.tsv:3")


def test_tsv_without_a_header(tmp_path):
    """Fails if names given by the task are ignored, as in CoLA, whose first line is an item."""
    (tmp_path / "cola.tsv").write_text("gj04\t1\t\tThe sailors rode.\ngj05\t0\t*\tThey sang\n")
    task = Choice(
        files=("cola.tsv",),
        names=("source", "label", "mark", "text"),
        prompt="{text}",
        words=("bad", "good"),
        gold="label",
        classes=("0", "1"),
    )
    items = read_items(task, tmp_path)
    assert [item.fields["label"] for item in items] == ["1", "0"]
    assert items[0].place == "cola.tsv:1"
    (tmp_path / "cola.tsv").write_text("gj04\t1\tThe sailors rode.\n")
    refused(r"cola.tsv:1: 3 fields; must be 4: source, label", read_items, task, tmp_path)


def archived(path, files, mode="w:xz"):
    with tarfile.open(path, mode) as archive:
        folder = tarfile.TarInfo(path.name.split(".")[0])
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize(
    ("ending", "mode"), [(".tar.xz", "w:xz"), (".tar.gz", "w:gz"), (".tar", "w")]
)
def test_files_in_an_archive(tmp_path, ending, mode):
    """Fails if an archive is not looked into, or what is left out by ! is read."""
    line = json.dumps(PAIR).encode()
    files = {"pairs/b.jsonl": line, "./pairs/a.jsonl": line, "pairs/published.jsonl": b"{}"}
    archived(tmp_path / f"pairs{ending}", files, mode)
    task = Pairs(files=("pairs/*.jsonl", "!pairs/published.jsonl"))
    assert [item.place for item in read_items(task, tmp_path)] == [
        "pairs/a.jsonl:1",
        "pairs/b.jsonl:1",
    ]


def test_a_folder_comes_before_its_archive(tmp_path, lines):
    """Fails if the items of both are read, or the archive's in place of what lies open."""
    archived(tmp_path / "pairs.tar.xz", {"pairs/a.jsonl": json.dumps(PAIR).encode() * 1})
    lines("pairs/b.jsonl", [PAIR, PAIR])
    items = read_items(Pairs(files=("pairs/*.jsonl",)), tmp_path)
    assert [item.place for item in items] == ["pairs/b.jsonl:1", "pairs/b.jsonl:2"]


def test_damaged_archives_are_one_line(tmp_path):
    """Fails if a traceback of lzma's or tarfile's is all that is said."""
    archived(tmp_path / "whole.tar.xz", {"whole/a.jsonl": os.urandom(5000)})
    content = (tmp_path / "whole.tar.xz").read_bytes()
    (tmp_path / "cut.tar.xz").write_bytes(content[:-2000])
    (tmp_path / "noise.tar.xz").write_bytes(b"noise" * 100)
    spoilt = bytearray(content)
    for place in range(len(spoilt) // 2, len(spoilt) // 2 + 200):
        spoilt[place] ^= 0xFF
    (tmp_path / "spoilt.tar.xz").write_bytes(spoilt)
    archived(tmp_path / "zipped.tar.gz", {"zipped/a.jsonl": os.urandom(5000)}, "w:gz")
    packed = bytearray((tmp_path / "zipped.tar.gz").read_bytes())
    for place in range(30, 200):
        packed[place] = 0xFF
    (tmp_path / "zipped.tar.gz").write_bytes(packed)
    for name in ("cut", "noise", "spoilt", "zipped"):
        task = Pairs(files=(f"{name}/a.jsonl",))
        refused(f"{name}.tar.[xg]z: no archive that can be read", read_items, task, tmp_path)


def test_a_file_that_is_spoken_of_by_its_whole_path(lines, tmp_path):
    """Fails if a name from the root is looked for in the folder, or needs one."""
    folder = lines("own/a.jsonl", [PAIR])
    (item,) = read_items(Pairs(files=(f"{folder}/own/a.jsonl",)), None)
    assert item.fields == PAIR


def test_the_first_items_of_each_file_and_their_groups(lines):
    """Fails if the first items of all files together are taken, or parts lose their name."""
    lines("a.jsonl", [PAIR | {"kind": "agreement", "id": n} for n in range(3)])
    folder = lines("b.jsonl", [PAIR | {"kind": "island", "id": n} for n in range(3)])
    task = Pairs(files=("*.jsonl",), group=("kind", "id"))
    items = read_items(task, folder, most=2)
    assert [item.group for item in items] == [
        "agreement/0", "agreement/1", "island/0", "island/1"
    ]  # fmt: skip


def test_what_is_not_there_is_one_line(lines, tmp_path):
    """Fails if nothing is said of how a folder is named, or an empty file is a task."""
    task = Pairs(files=("absent/*.jsonl",))
    refused(
        r"absent/\*.jsonl: nothing in .*; name the folder that has it with --data or"
        " YARDSTICK_TASKS$",
        read_items, task, tmp_path,
    )  # fmt: skip
    refused("no folder of tasks is named", read_items, task, None)
    folder = lines("empty.jsonl", [])
    refused(r"^empty.jsonl: no items$", read_items, Pairs(files=("empty.jsonl",)), folder)
    refused(r"^!a: nothing in", read_items, Pairs(files=("!a",)), folder)
    for pattern in ("x" * 300, "x" * 300 + "/*", ""):
        with pytest.raises(UserError):
            read_items(Pairs(files=(pattern,)), folder)


def test_lines_that_are_no_items_are_one_line(tmp_path):
    """Fails if a line's place is not said, or what it holds is taken as it is."""
    good = json.dumps(PAIR)
    for content, why in (
        (b"caf\xe9", "^a.jsonl: not UTF-8"),
        (good.encode() + b"\n{", "^a.jsonl:2: no JSON"),
        (b"[1, 2]", r"^a.jsonl:1: '\[1, 2\]'; must be an object"),
        (b'"text"', "^a.jsonl:1: .*must be an object"),
        (b"[" * 100_000, "^a.jsonl:1: no JSON"),
        (b'{"better": "a"}', "^a.jsonl:1: no field worse; it has better"),
        (b'{"better": "a", "worse": 3}', "^a.jsonl:1: worse is 3; must be text"),
        (b'{"better": "a", "worse": " "}', "^a.jsonl:1: worse is empty"),
        (b'{"better": "a", "worse": "\\ud800"}', "^a.jsonl:1: .*no text"),
        (b"{}", "^a.jsonl:1: no field better; it has none"),
    ):
        (tmp_path / "a.jsonl").write_bytes(content)
        refused(why, read_items, Pairs(files=("a.jsonl",)), tmp_path)
    (tmp_path / "b.json").write_text('{"better": "a"}')
    refused("^b.json: must be a list", read_items, Pairs(files=("b.json",)), tmp_path)
    (tmp_path / "c.tsv").write_text("better\tworse\na\n")
    refused(
        "^c.tsv:2: 1 fields; must be 2: better, worse",
        read_items,
        Pairs(files=("c.tsv",)),
        tmp_path,
    )
    (tmp_path / "d.tsv").write_text("better\tworse\n" + "a" * 200_000 + "\tb\n")
    refused("^d.tsv: field larger", read_items, Pairs(files=("d.tsv",)), tmp_path)


def test_a_file_that_cannot_be_read_is_one_line(lines, monkeypatch):
    """Fails if the system's own error goes through to whoever asked."""
    folder = lines("a.jsonl", [PAIR])

    def locked(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", locked)
    refused("a.jsonl: Permission denied", read_items, Pairs(files=("a.jsonl",)), folder)


def test_gold_that_cannot_be_right_is_one_line(lines):
    """Fails if a choice that is not there, or a class by another name, is asked for."""
    item = {"query": "q", "choices": ["a", "b"], "gold": 1}
    own = Choice(files=("a.jsonl",))
    words = Choice(files=("a.jsonl",), words=("no", "yes"), classes=("false", "true"))
    for task, changes, why in (
        (own, {"gold": 2}, "a.jsonl:2: gold is 2, and there are 2 choices"),
        (own, {"gold": -1}, "gold is -1"),
        (own, {"gold": True}, "gold is True; must be a number from 0"),
        (own, {"gold": "1"}, "gold is '1'; must be a number from 0"),
        (own, {"gold": 0, "choices": ["a"]}, "there are 1 choices"),
        (own, {"choices": "ab"}, "choices must be a list of texts"),
        (own, {"choices": ["a", 1]}, "choices must be a list of texts"),
        (words, {"gold": "maybe"}, "gold is 'maybe'; must be one of false, true"),
    ):
        good = item if task is own else item | {"gold": "true"}
        folder = lines("a.jsonl", [good, item | changes])
        refused(why, read_items, task, folder)
    folder = lines("a.jsonl", [{"query": "q", "gold": 0}])
    refused("a.jsonl:1: no field choices; it has query, gold", read_items, own, folder)
    pair = {"sentence1": "a", "sentence2": "b"}
    for score in ("many", None, "nan", [1]):
        folder = lines("s.jsonl", [pair | {"score": score}])
        refused(
            "s.jsonl:1: score is .*; must be a number",
            read_items,
            Similarity(files=("s.jsonl",)),
            folder,
        )
    folder = lines("w.jsonl", [{"context": "a", "continuation": ["b"]}])
    refused(
        r"w.jsonl:1: continuation is \['b'\]; must be text",
        read_items,
        LastWord(files=("w.jsonl",)),
        folder,
    )


def test_templates_that_ask_for_what_is_not_there_are_one_line(lines):
    """Fails if a misspelt field is found after the model was loaded, or as a traceback."""
    folder = lines("a.jsonl", [{"query": "q", "choices": ["a", "b"], "gold": 1}])
    for changes, why in (
        ({"prompt": "{qery}"}, "a.jsonl:1: no field qery; it has query, choices, gold"),
        ({"prompt": "{}"}, "a.jsonl:1: no field"),
        ({"prompt": "{query.upper}"}, "a.jsonl:1: no field query.upper"),
        ({"prompt": "{query"}, "template '{query'"),
        ({"answer": " {chioce}"}, "a.jsonl:1: no field chioce"),
        ({"answer": "{choice:d}"}, "template '{choice:d}'"),
        ({"cloze": {"prompt": "", "after": "{x}"}}, "a.jsonl:1: no field x"),
    ):
        task = json.dumps({"type": "choice", "files": ["a.jsonl"], **changes})
        (folder / "own.json").write_text(task)
        refused(why, open_sheet, str(folder / "own.json"), None, NONE)


def test_a_task_of_ones_own(lines, tmp_path):
    """Fails if its files are looked for elsewhere than beside it, or its fields are lost."""
    folder = lines("mine/a.jsonl", [{"good": "a", "bad": "b"}])
    path = folder / "mine" / "own.json"
    path.write_text('{"type":"pairs","files":["a.jsonl"],"better":"good","worse":"bad"}')
    sheet = open_sheet(str(path), tmp_path / "elsewhere", NONE)
    assert sheet.name == "own" and sheet.task.better == "good" and len(sheet.items) == 1
    for content, why in (
        ('{"type":"pairs","files":["a.jsonl"],"beter":"good"}', "own.json: .*beter"),
        ('{"type":"pears","files":["a.jsonl"]}', "own.json: .*pears"),
        ('{"type":"pairs","files":[]}', "own.json: files"),
        ('{"files":["a.jsonl"]}', "own.json: .*type"),
        ("{", "own.json: "),
    ):
        path.write_text(content)
        refused(why, open_sheet, str(path), None, NONE)
    refused("none.json: No such file", open_sheet, "none.json", None, NONE)
    refused("mine.json: Is a directory", open_sheet, str(folder_named(folder)), None, NONE)
    refused("blmp: no such task; .*'?blimp", open_sheet, "blmp", None, NONE)
    refused("blimp/.*nothing in", open_sheet, "blimp", tmp_path, NONE)


def folder_named(folder):
    (folder / "mine.json").mkdir()
    return folder / "mine.json"


def test_the_folder_of_tasks():
    """Fails if what is given does not come before what the environment says."""
    assert folder_of(Path("a"), {"YARDSTICK_TASKS": "b"}) == Path("a")
    assert folder_of(None, {"YARDSTICK_TASKS": "b"}) == Path("b")


# Where no file is at hand, and `datasets` is

LABELS = {"text": ["red", "green", "blue"], "label": ["A", "B", "C"]}
PAIRED = {"sentence1": "He slept.", "sentence2": "He was asleep.", "idx": 3}
ROWS = {
    "blimp": {
        "sentence_good": "Who slept?", "sentence_bad": "Who did slept?", "field": "syntax",
        "linguistics_term": "island_effects", "UID": "adjunct_island", "pair_id": 0,
    },
    "arc_easy": {"id": "x", "question": "Which colour?", "choices": LABELS, "answerKey": "B"},
    "arc_challenge": {
        "id": "x", "question": "Which?", "answerKey": "3",
        "choices": {"text": ["a", "b", "c"], "label": ["1", "2", "3"]},
    },
    "piqa": {"goal": "To boil eggs", "sol1": "use water", "sol2": "use sand", "label": 0},
    "openbook_qa": {
        "id": "7", "question_stem": "The sky is", "choices": LABELS, "answerKey": "C ",
    },
    "boolq": {"question": "is it so", "passage": "It is so.", "answer": True},
    "lambada": {"text": "He went to the sea"},
    "sst2": {"sentence": "a fine film ", "label": 1, "idx": 0},
    "mrpc": PAIRED | {"label": 1},
    "sts_b": PAIRED | {"label": 3.8},
}  # fmt: skip
BECOME = {
    "blimp": {"sentence_good": "Who slept?", "sentence_bad": "Who did slept?"},
    "arc_easy": {
        "query": "Question: Which colour?", "choices": ["red", "green", "blue"], "gold": 1
    },
    "arc_challenge": {"query": "Question: Which?", "choices": ["a", "b", "c"], "gold": 2},
    "piqa": {
        "query": "Question: To boil eggs\n", "choices": ["use water", "use sand"], "gold": 0
    },
    "openbook_qa": {
        "query": "The sky is", "choices": ["red", "green", "blue"], "gold": 2
    },
    "boolq": {
        "query": "Passage: It is so.\nQuestion: is it so?", "choices": ["no", "yes"], "gold": 1
    },
    "lambada": {"context": "He went to the", "continuation": "sea"},
    "sst2": {"sentence": "a fine film ", "label": "1"},
    "mrpc": {"#1 String": "He slept.", "#2 String": "He was asleep.", "Quality": "1"},
    "sts_b": {"sentence1": "He slept.", "sentence2": "He was asleep.", "score": 3.8},
}  # fmt: skip


@pytest.fixture
def hub(monkeypatch):
    """A module that reads rows as the hub has them; calls of it are kept."""
    module, asked = types.ModuleType("datasets"), []
    module.rows, module.asked = [], asked

    def load_dataset(name, config=None, *, split):
        asked.append((name, config, split))
        return module.rows

    module.load_dataset = load_dataset
    module.get_dataset_config_names = lambda name: ["adjunct_island", "wh_island"]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.hub])
def test_the_hub_is_asked_where_no_folder_is_named(hub, name):
    """Fails if a row becomes no item of the task, or another one than the file would have."""
    hub.rows = [ROWS[name]] * 3
    sheet = open_sheet(name, None, Conditions(items=2))
    fields = sheet.items[0].fields
    assert {key: fields[key] for key in BECOME[name]} == BECOME[name]
    known = TASKS[name].hub
    configs = [asked[1] for asked in hub.asked]
    assert {asked[0] for asked in hub.asked} == {known.name}
    assert {asked[2] for asked in hub.asked} == {known.split}
    if name == "blimp":  # a config a paradigm, and none for all of them
        assert configs == ["adjunct_island", "wh_island"] and len(sheet.items) == 4
        assert sheet.items[0].group == "island_effects/adjunct_island"
    else:
        assert configs == list(known.configs or [None]) and len(sheet.items) == 2


def test_solved_items_come_from_another_split_of_the_hub(hub):
    """Fails if a task is shown its own items as solved, where there are others."""
    hub.rows = [ROWS["sst2"]] * 3
    sheet = open_sheet("sst2", None, Conditions(shots=1))
    assert [asked[2] for asked in hub.asked] == ["validation", "train"]
    assert len(sheet.pool) == 3


def test_a_folder_that_lacks_a_task_is_named_and_the_hub_is_not_asked(hub, tmp_path):
    """Fails if a mistyped folder is answered by a download."""
    hub.rows = [ROWS["sst2"]] * 3
    refused("SST-2/dev.tsv: nothing in", open_sheet, "sst2", tmp_path, NONE)
    assert not hub.asked


def test_what_the_hub_refuses_is_one_line(hub):
    """Fails if an error of the network's, an empty one too, or a row of another form passes."""
    for error in (ConnectionError("no route\nto host"), ValueError()):

        def load_dataset(*_, error=error, **__):
            raise error

        hub.load_dataset = load_dataset
        refused("nyu-mll/glue/sst2: .*--data", open_sheet, "sst2", None, NONE)
    hub.load_dataset = lambda *_, **__: [{"text": "other"}]
    refused("nyu-mll/glue/sst2:1: ", open_sheet, "sst2", None, NONE)
    hub.load_dataset = lambda *_, **__: [ROWS["arc_easy"] | {"answerKey": "Z"}]
    refused("allenai/ai2_arc/ARC-Easy:1: ", open_sheet, "arc_easy", None, NONE)


def test_without_datasets_the_hub_is_named(monkeypatch):
    """Fails if nothing says where a public task can be had."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    why = "or install `datasets`, which reads it from the hub"
    refused(why, open_sheet, "sst2", None, NONE)
    bare = HubFiles("x/y", (), "test", dict)
    refused(why, read_items, Pairs(files=("a",)), None, hub=bare)


# The public tasks' own files

COUNTS = {
    "arc_easy": 2376, "arc_challenge": 1172, "piqa": 1838, "openbook_qa": 500, "boolq": 3270,
    "lambada": 5153, "sst2": 872, "mrpc": 408, "sts_b": 1500, "cranfield": 225,
}  # fmt: skip
AT_HAND = os.environ.get("YARDSTICK_TASKS")


@pytest.mark.skipif(not AT_HAND, reason="YARDSTICK_TASKS names no folder of tasks")
def test_public_tasks_have_as_many_items_as_published():
    """Fails if quotation marks swallow lines, a header counts, or a file is not found."""
    found = {name: len(open_sheet(name, Path(AT_HAND), NONE).items) for name in COUNTS}
    assert found == COUNTS
    paradigms = open_sheet("blimp", Path(AT_HAND), NONE).items
    by_name = {item.group for item in paradigms}
    assert len(paradigms) == 1000 * len(by_name) and len(by_name) in (56, 67)
