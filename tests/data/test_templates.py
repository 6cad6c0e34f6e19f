"""Chat templates by name or from a file, for tokenizers that have none."""

import json
from pathlib import Path

import pytest
import tokenizers
from msgspec.structs import replace

from lm.config import UserError, dump, parse
from lm.data import Bytes, Conversation, SentencePiece
from lm.data.conversations import end_of_answer, render_conversation
from lm.data.templates import TEMPLATES
from lm.data.tokenizers import (
    TokenizerConfig,
    from_hf_folder,
    load_tokenizer,
    open_tokenizer,
    save_tokenizer,
    to_hf_folder,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "hub" / "tokenizers"
TALK = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is a bit?"},
    {"role": "assistant", "content": "A unit."},
    {"role": "user", "content": "Of what?"},
    {"role": "assistant", "content": "News."},
)
WRITTEN = {
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is a bit?"
    "<|im_end|>\n<|im_start|>assistant\nA unit.<|im_end|>\n<|im_start|>user\nOf what?"
    "<|im_end|>\n<|im_start|>assistant\nNews.<|im_end|>\n",
    "plain": "<bos>Be brief.\n\n### Instruction:\nWhat is a bit?\n\n### Response:\nA unit.<eos>"
    "### Instruction:\nOf what?\n\n### Response:\nNews.<eos>",
}


def bytes_with(template: str) -> Bytes:
    return Bytes(added=("<|im_start|>", "<|im_end|>"), chat_template=template)


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_by_name_write_this(name) -> None:
    """Fails if a template lacks a token, a newline, or the end of an answer."""
    tokenizer = open_tokenizer(bytes_with(name))
    parts = tokenizer.chat_parts(TALK)
    names = {id: spelled for spelled, id in tokenizer.special_ids.items()}
    assert (
        "".join(names.get(p, "") if isinstance(p, int) else p for p in parts) == WRITTEN[name]
    )
    begun = tokenizer.chat(TALK[:2], add_generation_prompt=True).tolist()
    assert tokenizer.chat(TALK).tolist()[: len(begun)] == begun
    _, loss, _ = render_conversation(tokenizer, Conversation(TALK))
    assert loss.sum() == len("A unit.") + len("News.") + 2
    with pytest.raises(UserError, match="plain has no role tool"):
        open_tokenizer(bytes_with("plain")).chat([{"role": "tool", "content": "x"}])


def test_a_template_of_ones_own_is_kept_in_the_settings(tmp_path) -> None:
    """Fails if settings name a file that may be gone, or another template has one digest."""
    file = tmp_path / "mine.jinja"
    file.write_text("{% for m in messages %}{{ m.content }}<eos>{% endfor %}")
    config = Bytes(chat_template=str(file))
    assert config.chat_template == file.read_text()
    assert parse(TokenizerConfig, dump(config), "x") == config == replace(config, sentinels=0)
    tokenizer = open_tokenizer(config)
    assert tokenizer.chat(TALK[1:2]).tolist() == [*tokenizer.encode("What is a bit?"), 3]
    save_tokenizer(tokenizer, config, tmp_path / "saved")
    file.unlink()
    again = load_tokenizer(tmp_path / "saved")
    assert again.chat(TALK).tolist() == tokenizer.chat(TALK).tolist()
    digests = [
        open_tokenizer(each).digest
        for each in (Bytes(), config, Bytes(chat_template="plain"), Bytes(added=("a",)))
    ]
    assert len(set(digests)) == 4


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("chatm", "chat_template: chatm is no file of a Jinja template; [^\n]*chatml"),
        ("/nowhere.jinja", "chat_template: /nowhere.jinja is no file"),
    ],
)
def test_oneline_what_is_no_template_is_refused(template, why) -> None:
    """Fails if a misspelt name is taken for a template."""
    with pytest.raises(UserError, match=rf"^{why}[^\n]*$"):
        Bytes(chat_template=template)
    lacking = Bytes(chat_template="chatml", added=("<|im_end|>",)).check()
    assert lacking == "added: chat_template=chatml writes <|im_start|> too"


@pytest.mark.parametrize("name", ["gpt2", "smollm"])
def test_a_published_tokenizer_takes_another_template(name, tmp_path) -> None:
    """Fails if its digest stays, `eos_token` is unknown, or the files lose the template."""
    size = json.loads((GOLDEN / name / "reference.json").read_text())["size"]
    before, config = from_hf_folder(GOLDEN / name, size=size)
    after = replace(config, chat_template="plain").read_folder(GOLDEN / name)
    assert after.digest != before.digest and after.vocabulary == before.vocabulary
    assert end_of_answer(after) == config.eos
    _, loss, _ = render_conversation(after, Conversation(TALK))
    assert loss.sum() > 2
    to_hf_folder(after, tmp_path / "out")
    again, _ = from_hf_folder(tmp_path / "out", size=size)
    assert again.chat_template == TEMPLATES["plain"].text
    if name == "smollm":
        assert before.chat_template is not None
        assert again.chat(TALK).tolist() == after.chat(TALK).tolist()


@pytest.mark.parametrize(
    "config", [Bytes(), SentencePiece(size=380), SentencePiece(kind="unigram", size=330)]
)
def test_an_export_has_the_template_and_its_tokens(config, cache, tmp_path) -> None:
    """Fails if an added token is lost, or the template's tokens are read as text."""
    config = replace(config, added=("<|im_start|>", "<|im_end|>"), chat_template="chatml")
    learnt = [f"def area_{n}(self):\n    return '<{n}>' * 0x0A  # naïve\n" for n in range(200)]
    tokenizer = open_tokenizer(config, "exported", 0.1, 20_000, lambda: iter(learnt))
    to_hf_folder(tokenizer, tmp_path / "out")
    again, _ = from_hf_folder(tmp_path / "out", size=tokenizer.vocabulary.size)
    assert again.chat(TALK).tolist() == tokenizer.chat(TALK).tolist()
    said = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert said["split_special_tokens"] is False
    assert said["additional_special_tokens"] == ["<|im_start|>", "<|im_end|>"]


def test_a_published_tokenizers_export_has_added_tokens(tmp_path) -> None:
    """Fails if they have other ids in the file, or a table with empty rows is let through."""
    _, config = from_hf_folder(GOLDEN / "smollm", size=400)
    added = replace(config, added=("<|one|>",)).read_folder(GOLDEN / "smollm")
    to_hf_folder(added, tmp_path / "out")
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert library.token_to_id("<|one|>") == 400 == added.added["<|one|>"]
    wider = replace(config, added=("<|one|>",), size=408).read_folder(GOLDEN / "smollm")
    with pytest.raises(UserError, match=r"^the added tokens <\|one\|> have other ids [^\n]*$"):
        to_hf_folder(wider, tmp_path / "wider")
