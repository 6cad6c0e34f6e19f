"""Models as published, one value each: `model=gpt2-medium` in an experiment or a command.

Sizes of vocabularies are those of the published checkpoints; a run's own tokenizer decides its
table. `tests/model/test_presets.py` holds the numbers of parameters against the published ones.
"""

from typing import NamedTuple

from msgspec.structs import replace

from lm.model.encoder_decoder import EncoderDecoder
from lm.model.ends import Transform
from lm.model.layers import LayerNorm, RmsNorm
from lm.model.positions import Buckets, Learned, Llama3, Local, Rotary, Sinusoidal
from lm.model.transformer import Transformer


class Preset(NamedTuple):
    """A published model: its settings, its vocabulary, and how long its rows were."""

    model: Transformer
    vocabulary: int
    length: int


def presets() -> dict[str, Preset]:
    """All published models by name.

    >>> presets()["gpt2"].model.width
    768
    """
    return _transformer2017() | _gpt() | _bert() | _t5() | _llama() | _qwen() | _modernbert()


def _transformer2017() -> dict[str, Preset]:
    """Vaswani et al. 2017, table 3; dropout is the settings' own affair."""
    base = EncoderDecoder(
        depth=6,
        width=512,
        heads=8,
        mlp="relu",
        mlp_bias="all",
        norm=LayerNorm(),
        norm_placement="after",
        positions=Sinusoidal(),
        embedding_scale="sqrt_width",
    )
    big = replace(base, width=1024, heads=16)
    return {
        "transformer2017-base": Preset(base, 37000, 512),
        "transformer2017-big": Preset(big, 37000, 512),
    }


def _gpt() -> dict[str, Preset]:
    """GPT-2 (Radford et al. 2019) and GPT-3 (Brown et al. 2020, table 2.1), all layers dense.

    Two of the paper's sizes do not multiply out, XL's heads and the width of 13B; they are as
    printed.
    """
    gpt2 = Transformer(
        depth=12,
        width=768,
        heads=12,
        norm=LayerNorm(epsilon=1e-5),
        positions=Learned(length=1024),
        attention_bias="all",
        mlp_bias="all",
    )
    sizes2 = {
        "gpt2": (12, 768, 12),
        "gpt2-medium": (24, 1024, 16),
        "gpt2-large": (36, 1280, 20),
        "gpt2-xl": (48, 1600, 25),
    }
    sizes3 = {
        "gpt3-small": (12, 768, 12, 64),
        "gpt3-medium": (24, 1024, 16, 64),
        "gpt3-large": (24, 1536, 16, 96),
        "gpt3-xl": (24, 2048, 24, 128),
        "gpt3-2.7b": (32, 2560, 32, 80),
        "gpt3-6.7b": (32, 4096, 32, 128),
        "gpt3-13b": (40, 5140, 40, 128),
        "gpt3-175b": (96, 12288, 96, 128),
    }
    found = {
        name: Preset(replace(gpt2, depth=depth, width=width, heads=heads), 50257, 1024)
        for name, (depth, width, heads) in sizes2.items()
    }
    gpt3 = replace(gpt2, positions=Learned(length=2048))
    for name, (depth, width, heads, size) in sizes3.items():
        even = heads * size == width
        model = replace(gpt3, depth=depth, width=width, heads=heads)
        model = replace(model, head_width=None if even else size)
        found[name] = Preset(model, 50257, 2048)
    return found


def _bert() -> dict[str, Preset]:
    """BERT with its masked head (Devlin et al. 2019; small ones Turc et al. 2019) and RoBERTa
    (Liu et al. 2019).
    """
    bert = Transformer(
        depth=12,
        width=768,
        heads=12,
        mlp="gelu_exact",
        norm=LayerNorm(epsilon=1e-12),
        norm_placement="after",
        embedding_norm="norm",
        token_types=2,
        positions=Learned(length=512),
        attention_bias="all",
        mlp_bias="all",
        transform=Transform(),
        output_bias="bias",
    )
    roberta = replace(
        bert,
        norm=LayerNorm(epsilon=1e-5),
        token_types=1,
        positions=Learned(length=512, offset=2),
    )
    sizes = {
        "tiny": (2, 128, 2),
        "mini": (4, 256, 4),
        "small": (4, 512, 8),
        "medium": (8, 512, 8),
        "base": (12, 768, 12),
        "large": (24, 1024, 16),
    }
    found = {}
    for name, (depth, width, heads) in sizes.items():
        size = {"depth": depth, "width": width, "heads": heads}
        found[f"bert-{name}"] = Preset(replace(bert, **size), 30522, 512)
        if name in ("base", "large"):
            found[f"roberta-{name}"] = Preset(replace(roberta, **size), 50265, 512)
    return found


def _t5() -> dict[str, Preset]:
    """T5 (Raffel et al. 2020, section 3.7) and v1.1, whose MLPs are gated and tables untied."""
    t5 = EncoderDecoder(
        depth=6,
        width=512,
        heads=8,
        head_width=64,
        mlp="relu",
        positions=Buckets(),
        attention_scale="one",
        logit_scale="rsqrt_width",
    )
    v11 = replace(t5, mlp="geglu", embedding="untied", logit_scale="none")
    sizes = {
        "t5-small": (6, 512, 8, 64, 2048),
        "t5-base": (12, 768, 12, 64, 3072),
        "t5-large": (24, 1024, 16, 64, 4096),
        "t5-3b": (24, 1024, 32, 128, 16384),
        "t5-11b": (24, 1024, 128, 128, 65536),
        "t5-v1.1-small": (8, 512, 6, 64, 1024),
        "t5-v1.1-base": (12, 768, 12, 64, 2048),
        "t5-v1.1-large": (24, 1024, 16, 64, 2816),
        "t5-v1.1-xl": (24, 2048, 32, 64, 5120),
        "t5-v1.1-xxl": (24, 4096, 64, 64, 10240),
    }
    return {
        name: Preset(
            replace(
                v11 if "v1.1" in name else t5,
                depth=depth,
                width=width,
                heads=heads,
                head_width=size,
                mlp_width=mlp_width,
            ),
            32128,
            512,
        )
        for name, (depth, width, heads, size, mlp_width) in sizes.items()
    }


def _llama() -> dict[str, Preset]:
    """Llama 2 (Touvron et al. 2023), Llama 3 (Grattafiori et al. 2024), SmolLM2 (Ben Allal et
    al. 2025).
    """
    llama = Transformer(mlp="swiglu", norm=RmsNorm(epsilon=1e-5), embedding="untied")
    scaled = Rotary(theta=5e5, scaling=Llama3(factor=32.0))
    families = {
        "llama2": (llama, 32000, 4096),
        "llama3": (replace(llama, positions=Rotary(theta=5e5)), 128256, 8192),
        "llama3.2": (replace(llama, embedding="tied", positions=scaled), 128256, 131072),
        "smollm2": (
            replace(llama, embedding="tied", positions=Rotary(theta=1e5)),
            49152,
            8192,
        ),
    }
    sizes = {
        "llama2-7b": (32, 4096, 32, 32, 11008),
        "llama2-13b": (40, 5120, 40, 40, 13824),
        "llama2-70b": (80, 8192, 64, 8, 28672),
        "llama3-8b": (32, 4096, 32, 8, 14336),
        "llama3-70b": (80, 8192, 64, 8, 28672),
        "llama3.2-1b": (16, 2048, 32, 8, 8192),
        "llama3.2-3b": (28, 3072, 24, 8, 8192),
        "smollm2-135m": (30, 576, 9, 3, 1536),
        "smollm2-360m": (32, 960, 15, 5, 2560),
        "smollm2-1.7b": (24, 2048, 32, 32, 8192),
    }
    found = {}
    for name, (depth, width, heads, kv_heads, mlp_width) in sizes.items():
        model, vocabulary, length = families[name.rpartition("-")[0]]
        model = replace(model, depth=depth, width=width, heads=heads, mlp_width=mlp_width)
        model = replace(model, kv_heads=None if kv_heads == heads else kv_heads)
        if name == "smollm2-1.7b":
            model = replace(model, positions=Rotary(theta=1.3e5))
        found[name] = Preset(model, vocabulary, length)
    return found


def _qwen() -> dict[str, Preset]:
    """Qwen 3, the dense ones (Yang et al. 2025)."""
    qwen = Transformer(
        kv_heads=8,
        head_width=128,
        mlp="swiglu",
        positions=Rotary(theta=1e6),
        query_key_norm="head",
    )
    sizes = {
        "qwen3-0.6b": (28, 1024, 16, 3072, "tied"),
        "qwen3-1.7b": (28, 2048, 16, 6144, "tied"),
        "qwen3-4b": (36, 2560, 32, 9728, "tied"),
        "qwen3-8b": (36, 4096, 32, 12288, "untied"),
        "qwen3-14b": (40, 5120, 40, 17408, "untied"),
        "qwen3-32b": (64, 5120, 64, 25600, "untied"),
    }
    return {
        name: Preset(
            replace(
                qwen,
                depth=depth,
                width=width,
                heads=heads,
                mlp_width=mlp_width,
                embedding=embedding,
            ),
            151936,
            40960,
        )
        for name, (depth, width, heads, mlp_width, embedding) in sizes.items()
    }


def _modernbert() -> dict[str, Preset]:
    """ModernBERT (Warner et al. 2024) and Ettin's pairs (Weller et al. 2025).

    A local window of 128 is 64 to each side and itself; decoders count one less.
    """
    modernbert = Transformer(
        mlp="geglu_exact",
        norm=LayerNorm(epsilon=1e-5, bias="none"),
        first_norm="none",
        embedding_norm="norm",
        positions=Rotary(theta=1.6e5),
        local=Local(pattern="gll", reach=64, rotary=Rotary(theta=1e4)),
        transform=Transform(bias="none"),
        output_bias="bias",
    )
    ettin = replace(modernbert, local=Local(pattern="gll", reach=64))
    sizes = {
        "17m": (7, 256, 4, 384),
        "32m": (10, 384, 6, 576),
        "68m": (19, 512, 8, 768),
        "150m": (22, 768, 12, 1152),
        "400m": (28, 1024, 16, 2624),
        "1b": (28, 1792, 28, 3840),
    }
    found = {}
    for name, (depth, width, heads, mlp_width) in sizes.items():
        size = {"depth": depth, "width": width, "heads": heads, "mlp_width": mlp_width}
        encoder = replace(ettin, **size)
        decoder = replace(encoder, local=Local(pattern="gll", reach=63))
        found[f"ettin-encoder-{name}"] = Preset(encoder, 50368, 7999)
        found[f"ettin-decoder-{name}"] = Preset(decoder, 50368, 7999)
        if published := {"150m": "modernbert-base", "400m": "modernbert-large"}.get(name):
            found[published] = Preset(replace(modernbert, **size), 50368, 8192)
    return found
