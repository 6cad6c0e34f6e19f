"""lm-eval's own client of OpenAI's protocol finds of a server what the adapter finds."""

import json
import os

import pytest

from lm.model import Transformer
from lm.objectives import Causal
from tests.makers import save_untrained
from tests.serve.conftest import served

# Before `datasets` is imported, which reads it once.
os.environ["HF_DATASETS_OFFLINE"] = "1"
harness = pytest.importorskip(
    "lm.evaluate.harness", reason="lm-eval is not installed: the extra harness has it"
)
pytest.importorskip("tenacity", reason="lm-eval's client needs it: lm-eval[api]")
# Its own libraries' warnings are not ours to mend.
pytestmark = pytest.mark.filterwarnings("default")

LENGTH = 64
CHOICES = [
    {"query": "The cat", "choices": ["sat", "flew", "é ü"], "gold": 0},
    {"query": "two ", "choices": ["three", "four"], "gold": 1},
    {"query": "one after the other", "choices": ["a", "bc"], "gold": 1},
]
WORDS = [{"query": "one two", "text": "three"}, {"query": "a b c", "text": "d"}]
TASKS = {
    "served_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{query}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "served_text": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "byte_perplexity"}],
    },
    "served_writing": {
        "output_type": "generate_until",
        "doc_to_text": "{{query}}",
        "doc_to_target": "{{text}}",
        "generation_kwargs": {"until": ["\n", "Q"], "max_gen_toks": 8},
        "metric_list": [{"metric": "exact_match"}],
    },
}
ROWS = {"served_choice": CHOICES, "served_text": WORDS, "served_writing": WORDS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that nobody trained, and tasks of a few lines."""
    folder = tmp_path_factory.mktemp("served")
    model = Transformer(depth=1, width=16, heads=4)
    save_untrained(folder / "gpt", Causal(), model, length=LENGTH)
    (folder / "tasks").mkdir()
    for name, fields in TASKS.items():
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in ROWS[name]))
        task = {
            **{"task": name, "dataset_path": "json", "test_split": "test"},
            "dataset_kwargs": {
                "data_files": {"test": str(file)},
                "cache_dir": str(folder / "cache"),
            },
        }
        # YAML holds JSON.
        (folder / "tasks" / f"{name}.yaml").write_text(json.dumps(task | fields))
    return folder


@pytest.fixture(scope="module")
def server(folder):
    with served(folder, "gpt") as found:
        yield found


def evaluated(folder, names, model, arguments):
    """What lm-eval finds of tasks, and what it was answered, by item."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder / "tasks"), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model=model,
        model_args=arguments,
        tasks=list(names),
        task_manager=manager,
        bootstrap_iters=0,
    )
    answers = {}
    for name in names:
        samples = sorted(found["samples"][name], key=lambda sample: sample["doc_id"])
        answers[name] = [each[0] for sample in samples for each in sample["resps"]]
    return found["results"], answers


@pytest.mark.parametrize(
    ("by_ids", "prefixes"),
    [
        # Ids are taken as they are; of whole texts lm-eval puts a bos token before each.
        (True, {"served_choice": "none", "served_text": "bos"}),
        # A text stands after the token that begins one.
        (False, {"served_choice": "bos", "served_writing": "bos"}),
    ],
)
def test_local_completions_equals_the_adapter(folder, server, by_ids, prefixes):
    """Fails if a log-probability is of another token or context, one is called the likeliest
    that is not, or text is written otherwise. The tokens are the server's: lm-eval asks it for
    them, by the paths that it knows of vLLM (tokenizer_backend=remote, which it finds itself).
    """
    arguments = {
        "base_url": f"{server.url}/v1/completions",
        "model": "gpt",
        "tokenized_requests": by_ids,
        "max_length": LENGTH,
        "num_concurrent": 3,
        "max_retries": 1,
    }
    results, answers = evaluated(folder, prefixes, "local-completions", arguments)
    wanted, native = {}, {}
    for prefix in dict.fromkeys(prefixes.values()):
        names = [name for name in prefixes if prefixes[name] == prefix]
        own = {"path": str(folder / "gpt"), "prefix": prefix}
        found = evaluated(folder, names, harness.NAME, own)
        wanted, native = wanted | found[0], native | found[1]
    for name in prefixes:
        numbers = {key: v for key, v in wanted[name].items() if isinstance(v, float)}
        assert numbers == pytest.approx({key: results[name][key] for key in numbers}, rel=1e-4)
        for said, of in zip(answers[name], native[name], strict=True):
            if name == "served_choice":
                assert float(said[0]) == pytest.approx(float(of[0]), abs=1e-4)
                assert str(said[1]) == str(of[1])
            elif name == "served_text":
                assert float(said) == pytest.approx(float(of), abs=1e-4)
            else:
                assert said == of
