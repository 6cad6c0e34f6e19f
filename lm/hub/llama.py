"""Llama and its kin: rotary positions, RMSNorm before, causal (Mistral, Qwen, SmolLM, AFM)."""

from collections.abc import Collection
from typing import Any, ClassVar

from lm.config import UserError
from lm.hub.base import ACTIVATIONS, GATES, THEIRS, Family, FamilySettings, Options
from lm.hub.rotary import read_rotary, written_rotary
from lm.hub.rules import Rule
from lm.hub.windows import layer_types_of, local_of
from lm.model import Transformer
from lm.model.layers import RmsNorm
from lm.model.positions import Local
from lm.objectives import Causal

_CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "arcee": "ArceeForCausalLM",
}


class Llama(Family):
    """They differ in biases, windows and norms of queries and keys; Arcee's MLP has no gate."""

    kinds: ClassVar[tuple[str, ...]] = tuple(_CLASSES)
    prefix: ClassVar[str] = "model."
    ignored: ClassVar[frozenset[str]] = frozenset({"attention_dropout", "is_llama_config"})
    uncomputed: ClassVar[tuple[str, ...]] = (r"rotary_emb\.inv_freq$",)

    def settings(self, options: Options, names: Collection[str]) -> FamilySettings:
        del names
        kind = options.values["model_type"]
        width, heads = options.take("hidden_size"), options.take("num_attention_heads")
        # Where it is missing, their defaults are not each other's.
        head = options.take("head_dim", 128 if kind == "qwen3" else width // heads)
        plain = kind in ("llama", "arcee")
        activations = ACTIVATIONS if kind == "arcee" else GATES
        options.must("pretraining_tp", 1)
        options.must("rope_interleaved", False)
        rotary, length = read_rotary(options), options.take("max_position_embeddings")
        if rotary.fraction != 1:
            raise UserError(
                f"{options.where}: partial_rotary_factor={rotary.fraction:g} is nothing that"
                f" models of type {kind} compute"
            )
        bias = kind == "qwen2" or self._bias(options, kind, "attention_bias")
        model = Transformer(
            depth=options.take("num_hidden_layers"),
            width=width,
            heads=heads,
            kv_heads=options.take("num_key_value_heads", *([heads] if plain else [])),
            head_width=head,
            mlp=options.choose(
                "hidden_act", activations, "relu2" if kind == "arcee" else "silu"
            ),
            mlp_width=options.take("intermediate_size"),
            norm=RmsNorm(epsilon=float(options.take("rms_norm_eps"))),
            positions=rotary,
            attention_bias=("qkv" if kind == "qwen2" else "all") if bias else "none",
            mlp_bias="all" if self._bias(options, kind, "mlp_bias") else "none",
            query_key_norm="head" if kind == "qwen3" else "none",
            embedding="tied" if options.take("tie_word_embeddings", False) else "untied",
            local=self._windows(options, kind),
        )
        return FamilySettings(model, Causal(), length, options.take("vocab_size"))

    @staticmethod
    def _bias(options: Options, kind: str, name: str) -> bool:
        """Whether there are biases, of kinds that ask for them by an option."""
        asking = ("llama", "arcee", "qwen3") if name == "attention_bias" else ("llama", "arcee")
        if kind not in asking:
            options.must(name, False)
            return False
        return bool(options.take(name, False))

    @staticmethod
    def _windows(options: Options, kind: str) -> Local | None:
        depth = options.take("num_hidden_layers")
        if kind == "mistral":
            options.must("layer_types", None)
            window = options.take("sliding_window", None)
            if "sliding_window" not in options.values:
                window = 4096
            return local_of(["sliding_attention"] * depth, window)
        if kind in ("llama", "arcee"):
            return None
        window = options.take("sliding_window", 4096)
        if not options.take("use_sliding_window", False):
            window = None
        first = options.take("max_window_layers", 28)
        types = ["full_attention" if window is None or n < first else "sliding_attention"
                 for n in range(depth)]  # fmt: skip
        return local_of(options.take("layer_types", types), window)

    def options(self, kind: str, settings: FamilySettings) -> dict[str, Any]:
        model = settings.model
        found = {
            "vocab_size": settings.vocabulary,
            "hidden_size": model.width,
            "intermediate_size": model.mlp_size,
            "num_hidden_layers": model.depth,
            "num_attention_heads": model.heads,
            "num_key_value_heads": model.groups,
            "head_dim": model.head_size,
            "hidden_act": THEIRS[model.mlp],
            "max_position_embeddings": settings.length,
            "rms_norm_eps": model.norm.epsilon,
            "tie_word_embeddings": model.embedding == "tied",
            **written_rotary(model.positions),
        }
        if kind in ("llama", "arcee", "qwen3"):
            found["attention_bias"] = model.attention_bias == "all"
        if kind in ("llama", "arcee"):
            found["mlp_bias"] = model.mlp_bias == "all"
        local = model.local
        window = None if local is None else local.reach + 1  # theirs counts the token itself
        if kind == "mistral":
            found["sliding_window"] = window
        elif kind in ("qwen2", "qwen3"):
            found |= {
                "sliding_window": window,
                "use_sliding_window": local is not None,
                "layer_types": layer_types_of(local, model.depth),
                "max_window_layers": model.depth if local is None else _first_local(model),
            }
        return found

    def architecture(self, kind: str, settings: FamilySettings) -> str:
        return _CLASSES[kind]

    def rules(self, kind: str, settings: FamilySettings) -> list[Rule]:
        block = "model.layers.{n}."
        found = [
            Rule("embedding", "model.embed_tokens.weight"),
            Rule("unembedding", "lm_head.weight"),
            Rule("norm/scale", "model.norm.weight"),
            Rule("layers/norm_1/scale", block + "input_layernorm.weight"),
            Rule("layers/norm_2/scale", block + "post_attention_layernorm.weight"),
            Rule("layers/query_norm/scale", block + "self_attn.q_norm.weight"),
            Rule("layers/key_norm/scale", block + "self_attn.k_norm.weight"),
        ]
        matrices = {
            "query": "self_attn.q_proj",
            "key": "self_attn.k_proj",
            "value": "self_attn.v_proj",
            "out": "self_attn.o_proj",
            "gate": "mlp.gate_proj",
            "up": "mlp.up_proj",
            "down": "mlp.down_proj",
        }
        for ours, theirs in matrices.items():
            found.append(Rule(f"layers/{ours}", f"{block}{theirs}.weight", "linear"))
            found.append(Rule(f"layers/{ours}_bias", f"{block}{theirs}.bias"))
        return found

    def copies(self, kind: str) -> dict[str, str]:
        return {"lm_head.weight": "model.embed_tokens.weight"}


def _first_local(model: Transformer) -> int:
    assert model.local is not None
    return (*model.local.is_local(model.depth), True).index(True)
