"""Adapters as things: saved alone, put on their model again, and switched."""

import shutil
from dataclasses import replace as with_fields
from pathlib import Path

import numpy as np
import pytest

from lm.artifact import as_tree, by_name, load_artifact, save_artifact
from lm.cli import main
from lm.config import UserError, override
from lm.data import Data
from lm.model import Transformer
from lm.objectives import Causal
from lm.optimizer import Adamw, Lora
from lm.run import Run
from lm.train.checkpoint import restore
from lm.train.load import load_model, save_model
from lm.train.train import train_run
from tests import makers

MODEL = Transformer(depth=1, width=16, heads=2, mlp="swiglu", mlp_width=24, embedding="untied")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    makers.save_untrained(folder, Causal(), MODEL, length=16)
    return folder


@pytest.fixture(scope="module")
def run(base, tmp_path_factory) -> Run:
    corpus = makers.text(tmp_path_factory.mktemp("corpus"))
    made = Run(
        data=Data(corpus=corpus, length=16, batch=8, validation=0.2),
        optimizer=Adamw(learning_rate=1e-2),
        adapter=Lora(rank=2, targets=("layers/*",)),
        trainable=("norm/*",),
        tokens=8 * 8 * 16,
        precision="float32",
        evaluations=1,
        trackers=(),
    )
    return override(made, [f"start.path={base}", "checkpoints.steps=4"])


@pytest.fixture(scope="module")
def trained(run, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "adapter"
    train_run(run, directory)
    return directory


@pytest.fixture(scope="module")
def alone(trained, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "adapter"
    save_model(load_model(trained), folder, what="adapter")
    return folder


def same(a, b) -> bool:
    a, b = by_name(a), by_name(b)
    return a.keys() == b.keys() and all(np.array_equal(a[n], b[n]) for n in a)


def test_a_killed_run_goes_on_to_the_same_bits_and_saves_no_base(run, trained, tmp_path):
    """Fails if it goes on with another base or adapter, or the base is in every checkpoint."""
    parts = Path(shutil.copytree(trained, tmp_path / "parts"))
    shutil.rmtree(parts / "checkpoints" / "8")
    (parts / "result.json").unlink()
    train_run(run, parts)
    there = load_model(parts)
    assert there.origin.step == 8
    assert same(there.params, load_model(trained).params)
    for name in ("embedding", "layers"):
        array = there.params[name] if name == "embedding" else there.params[name]["up"]
        inside = {"embedding": array} if name == "embedding" else {"layers": {"up": array}}
        with pytest.raises(UserError, match=f"holds no params/{name}"):
            restore(str(parts / "checkpoints"), {"params": inside})


def test_an_adapter_alone_finds_its_model(base, trained, alone):
    """Fails if it holds the base, or lacks what else was trained, or is merged twice."""
    whole = load_model(trained)
    assert same(load_model(alone).params, whole.params)
    assert same(load_model(base, adapter=alone).params, whole.params)
    kept = by_name(load_artifact(alone).params)
    matrices = {f"lora/{name}/{part}" for name in MODEL.matrices() for part in "ab"}
    assert kept.keys() == matrices | {"norm/scale"}
    changed = {n for n, x in by_name(load_model(base).params).items()
               if not np.array_equal(x, by_name(whole.params)[n])}  # fmt: skip
    assert changed == MODEL.matrices().keys() | {"norm/scale"}
    assert whole.run.data.tokenizer == load_model(alone).run.data.tokenizer


def test_adapters_are_switched_on_one_model(base, alone, tmp_path):
    """Fails if putting one on changes the model below it, or copies what it leaves."""
    model = load_model(base)
    before = {name: np.array(array) for name, array in by_name(model.params).items()}
    adapter = load_artifact(alone)
    params = {name: -array for name, array in by_name(adapter.params).items()}
    save_artifact(adapter._replace(params=as_tree(params)), tmp_path / "other")
    one, other = model.with_adapter(alone), model.with_adapter(tmp_path / "other")
    again = model.with_adapter(alone)
    assert same(one.params, again.params) and not same(one.params, other.params)
    assert same(before, by_name(model.params))
    tokens_BL = np.full((1, 5), 7)
    assert not np.allclose(one.logits(tokens_BL), other.logits(tokens_BL))
    with pytest.raises(UserError, match="an adapter of the model with the digest"):
        one.with_adapter(tmp_path / "other")


def test_oneline_another_model_or_none_in_its_place(base, alone, trained, tmp_path):
    """Fails if an adapter is put on whatever lies where its model lay."""
    other = load_model(base)
    params = by_name(other.params)
    params["norm/scale"] = params["norm/scale"] * 2
    save_model(with_fields(other, params=as_tree(params)), tmp_path / "other")
    with pytest.raises(UserError, match=r"^[^\n]*: an adapter of the model with the dig"):
        load_model(tmp_path / "other", adapter=alone)
    with pytest.raises(UserError, match="a whole model, and no adapter"):
        load_model(base, adapter=tmp_path / "other")
    with pytest.raises(UserError, match="the model has no adapter"):
        save_model(other, tmp_path / "no", what="adapter")
    moved = base.rename(tmp_path / "moved")
    try:
        for path in (alone, trained):
            with pytest.raises(UserError, match=r"whose model is not where it was[^\n]*$"):
                load_model(path)
        assert load_model(moved, adapter=alone).adapter is not None
    finally:
        moved.rename(base)


def test_the_commands_train_and_export_adapters(base, run, trained, tmp_path, capsys):
    """Fails if the options do nothing, or an export does not say which of the two it is."""
    text, made = run.data.corpus.paths[0], str(tmp_path / "run")
    # The settings of the run above, which is compiled.
    main(["train", "-", "--dir", made, f"start.path={base}", "adapter.rank=2",
          'adapter.targets=["layers/*"]', 'trainable=["norm/*"]', "data.corpus.type=text",
          f'data.corpus.paths=["{text}"]', "data.length=16", "data.batch=8",
          "data.validation=0.2", "optimizer.learning_rate=1e-2", "tokens=1024",
          "evaluations=1", "precision=float32", "trackers=[]"])  # fmt: skip
    assert "params_trainable" in capsys.readouterr().out
    params = load_model(trained).params

    def export(name: str, *options: str) -> str:
        main(["export", made, str(tmp_path / name), *options])
        return capsys.readouterr().out

    def refused(*arguments: object) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(map(str, arguments)))
        assert ended.value.code == 2
        return capsys.readouterr().err

    assert "--merge writes a whole model" in refused("export", made, tmp_path / "none")
    assert "parameters" in export("whole", "--merge")
    assert same(load_artifact(tmp_path / "whole").params, params)
    export("alone", "--adapter")
    assert same(load_model(tmp_path / "alone").params, params)
    peft = tmp_path / "peft", "--adapter", "--format", "hf"
    assert "norm/scale: is no part of a low-rank adapter" in refused("export", made, *peft)
    assert "has no adapter" in refused("export", base, tmp_path / "no", "--merge")
