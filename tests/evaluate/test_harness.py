"""Models in lm-evaluation-harness: its numbers are the native ones, whatever it asks."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lm.config import UserError
from lm.evaluate.tasks.base import Completion, Conditions, Query
from lm.evaluate.tasks.candidate import ModelCandidate
from lm.evaluate.tasks.choice import Choice
from lm.evaluate.tasks.last_word import LastWord
from lm.evaluate.tasks.sitting import sheet_of, sit
from lm.model import Transformer
from lm.objectives import Causal, Masked
from lm.train.load import load_model
from tests.makers import save_untrained

# Before `datasets` is imported, which reads it once.
os.environ["HF_DATASETS_OFFLINE"] = "1"
harness = pytest.importorskip(
    "lm.evaluate.harness", reason="lm-eval is not installed: the extra harness has it"
)
# Its own libraries' warnings are not ours to mend.
pytestmark = pytest.mark.filterwarnings("default")

LENGTH = 32
TOKENS = 400
"""Of the golden tokenizer with a chat template."""
GOLDEN = Path(__file__).parents[1] / "golden" / "hub"
CHOICES = [
    {"query": "The cat", "choices": ["sat", "flew", "é ü"], "gold": 0},
    # Spaces at the end belong to the continuation, and only one of them is the delimiter.
    {"query": "two ", "choices": ["three", "four"], "gold": 1},
    {"query": "", "choices": ["nothing", "nor here"], "gold": 0},
    # Twice as long as a row.
    {"query": "far too long " * 5, "choices": ["a", "bc"], "gold": 1},
]
WORDS = [
    {"context": "one two", "continuation": "three"},
    {"context": "a b c", "continuation": "d"},
]
TEXTS = [{"text": "abcdefghij" * 7 + "k"}, {"text": "short"}]
COMMON = {"dataset_path": "json", "test_split": "test"}
TASKS = {
    "tiny_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{query}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "tiny_word": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{context}}",
        "doc_to_target": " {{continuation}}",
        "metric_list": [{"metric": "acc"}, {"metric": "perplexity"}],
    },
    "tiny_text": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "byte_perplexity"}],
    },
    "tiny_writing": {
        "output_type": "generate_until",
        "doc_to_text": "{{context}}",
        "doc_to_target": "{{continuation}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8},
        "metric_list": [{"metric": "exact_match"}],
    },
}
ROWS = {"tiny_choice": CHOICES, "tiny_word": WORDS, "tiny_text": TEXTS, "tiny_writing": WORDS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models that nobody trained, tasks of a few lines, and one that names the module."""
    folder = tmp_path_factory.mktemp("harness")
    model = Transformer(depth=1, width=16, heads=4)
    for name, objective in (("causal", Causal()), ("masked", Masked())):
        save_untrained(folder / name, objective, model, length=LENGTH)
    (folder / "tasks").mkdir()
    for name, fields in TASKS.items():
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in ROWS[name]))
        where = {"data_files": {"test": str(file)}, "cache_dir": str(folder / "cache")}
        # YAML holds JSON.
        task = {"task": name, **COMMON, "dataset_kwargs": where, **fields}
        (folder / "tasks" / f"{name}.yaml").write_text(json.dumps(task))
    (folder / "named.yaml").write_text(
        f"include: {folder}/tasks/tiny_word.yaml\ntask: named\n"
        "metadata: {model: !function lm.evaluate.harness.Yardstick}\n"
    )
    return folder


@pytest.fixture(scope="module")
def tasks(folder):
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(folder / "tasks"), include_defaults=False)


def evaluated(tasks, name, **options):
    """What lm-eval finds of a task, and what it was answered, by item."""
    import lm_eval

    found = lm_eval.simple_evaluate(
        model=harness.NAME, tasks=[name], task_manager=tasks, bootstrap_iters=0, **options
    )
    samples = sorted(found["samples"][name], key=lambda sample: sample["doc_id"])
    answers = [[each[0] for each in sample["resps"]] for sample in samples]
    return found["results"][name], answers, found["config"]


def candidate_of(path, scorer, **options):
    return ModelCandidate.of(load_model(path), scorer, **options)


def asked(*arguments, item=0):
    """A request as lm-eval makes it."""
    return SimpleNamespace(args=arguments, doc_id=item)


@pytest.mark.parametrize(
    ("kind", "scorer", "prefix"),
    [
        ("causal", "chain_rule", "bos"),
        ("causal", "chain_rule", "none"),
        ("masked", "left_to_right", "eos"),
        ("masked", "any_order", "bos"),
    ],
)
def test_choices_are_the_native_ones(folder, tasks, kind, scorer, prefix):
    """Fails if context and continuation meet by lm-eval's rule, an empty context has another
    prefix, a context is cut at its right, or masks of an item's choices are drawn apart.
    """
    path = folder / kind
    arguments = {"path": str(path), "scorer": scorer.replace("_", "-"), "prefix": prefix}
    metrics, answers, config = evaluated(tasks, "tiny_choice", model_args=arguments)
    candidate = candidate_of(path, scorer, prefix=prefix)
    task = Choice(files=("tiny_choice.jsonl",), norm="characters")
    sheet = sheet_of("tiny_choice", task, folder, Conditions())
    own = sit(candidate, sheet)
    assert metrics["acc,none"] == own.metrics["accuracy"].value
    assert metrics["acc_norm,none"] == own.metrics["accuracy_characters"].value
    native = candidate.likelihoods(
        [
            Query(row["query"], f" {choice}", number=number)
            for number, row in enumerate(CHOICES)
            for choice in row["choices"]
        ]
    )
    found = [answer for of in answers for answer in of]
    assert [float(log_p) for log_p, _ in found] == pytest.approx(
        [each.log_p for each in native], abs=1e-4
    )
    assert [str(likeliest) for _, likeliest in found] == [str(e.likeliest) for e in native]
    assert [native[-1].cut > 0, native[0].cut] == [True, 0]
    assert (config["scorer"], config["around"]) == (candidate.scorer, candidate.around)


def test_last_words_are_the_native_ones(folder, tasks):
    """Fails if a continuation's tokens are not all scored, or no rival of them is looked at."""
    metrics, _, _ = evaluated(tasks, "tiny_word", model_args=f"path={folder / 'causal'}")
    task = LastWord(files=("tiny_word.jsonl",))
    candidate = candidate_of(folder / "causal", "chain_rule")
    own = sit(candidate, sheet_of("tiny_word", task, folder, Conditions())).metrics
    assert metrics["acc,none"] == own["accuracy"].value
    assert metrics["perplexity,none"] == pytest.approx(own["perplexity"].value, rel=1e-4)


def test_pairs_of_ids_say_the_same(folder):
    """Fails if whoever asks by ids, as lm-eval's own base class does, hears something else."""
    model = harness.Yardstick(str(folder / "causal"))
    pair = ("two  ", "three")
    context, continuation = model._encode_pair(*pair)
    assert len(context) == 3 and len(continuation) == 7
    (by_ids,) = model._loglikelihood_tokens([(pair, context, continuation)], disable_tqdm=True)
    assert [by_ids] == model.loglikelihood([asked(*pair)], disable_tqdm=True)


def test_a_long_text_is_scored_in_windows(folder):
    """Fails if a token is scored twice or not at all, a window lacks the prefix or the token
    before it, or the last one is not filled with context.
    """
    model = harness.Yardstick(str(folder / "causal"))
    loaded, tokenizer = load_model(folder / "causal"), model.candidate.tokenizer
    ids = tokenizer.encode(TEXTS[0]["text"]).tolist()
    assert len(ids) == 71

    def scored(row, start):
        logits_LV = loaded.logits(np.array([row]))[0].astype(np.float64)
        log_p_LV = logits_LV - np.log(np.exp(logits_LV).sum(1, keepdims=True))
        return sum(log_p_LV[place - 1, row[place]] for place in range(start, len(row)))

    bos = tokenizer.vocabulary.bos
    wanted = scored([bos, *ids[:30]], 1) + scored([bos, *ids[29:60]], 2)
    wanted += scored([bos, *ids[40:]], 21)
    found = model.loglikelihood_rolling(
        [asked(row["text"]) for row in [*TEXTS, {"text": ""}]], disable_tqdm=True
    )
    assert found[0] == pytest.approx(wanted, abs=1e-4)
    (short,) = model.candidate.likelihoods([Query("", "short")])
    assert found[1:] == [pytest.approx(short.log_p, abs=1e-4), 0.0]


def test_it_writes_up_to_a_stop(folder, tasks):
    """Fails if what is written is not the likeliest, or goes beyond a stop or the number."""
    arguments = {"path": str(folder / "causal")}
    _, answers, _ = evaluated(tasks, "tiny_writing", model_args=arguments)
    model = load_model(folder / "causal")
    wanted = model.generate([row["context"] for row in WORDS], count=8, temperature=0.0)
    assert [of[0] for of in answers] == [text.split("\n")[0] for text in wanted]

    adapter = harness.Yardstick(str(folder / "causal"))
    first = next(iter(wanted[0]))

    def written(**settings):
        return adapter.generate_until([asked(WORDS[0]["context"], settings)])[0]

    assert written(until=[first, ""], max_gen_toks=8) == ""
    assert written(until=[], max_gen_toks=7) == wanted[0][:7]
    # A sampled text is another one; greedily, how to sample is of no concern.
    assert written(do_sample=True, temperature=9.0, max_gen_toks=8) != wanted[0]
    assert written(do_sample=True, temperature=9.0, top_k=1, max_gen_toks=8) == wanted[0]
    assert (
        written(do_sample=False, top_p=0.5, until="\n", max_gen_toks=8)
        == (wanted[0].split("\n")[0])
    )
    with pytest.raises(UserError, match=r"--gen_kwargs top_p: one of until, .*; did you mean"):
        written(do_sample=True, temperature=1.0, top_p=0.5)


def test_a_conversation_is_what_the_template_makes_of_it(tmp_path):
    """Fails if special tokens are read as text, one that a message spells is taken for one, the
    prefix stands there twice, or an answer that was begun is closed.
    """
    path = tmp_path / "smollm"
    shutil.copytree(GOLDEN / "tokenizers" / "smollm", path)
    config = json.loads((GOLDEN / "smollm" / "config.json").read_text())
    arrays = load_file(GOLDEN / "smollm" / "model.safetensors")
    # The model's table has fewer rows than this tokenizer has tokens.
    table_VD = arrays["model.embed_tokens.weight"]
    table_VD = np.resize(table_VD, (TOKENS, table_VD.shape[1]))
    save_file(arrays | {"model.embed_tokens.weight": table_VD}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(config | {"vocab_size": TOKENS}))
    model = harness.Yardstick(str(path))
    tokenizer = model.candidate.tokenizer
    assert model.chat_template(True) == tokenizer.chat_template
    assert model.tokenizer_name == tokenizer.digest
    assert config["bos_token_id"] == model.prefix_token_id
    talk = [{"role": "user", "content": "say <|im_end|> now"}]
    text = model.apply_chat_template(talk)
    ids = tokenizer.chat(talk, add_generation_prompt=True).tolist()
    assert ids[0] == model.prefix_token_id
    context, continuation = model._encode_pair(text, "yes")
    # Its line end belongs to the continuation, as spaces do.
    line_end = tokenizer.encode("\n").tolist()
    assert context + line_end == ids[1:]
    assert continuation == line_end + tokenizer.encode("yes").tolist()
    assert model._prompt(text) == tuple(ids[1:])
    begun = [*talk, {"role": "assistant", "content": "yes"}]
    open_end = model.apply_chat_template(begun, add_generation_prompt=False)
    assert open_end.endswith("yes") and open_end.startswith(text)


def test_an_answer_ends_as_its_template_ends_one(folder, monkeypatch):
    """Fails if what ends an answer is not asked for, or ends a text that is no answer too."""
    model = harness.Yardstick(str(folder / "causal"))
    tokenizer = model.candidate.tokenizer
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}<mask>{% endfor %}"
    ends = []

    def continued(self, prompts, *, end, **_):
        ends.append(end)
        return [Completion("") for _ in prompts]

    monkeypatch.setattr(ModelCandidate, "continued", continued)
    text = model.apply_chat_template([{"role": "user", "content": "hello"}])
    model.generate_until([asked(each, {"max_gen_toks": 4}) for each in ("hello", text)])
    assert ends == [None, tokenizer.vocabulary.mask]


def test_without_a_template_there_are_no_conversations(folder):
    """Fails if lm-eval is given messages in no form, or none it can say in a line."""
    model = harness.Yardstick(str(folder / "causal"))
    with pytest.raises(UserError, match="no chat template"):
        model.chat_template(True)
    with pytest.raises(UserError, match="no chat template"):
        model.apply_chat_template([{"role": "user", "content": "hello"}])


def test_what_is_no_likelihood_and_what_is_cut_is_said_once(folder, caplog):
    """Fails if a pseudo-likelihood passes for a likelihood, or a cut is not counted."""
    harness.Yardstick(str(folder / "causal"))
    assert not caplog.messages
    model = harness.Yardstick(str(folder / "masked"), scorer="pseudo_words")
    assert len(caplog.messages) == 1 and "no likelihood" in caplog.messages[0]
    caplog.clear()
    model.loglikelihood([asked("x" * 40, "y"), asked("z" * 50, "y"), asked("", "y")])
    assert caplog.messages == ["2 of 3 contexts do not fit: 30 tokens were cut from their left"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "no path="),
        ({"path": "nowhere"}, "nowhere: no such file"),
        ({"pth": "nowhere"}, "pth: one of path, .*; did you mean path"),
        ({"path": "causal", "scorer": "pseudo"}, "pseudo: not valid for this model"),
        ({"path": "causal", "prefix": "zzz"}, "--prefix zzz: no such token"),
        ({"path": "causal", "precision": "float8"}, "precision"),
        ({"path": "causal", "positions": 0}, "positions=0: must be a number > 0"),
    ],
)
def test_what_is_wrong_with_the_arguments_is_one_line(folder, arguments, message):
    """Fails if an argument is passed on unseen, or a wrong value is found only later."""
    given = dict(arguments)
    if given.get("path") == "causal":
        given["path"] = str(folder / "causal")
    with pytest.raises(UserError, match=message):
        harness.Yardstick.create_from_arg_obj(given, {"batch_size": 1, "device": "cuda:0"})


def command(folder, *arguments):
    paths = [str(GOLDEN.parents[2]), os.environ.get("PYTHONPATH", "")]
    variables = {
        "HF_HOME": str(folder / "home"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(paths),
    }
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_command_line_is_that_of_lm_eval(folder, tasks):
    """Fails if the command does not know the model, or does not pass on an option."""
    (folder / "mine.yaml").write_text((folder / "tasks" / "tiny_choice.yaml").read_text())
    done = command(
        folder,
        *("-m", "lm.evaluate.harness", "run", "--model", "yardstick", "--model_args"),
        *("path=causal", "prefix=eos", "--tasks", "mine.yaml", "--limit", "3"),
        *("--output_path", "out.json"),
    )
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("out*.json")
    found = json.loads(file.read_text())
    arguments = {"path": str(folder / "causal"), "prefix": "eos"}
    metrics, _, config = evaluated(tasks, "tiny_choice", model_args=arguments, limit=3)
    assert found["results"]["tiny_choice"]["acc_norm,none"] == metrics["acc_norm,none"]
    assert found["config"]["around"] == config["around"] == "after <eos> (3)"
    assert found["n-samples"]["tiny_choice"]["effective"] == 3


@pytest.mark.slow
def test_lm_eval_itself_finds_the_model_by_a_task_file(folder):
    """Fails if the way that the docstring describes is none."""
    run = ("-m", "lm_eval", "run", "--model", "yardstick", "--model_args", "path=causal")
    there = ("--include_path", "tasks", "--tasks")
    done = command(folder, *run, *there, "named.yaml", "tiny_choice")
    assert done.returncode == 0, done.stderr
    assert "named" in done.stdout and "tiny_choice" in done.stdout
    done = command(folder, *run, *there, "tiny_word")
    assert done.returncode and "no model for this name" in done.stderr


@pytest.mark.slow
def test_a_wrong_path_is_one_line(folder):
    """Fails if the command ends in a traceback, or with another code than 2."""
    run = ("-m", "lm.evaluate.harness", "run", "--model", "yardstick", "--model_args")
    done = command(folder, *run, "path=nowhere", "--tasks", "tasks/tiny_word.yaml")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "lm: nowhere: no such file or directory"
    assert "Traceback" not in done.stderr
