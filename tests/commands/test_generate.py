"""`lm generate`, as it prints where no terminal is."""

import io
import sys

import pytest

from lm.cli import main
from lm.commands.shown import ShownToken, print_shown, stream_parts
from lm.train.load import load_model
from tests.makers import save_untrained
from tests.train.test_generating import MODELS

pytestmark = pytest.mark.usefixtures("as_a_process")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generate")
    for name, (objective, model) in MODELS.items():
        save_untrained(folder / name, objective, model, length=32)
    return folder


@pytest.fixture
def said(capsys, folders):
    def said(model, *arguments):
        capsys.readouterr()
        main(["generate", str(folders / model), *arguments])
        return capsys.readouterr().out

    return said


def test_samples_stand_behind_their_text(said, folders):
    """Fails if a setting does not reach the draws, or the text is not printed as it is."""
    model = load_model(folders / "gpt")
    drawing = {"temperature": 0.7, "top_k": 9, "top_p": 0.9, "min_p": 0.01}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in drawing.items()]
    options += ["--repetition-penalty=1.2", "--count=9", "--stop=q", "--samples=2"]
    texts = [
        model.generate(
            ["a\tb"], count=9, stop=["q"], seed=4 + n, repetition_penalty=1.2, **drawing
        )
        for n in range(2)
    ]
    found = said("gpt", "a\tb", "--seed=4", *options)
    assert found == "".join(f"a\tb{text}\n" for (text,) in texts)
    (best, *_) = model.beams("ab", count=5, beams=2, length_penalty=1.0)
    found = said("gpt", "ab", "--beams=2", "--length-penalty=1", "--count=5")
    assert found == f"ab{model.tokenizer.decode(best.tokens)}\n"


def test_tokens_are_shown_with_what_else_was_likely(said):
    """Fails if a prompt's tokens are not scored, a token is lost, or the price is another's."""
    shown = said("gpt", "ab", "--count=3", "--temperature=0", "--show", "--alternatives=2",
                 "--price=2.5")  # fmt: skip
    *tokens, counted = shown.splitlines()
    assert [line.split("\t")[0] for line in tokens[:2]] == ["'a'", "'b'"]
    assert all(line.count(", ") == 1 for line in tokens)
    added = len(tokens) - 2
    price = (2 + added) * 2.5 / 1000
    assert counted == (
        f"{2 + added} tokens: 2 given, {added} added; at 2.5 a thousand {price:g}"
    )
    filled = said("bert", "a_b", "--blank=_", "--show").splitlines()
    assert filled[0] == "'a'\t\t" and filled[1].count(", ") == 3
    assert filled[-1] == "3 tokens: 2 given, 1 added"


def test_masks_and_spans_are_filled(said):
    """Fails if an order is not, or a span model is told to take another."""
    by_order = {
        order: said("bert", "x__________y", "--blank=_", f"--order={order}", "--steps=3")
        for order in ("certain", "left", "random", "diffusion")
    }
    assert all(text[0] == "x" and text.endswith("y\n") for text in by_order.values())
    assert len(set(by_order.values())) > 1
    assert said("t5", "a ___ b", "--count=6").startswith("a ")
    assert said("t5", "a b", "--count=6", "--temperature=0")


def test_a_conversation_is_typed(monkeypatch, capsys, folders):
    """Fails if an answer is not part of what comes next, or the end of input is an error."""
    from lm.train.generating import Generating

    asked = []

    def stream_chat(self, messages, **_):
        asked.append([each["content"] for each in messages])
        return iter([_Told("Yes"), _Told(".")])

    class _Told:
        def __init__(self, text):
            self.text = text

    monkeypatch.setattr(Generating, "stream_chat", stream_chat)
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hi\n\nWhy?\n"))
    main(["generate", str(folders / "gpt"), "--chat", "--system", "Be brief"])
    assert capsys.readouterr().out == "Yes.\nYes.\n"
    assert asked == [["Be brief", "Hi"], ["Be brief", "Hi", "Yes.", "Why?"]]


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def test_small_colours_are_for_terminals(monkeypatch):
    """Fails if probabilities are not coloured, or what was added is not set off."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stdout", _Terminal())
    print_shown([ShownToken("a", 0.9, (("b", 0.1),), added=True)], asked=0, price=None)
    assert "\x1b[4;30;42ma" in sys.stdout.getvalue() and "'b' 0.100" in sys.stdout.getvalue()
    monkeypatch.setattr(sys, "stdout", _Terminal())
    assert stream_parts("a", iter(["b", "", "c"])) == "bc"
    assert sys.stdout.getvalue().startswith("a\x1b[1;32mb")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["x", "--top-p", "0"], "--top-p 0.0: must be > 0 and <= 1"),
        (["x", "--min-p", "2"], "--min-p 2.0: must be >= 0 and <= 1"),
        (["x", "--alternatives", "21", "--show"], "--alternatives 21: must be >= 0 and <= 20"),
        (["x", "--price", "1"], "--price: is part of what --show shows"),
        (["x", "--beams", "2", "--top-k", "3"], "--top-k: beams draw nothing"),
        (["x", "--beams", "2", "--show"], "--beams: with a text alone"),
        (["x", "--length-penalty", "1"], "--length-penalty: is of beams"),
        (["--chat", "a", "--chat", "", "--chat", "b"], "--chat without a message talks at the"),
    ],
)
def test_oneline_what_does_not_go_together_is_refused(capsys, folders, arguments, why):
    """Fails if an option is dropped in silence."""
    with pytest.raises(SystemExit) as refused:
        main(["generate", str(folders / "gpt"), *arguments])
    assert refused.value.code == 2
    assert capsys.readouterr().err.startswith(f"lm: {why}")
