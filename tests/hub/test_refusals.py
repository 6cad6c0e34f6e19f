"""What is not known is refused by name, in one line."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lm.config import UserError
from lm.data import Bytes
from lm.hub.base import FamilySettings, transformer_of
from lm.hub.folder import HfFolder, open_folder
from lm.hub.writing import choose_family
from lm.model import Convolution, LinearRecurrence, Lstm, Transformer
from lm.model.layers import LayerNorm
from lm.model.positions import Learned
from lm.objectives import Causal, Masked, Prefix, StatesOnly
from lm.run import Run, check_channels

GOLDEN = Path(__file__).parents[1] / "golden" / "hub"


@pytest.fixture
def changed(tmp_path):
    """A golden folder with options and tensors replaced; None leaves one out."""

    def change(name, options=(), tensors=()):
        config = json.loads((GOLDEN / name / "config.json").read_text()) | dict(options)
        config = {key: value for key, value in config.items() if value is not ...}
        (tmp_path / "config.json").write_text(json.dumps(config))
        arrays = load_file(GOLDEN / name / "model.safetensors") | dict(tensors)
        arrays = {key: array for key, array in arrays.items() if array is not None}
        save_file(arrays, tmp_path / "model.safetensors")
        return tmp_path

    return change


ONES = np.ones(3, np.float32)
CASES = {
    "family": ("llama", {"model_type": "mamba"}, {}, "model_type=mamba is no family.*llama"),
    "option": ("llama", {"new_thing": 3}, {}, "new_thing=3 is an option that is not known"),
    "activation": (
        "gpt2",
        {"activation_function": "quick_gelu"},
        {},
        "activation_function=quick",
    ),
    "decoder": ("bert", {"is_decoder": True}, {}, "is_decoder=True .* only False"),
    "left over": (
        "llama",
        {},
        {"model.extra.weight": ONES},
        "tensor model.extra.weight is left",
    ),
    "missing": (
        "llama",
        {},
        {"model.norm.weight": None},
        "tensor model.norm.weight is missing",
    ),
    "shape": (
        "llama",
        {},
        {"model.norm.weight": ONES},
        r"model.norm.weight is \[3\], and .*\[16\]",
    ),
    "no base": (
        "llama",
        {"rope_parameters": None},
        {},
        "neither rope_theta nor rope_parameters",
    ),
    "two bases": ("llama", {"rope_theta": 1e4}, {}, "rope_theta=10000.0 .* is not what"),
    "scaling": (
        "llama",
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
        {},
        "type dynamic are not computed",
    ),
    "partial": (
        "llama",
        {"partial_rotary_factor": 0.5, "rope_theta": 500.0},
        {},
        "partial_rotary",
    ),
    "scales": (
        "gpt2-odd",
        {"scale_attn_weights": False},
        {},
        "scale_attn_by_inverse_layer_idx without",
    ),
    "layer types": (
        "qwen2",
        {"layer_types": ["chunked_attention"] * 2},
        {},
        "chunked_attention",
    ),
    "copy": (
        "llama",
        {},
        {"lm_head.weight": np.ones((64, 16), np.float32)},
        "lm_head.weight is not model.embed_tokens.weight",
    ),
    "type": ("llama", {"num_hidden_layers": "two"}, {}, "config.json: .*depth"),
    "no heads": ("llama", {"num_attention_heads": 0}, {}, "a value that it cannot have"),
    "window": ("modernbert-decoder", {"sliding_window": 5}, {}, "sliding_window=5 is not half"),
}


@pytest.mark.parametrize(("name", "options", "tensors", "said"), CASES.values(), ids=CASES)
def test_what_is_not_known_is_refused_by_name(changed, name, options, tensors, said):
    """Fails if an option or a tensor is passed over, or the line does not name it."""
    with pytest.raises(UserError, match=said) as error:
        open_folder(changed(name, options, tensors))
    assert "\n" not in str(error.value)


def test_a_tied_head_that_is_written_twice_is_taken(changed):
    """Fails if a copy of the table is called left over."""
    table = load_file(GOLDEN / "llama" / "model.safetensors")["model.embed_tokens.weight"]
    folder = changed("llama", {}, {"lm_head.weight": table})
    assert "unembedding" not in HfFolder(folder).arrays


def test_what_is_known_and_not_computed_is_said():
    """Fails if a pooler is refused, or passed over in silence."""
    assert (
        open_folder(GOLDEN / "bert-bare")
        .said[0]
        .startswith("bert.pooler.dense.bias and 1 more")
    )


def test_a_folder_of_something_else_is_said_to_be(tmp_path):
    """Fails if a traceback says that a file is missing."""
    with pytest.raises(UserError, match=r"no Hugging Face folder: it has no config.json"):
        open_folder(tmp_path)


def test_pickles_are_not_read(tmp_path):
    """Fails if a file that runs code is loaded, or how to convert it is left out."""
    (tmp_path / "config.json").write_bytes((GOLDEN / "gpt2" / "config.json").read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match=r"pytorch_model.bin is a pickle.*save_pretrained"):
        open_folder(tmp_path)


def test_nothing_is_trained_on_states():
    """Fails if a run with nothing to predict begins."""
    with pytest.raises(UserError, match=r"^objective.type=states predicts nothing"):
        check_channels(Run(objective=StatesOnly()))


GPT2 = Transformer(
    norm=LayerNorm(), positions=Learned(length=64), attention_bias="all", mlp_bias="all"
)
EXPORTS = {
    "the default": (Transformer(), Causal(), "arcee"),
    "gated": (Transformer(mlp="swiglu"), Causal(), "llama"),
    "learned positions": (GPT2, Causal(), "gpt2"),
}


@pytest.mark.parametrize(("model", "objective", "kind"), EXPORTS.values(), ids=EXPORTS)
def test_models_of_ours_find_their_family(model, objective, kind):
    """Fails if a model that a family has is refused, or goes to another family."""
    assert choose_family(FamilySettings(model, objective, 32, 260)).kind == kind


@pytest.mark.parametrize(
    ("model", "objective", "said"),
    [
        (Transformer(embedding_norm="norm"), Causal(), "has model.embedding_norm=none"),
        (Transformer(), Masked(), "objective.type="),
        (Transformer(), Prefix(), "objective.type="),
        (Transformer(logit_softcap=30.0), Causal(), "arcee .* model.logit_softcap=null"),
    ],
    ids=["embedding norm", "masked", "prefix", "softcap"],
)
def test_what_no_family_has_is_named(model, objective, said):
    """Fails if a part is dropped on the way out."""
    with pytest.raises(UserError, match=said):
        choose_family(FamilySettings(model, objective, 64, Bytes().vocabulary_size))


@pytest.mark.parametrize("model", [Lstm(), Convolution(), LinearRecurrence()], ids=str)
def test_a_model_without_attention_is_no_transformer(model):
    """Fails if an export goes on until a field is missing."""
    with pytest.raises(UserError, match=f"^no family .* like model.type={model.kind}$"):
        transformer_of(model)
