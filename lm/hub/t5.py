"""T5: an encoder and a decoder, distances in buckets, no biases, scores that are not scaled."""

from collections.abc import Collection
from typing import Any, ClassVar

from lm.config import UserError
from lm.hub.base import ACTIVATIONS, GATES, THEIRS, Family, FamilySettings, Options, words
from lm.hub.rules import Rule
from lm.model import EncoderDecoder
from lm.model.layers import RmsNorm
from lm.model.positions import Buckets
from lm.objectives import Spans


class T5(Family):
    """`transformers.T5ForConditionalGeneration`: v1.0 and v1.1 (and mT5's settings)."""

    kinds: ClassVar[tuple[str, ...]] = ("t5",)
    prefix: ClassVar[str] = ""
    ignored: ClassVar[frozenset[str]] = words(
        "classifier_dropout dropout_rate initializer_factor n_positions"
    )

    def settings(self, options: Options, names: Collection[str]) -> FamilySettings:
        options.must("is_decoder", False)
        options.must("is_encoder_decoder", True)
        words = str(options.take("feed_forward_proj", "relu")).split("-")
        gated = words[0] == "gated"
        legal = GATES if gated else ACTIVATIONS
        if len(words) > 1 + gated or words[-1] not in legal:
            raise UserError(
                f"{options.where}: feed_forward_proj={'-'.join(words)} is nothing that is"
                f" computed here; one of {', '.join(ACTIVATIONS)}, or gated- and one of these"
            )
        mlp = legal[words[-1]]
        if words == ["gated", "gelu"]:  # which is theirs for the form with tanh
            mlp = "geglu"
        for name, value in (("is_gated_act", gated), ("dense_act_fn", None)):
            found = options.take(name, None)
            if value is not None and found not in (None, value):
                raise UserError(f"{options.where}: {name}={found} is not as feed_forward_proj")
        # Since 5 all are said to be tied; that the head is apart shows in the arrays alone.
        untied = "lm_head.weight" in names
        tied = options.take("tie_word_embeddings", True)
        if not tied and not untied:
            raise UserError("tensor lm_head.weight is missing")
        scaled = options.take("scale_decoder_outputs", tied)
        model = EncoderDecoder(
            depth=options.take("num_decoder_layers", options.take("num_layers")),
            encoder_depth=options.take("num_layers"),
            width=options.take("d_model"),
            heads=options.take("num_heads"),
            head_width=options.take("d_kv"),
            mlp=mlp,
            mlp_width=options.take("d_ff"),
            norm=RmsNorm(epsilon=float(options.take("layer_norm_epsilon", 1e-6))),
            positions=Buckets(
                buckets=options.take("relative_attention_num_buckets", 32),
                distance=options.take("relative_attention_max_distance", 128),
            ),
            attention_scale="one",
            embedding="untied" if untied else "tied",
            logit_scale="rsqrt_width" if scaled else "none",
        )
        # Distances have no end; they were trained on rows of 512.
        length = options.take("n_positions", 512)
        objective = Spans(stack="encoder_decoder")
        return FamilySettings(model, objective, length, options.take("vocab_size"))

    def options(self, kind: str, settings: FamilySettings) -> dict[str, Any]:
        model, positions = settings.model, settings.model.positions
        buckets = positions if isinstance(positions, Buckets) else Buckets()
        word = THEIRS[model.mlp]
        if model.gated:
            word = "gated-gelu" if model.mlp == "geglu" else f"gated-{word}"
        scaled = model.logit_scale == "rsqrt_width"
        encoder = model.encoder if isinstance(model, EncoderDecoder) else model
        return {
            "vocab_size": settings.vocabulary,
            "d_model": model.width,
            "d_kv": model.head_size,
            "d_ff": model.mlp_size,
            "num_layers": encoder.depth,
            "num_decoder_layers": model.depth,
            "num_heads": model.heads,
            "feed_forward_proj": word,
            "layer_norm_epsilon": model.norm.epsilon,
            "relative_attention_num_buckets": buckets.buckets,
            "relative_attention_max_distance": buckets.distance,
            "n_positions": settings.length,
            "is_encoder_decoder": True,
            # Versions before 5 take both from the one option, which 5 reads as the scale.
            "tie_word_embeddings": scaled,
            "scale_decoder_outputs": scaled,
        }

    def architecture(self, kind: str, settings: FamilySettings) -> str:
        return "T5ForConditionalGeneration"

    def rules(self, kind: str, settings: FamilySettings) -> list[Rule]:
        found = [
            Rule("embedding", "shared.weight"),
            Rule("unembedding", "lm_head.weight"),
        ]
        for ours, stack, last in (("encoder/", "encoder.", 1), ("", "decoder.", 2)):
            block = stack + "block.{n}.layer."
            attention = "0.SelfAttention."
            found += [
                Rule(f"{ours}norm/scale", f"{stack}final_layer_norm.weight"),
                # The table of the first layer serves all.
                Rule(
                    f"{ours}buckets",
                    f"{stack}block.0.layer.{attention}relative_attention_bias.weight",
                ),
                Rule(f"{ours}layers/norm_1/scale", block + "0.layer_norm.weight"),
                Rule(f"{ours}layers/norm_2/scale", f"{block}{last}.layer_norm.weight"),
            ]
            matrices = {
                name: f"{attention}{name[0]}" for name in ("query", "key", "value", "out")
            }
            dense = f"{last}.DenseReluDense."
            wi = ("wi_1", "wi_0") if settings.model.gated else ("wi", "")
            matrices |= {"up": dense + wi[0], "gate": dense + wi[1], "down": dense + "wo"}
            if not ours:
                found.append(Rule("layers/source_norm/scale", block + "1.layer_norm.weight"))
                for name in ("query", "key", "value", "out"):
                    matrices[f"source_{name}"] = f"1.EncDecAttention.{name[0]}"
            for name, theirs in matrices.items():
                found.append(Rule(f"{ours}layers/{name}", f"{block}{theirs}.weight", "linear"))
        return found

    def copies(self, kind: str) -> dict[str, str]:
        table = "shared.weight"
        return {"encoder.embed_tokens.weight": table, "decoder.embed_tokens.weight": table}
