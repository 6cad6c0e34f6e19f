"""Adapters as PEFT keeps them: what it answers, there and back, and what is refused."""

import json
import re
import shutil

import numpy as np
import pytest

import lm
from lm.artifact import by_name
from lm.cli import main
from lm.hub.peft import WEIGHTS, write_adapter
from lm.output.tensors import LazyArray, read_file, write_file
from tests.hub.test_families import GOLDEN, TOLERANCE, reference_of

ADAPTERS = GOLDEN / "adapters"


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_an_adapter_answers_as_with_peft_and_goes_back(name, tmp_path):
    """Fails if A or B is taken for another or turned over, or added another number of times."""
    folder = ADAPTERS / name
    model = lm.load_model(GOLDEN / name, adapter=folder)
    rows, _ = reference_of(GOLDEN / name)
    wanted = json.loads((folder / "reference.json").read_text())["logits"]
    text = rows["input_ids"], rows["attention_mask"], rows.get("token_type_ids")
    found = model.logits(*text)
    for row, answer in enumerate(np.array(each) for each in wanted):
        assert np.abs(found[row, : len(answer)] - answer).max() < TOLERANCE
    put_on = model.adapter.card.adapter
    assert (put_on.lora.rank, put_on.lora.alpha, put_on.lora.scale) == (4, 6.0, 1.5)
    arrays = {n: LazyArray.of(array) for n, array in by_name(model.adapter.params).items()}
    write_adapter(tmp_path / "back", put_on, arrays, model.card, model.tokenizer)
    theirs, ours = read_file(folder / WEIGHTS), read_file(tmp_path / "back" / WEIGHTS)
    assert theirs.keys() == ours.keys()
    assert all(np.array_equal(theirs[n].whole(), ours[n].whole()) for n in theirs)
    again = lm.load_model(GOLDEN / name, adapter=tmp_path / "back")
    assert np.array_equal(again.logits(*text), found)


def test_a_model_without_a_head_has_shorter_names(tmp_path):
    """Fails if an adapter of `BertModel` is refused, or is written as of one with a head."""
    folder = shutil.copytree(ADAPTERS / "bert", tmp_path / "bare")
    theirs = {
        name.replace("model.bert.", "model."): array
        for name, array in read_file(ADAPTERS / "bert" / WEIGHTS).items()
    }
    write_file(folder / WEIGHTS, theirs)
    model = lm.load_model(GOLDEN / "bert-bare", adapter=folder)
    assert len(by_name(model.adapter.params)) == 2 * 4
    arrays = {n: LazyArray.of(array) for n, array in by_name(model.adapter.params).items()}
    put_on = model.adapter.card.adapter
    write_adapter(tmp_path / "back", put_on, arrays, model.card, model.tokenizer)
    back = read_file(tmp_path / "back" / WEIGHTS)
    assert back.keys() == theirs.keys()
    pattern = json.loads((tmp_path / "back" / "adapter_config.json").read_text())
    assert re.fullmatch(pattern["target_modules"], "encoder.layer.1.output.dense")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"use_rslora": True}, "use_rslora=True is nothing that is computed here; only False"),
        ({"use_dora": True}, "use_dora=True is nothing"),
        ({"bias": "all"}, "bias=all is nothing"),
        ({"peft_type": "LOHA"}, "peft_type=LOHA is nothing"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern="),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save="),
        ({"init_lora_weights": "pissa"}, "init_lora_weights=pissa may have changed the model"),
        ({"new_option": 3}, "new_option=3 is an option that is not known here"),
        ({"r": None}, "r is missing"),
        ({"r": 3}, "lora_A.weight is"),
        ({"lora_alpha": "x"}, "could not convert"),
    ],
)
def test_oneline_an_option_that_changes_what_is_computed(changes, line, tmp_path):
    """Fails if it is passed over, and the adapter answers otherwise than it was trained."""
    folder = shutil.copytree(ADAPTERS / "llama", tmp_path / "llama")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(lm.UserError, match=f"^{tmp_path}[^\\n]*{line}[^\\n]*$"):
        lm.load_model(GOLDEN / "llama", adapter=folder)


def test_oneline_an_adapter_of_another_family_or_alone():
    """Fails if tensors that have no matrix are passed over."""
    with pytest.raises(lm.UserError, match=r"tensor base_model.* is left over: of no matrix"):
        lm.load_model(GOLDEN / "bert", adapter=ADAPTERS / "llama")
    with pytest.raises(lm.UserError, match="an adapter, and no model: give it as adapter="):
        lm.load_model(ADAPTERS / "llama")


def test_the_commands_import_and_export_it(tmp_path, capsys):
    """Fails if an import loses its digest or its numbers, or is written without a base."""
    tokenizers = pytest.importorskip("tokenizers")
    folder, ours = ADAPTERS / "llama", tmp_path / "ours"
    base = shutil.copytree(GOLDEN / "llama", tmp_path / "base")
    words = tokenizers.models.WordLevel({f"w{id}": id for id in range(64)}, unk_token="w0")
    tokenizers.Tokenizer(words).save(str(base / "tokenizer.json"))
    with pytest.raises(SystemExit):
        main(["import", str(folder), str(ours)])
    assert "--base MODEL says what it is put on" in capsys.readouterr().err
    main(["import", str(folder), str(ours), "--base", str(base)])
    assert lm.load_model(ours).adapter.card.adapter.digest == lm.load_model(base).digest
    main(["export", str(ours), str(tmp_path / "back"), "--adapter", "--format", "hf"])
    assert "an adapter as PEFT reads it" in capsys.readouterr().out
    theirs, back = read_file(folder / WEIGHTS), read_file(tmp_path / "back" / WEIGHTS)
    assert all(np.array_equal(theirs[n].whole(), back[n].whole()) for n in theirs)
