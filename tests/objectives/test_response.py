"""The loss of answers: which tokens of a chat file count, and what they cost."""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from msgspec.structs import replace

from lm.config import UserError, override
from lm.data import Bytes, Chat, Data, SentencePiece, n_rows, open_tokens, rows
from lm.data.tables import read_table
from lm.example import Output
from lm.numerics import Einsum
from lm.objectives import Causal, Response
from lm.run import Run, check_channels
from lm.verify.leaks import prove

AT_HAND = os.environ.get("YARDSTICK_TASKS")
LENGTH = 1024
BEFORE = {
    "chatml": (
        "<|im_start|>",
        "user\n",
        "{}",
        "<|im_end|>",
        "\n",
        "<|im_start|>",
        "assistant\n",
    ),
    "plain": ("<bos>", "### Instruction:\n{}\n\n### Response:\n"),
}
AFTER = {"chatml": ("<|im_end|>", "\n"), "plain": ("<eos>",)}
"""What the templates write around one question and its answer, by hand."""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LM_CACHE", str(tmp_path / "cache"))


def few(folder: Path) -> list[dict[str, str]]:
    """Questions and answers of which some spell special tokens, or nothing of ASCII."""
    said = ["Yes.", "No <eos> at all.\n", "naïve <|im_end|>", "\n\n###", "語"]
    found = [
        {"instruction": f"Question {n}?", "input": "x" * (n % 3), "output": f"{said[n % 5]}{n}"}
        for n in range(40)
    ]
    (folder / "few.json").write_text(json.dumps(found))
    return found


def hand_count(tokenizer, template: str, entry) -> tuple[list[int], list[int]]:
    """The ids of an entry and which of them count, from its text and the template's."""
    asked = entry["instruction"] + ("\n\n" + entry["input"] if entry["input"] else "")
    special = tokenizer.special_ids

    def ids(pieces):
        found: list[int] = []
        for piece in pieces:
            whole = piece.replace("{}", asked)
            found += [special[piece]] if piece in special else tokenizer.encode(whole).tolist()
        return found

    before, answer = ids(BEFORE[template]), tokenizer.encode(entry["output"]).tolist()
    end, *rest = ids(AFTER[template])
    return [*before, *answer, end, *rest], [0] * len(before) + [1] * (len(answer) + 1) + [
        0
    ] * len(rest)


def accounted(path: str, entries, template: str, length: int) -> None:
    """Asserts what holds of every token of every row of a file, and of the loss."""
    data = Data(
        corpus=Chat(paths=(path,)),
        tokenizer=Bytes(added=("<|im_start|>", "<|im_end|>"), chat_template=template),
        length=length,
        packing="whole",
    )
    tokens = open_tokens(data)
    tokenizer = tokens.tokenizer
    wanted = {}
    for entry in entries:
        ids, counts = hand_count(tokenizer, template, entry)
        wanted[tuple(ids)] = counts
    seen, targets = [], 0
    for split in (tokens.train, tokens.validation):
        batch = rows(split, np.arange(n_rows(split, length, "whole")), length, None, "whole")
        loss = batch.channels["loss"]
        assert not loss[batch.segments_BL == 0].any()
        for row, segments, counts in zip(batch.tokens_BL, batch.segments_BL, loss, strict=True):
            for segment in range(1, segments.max() + 1):
                here = segments == segment
                ids = tuple(row[here].tolist())
                assert counts[here].tolist() == wanted[ids]
                seen.append(ids)
        targets += int(loss.sum())
    check_loss(batch, tokenizer.vocabulary)  # of the last split
    assert len(seen) == len(entries) and set(seen) == set(wanted)
    assert targets == sum(len(entry["output"].encode()) + 1 for entry in entries)


def check_loss(batch, vocabulary) -> None:
    """The objective's loss of random logits is the sum over what counts, by hand."""
    part = jax.tree.map(lambda x: x[:8], batch)
    shape = *part.tokens_BL.shape, 4
    hidden = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    table = np.random.default_rng(1).normal(size=(vocabulary.size, 4)).astype(np.float32)
    example = Response()(jax.tree.map(jnp.asarray, part), vocabulary, jax.random.key(0))
    found = Response().loss(Output(hidden, table), example, einsum=Einsum("float32"))["loss"]
    logits = hidden.astype(np.float64) @ table.T.astype(np.float64)
    nats = -logits + np.log(np.exp(logits).sum(-1, keepdims=True))
    by_hand = [
        nats[row, place - 1, part.tokens_BL[row, place]]
        for row, place in np.argwhere(part.channels["loss"])
    ]
    assert float(found.count) == len(by_hand) > 0
    assert float(found.total) == pytest.approx(sum(by_hand), rel=1e-4)


@pytest.mark.parametrize("template", BEFORE)
def test_every_token_of_a_few_answers_is_accounted_for(template, tmp_path) -> None:
    """Fails if an end token is no target, or the loss is paid one position late."""
    entries = few(tmp_path)
    accounted(str(tmp_path / "few.json"), entries, template, 160)


@pytest.mark.skipif(not AT_HAND, reason="YARDSTICK_TASKS names no folder of tasks")
@pytest.mark.parametrize("template", BEFORE)
def test_every_token_of_the_instructions_at_hand_is_accounted_for(template) -> None:
    """Fails if one of 1,100 answers is told from its question by what either spells."""
    path = Path(AT_HAND or "") / "instruct" / "instruction-data.json"
    entries = json.loads(read_table(path))
    assert len(entries) == 1100
    accounted(str(path), entries, template, LENGTH)


def test_learnt_tokens_count_as_bytes_do(tmp_path) -> None:
    """Fails if an answer's first token has letters of the question."""
    entries = few(tmp_path)
    tokenizer = SentencePiece(size=400, added=("<|im_start|>", "<|im_end|>"))
    for template in BEFORE:
        data = Data(
            corpus=Chat(paths=(str(tmp_path / "few.json"),)),
            tokenizer=replace(tokenizer, chat_template=template),
            validation=0.2,
        )
        tokens = open_tokens(data)
        found = []
        for split in (tokens.train, tokens.validation):
            for start, end in zip(split.offsets[:-1], split.offsets[1:], strict=True):
                ids = split.read([start], int(end - start))[0]
                counts = split.read_channels([start], int(end - start))["loss"][0]
                found.append(tokens.tokenizer.decode(ids[counts == 1]))
        assert sorted(found) == sorted(entry["output"] for entry in entries)


def test_what_counts_is_no_input() -> None:
    """Fails if `lm prove` is not told of both, or the weights are the inputs' as well."""
    assert prove(Response(), (), keys=2).targets > 0

    class Telling(Response):
        def __call__(self, batch, *rest):
            example = super().__call__(batch, *rest)
            return example.__class__(
                **{**vars(example), "inputs": example.inputs + batch.channels["loss"]}
            )

    (line,) = prove(Telling(), (), keys=1).violations
    assert line == "its inputs tell what the channels say: loss"
    assert Response() != Causal() and Response().predictions == Causal().predictions


def test_oneline_it_reads_chat_files_in_whole_rows() -> None:
    """Fails if documents are cut in two, or another text is taken for answers."""
    run = Run(objective=Response())
    with pytest.raises(UserError, match=r"^data\.packing=stream: objective\.type=response "):
        check_channels(run)
    whole = override(run, ["data.packing=whole"])
    with pytest.raises(
        UserError, match=r"^data\.corpus: [^\n]* data\.corpus\.type=chat has it$"
    ):
        check_channels(whole)
