"""A model is a thing: it goes elsewhere, and other runs start from it."""

import json
import os
import random
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from msgspec.structs import replace

from lm.artifact import by_name, load_artifact, save_artifact
from lm.config import UserError, dump, override, parse
from lm.data import Data, SentencePiece, Text
from lm.distributed import mesh
from lm.model import Transformer
from lm.optimizer import Adamw
from lm.run import Run, decided_by, identity
from lm.train.directory import checkpoints_of
from lm.train.load import load_model
from lm.train.start import begin, started_params
from lm.train.step import prepare
from lm.train.train import train_run

WORDS = ("one", "two", "three", "four", "five")


def corpus(folder: Path) -> tuple[str, ...]:
    random_ = random.Random(0)
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}.txt").write_text(" ".join(random_.choices(WORDS, k=60)))
    return (f"{folder}/*.txt",)


@pytest.fixture(scope="module")
def parent(tmp_path_factory) -> Path:
    """A run whose corpus and cache are gone, and which was moved."""
    folder = tmp_path_factory.mktemp("parent")
    tokenizer = SentencePiece(size=275)
    run = Run(
        data=Data(
            corpus=Text(paths=corpus(folder / "corpus")),
            tokenizer=tokenizer,
            length=16,
            batch=8,
            validation=0.2,
        ),
        model=Transformer(depth=1, width=16, heads=2),
        optimizer=Adamw(learning_rate=1e-2),
        tokens=8 * 8 * 16,
        precision="float32",
        evaluations=1,
    )
    cache = os.environ["LM_CACHE"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LM_CACHE", str(folder / "cache"))
        train_run(run, folder / "run")
    assert os.environ["LM_CACHE"] == cache
    shutil.rmtree(folder / "corpus")
    shutil.rmtree(folder / "cache")
    return Path((folder / "run").rename(folder / "elsewhere"))


@pytest.fixture(scope="module")
def exported(parent, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    save_artifact(load_model(parent).artifact, folder)
    return folder


@pytest.fixture
def child(tmp_path, parent) -> Run:
    """A run on other text."""
    return Run(
        data=Data(corpus=Text(paths=corpus(tmp_path / "text")), length=16, batch=8),
        optimizer=Adamw(learning_rate=1e-2),
        tokens=8 * 8 * 16,  # the parent's, so that both are one compiled program
        precision="float32",
        evaluations=1,
    )


def start(run: Run, path: Path, *overrides: str) -> Run:
    return override(run, [f"start.path={path}", *overrides])


def same(a, b) -> bool:
    a, b = by_name(a), by_name(b)
    return a.keys() == b.keys() and all(np.array_equal(a[n], b[n]) for n in a)


def test_a_model_needs_neither_its_corpus_nor_a_cache(parent, exported):
    """Fails if a run cannot be loaded where its text is gone, or another tokenizer is made."""
    here, there = load_model(parent), load_model(exported)
    assert same(here.params, there.params)
    assert here.tokenizer.digest == there.tokenizer.digest
    assert here.lengths == there.lengths is not None
    text = "three four"
    assert there.tokenizer.decode(there.tokenizer.encode(text)) == text
    assert there.run.model == here.run.model and there.run.objective == here.run.objective
    assert there.origin.step == 8 and there.origin.consumed.tokens == 1024
    assert here.artifact.digest == there.artifact.digest == load_artifact(exported).digest


def test_parameters_may_be_in_shards(parent, tmp_path):
    """Fails if a shard is lost, or a file is larger than it may be."""
    whole = load_model(parent).artifact
    save_artifact(whole, tmp_path / "model", shard=6000)
    files = list((tmp_path / "model").glob("model-*.safetensors"))
    assert len(files) > 2 and not (tmp_path / "model" / "model.safetensors").exists()
    assert load_artifact(tmp_path / "model").digest == whole.digest
    files[0].unlink()
    with pytest.raises(UserError, match="damaged"):
        load_artifact(tmp_path / "model")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer"])
def test_what_is_missing_or_cut_is_one_line(exported, tmp_path, name):
    broken = Path(shutil.copytree(exported, tmp_path / "broken"))
    path = broken / name
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match="broken") as raised:
        load_model(broken)
    assert "\n" not in str(raised.value)


def test_a_folder_that_holds_something_is_not_written_over(parent, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="not an empty folder"):
        save_artifact(load_model(parent).artifact, tmp_path)


def test_training_starts_from_a_model(child, parent, exported, tmp_path):
    """Fails if drawn parameters are trained, or what the start consumed is forgotten."""
    run = start(child, parent)
    result = train_run(run, tmp_path / "run")
    trained = load_model(tmp_path / "run")
    assert trained.run.model == load_model(parent).run.model
    assert trained.tokenizer.digest == load_model(parent).tokenizer.digest
    assert trained.origin.consumed.tokens == 1024 + 8 * 128
    assert result["start"].consumed.tokens == 1024
    first = first_loss(tmp_path / "run")
    scratch = replace(load_run(tmp_path / "run"), start=None)
    train_run(scratch, tmp_path / "scratch")
    assert first < first_loss(tmp_path / "scratch")
    # The start is known by its digest: its path is in nobody's identity.
    mine = load_run(tmp_path / "run")
    moved = start(child, exported)
    assert train_run(moved, tmp_path / "run")["batches_digest"] == result["batches_digest"]
    assert "path" not in identity(mine)["start"]


def first_loss(directory: Path) -> float:
    with (directory / "metrics.jsonl").open() as lines:
        return json.loads(next(lines))["loss"]


def load_run(directory: Path) -> Run:
    return parse(Run, (directory / "config.json").read_bytes(), "config.json")


def test_a_run_that_starts_from_a_model_goes_on_as_if_it_had_not_stopped(
    child, parent, tmp_path
):
    """Fails if it begins with the start again, and not with its checkpoint."""
    run = start(child, parent)
    train_run(run, tmp_path / "whole")
    short = override(run, ["checkpoints.steps=4"])
    train_run(short, tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts" / "checkpoints" / "8")
    (tmp_path / "parts" / "result.json").unlink()
    train_run(short, tmp_path / "parts")
    assert same(load_model(tmp_path / "whole").params, load_model(tmp_path / "parts").params)


def test_parameters_that_do_not_fit_are_refused_or_left_out_by_name(
    child, parent, tmp_path, capfd
):
    """Fails if a model is trained of which a part was drawn without a word."""
    run = start(child, parent, "model.depth=1", "model.width=16", "model.heads=2")
    run = override(run, ["model.mlp_width=24"])
    with pytest.raises(UserError, match=r"layers/down.*does not fit.*start.parameters=fitting"):
        train_run(run, tmp_path / "refused")
    train_run(override(run, ["start.parameters=fitting"]), tmp_path / "run")
    assert (
        "new: layers/down, layers/up; left out: layers/down, layers/up"
        in capfd.readouterr().err
    )


def test_another_tokenizer_than_the_starts_is_refused(child, parent, tmp_path):
    run = start(child, parent, "data.tokenizer.type=bytes")
    with pytest.raises(UserError, match=r"^data.tokenizer: is not that of start.path="):
        train_run(run, tmp_path / "run")


def test_named_tokens_come_after_those_of_the_start(child, parent, tmp_path):
    """Fails if an old id or row changes, a new one is far from the mean, or text is parsed."""
    before = load_model(parent)
    size = before.tokenizer.vocabulary.size
    run = start(child, parent, 'start.add_tokens=["<user>", "five"]')
    begun = begin(run)
    assert begun.tokenizer.added == {"<user>": size, "five": size + 1}
    text = "five <user>"
    assert np.array_equal(begun.tokenizer.encode(text), before.tokenizer.encode(text))
    alone = mesh.make(mesh.Mesh(), jax.devices()[:1])
    program = prepare(begun.run, begun.tokenizer.vocabulary, alone)
    params, new, left_out = started_params(begun, program.init().params)
    assert (new, left_out) == (["rows of embedding for <user>, five"], [])
    old, now = by_name(before.params), by_name(params)
    table_VD = np.asarray(now.pop("embedding"))
    assert np.array_equal(table_VD[:size], old["embedding"])
    assert all(np.array_equal(now[name], old[name]) for name in now)
    off_VD = table_VD[size:] - np.asarray(old["embedding"]).mean(axis=0)
    assert off_VD.shape == (2, 16) and 0.01 < off_VD.std() < 0.03


def test_added_tokens_go_with_the_model(child, parent, tmp_path):
    """Fails if the directory or an artifact forgets them, or its settings are refused."""
    run = start(child, parent, 'start.add_tokens=["<user>"]')
    result = train_run(run, tmp_path / "run")
    assert train_run(load_run(tmp_path / "run"), tmp_path / "run") == result
    save_artifact(load_model(tmp_path / "run").artifact, tmp_path / "model")
    size = load_model(parent).tokenizer.vocabulary.size
    further = begin(start(child, tmp_path / "model", 'start.add_tokens=["<bot>"]'))
    assert further.tokenizer.added == {"<user>": size, "<bot>": size + 1}
    with pytest.raises(UserError, match=r"^start.add_tokens: .* <user> is there twice$"):
        begin(start(child, tmp_path / "model", 'start.add_tokens=["<user>"]'))
    assert identity(start(child, parent))["start"] == {"path": str(parent)}


def test_a_chat_template_goes_with_the_model(child, parent, tmp_path):
    """Fails if its tokens are not added, a start's is forgotten, or the start's is compared."""
    run = start(child, parent, "start.chat_template=chatml")
    train_run(run, tmp_path / "run")
    kept = load_run(tmp_path / "run")
    assert kept.start.add_tokens == ("<|im_start|>", "<|im_end|>")
    assert begin(kept).run == kept == begin(run).run
    asked = [{"role": "user", "content": "one"}]
    ids = load_model(tmp_path / "run").tokenizer.chat(asked, add_generation_prompt=True)
    size = load_model(parent).tokenizer.vocabulary.size
    assert [id - size for id in ids if id >= size] == [0, 1, 0]
    further = begin(start(child, tmp_path / "run"))
    assert further.tokenizer.chat(asked, add_generation_prompt=True).tolist() == ids.tolist()
    assert further.run.start.add_tokens == ()
    plain = begin(start(child, tmp_path / "run", "start.chat_template=plain"))
    assert plain.tokenizer.chat(asked)[0] == 2
    assert len({each.tokenizer.digest for each in (begin(kept), plain)}) == 2


def test_another_model_in_the_same_place_is_another_run(child, parent, exported, tmp_path):
    """Fails if a run goes on from a start that was replaced."""
    place = tmp_path / "start"
    shutil.copytree(exported, place)
    run = start(child, place)
    train_run(run, tmp_path / "run")
    shutil.rmtree(place)
    shutil.copytree(tmp_path / "run", place)
    with pytest.raises(UserError, match="holds another run: start differ"):
        train_run(run, tmp_path / "run")
    named = override(run, ["start.digest=0123456789abcdef"])
    with pytest.raises(UserError, match="has the digest"):
        train_run(named, tmp_path / "other")


def test_what_is_not_trainable_does_not_change(child, parent, tmp_path):
    """Fails if decay, momentum or the clip reaches frozen parameters, or all are frozen."""
    run = override(start(child, parent), ['trainable=["layers/up", "norm*"]'])
    train_run(run, tmp_path / "run")
    before, after = (
        by_name(load_model(parent).params),
        by_name(load_model(tmp_path / "run").params),
    )
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"layers/up", *(n for n in before if n.startswith("norm"))}
    with pytest.raises(UserError, match="trainable: layer/up matches no parameter; nearest"):
        train_run(override(run, ['trainable=["layer/up"]']), tmp_path / "no")


def test_frozen_parameters_have_no_state(child, parent, tmp_path):
    """Fails if adam keeps moments of what never changes."""
    run = override(Run(), ["model.depth=1", "model.width=16", "model.heads=2"])
    vocabulary = load_model(parent).tokenizer.vocabulary
    grid = mesh.make(mesh.Mesh(replica=1, fsdp=1, tensor=1, context=1), jax.devices()[:1])
    size = {}
    for name, given in (("all", run), ("some", override(run, ['trainable=["norm*"]']))):
        state = prepare(given, vocabulary, grid).abstract.optimizer
        size[name] = sum(leaf.size for leaf in jax.tree.leaves(state))
    assert size["some"] < 100 < size["all"]


def test_a_new_field_with_a_default_orphans_nobody():
    """Fails if folders and digests are made of all fields: each new one renames them."""
    run = parse(Run, dump(override(Run(), ["checkpoints.directory=gs://b", "seed=3"])), "x")
    assert identity(run) == {"seed": 3}
    place = checkpoints_of(run, Path("runs/a"))
    newer = ("start", "trainable", "adapter")
    older = {name for name in Run.__struct_fields__ if name not in newer}
    assert set(decided_by(run)) <= older
    assert place == checkpoints_of(override(run, ["evaluations=8"]), Path("runs/a"))
    assert place != checkpoints_of(override(run, ["evaluations=9"]), Path("runs/a"))


def test_raising_the_identity_changes_every_digest(monkeypatch):
    """Fails if a changed default would pass old results for new ones."""
    before = decided_by(Run(seed=1))
    monkeypatch.setattr("lm.run.IDENTITY", 2)
    assert decided_by(Run(seed=1)) == {
        **before,
        "identity": decided_by(Run(seed=1))["identity"],
    }
