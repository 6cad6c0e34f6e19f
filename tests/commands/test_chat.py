"""A model that was trained on answers, and is asked."""

import json
from pathlib import Path

import pytest

from lm.cli import main
from lm.config import UserError
from lm.data import Bytes, Chat, Data
from lm.evaluate.evaluate import evaluate
from lm.model import Transformer
from lm.objectives import Causal, Response
from lm.optimizer import Adamw
from lm.run import Run
from lm.train.load import load_model, load_run
from lm.train.train import train_run
from tests.commands.console import said

pytestmark = pytest.mark.usefixtures("as_a_process")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run that answers yes to whoever asks with an a, and no to a b."""
    folder = tmp_path_factory.mktemp("chat")
    lines = [
        {
            "messages": [
                {"role": "user", "content": f"{letter}{n % 9}"},
                {"role": "assistant", "content": answer},
            ]
        }
        for n in range(40)
        for letter, answer in (("a", "yes"), ("b", "no"))
    ]
    (folder / "chat.jsonl").write_text("\n".join(map(json.dumps, lines)))
    run = Run(
        data=Data(
            corpus=Chat(paths=(str(folder / "chat.jsonl"),)),
            tokenizer=Bytes(added=("<|im_start|>", "<|im_end|>"), chat_template="chatml"),
            packing="whole",
            length=64,
            batch=16,
            validation=0.2,
        ),
        model=Transformer(depth=1, width=32, heads=2),
        objective=Response(),
        optimizer=Adamw(learning_rate=2e-2),
        tokens=60 * 16 * 60,
        precision="float32",
        evaluations=1,
    )
    train_run(run, folder / "run")
    return folder / "run"


def test_generate_answers_and_ends(capsys, trained) -> None:
    """Fails if the model goes on after what ends an answer, or the template is printed."""
    for message, answer in (("a3", "yes"), ("b3", "no")):
        asked = ["generate", str(trained), "--temperature", "0", "--chat"]
        assert said(capsys, *asked, message) == f"{answer}\n"
    short = [*asked, "b1", "--chat", "no", "--chat", "a3", "--count", "2"]
    assert len(said(capsys, *short)) <= 3


def test_messages_are_a_task(capsys, trained, tmp_path) -> None:
    """Fails if a message is asked without its template, or an answer does not end."""
    asked = [
        {"say": f"{letter}{n}", "right": right}
        for n in range(4)
        for letter, right in (("a", "yes"), ("b", "no"))
    ]
    (tmp_path / "asked.jsonl").write_text("\n".join(map(json.dumps, asked)))
    task = {"files": ["asked.jsonl"], "prompt": "{say}", "reference": "right", "score": "match"}
    found = {}
    for kind in ("reply", "generation"):
        (tmp_path / f"{kind}.json").write_text(json.dumps({"type": kind, "count": 8, **task}))
        out = said(
            capsys, "eval", str(trained), "--tasks", str(tmp_path / f"{kind}.json"), "--json"
        )
        (found[kind],) = json.loads(out)[kind]
    assert found["reply"]["value"] == 1.0 and found["generation"]["value"] == 0.0
    assert found["reply"]["prompt"] == "a message: {say}"


def test_it_is_scored_like_any_model_of_text(trained) -> None:
    """Fails if special tokens of a template are not what a text may hold."""
    found = evaluate(load_run(trained))
    assert found is not None and found.scorer == "chain_rule"
    assert found.bits_per_byte > 0 and found.baselines["unigram"] > 0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["text", "--chat", "Hi"], "give a text, or --chat and a message: one of them"),
        ([], "give a text, or --chat and a message: one of them"),
        (["--chat", "a", "--chat", "b"], "--chat is there 2 times: the last message is the us"),
        (["text", "--system", "x"], "--system stands before messages: give --chat and one"),
    ],
)
def test_oneline_what_is_no_conversation_is_refused(capsys, trained, arguments, why) -> None:
    """Fails if a text is answered as if it were a message, or an answer is answered."""
    with pytest.raises(SystemExit) as refused:
        main(["generate", str(trained), *arguments])
    assert refused.value.code == 2
    assert capsys.readouterr().err.startswith(f"lm: {why}")


def test_oneline_a_model_without_a_template_says_what_to_do(trained, monkeypatch) -> None:
    """Fails if an answer is made up of text, or of what was never trained to go on."""
    model = load_model(trained)
    asked = [{"role": "user", "content": "a1"}]
    monkeypatch.setattr(model.tokenizer, "chat_template", None)
    with pytest.raises(UserError, match=r"^the tokenizer has no chat template: [^\n]*chatml"):
        model.chat(asked)
    assert Causal().predictions == Response().predictions
