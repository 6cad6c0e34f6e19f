"""The published sizes of known families, counted by other people's code: published_sizes.json.

`python -m tests.hub.make_golden_sizes` builds each model with transformers, without memory
(torch's meta device), and counts its distinct parameters: a tied matrix counts once.
"""

from importlib.metadata import version
from typing import Any

from tests.hub.make_golden import FOLDER, write_json

KERAS = "counts as in the presets of github.com/keras-team/keras-hub"
LITGPT = "config.json as copied by github.com/Lightning-AI/litgpt, litgpt/config.py"
SOURCES = {
    "gpt2": f"github.com/karpathy/nanoGPT, model.py; {KERAS}",
    "bert": f"github.com/google-research/bert, README.md; with a pooler, {KERAS}",
    "roberta": "large: huggingface.co/sentence-transformers/all-roberta-large-v1, config.json, "
    "which began as roberta-large; base: the same in BERT base's shape",
    "t5": f"github.com/google-research/t5x, t5x/examples/t5/t5_1_0/*.gin; to large, {KERAS}",
    "t5-v1.1": "github.com/google-research/t5x, t5x/examples/t5/t5_1_1/*.gin; "
    "huggingface.co/google/t5-v1_1-xxl, config.json",
    "llama2": f"huggingface.co/meta-llama, {LITGPT}; 7B: {KERAS}",
    "llama3": f"huggingface.co/meta-llama, {LITGPT}; 8B: {KERAS}",
    "llama3.2": f"huggingface.co/meta-llama, {LITGPT}, which does not tell they are tied",
    "qwen3": f"huggingface.co/Qwen, {LITGPT}; tied to 4B, so that {KERAS}",
    "smollm2": f"huggingface.co/HuggingFaceTB, {LITGPT}, which does not tell they are tied",
    "modernbert": "huggingface.co/answerdotai/ModernBERT-base, ModernBERT-large: config.json; "
    "rows of 8,192 as in the paper, arXiv:2412.13663",
    "ettin": "github.com/JHU-CLSP/ettin-encoder-vs-decoder, pretraining/configs/standard/*; "
    "bases and rows after the extension (prolong_decay), as in models tuned from the encoders",
    "gpt3": "Brown et al. 2020, arXiv:2005.14165, table 2.1, as printed: 24 heads of 128 are "
    "not 2,048, and 40 of 128 not 5,140; d_ff = 4 width; GPT-2's vocabulary; context 2,048",
    "transformer2017": "Vaswani et al. 2017, arXiv:1706.03762, table 3, as printed; one table "
    "of about 37,000 byte pairs for source, target and output",
}


def gpt2(width: int, depth: int, heads: int) -> dict[str, Any]:
    """GPT-2's config."""
    return {
        "n_embd": width,
        "n_layer": depth,
        "n_head": heads,
        "vocab_size": 50257,
        "n_positions": 1024,
        "layer_norm_epsilon": 1e-5,
    }


def bert(width: int, depth: int, heads: int) -> dict[str, Any]:
    """BERT's config, uncased."""
    return {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
        "vocab_size": 30522,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
    }


def roberta(width: int, depth: int, heads: int) -> dict[str, Any]:
    """RoBERTa's config."""
    table = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}
    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    return bert(width, depth, heads) | {"layer_norm_eps": 1e-5, **table, **ids}


def t5(width: int, mlp_width: int, heads: int, head: int, depth: int) -> dict[str, Any]:
    """T5's config."""
    return {
        "d_model": width,
        "d_ff": mlp_width,
        "num_heads": heads,
        "d_kv": head,
        "num_layers": depth,
        "num_decoder_layers": depth,
        "feed_forward_proj": "relu",
        "layer_norm_epsilon": 1e-6,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "vocab_size": 32128,
        "decoder_start_token_id": 0,
    }


def t5_1_1(width: int, mlp_width: int, heads: int, depth: int) -> dict[str, Any]:
    """T5 v1.1's config."""
    odd = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    return t5(width, mlp_width, heads, 64, depth) | odd


def llama(
    width: int, mlp_width: int, depth: int, heads: int, kv_heads: int, **others: Any
) -> dict[str, Any]:
    """A config in Llama's words."""
    return {
        "hidden_size": width,
        "intermediate_size": mlp_width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        **others,
    }


def rope(theta: float, **scaling: Any) -> dict[str, Any]:
    """Rotary positions."""
    return {"rope_type": "default", "rope_theta": theta, **scaling}


def qwen3(width: int, mlp_width: int, depth: int, heads: int, *, tied: bool) -> dict[str, Any]:
    """Qwen3's config."""
    return llama(
        width,
        mlp_width,
        depth,
        heads,
        8,
        head_dim=128,
        vocab_size=151936,
        max_position_embeddings=40960,
        rms_norm_eps=1e-6,
        rope_parameters=rope(1e6),
        tie_word_embeddings=tied,
    )


def modern(
    width: int, mlp_width: int, depth: int, heads: int, *, length: int, local: float
) -> dict[str, Any]:
    """ModernBERT's config: `local` is the base of local layers, `length` the longest row."""
    return {
        "hidden_size": width,
        "intermediate_size": mlp_width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "max_position_embeddings": length,
        "vocab_size": 50368,
        "norm_eps": 1e-5,
        "local_attention": 128,
        "global_attn_every_n_layers": 3,
        "rope_parameters": {
            "full_attention": rope(160000.0),
            "sliding_attention": rope(local),
        },
    }


LLAMA2 = {"vocab_size": 32000, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5}
LLAMA3 = {
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_parameters": rope(500000.0),
}
LLAMA32 = {
    **LLAMA3,
    "max_position_embeddings": 131072,
    "rope_parameters": rope(
        500000.0,
        rope_type="llama3",
        factor=32.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=8192,
    ),
    "tie_word_embeddings": True,
}
SMOLLM2 = {
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_parameters": rope(100000.0),
    "tie_word_embeddings": True,
}
ETTIN = {
    "17m": (256, 384, 7, 4),
    "32m": (384, 576, 10, 6),
    "68m": (512, 768, 19, 8),
    "150m": (768, 1152, 22, 12),
    "400m": (1024, 2624, 28, 16),
    "1b": (1792, 3840, 28, 28),
}
BERT_SIZES = {"base": (768, 12, 12), "large": (1024, 24, 16)}

# By family, name and class in transformers.
BUILT: dict[tuple[str, str, str], dict[str, Any]] = {
    ("gpt2", "gpt2", "GPT2LMHeadModel"): gpt2(768, 12, 12),
    ("gpt2", "gpt2-medium", "GPT2LMHeadModel"): gpt2(1024, 24, 16),
    ("gpt2", "gpt2-large", "GPT2LMHeadModel"): gpt2(1280, 36, 20),
    ("gpt2", "gpt2-xl", "GPT2LMHeadModel"): gpt2(1600, 48, 25),
    **{
        ("bert", f"bert-{size}-uncased{end}", model): bert(*shape)
        for size, shape in BERT_SIZES.items()
        for end, model in (("", "BertForMaskedLM"), ("-bare", "BertModel"))
    },
    **{
        ("roberta", f"roberta-{size}", "RobertaForMaskedLM"): roberta(*shape)
        for size, shape in BERT_SIZES.items()
    },
    **{
        ("t5", f"t5-{size}", "T5ForConditionalGeneration"): t5(*shape)
        for size, shape in {
            "small": (512, 2048, 8, 64, 6),
            "base": (768, 3072, 12, 64, 12),
            "large": (1024, 4096, 16, 64, 24),
            "3b": (1024, 16384, 32, 128, 24),
            "11b": (1024, 65536, 128, 128, 24),
        }.items()
    },
    **{
        ("t5-v1.1", f"t5-v1.1-{size}", "T5ForConditionalGeneration"): t5_1_1(*shape)
        for size, shape in {
            "small": (512, 1024, 6, 8),
            "base": (768, 2048, 12, 12),
            "large": (1024, 2816, 16, 24),
            "xl": (2048, 5120, 32, 24),
            "xxl": (4096, 10240, 64, 24),
        }.items()
    },
    ("llama2", "llama2-7b", "LlamaForCausalLM"): llama(4096, 11008, 32, 32, 32, **LLAMA2),
    ("llama2", "llama2-13b", "LlamaForCausalLM"): llama(5120, 13824, 40, 40, 40, **LLAMA2),
    ("llama2", "llama2-70b", "LlamaForCausalLM"): llama(8192, 28672, 80, 64, 8, **LLAMA2),
    ("llama3", "llama3-8b", "LlamaForCausalLM"): llama(4096, 14336, 32, 32, 8, **LLAMA3),
    ("llama3", "llama3-70b", "LlamaForCausalLM"): llama(8192, 28672, 80, 64, 8, **LLAMA3),
    ("llama3.2", "llama3.2-1b", "LlamaForCausalLM"): llama(2048, 8192, 16, 32, 8, **LLAMA32),
    ("llama3.2", "llama3.2-3b", "LlamaForCausalLM"): llama(3072, 8192, 28, 24, 8, **LLAMA32),
    ("qwen3", "qwen3-0.6b", "Qwen3ForCausalLM"): qwen3(1024, 3072, 28, 16, tied=True),
    ("qwen3", "qwen3-1.7b", "Qwen3ForCausalLM"): qwen3(2048, 6144, 28, 16, tied=True),
    ("qwen3", "qwen3-4b", "Qwen3ForCausalLM"): qwen3(2560, 9728, 36, 32, tied=True),
    ("qwen3", "qwen3-8b", "Qwen3ForCausalLM"): qwen3(4096, 12288, 36, 32, tied=False),
    ("qwen3", "qwen3-14b", "Qwen3ForCausalLM"): qwen3(5120, 17408, 40, 40, tied=False),
    ("qwen3", "qwen3-32b", "Qwen3ForCausalLM"): qwen3(5120, 25600, 64, 64, tied=False),
    ("smollm2", "smollm2-135m", "LlamaForCausalLM"): llama(576, 1536, 30, 9, 3, **SMOLLM2),
    ("smollm2", "smollm2-360m", "LlamaForCausalLM"): llama(960, 2560, 32, 15, 5, **SMOLLM2),
    ("smollm2", "smollm2-1.7b", "LlamaForCausalLM"): llama(
        2048, 8192, 24, 32, 32, **SMOLLM2 | {"rope_parameters": rope(130000.0)}
    ),
    ("modernbert", "modernbert-base", "ModernBertForMaskedLM"): modern(
        768, 1152, 22, 12, length=8192, local=10000.0
    ),
    ("modernbert", "modernbert-large", "ModernBertForMaskedLM"): modern(
        1024, 2624, 28, 16, length=8192, local=10000.0
    ),
    **{
        ("ettin", f"ettin-{kind}-{size}", model): modern(*shape, length=7999, local=160000.0)
        for kind, model in (
            ("encoder", "ModernBertForMaskedLM"),
            ("decoder", "ModernBertDecoderForCausalLM"),
        )
        for size, shape in ETTIN.items()
    },
}

PRINTED = {
    f"gpt3-{size}": {
        "family": "gpt3",
        "layers": layers,
        "width": width,
        "heads": heads,
        "head_size": head,
        "mlp_width": 4 * width,
        "vocabulary": 50257,
        "context": 2048,
        "parameters_as_printed": printed,
    }
    for size, layers, width, heads, head, printed in (
        ("small", 12, 768, 12, 64, "125M"),
        ("medium", 24, 1024, 16, 64, "350M"),
        ("large", 24, 1536, 16, 96, "760M"),
        ("xl", 24, 2048, 24, 128, "1.3B"),
        ("2.7b", 32, 2560, 32, 80, "2.7B"),
        ("6.7b", 32, 4096, 32, 128, "6.7B"),
        ("13b", 40, 5140, 40, 128, "13.0B"),
        ("175b", 96, 12288, 96, 128, "175.0B"),
    )
} | {
    f"transformer2017-{size}": {
        "family": "transformer2017",
        "encoder_layers": 6,
        "decoder_layers": 6,
        "width": width,
        "heads": heads,
        "head_size": 64,
        "mlp_width": mlp_width,
        "vocabulary": 37000,
        "parameters_as_printed": printed,
    }
    for size, width, mlp_width, heads, printed in (
        ("base", 512, 2048, 8, "65M"),
        ("big", 1024, 4096, 16, "213M"),
    )
}
"""Sizes that papers print and transformers does not have."""


def main() -> None:
    """Writes published_sizes.json."""
    sizes: dict[str, Any] = {}
    for (family, name, model), settings in BUILT.items():
        parameters = count(model, settings)
        print(f"{name:32} {parameters:15,}", flush=True)
        sizes[name] = {
            "family": family,
            "model": model,
            "config": settings,
            "parameters": parameters,
        }
    versions = {package: version(package) for package in ("transformers", "torch")}
    made = {"versions": versions, "sources": SOURCES}
    write_json(FOLDER / "published_sizes.json", made | sizes | PRINTED)


def count(name: str, settings: dict[str, Any]) -> int:
    """Distinct parameters of a model of that class in transformers, without a pooler."""
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    kind = getattr(transformers, name)
    options = {"add_pooling_layer": False} if name == "BertModel" else {}
    with torch.device("meta"):
        model = kind(kind.config_class(**settings), **options)
        if name == "T5ForConditionalGeneration" and not settings.get(
            "tie_word_embeddings", True
        ):
            # transformers 5 ties every T5 until it has read a file.
            model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.shared.weight))
    return sum(tensor.numel() for tensor in model.parameters())


if __name__ == "__main__":
    main()
