"""ModernBERT and Ettin: rotary, gated, local and global layers; encoders and decoders."""

from collections.abc import Collection
from typing import Any, ClassVar, Literal

from lm.config import UserError
from lm.hub.base import ACTIVATIONS, GATES, THEIRS, Family, FamilySettings, Options, words
from lm.hub.rotary import parameters_of, rotary_of
from lm.hub.rules import Rule
from lm.hub.windows import layer_types_of, local_of
from lm.model import Transformer
from lm.model.ends import Transform
from lm.model.layers import LayerNorm
from lm.model.positions import Rotary
from lm.objectives import Causal, Masked, StatesOnly

Bias = Literal["none", "bias"]
_HEADS = {"modernbert": "head.", "modernbert-decoder": "lm_head."}


class ModernBert(Family):
    """`transformers.ModernBertForMaskedLM`, `ModernBertModel`, and the decoder of both."""

    kinds: ClassVar[tuple[str, ...]] = tuple(_HEADS)
    prefix: ClassVar[str] = "model."
    ignored: ClassVar[frozenset[str]] = words(
        """
        attention_dropout classifier_dropout classifier_pooling deterministic_flash_attn
        embedding_dropout global_attn_every_n_layers initializer_cutoff_factor layer_norm_eps
        mlp_dropout reference_compile repad_logits_with_grad sparse_pred_ignore_index
        sparse_prediction
        """
    )

    def settings(self, options: Options, names: Collection[str]) -> FamilySettings:
        kind = options.values["model_type"]
        decoder = kind == "modernbert-decoder"
        headed = any(name.startswith(_HEADS[kind]) for name in names)
        if decoder and not headed:
            raise UserError("tensor lm_head.dense.weight is missing: a decoder without a head")
        options.must("position_embedding_type", "absolute")  # which is left over from BERT
        options.must("causal_mask", decoder)
        depth, every = (
            options.take("num_hidden_layers"),
            options.take("global_attn_every_n_layers", 3),
        )
        types = ["sliding_attention" if n % every else "full_attention" for n in range(depth)]
        window = options.take("local_attention", 128)
        if options.take("sliding_window", window // 2) != window // 2:
            raise UserError(
                f"{options.where}: sliding_window={options.take('sliding_window')} is not half"
                f" of local_attention={window}"
            )
        rotary, local_rotary = self._rotaries(options)
        # Half to each side and itself; the decoder counts one less.
        reach = window // 2 - 1 if decoder else window // 2
        bias: Bias = "bias" if options.take("norm_bias", False) else "none"
        activation = options.choose("classifier_activation", ACTIVATIONS, "gelu")
        of_head: Bias = "bias" if options.take("classifier_bias", False) else "none"
        output: Bias = "bias" if options.take("decoder_bias", True) and headed else "none"
        tied = options.take("tie_word_embeddings", True) or not headed
        model = Transformer(
            depth=depth,
            width=options.take("hidden_size"),
            heads=options.take("num_attention_heads"),
            mlp=options.choose("hidden_activation", GATES, "gelu"),
            mlp_width=options.take("intermediate_size"),
            norm=LayerNorm(epsilon=float(options.take("norm_eps", 1e-5)), bias=bias),
            first_norm="none",
            embedding_norm="norm",
            positions=rotary,
            local=local_of(options.take("layer_types", types), reach + 1, rotary=local_rotary),
            attention_bias="all" if options.take("attention_bias", False) else "none",
            mlp_bias="all" if options.take("mlp_bias", False) else "none",
            embedding="tied" if tied else "untied",
            transform=Transform(activation=activation, bias=of_head) if headed else None,
            output_bias=output,
        )
        objective = Causal() if decoder else Masked(rate=0.3) if headed else StatesOnly()
        length = options.take("max_position_embeddings", 8192)
        return FamilySettings(model, objective, length, options.take("vocab_size"))

    @staticmethod
    def _rotaries(options: Options) -> tuple[Rotary, Rotary]:
        """The positions of global and of local layers."""
        new, where = options.take("rope_parameters", None), options.where
        options.must("rope_scaling", None)
        length = options.take("max_position_embeddings", 8192)
        found: list[tuple[Rotary, Rotary]] = []
        if new is not None:
            pair = [new.get(name) for name in ("full_attention", "sliding_attention")]
            if None in pair:
                raise UserError(
                    f"{where}: rope_parameters has not both full_attention and"
                    " sliding_attention"
                )
            both = [rotary_of(each, length, where) for each in pair]
            found.append((both[0], both[1]))
        theta = options.take("global_rope_theta", None)
        local = options.take("local_rope_theta", theta)
        if theta is not None:
            found.append((Rotary(theta=float(theta)), Rotary(theta=float(local))))
        if not found:
            raise UserError(f"{where}: has neither global_rope_theta nor rope_parameters")
        if any(each != found[0] for each in found):
            raise UserError(
                f"{where}: global_rope_theta={theta} and local_rope_theta={local} are not what"
                f" rope_parameters={new} says"
            )
        return found[0]

    def options(self, kind: str, settings: FamilySettings) -> dict[str, Any]:
        model = settings.model
        rotary = model.positions if isinstance(model.positions, Rotary) else Rotary()
        local, near, window = model.local, rotary, 128
        if local is not None:
            near = local.rotary or rotary
            window = 2 * (local.reach + (1 if kind == "modernbert-decoder" else 0))
        transform = model.transform or Transform(bias="none")
        found = {
            "vocab_size": settings.vocabulary,
            "hidden_size": model.width,
            "intermediate_size": model.mlp_size,
            "num_hidden_layers": model.depth,
            "num_attention_heads": model.heads,
            "hidden_activation": THEIRS[model.mlp],
            "max_position_embeddings": settings.length,
            "norm_eps": model.norm.epsilon,
            "norm_bias": getattr(model.norm, "bias", "none") == "bias",
            "layer_types": layer_types_of(local, model.depth),
            "local_attention": window,
            "rope_parameters": {
                "full_attention": parameters_of(rotary),
                "sliding_attention": parameters_of(near),
            },
            "attention_bias": model.attention_bias == "all",
            "mlp_bias": model.mlp_bias == "all",
            "classifier_activation": THEIRS[transform.activation],
            "classifier_bias": transform.bias == "bias",
            "decoder_bias": model.output_bias == "bias" or model.transform is None,
            "tie_word_embeddings": model.embedding == "tied",
        }
        if rotary.scaling is None and near.scaling is None:
            found |= {"global_rope_theta": rotary.theta, "local_rope_theta": near.theta}
        if kind == "modernbert-decoder":
            found["sliding_window"] = window // 2
        # Versions before 5 know no layer_types, but every how many layers one is global.
        first = [
            n
            for n, each in enumerate(layer_types_of(local, model.depth))
            if n and each[0] == "f"
        ]
        return found | {"global_attn_every_n_layers": first[0] if first else model.depth}

    def architecture(self, kind: str, settings: FamilySettings) -> str:
        if kind == "modernbert-decoder":
            return "ModernBertDecoderForCausalLM"
        return "ModernBertForMaskedLM" if settings.objective.predictions else "ModernBertModel"

    def rules(self, kind: str, settings: FamilySettings) -> list[Rule]:
        block, head = "model.layers.{n}.", _HEADS[kind]
        found = [
            Rule("embedding", "model.embeddings.tok_embeddings.weight"),
            Rule("unembedding", "decoder.weight"),
            Rule("output_bias", "decoder.bias"),
            Rule("transform", head + "dense.weight", "linear"),
            Rule("transform_bias", head + "dense.bias"),
            Rule("layers/out", block + "attn.Wo.weight", "linear"),
            Rule("layers/out_bias", block + "attn.Wo.bias"),
            Rule("layers/down", block + "mlp.Wo.weight", "linear"),
            Rule("layers/down_bias", block + "mlp.Wo.bias"),
        ]
        for number, ours in enumerate(("query", "key", "value")):
            theirs, part = "attn.Wqkv", (number, 3)
            if kind == "modernbert-decoder":
                theirs, part = f"attn.{ours[0]}_proj", (0, 1)
            found.append(Rule(f"layers/{ours}", f"{block}{theirs}.weight", "linear", part))
            found.append(Rule(f"layers/{ours}_bias", f"{block}{theirs}.bias", part=part))
        for number, ours in enumerate(("gate", "up")):  # the first half is activated
            part = number, 2
            found.append(Rule(f"layers/{ours}", block + "mlp.Wi.weight", "linear", part))
            found.append(Rule(f"layers/{ours}_bias", block + "mlp.Wi.bias", part=part))
        norms = {
            "embedding_norm": "model.embeddings.norm",
            "layers/norm_2": block + "mlp_norm",
            "norm": "model.final_norm",
            "transform_norm": head + "norm",
        }
        for ours, theirs in norms.items():
            found.append(Rule(f"{ours}/scale", f"{theirs}.weight"))
            found.append(Rule(f"{ours}/bias", f"{theirs}.bias"))
        # The first layer has none.
        first = block + "attn_norm"
        found.append(Rule("later_norm_1/scale", f"{first}.weight", first=1))
        found.append(Rule("later_norm_1/bias", f"{first}.bias", first=1))
        return found

    def copies(self, kind: str) -> dict[str, str]:
        return {"decoder.weight": "model.embeddings.tok_embeddings.weight"}
