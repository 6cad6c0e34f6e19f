"""What models write behind prompts, and how it is compared with what people wrote."""

import json
import sys
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from lm.cli import main
from lm.config import UserError, parse
from lm.evaluate.tasks import TaskConfig, generation
from lm.evaluate.tasks import candidate as candidates
from lm.evaluate.tasks.base import Completion, Conditions, Item
from lm.evaluate.tasks.candidate import ModelCandidate, task_writers
from lm.evaluate.tasks.generation import Generation
from lm.evaluate.tasks.metrics import difference, estimate
from lm.evaluate.tasks.result import above, read_task_result
from lm.evaluate.tasks.sitting import Sheet, sheet_of, sit
from lm.generate import Sampling, answer
from lm.model import EncoderDecoder, Transformer
from lm.objectives import Causal, Masked, Spans
from lm.run import Run
from lm.train.load import load_model
from tests.makers import save_untrained

LENGTH = 48
SMALL = {"depth": 1, "width": 16, "heads": 2}
MODELS = {
    "gpt": (Causal(), Transformer(**SMALL)),
    "bert": (Masked(), Transformer(**SMALL)),
    "spans": (Spans(), Transformer(**SMALL)),
    "t5": (Spans(stack="encoder_decoder"), EncoderDecoder(**SMALL, encoder_depth=1)),
}
WRITTEN = ("The cats sat on a mat.", "Dogs bark", "", "It rained all day in the city, again.")
REFERENCES = (
    ["The cat sat on the mat."],
    ["The dogs were barking.", "Dogs bark loudly."],
    ["Nothing"],
    ["It was raining the whole day in the city."],
)
ITEMS = [
    Item({"source": f"text {number}", "target": references}, "", f"a.jsonl:{number + 1}")
    for number, references in enumerate(REFERENCES)
]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Models that nobody trained, from artifacts."""
    folder, found = tmp_path_factory.mktemp("written"), {}
    for name in ("gpt", "t5"):
        save_untrained(folder / name, *MODELS[name], length=LENGTH)
        found[name] = load_model(folder / name)
    return found


class Writer:
    """Writes what it is told to, in batches of two; keeps what it was asked."""

    digest, scorer, kind, around, sees_after = "writer", "told", "no likelihood", "", False

    def __init__(self, texts=WRITTEN, fails_after=None):
        self.texts, self.fails_after, self.asked = texts, fails_after, []

    def written(self, prompts, *, count, stop, note=lambda *_: None):
        found = [
            Completion(self.texts[int(prompt.rstrip(":").split()[-1])], cut=number)
            for number, prompt in enumerate(prompts)
        ]
        for start in range(0, len(prompts), 2):
            if start == self.fails_after:
                raise KeyboardInterrupt
            places = range(start, min(start + 2, len(prompts)))
            self.asked += [prompts[place] for place in places]
            note(places, [found[place] for place in places])
        return found


def task(score, **fields):
    return Generation(
        files=("a.jsonl",), prompt="{source}:", reference="target", score=score, **fields
    )


def columns_of(score, texts=WRITTEN):
    return task(score).sit(Writer(texts), ITEMS, [], Conditions()).columns


@pytest.mark.parametrize("score", ["chrf", "bleu"])
def test_metrics_of_a_corpus_are_those_of_the_library(score):
    """Fails if counts are averaged over items, a reference is left out or columns mixed."""
    metrics = pytest.importorskip("sacrebleu.metrics")
    both = {"chrf": metrics.CHRF(), "bleu": metrics.BLEU()}
    most = max(map(len, REFERENCES))
    streams = [[r[n] if n < len(r) else None for r in REFERENCES] for n in range(most)]
    columns = columns_of(score)
    statistics = task(score).statistics
    assert task(score).metric == score and list(statistics) == ["chrf", "bleu"]
    for name, library in both.items():
        whole = library.corpus_score(list(WRITTEN), streams).score
        assert 1 < whole < 99
        assert statistics[name].of(columns[0]) == pytest.approx(whole, abs=1e-9)
        # Drawn items may come twice.
        drawn = [3, 0, 3]
        some = library.corpus_score(
            [WRITTEN[n] for n in drawn], [[s[n] for n in drawn] for s in streams]
        ).score
        assert statistics[name].of(columns[0][drawn]) == pytest.approx(some, abs=1e-9)


def test_bleu_parts_words_as_it_is_told():
    """Fails if the setting goes unread."""
    pytest.importorskip("sacrebleu")
    item = [Item({"source": "0", "target": "我喜欢大猫和小狗"}, "", "a.jsonl:1")]
    found = []
    for words in ("13a", "zh"):
        chinese = task("bleu", bleu_words=words)
        columns = chinese.sit(Writer(["我喜欢大猫和小鸟"]), item, [], Conditions()).columns
        found.append(chinese.statistics["bleu"].of(columns[0]))
    assert found[0] == 0 and found[1] > 70


def test_rouge_is_that_of_the_library():
    """Fails if words are not stemmed, or the best of the references is not taken."""
    pytest.importorskip("rouge_score")
    columns = columns_of("rouge")
    statistics = task("rouge").statistics
    assert task("rouge").metric == "rougeL"
    # "cats" and "cat" are of one stem, and of two references the second is nearer.
    rouge1 = [10 / 12, 4 / 5, 0, 2 * 6 / 17]
    assert statistics["rouge1"].of(columns[0]) == pytest.approx(np.mean(rouge1))
    rouge2 = [6 / 10, 2 / 3, 0, 2 * 3 / 15]
    assert columns[0, :, 1] == pytest.approx(rouge2)
    # The longest common subsequence: it, rain, day, in, the, city.
    assert columns[0, :, 2] == pytest.approx([10 / 12, 4 / 5, 0, 12 / 17])


def test_a_match_is_to_the_letter_but_for_case_and_outer_spaces():
    """Fails if spaces or case count, only one reference is read, or F1 counts articles."""
    texts = [" the CAT sat on the mat.\n", "dogs bark loudly.", "", "a day in the city"]
    columns = columns_of("match", texts)[0]
    assert columns[:, 0].tolist() == [1, 1, 0, 0]
    assert columns[:, 1] == pytest.approx([1, 1, 0, 2 * 3 / (3 + 7)])
    assert list(task("match").statistics) == ["match", "f1"]


def test_metrics_of_a_corpus_have_intervals_and_differences():
    """Fails if a metric of a corpus is no function of the items that are drawn."""
    pytest.importorskip("sacrebleu")
    better = [*WRITTEN[:3], "It was raining all day in the city."]
    of = task("bleu").statistics["bleu"].of
    mine, others = columns_of("bleu", better), columns_of("bleu")
    found = estimate(of, others)
    assert found.low < found.value < found.high
    gain = difference(of, mine, others)
    assert gain.value == pytest.approx(of(mine[0]) - of(others[0])) and gain.value > 1
    # Where the one item that differs is not drawn, there is none; it is never a loss.
    assert gain.low == pytest.approx(0, abs=1e-9) and gain.high > gain.value
    sheet = Sheet("own", task("bleu"), ITEMS, [], Conditions())
    results = [sit(Writer(texts), sheet) for texts in (better, WRITTEN)]
    assert above(sheet.task, *results).value == gain.value


def test_solved_items_stand_before_and_what_is_written_is_kept():
    """Fails if a demonstration has another reference than the first, or is the item itself, if
    texts are not kept by seed, or are in what is printed."""
    conditions = Conditions(shots=1, seeds=(0, 1, 2))
    writer = Writer()
    sheet = Sheet("own", task("match"), ITEMS, ITEMS, conditions)
    result = sit(writer, sheet)
    assert result.texts == (WRITTEN,) * 3 and result.brief().texts == ()
    for place, prompt in enumerate(writer.asked):
        solved, asked = prompt.split("\n\n")
        source, _, target = solved.partition(": ")
        number = int(source.split()[-1])
        assert asked == f"text {place % 4}:" and number != place % 4
        assert target == REFERENCES[number][0]
    assert len(set(writer.asked)) > 4
    assert result.cut == 3 and result.cut_tokens == 6
    assert "|{reference}" not in result.prompt and result.prompt == "{source}:| {reference}"


def test_what_was_written_before_an_interruption_is_not_asked_for_again(tmp_path):
    """Fails if texts are not kept as they come, or one of another count or stop is taken."""
    sheet = Sheet("own", task("match"), ITEMS, [], Conditions())
    with pytest.raises(KeyboardInterrupt):
        sit(Writer(fails_after=2), sheet, kept=tmp_path)
    (part,) = tmp_path.iterdir()
    assert len(part.read_text().splitlines()) == 2
    before = part.read_bytes()
    told, writer = [], Writer()
    found = sit(writer, sheet, kept=tmp_path, progress=told.append)
    assert writer.asked == ["text 2:", "text 3:"] and told == [2, 2]
    (kept,) = tmp_path.iterdir()
    assert found == read_task_result(kept) and found.texts == (WRITTEN,)
    # What was cut of those that were known is known as well.
    assert found.cut_tokens == 0 + 1 + 0 + 1
    for changed in ({"count": 3}, {"stop": ("x",)}):
        other = sheet._replace(task=task("match", **changed))
        (tmp_path / f"own-{other.digest(writer)}.part").write_bytes(before)
        writer.asked.clear()
        sit(writer, other, kept=tmp_path)
        assert len(writer.asked) == 4
    part.write_bytes(before.replace(b'", 0]', b'", "0"]'))
    kept.unlink()
    with pytest.raises(UserError, match="damaged; remove it"):
        sit(writer, sheet, kept=tmp_path)


def test_a_library_that_is_missing_is_one_line(monkeypatch):
    """Fails if it is said late, or where the score needs none."""
    for score, module, library in (
        ("rouge", "rouge_score.rouge_scorer", "rouge-score"),
        ("bleu", "sacrebleu.metrics", "sacrebleu"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        for cached in (generation._rouge, generation._corpus_metric):
            cached.cache_clear()
        with pytest.raises(UserError, match=rf"^{library} is not .* 'yardstick-lm\[eval\]'$"):
            task(score).check(ITEMS[0])
    task("match").check(ITEMS[0])


def test_what_a_task_lacks_is_one_line():
    plain, conditions = task("match"), Conditions(calibration="N/A")
    for ask, why in (
        (lambda: plain.check(Item({"source": "a"}, "", "b:1")), "b:1: no field target"),
        (lambda: plain.check(Item({"target": "a"}, "", "b:1")), "b:1: no field source"),
        (
            lambda: plain.check(Item({"source": "a", "target": 3}, "", "b:1")),
            "b:1: target must",
        ),
        (lambda: plain.check(Item({"source": "a", "target": []}, "", "b:1")), "is empty"),
        (lambda: plain.check(Item({"source": "a", "target": " "}, "", "b:1")), "is empty"),
        (lambda: plain.check_conditions(conditions), "calibration is of none"),
    ):
        with pytest.raises(UserError, match=why):
            ask()


PROMPTS = ["one two", "", "three", "a longer one"]


def test_the_likeliest_tokens_are_written(models):
    """Fails if rows of a batch are mixed up, padding is seen, or another prefix stands before
    than is said."""
    model = models["gpt"]
    candidate = ModelCandidate.of(model, "greedy")
    assert candidate.scorer == "greedy" and candidate.kind == "no likelihood"
    assert candidate.around == "after <bos> (2)"
    likeliest = model.generate(PROMPTS, count=6, temperature=0)
    assert len(set(likeliest)) > 2
    told: dict[int, Completion] = {}

    def note(places, texts):
        told.update(zip(places, texts, strict=True))

    for positions in (1, 4096):
        told.clear()
        few = replace(candidate, positions=positions)
        found = few.written(PROMPTS, count=6, stop=(), note=note)
        assert [each.text for each in found] == likeliest
        assert [told[place] for place in range(len(PROMPTS))] == found
        assert not any(each.cut for each in found)
    ended = ModelCandidate.of(model, "greedy", prefix="eos")
    ids = [[3, *model.tokenizer.encode(prompt).tolist()] for prompt in PROMPTS]
    added = model.generate(ids, count=6, temperature=0)
    assert ended.around == "after <eos> (3)"
    assert [each.text for each in ended.written(PROMPTS, count=6, stop=())] == [
        model.tokenizer.decode(each) for each in added
    ]
    assert candidate.digest != ended.digest
    bare = ModelCandidate.of(model, "greedy", prefix="none")
    with pytest.raises(UserError, match="a prompt of no tokens"):
        bare.written([""], count=1, stop=())
    masked = replace(candidate, run=msgspec.structs.replace(model.run, objective=Masked()))
    with pytest.raises(UserError, match="it writes no text"):
        masked.written(["a"], count=1, stop=())


def test_it_stops_where_a_stop_begins_whichever_tokens_spell_it(models, monkeypatch):
    """Fails if a stop is found in single tokens alone, a later one ends it, or it is kept."""
    model, whole = models["gpt"], "Paris ☃. The end\n\nNext"
    ids = model.tokenizer.encode(whole).tolist()
    assert len(ids) == len(whole.encode())
    monkeypatch.setattr(candidates, "generate", lambda *_, **__: [ids])
    asked = ModelCandidate.of(model, "greedy")
    for stop, text in (
        ((), whole),
        (("x", "\n\n", ". T"), "Paris ☃"),
        (("☃", "Paris"), ""),
        (("\n\nNext", "\n\n\n"), "Paris ☃. The end"),
    ):
        assert asked.written(["France"], count=30, stop=stop) == [Completion(text)]


def test_a_prompt_that_does_not_fit_loses_its_beginning(models):
    """Fails if the end is cut, more than must be, or it is not counted."""
    model = models["gpt"]
    candidate = ModelCandidate.of(model, "greedy")
    longest = "".join(chr(97 + n % 7) for n in range(LENGTH - 1 - 8))
    fits, cut = candidate.written([longest, "xyz" + longest], count=8, stop=())
    assert fits == Completion(*model.generate([longest], count=8, temperature=0), 0)
    assert cut == Completion(fits.text, 3)
    with pytest.raises(UserError, match=f"count=47: the model sees 48 .* at most {LENGTH - 2}"):
        candidate.written(["a"], count=LENGTH - 1, stop=())
    assert candidate.written(["ab"], count=LENGTH - 2, stop=())[0].cut == 1


def test_an_encoder_reads_the_prompt_and_a_sentinel(models):
    """Fails if a T5 is asked otherwise than it was trained, or sentinels count as text."""
    model = models["t5"]
    vocabulary = model.tokenizer.vocabulary
    first = vocabulary.sentinels[0]
    prompts = ["one two", "three", "a" * 100]
    kept = [prompt[-(LENGTH - 2) :] for prompt in prompts]
    found = {}
    for name, behind in (("greedy", [first]), ("greedy_answer", [])):
        candidate = ModelCandidate.of(model, name)
        rows = [[2, *model.tokenizer.encode(prompt).tolist(), *behind] for prompt in kept]
        said = answer(
            model.program.module,
            model.params,
            rows,
            vocabulary=vocabulary,
            count=7,
            sampling=Sampling(temperature=0),
        )
        spans = []
        for ids in said:
            ids = ids[1:] if ids and ids[0] in vocabulary.sentinels else ids
            ends = [n for n, token in enumerate(ids) if token in vocabulary.sentinels]
            spans.append(model.tokenizer.decode(ids[: min([*ends, 6])]))
        texts = candidate.written(prompts if behind else prompts[:2], count=6, stop=())
        found[name] = [each.text for each in texts]
        assert found[name] == spans[: len(texts)]
        # Of the positions of its rows two stand around the prompt, and none is the answer's.
        assert [each.cut for each in texts] == [0, 0, 100 - (LENGTH - 2)][: len(texts)]
        assert candidate.scorer == name
        assert candidate.around == "after <bos> (2)" + (
            ", before <extra_id_0> (4)" if behind else ""
        )
    assert found["greedy"][:2] != found["greedy_answer"]


def test_who_writes_and_how_is_known_before_anything_is_loaded():
    """Fails if a model that writes nothing is asked, or a way that is not its own is taken."""
    runs = {
        name: Run(objective=objective, model=model)
        for name, (objective, model) in MODELS.items()
    }
    assert task_writers(runs["gpt"]) == task_writers(runs["t5"]) == ["greedy"]
    assert task_writers(runs["gpt"], ["chain_rule"]) == ["greedy"]
    assert task_writers(runs["t5"], ["greedy_answer"]) == ["greedy_answer"]
    for name in ("bert", "spans"):
        with pytest.raises(UserError, match=r"it writes no text$"):
            task_writers(runs[name])
    with pytest.raises(UserError, match=r"greedy-answer: not valid .*; one of greedy$"):
        task_writers(runs["gpt"], ["greedy_answer"])
    with pytest.raises(UserError, match="greed: no such way to write; one of greedy, greedy-a"):
        task_writers(runs["t5"], ["greed"])


def test_it_is_asked_from_the_command_line(tmp_path, capsys):
    """Fails if a task of one's own is not read, or a model that writes nothing is loaded."""
    for name in ("gpt", "bert"):
        save_untrained(tmp_path / name, *MODELS[name], length=LENGTH)
    rows = [{"source": "one", "target": "two"}, {"source": "three", "target": ["four", "4"]}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = tmp_path / "own.json"
    settings = {
        "type": "generation", "files": ["a.jsonl"], "prompt": "{source} =", "count": 5,
        "reference": "target", "score": "match",
    }  # fmt: skip
    own.write_text(json.dumps(settings))
    assert isinstance(parse(TaskConfig, own.read_bytes(), "own.json"), Generation)
    main(["eval", str(tmp_path / "gpt"), "--tasks", str(own), "--json"])
    (shown,) = json.loads(capsys.readouterr().out)["own"]
    assert shown["scorer"] == "greedy" and shown["metric"] == "match"
    assert not shown["texts"]
    (kept,) = (tmp_path / "gpt" / "eval").iterdir()
    model = load_model(tmp_path / "gpt")
    likeliest = model.generate(["one =", "three ="], count=5, temperature=0)
    (texts,) = read_task_result(kept).texts
    assert list(texts) == [text.partition("\n")[0] for text in likeliest]
    with pytest.raises(SystemExit) as ended:
        main(["eval", str(tmp_path / "bert"), "--tasks", str(own)])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("it writes no text") == 1
    sheet = sheet_of("own", task("match"), tmp_path, Conditions())
    assert [item.place for item in sheet.items] == ["a.jsonl:1", "a.jsonl:2"]
