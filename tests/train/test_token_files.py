"""Files of tokens as others share them train as they are: losses are those of their text."""

import json
from pathlib import Path

import numpy as np
import pytest

from lm.cli import main
from lm.train.trackers.jsonl import read_metrics
from tests.data.test_shared_sources import EOT, IDS, TEXTS, llm_c, megatron

HELD_OUT = 4
"""The last documents, of which both kinds of files are made alone."""

SETTINGS = (
    *("data.tokenizer.type=bytes", "data.length=16", "data.batch=4", "tokens=384"),
    *(
        "model.depth=1",
        "model.width=16",
        "model.heads=2",
        "precision=float32",
        "evaluations=1",
        "trackers=[]",
    ),
)


def as_text(folder: Path, part: slice) -> dict:
    lines = (json.dumps({"text": text}) + "\n" for text in TEXTS[part])
    (folder / "texts.jsonl").write_text("".join(lines))
    return {"type": "shards", "paths": [f"{folder}/*.jsonl"]}


def as_llm_c(folder: Path, part: slice) -> dict:
    """Behind an end-of-text token each, cut into shards within a document."""
    stream = np.concatenate([each for ids in IDS[part] for each in ([EOT], ids)])
    half = len(stream) // 2
    llm_c(folder / "fineweb_000001.bin", stream[:half])
    llm_c(folder / "fineweb_000002.bin", stream[half:])
    return {"type": "tokens", "paths": [f"{folder}/fineweb_*.bin"], "end": EOT}


def as_llama(folder: Path, part: slice) -> dict:
    stream = np.concatenate([each for ids in IDS[part] for each in ([EOT], ids)])
    llm_c(folder / "fineweb_000001.bin", stream, "<u4")
    return {"type": "tokens", "paths": [f"{folder}/fineweb_*.bin"], "end": EOT}


def as_nanogpt(folder: Path, part: slice) -> dict:
    """Before an end-of-text token each, in a file without a header."""
    stream = np.concatenate([each for ids in IDS[part] for each in (ids, [EOT])])
    (folder / "all.bin").write_bytes(stream.astype("<u2").tobytes())
    return {"type": "tokens", "paths": [f"{folder}/all.bin"], "end": EOT}


def as_megatron(folder: Path, part: slice) -> dict:
    """In two sequences each, with an index beside the tokens."""
    cut = [each for ids in IDS[part] for each in (ids[:5], np.append(ids[5:], EOT))]
    megatron(folder / "text_document.bin", cut, list(range(0, len(cut) + 1, 2)))
    return {"type": "tokens", "paths": [f"{folder}/text_document.bin"], "end": EOT}


def trained(folder: Path, layout) -> tuple[list[float], str, float]:
    """Losses, the digest of batches and the validation loss of `lm train` on a layout."""
    corpora = {}
    for name, part in (("train", slice(-HELD_OUT)), ("held_out", slice(-HELD_OUT, None))):
        (folder / name).mkdir(parents=True)
        corpora[name] = json.dumps(layout(folder / name, part))
    corpus = [f"data.corpus.{name}={corpus}" for name, corpus in corpora.items()]
    directory = folder / "run"
    settings = ("data.corpus.type=official", *corpus, *SETTINGS)
    main(["train", "-", "--dir", str(directory), "--json", *settings])
    result = json.loads((directory / "result.json").read_text())
    losses = [record["loss"] for record in read_metrics(directory) if "loss" in record]
    assert len(losses) == result["steps"] == 6
    return losses, result["batches_digest"], result["validation_loss"]


@pytest.fixture(scope="module")
def by_text(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[float], str, float]:
    return trained(tmp_path_factory.mktemp("text"), as_text)


@pytest.mark.parametrize("layout", [as_llm_c, as_llama, as_nanogpt, as_megatron])
def test_token_files_train_as_their_text_does(layout, tmp_path: Path, by_text) -> None:
    """Fails if a token, an end or a document of theirs is lost, or they need a conversion."""
    assert trained(tmp_path, layout) == by_text
