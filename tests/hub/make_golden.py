"""Tiny models made with other people's code, and what that code answers: tests/golden/hub.

`python -m tests.hub.make_golden [NAME ...]` makes all of them, or those named, anew. It needs
torch, transformers and safetensors, which nothing else here does; so they are imported where
they are used. tests/golden/hub/README.md says what a folder holds.
"""

import json
import shutil
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "golden" / "hub"
SEED = 15
LENGTHS = (20, 13)
"""Real tokens of the two rows; the second is padded to the length of the first."""


@dataclass(frozen=True)
class Golden:
    """One tiny model: its class in transformers, and its settings."""

    model: str
    """Class in transformers: `GPT2LMHeadModel`."""
    settings: dict[str, Any]
    """What its config is made of, where it is not transformers' default."""
    before_5: dict[str, Any] | None = None
    """Fields as versions before 5 wrote them: published folders are of that age."""
    replaced: tuple[str, ...] = ()
    """Fields that those stand for."""
    unfelt: tuple[str, ...] = ()
    """How names of tensors end that change no answer: a pooler; key biases without rotary."""
    separate_head: bool = False
    """T5 v1.1: transformers 5 ties the head at first, and unties it where a file has both."""
    shards: str | None = None
    """Size of shards of bfloat16 weights; where none is given, one file in float32."""
    inputs: tuple[str, ...] = ()
    """Further inputs: `token_type_ids`, `decoder_input_ids`."""


GPT2 = {
    "vocab_size": 64,
    "n_positions": 24,
    "n_embd": 16,
    "n_head": 4,
    "n_layer": 2,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
BERT = {
    "vocab_size": 64,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 24,
}
LLAMA = {
    "vocab_size": 64,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
}
MODERN = {
    "vocab_size": 64,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "local_attention": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "cls_token_id": 1,
    "eos_token_id": 2,
    "sep_token_id": 2,
}
T5 = {
    "vocab_size": 64,
    "d_model": 16,
    "d_kv": 6,
    "d_ff": 40,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
ROPE = ("rope_parameters",)

MODELS = {
    "gpt2": Golden("GPT2LMHeadModel", GPT2),
    "gpt2-odd": Golden(
        "GPT2LMHeadModel",
        GPT2
        | {
            "activation_function": "gelu",
            "layer_norm_epsilon": 1e-2,
            "n_inner": 37,
            "scale_attn_by_inverse_layer_idx": True,
        },
    ),
    "gpt2-unscaled": Golden(
        "GPT2LMHeadModel",
        GPT2
        | {
            "activation_function": "relu",
            "scale_attn_weights": False,
            "tie_word_embeddings": False,
        },
    ),
    "bert": Golden(
        "BertForMaskedLM",
        BERT,
        unfelt=("attention.self.key.bias",),
        inputs=("token_type_ids",),
    ),
    "bert-odd": Golden(
        "BertForMaskedLM",
        BERT
        | {
            "hidden_act": "gelu_new",
            "intermediate_size": 37,
            "layer_norm_eps": 1e-2,
            "tie_word_embeddings": False,
            "type_vocab_size": 3,
        },
        # An untied decoder has a bias of its own.
        unfelt=("attention.self.key.bias", "cls.predictions.bias"),
        inputs=("token_type_ids",),
    ),
    "bert-bare": Golden(
        "BertModel",
        BERT,
        unfelt=("attention.self.key.bias", "pooler.dense.weight", "pooler.dense.bias"),
        inputs=("token_type_ids",),
    ),
    "roberta": Golden(
        "RobertaForMaskedLM",
        BERT | {"layer_norm_eps": 1e-5, "max_position_embeddings": 26, "type_vocab_size": 1},
        unfelt=("attention.self.key.bias",),
    ),
    "distilbert": Golden(
        "DistilBertForMaskedLM",
        {
            "vocab_size": 64,
            "dim": 16,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 40,
            "max_position_embeddings": 24,
        },
        unfelt=("attention.k_lin.bias",),
    ),
    "llama": Golden(
        "LlamaForCausalLM",
        LLAMA
        | {
            "head_dim": 6,
            "rms_norm_eps": 1e-2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
            "tie_word_embeddings": True,
        },
        {"rope_theta": 500.0, "rope_scaling": None},
        ROPE,
    ),
    "llama-biases": Golden(
        "LlamaForCausalLM",
        LLAMA
        | {
            "attention_bias": True,
            "hidden_act": "gelu",
            "mlp_bias": True,
            "num_key_value_heads": 1,
        },
    ),
    "llama-linear": Golden(
        "LlamaForCausalLM",
        LLAMA
        | {
            "hidden_act": "gelu_pytorch_tanh",
            "num_key_value_heads": 4,
            "rope_parameters": {
                "rope_type": "linear",
                "rope_theta": 300.0,
                "factor": 2.5,
            },
        },
        {"rope_theta": 300.0, "rope_scaling": {"type": "linear", "factor": 2.5}},
        ROPE,
    ),
    "llama3": Golden(
        "LlamaForCausalLM",
        LLAMA
        | {
            "head_dim": 12,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 100.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 3.0,
                "original_max_position_embeddings": 32,
            },
        },
        {
            "rope_theta": 100.0,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 3.0,
                "original_max_position_embeddings": 32,
            },
        },
        ROPE,
    ),
    "llama-yarn": Golden(
        "LlamaForCausalLM",
        LLAMA
        | {
            "head_dim": 12,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 100.0,
                "factor": 4.0,
                "beta_fast": 4.0,
                "beta_slow": 0.5,
                "original_max_position_embeddings": 16,
            },
        },
        {
            "rope_theta": 100.0,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 4.0,
                "beta_fast": 4.0,
                "beta_slow": 0.5,
                "original_max_position_embeddings": 16,
            },
        },
        ROPE,
    ),
    "llama-yarn-factor": Golden(
        "LlamaForCausalLM",
        LLAMA
        | {
            "head_dim": 12,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1000.0,
                "factor": 4.0,
                "attention_factor": 0.7,
                "original_max_position_embeddings": 16,
            },
        },
    ),
    "llama-shards": Golden(
        "LlamaForCausalLM",
        LLAMA | {"attention_bias": True},
        shards="15KB",
    ),
    "smollm": Golden(
        "LlamaForCausalLM",
        LLAMA
        | {
            "hidden_size": 24,
            "is_llama_config": True,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "rms_norm_eps": 1e-5,
            "rope_interleaved": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
            "tie_word_embeddings": True,
            "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}},
        },
        {"rope_theta": 100000, "rope_scaling": None},
        ROPE,
    ),
    "mistral": Golden(
        "MistralForCausalLM",
        LLAMA | {"head_dim": 6, "rms_norm_eps": 1e-5, "sliding_window": 6},
        {"rope_theta": 10000.0},
        ROPE,
    ),
    "qwen2": Golden(
        "Qwen2ForCausalLM",
        LLAMA | {"rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}},
        {"rope_theta": 1000000.0, "rope_scaling": None},
        (*ROPE, "layer_types"),
    ),
    "qwen2-windows": Golden(
        "Qwen2ForCausalLM",
        LLAMA
        | {
            "max_window_layers": 1,
            "num_hidden_layers": 3,
            "sliding_window": 5,
            "tie_word_embeddings": True,
            "use_sliding_window": True,
        },
    ),
    "qwen3": Golden(
        "Qwen3ForCausalLM",
        LLAMA
        | {
            "head_dim": 10,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
            "tie_word_embeddings": True,
        },
        {"rope_theta": 1000000, "rope_scaling": None},
        (*ROPE, "layer_types"),
    ),
    "qwen3-biases": Golden(
        "Qwen3ForCausalLM",
        LLAMA | {"attention_bias": True, "head_dim": 4, "rms_norm_eps": 1e-2},
    ),
    "modernbert": Golden(
        "ModernBertForMaskedLM",
        MODERN
        | {
            "num_hidden_layers": 4,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 400.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 20.0},
            },
        },
        {
            "global_attn_every_n_layers": 3,
            "global_rope_theta": 400.0,
            "local_rope_theta": 20.0,
        },
        (*ROPE, "layer_types"),
    ),
    "modernbert-biases": Golden(
        "ModernBertForMaskedLM",
        MODERN
        | {
            "attention_bias": True,
            "classifier_activation": "silu",
            "classifier_bias": True,
            "decoder_bias": False,
            "global_attn_every_n_layers": 2,
            "hidden_activation": "gelu_new",
            "local_attention": 6,
            "mlp_bias": True,
            "norm_bias": True,
            "norm_eps": 1e-2,
            "num_hidden_layers": 3,
            "tie_word_embeddings": False,
        },
    ),
    "modernbert-bare": Golden("ModernBertModel", MODERN | {"num_hidden_layers": 3}),
    "modernbert-decoder": Golden(
        "ModernBertDecoderForCausalLM",
        MODERN
        | {
            "num_hidden_layers": 4,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 400.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 20.0},
            },
        },
        {
            "global_attn_every_n_layers": 3,
            "global_rope_theta": 400.0,
            "local_rope_theta": 20.0,
        },
        (*ROPE, "layer_types"),
    ),
    "modernbert-decoder-biases": Golden(
        "ModernBertDecoderForCausalLM",
        MODERN
        | {
            "attention_bias": True,
            "classifier_activation": "relu",
            "classifier_bias": True,
            "decoder_bias": False,
            "global_attn_every_n_layers": 2,
            "hidden_activation": "silu",
            "local_attention": 6,
            "mlp_bias": True,
            "norm_bias": True,
            "norm_eps": 1e-2,
            "num_hidden_layers": 3,
            "tie_word_embeddings": False,
        },
    ),
    "t5": Golden("T5ForConditionalGeneration", T5, inputs=("decoder_input_ids",)),
    "t5-v1.1": Golden(
        "T5ForConditionalGeneration",
        T5
        | {
            "feed_forward_proj": "gated-gelu",
            "layer_norm_epsilon": 1e-2,
            "num_decoder_layers": 1,
            "num_heads": 3,
            "relative_attention_max_distance": 11,
            "relative_attention_num_buckets": 7,
            "tie_word_embeddings": False,
        },
        {"tie_word_embeddings": False},
        ("scale_decoder_outputs",),
        inputs=("decoder_input_ids",),
        separate_head=True,
    ),
}


def main(names: list[str]) -> None:
    """Makes the golden folders named, or all."""
    import torch

    torch.set_num_threads(1)  # models as small as these are faster so, and their sums the same
    for name in names or MODELS:
        make(name, MODELS[name])
        size = sum(path.stat().st_size for path in (FOLDER / name).iterdir())
        print(f"{name:26} {size:7,} bytes", flush=True)


def make(name: str, golden: Golden) -> None:
    """Writes one golden folder; raises if a tensor of it changes no answer."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    model = getattr(transformers, golden.model)
    torch.manual_seed(SEED)
    made = model(model.config_class(**golden.settings)).eval()
    if golden.separate_head:
        made.lm_head.weight = torch.nn.Parameter(made.lm_head.weight.detach().clone())
        made.all_tied_weights_keys.pop("lm_head.weight")
    roughen(made)
    if golden.shards:
        made.to(torch.bfloat16).save_pretrained(folder, max_shard_size=golden.shards)
    else:
        made.save_pretrained(folder)

    options = {"attn_implementation": "eager", "dtype": torch.float32}
    loaded = model.from_pretrained(folder, **options).eval()
    inputs = rows(loaded.config, golden)
    output, answers = answer(loaded, inputs)
    assert all(value.std() > 1 or output != "logits" for value in answers), name
    for key, parameter in loaded.named_parameters():
        felt = change(loaded, parameter, inputs)
        assert (felt > 1e-3) != key.endswith(golden.unfelt or ("none",)), (name, key, felt)
    if golden.before_5:
        write_older_config(folder, golden)
        with tempfile.TemporaryDirectory() as other:
            shutil.copy(folder / "model.safetensors", other)
            shutil.copy(folder / "config.before_5.json", Path(other, "config.json"))
            older = model.from_pretrained(other, **options).eval()
        pairs = zip(answers, answer(older, inputs)[1], strict=True)
        assert all(torch.equal(ours, same) for ours, same in pairs), name

    reference = {
        "versions": {p: version(p) for p in ("transformers", "torch", "tokenizers")},
        "seed": SEED,
        "model": golden.model,
        **{key: value.tolist() for key, value in inputs.items()},
        "output": output,
        output: [[[float(f"{x:.7g}") for x in at] for at in row.tolist()] for row in answers],
    }
    write_json(folder / "reference.json", reference)


def roughen(model: Any) -> None:
    """Gives every tensor values of visible size, so that none can be lost unseen.

    Scales are about 1 and biases about 0, give or take .3; tables have a standard deviation of
    .5 (T5's 2: its stream is not normalized before the first block), and matrices one that
    keeps what passes through them at its size.
    """
    import torch

    with torch.no_grad():
        for name, tensor in model.named_parameters():
            noise = torch.randn(tensor.shape)
            if tensor.ndim == 1:
                tensor.add_(0.3 * noise)
            elif "relative_attention_bias" in name:
                tensor.copy_(noise)
            elif name == "shared.weight":
                tensor.copy_(2 * noise)
            elif "embed" in name or "wte" in name or "wpe" in name:
                tensor.copy_(0.5 * noise)
            else:
                tensor.copy_(1.3 * tensor.shape[-1] ** -0.5 * noise)


def rows(config: Any, golden: Golden) -> dict[str, Any]:
    """Two rows of seeded ids, the second padded at its end, by input: [2, 20] each."""
    import torch

    length = max(LENGTHS)
    mask = torch.tensor([[int(i < n) for i in range(length)] for n in LENGTHS])
    padding = config.pad_token_id or 0
    ids = torch.randint(5, config.vocab_size, (2, length)) * mask + padding * (1 - mask)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if "token_type_ids" in golden.inputs:
        # Types begin one after the other, so that each stands in both rows.
        types = torch.arange(length) * config.type_vocab_size // min(LENGTHS)
        inputs["token_type_ids"] = types.clamp(max=config.type_vocab_size - 1) * mask
    if "decoder_input_ids" in golden.inputs:
        inputs["decoder_input_ids"] = torch.randint(5, config.vocab_size, (2, length)) * mask
        inputs["decoder_input_ids"][:, 0] = config.decoder_start_token_id
        inputs["decoder_attention_mask"] = mask
    return inputs


def answer(model: Any, inputs: dict[str, Any]) -> tuple[str, list[Any]]:
    """The name of a model's output, and its values at the real tokens of each row."""
    import torch

    with torch.no_grad():
        output = model(**inputs)
    name = "logits" if "logits" in output else "last_hidden_state"
    return name, [row[:n] for row, n in zip(output[name], LENGTHS, strict=True)]


def change(model: Any, parameter: Any, inputs: dict[str, Any]) -> float:
    """By how much answers change at most if a scale is 1, or any other tensor 0."""
    import torch

    before, kept = answer(model, inputs)[1], parameter.detach().clone()
    with torch.no_grad():
        scale = parameter.ndim == 1 and kept.mean() > 0.5
        parameter.fill_(1.0 if scale else 0.0)
        after = answer(model, inputs)[1]
        parameter.copy_(kept)
    return max(float((a - b).abs().max()) for a, b in zip(after, before, strict=True))


def write_older_config(folder: Path, golden: Golden) -> None:
    """Writes config.before_5.json: the settings as older versions named them."""
    fields = json.loads((folder / "config.json").read_text())
    fields = {name: value for name, value in fields.items() if name not in golden.replaced}
    fields["torch_dtype"] = fields.pop("dtype")
    del fields["transformers_version"]
    fields |= golden.before_5 or {}
    text = json.dumps(dict(sorted(fields.items())), indent=2)
    (folder / "config.before_5.json").write_text(text + "\n")


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes one line for each value."""
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in values.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
