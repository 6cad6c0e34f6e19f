"""GPT-2: learned positions, LayerNorm before, biases everywhere, transposed matrices."""

from collections.abc import Collection
from typing import Any, ClassVar

from lm.config import UserError
from lm.hub.base import ACTIVATIONS, THEIRS, Family, FamilySettings, Options, words
from lm.hub.rules import Rule
from lm.model import Transformer
from lm.model.layers import LayerNorm
from lm.model.positions import Learned
from lm.objectives import Causal


class Gpt2(Family):
    """`transformers.GPT2LMHeadModel`."""

    kinds: ClassVar[tuple[str, ...]] = ("gpt2",)
    prefix: ClassVar[str] = "transformer."
    ignored: ClassVar[frozenset[str]] = words(
        """
        attn_pdrop embd_pdrop n_ctx reorder_and_upcast_attn resid_pdrop summary_activation
        summary_first_dropout summary_proj_to_labels summary_type summary_use_proj
        """
    )
    uncomputed: ClassVar[tuple[str, ...]] = (r"\.attn\.(masked_)?bias$",)

    def settings(self, options: Options, names: Collection[str]) -> FamilySettings:
        del names
        options.must("add_cross_attention", False)
        scaled = options.take("scale_attn_weights", True)
        by_layer = options.take("scale_attn_by_inverse_layer_idx", False)
        if by_layer and not scaled:
            raise UserError(
                f"{options.where}: scale_attn_by_inverse_layer_idx without scale_attn_weights"
                " is nothing that is computed here"
            )
        width = options.take("n_embd")
        epsilon = float(options.take("layer_norm_epsilon", 1e-5))
        model = Transformer(
            depth=options.take("n_layer"),
            width=width,
            heads=options.take("n_head"),
            mlp=options.choose("activation_function", ACTIVATIONS, "gelu_new"),
            mlp_width=options.take("n_inner", 4 * width),
            norm=LayerNorm(epsilon=epsilon),
            positions=Learned(length=options.take("n_positions", 1024)),
            attention_bias="all",
            mlp_bias="all",
            attention_scale="by_layer" if by_layer else "rsqrt_head" if scaled else "one",
            embedding="tied" if options.take("tie_word_embeddings", True) else "untied",
        )
        return FamilySettings(
            model, Causal(), options.take("n_positions", 1024), options.take("vocab_size")
        )

    def options(self, kind: str, settings: FamilySettings) -> dict[str, Any]:
        model, positions = settings.model, settings.model.positions
        places = positions.length if isinstance(positions, Learned) else settings.length
        return {
            "vocab_size": settings.vocabulary,
            "n_positions": places,
            "n_embd": model.width,
            "n_layer": model.depth,
            "n_head": model.heads,
            "n_inner": model.mlp_size,
            "activation_function": THEIRS[model.mlp].replace("gelu_pytorch_tanh", "gelu_new"),
            "layer_norm_epsilon": model.norm.epsilon,
            "scale_attn_weights": model.attention_scale != "one",
            "scale_attn_by_inverse_layer_idx": model.attention_scale == "by_layer",
            "tie_word_embeddings": model.embedding == "tied",
        }

    def architecture(self, kind: str, settings: FamilySettings) -> str:
        return "GPT2LMHeadModel"

    def rules(self, kind: str, settings: FamilySettings) -> list[Rule]:
        block = "transformer.h.{n}."
        found = [
            Rule("embedding", "transformer.wte.weight"),
            Rule("unembedding", "lm_head.weight"),
            Rule("positions", "transformer.wpe.weight"),
            Rule("layers/out", block + "attn.c_proj.weight", "conv"),
            Rule("layers/out_bias", block + "attn.c_proj.bias"),
            Rule("layers/up", block + "mlp.c_fc.weight", "conv"),
            Rule("layers/up_bias", block + "mlp.c_fc.bias"),
            Rule("layers/down", block + "mlp.c_proj.weight", "conv"),
            Rule("layers/down_bias", block + "mlp.c_proj.bias"),
        ]
        for number, name in enumerate(("query", "key", "value")):
            matrix, bias = (block + f"attn.c_attn.{kind}" for kind in ("weight", "bias"))
            found.append(Rule(f"layers/{name}", matrix, "conv", part=(number, 3)))
            found.append(Rule(f"layers/{name}_bias", bias, part=(number, 3)))
        norms = {"layers/norm_1": block + "ln_1", "layers/norm_2": block + "ln_2"}
        for ours, theirs in (norms | {"norm": "transformer.ln_f"}).items():
            found += [
                Rule(f"{ours}/scale", f"{theirs}.weight"),
                Rule(f"{ours}/bias", f"{theirs}.bias"),
            ]
        return found

    def copies(self, kind: str) -> dict[str, str]:
        return {"lm_head.weight": "transformer.wte.weight"}
