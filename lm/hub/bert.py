"""BERT and its kin: encoders with norms after, learned positions and biases."""

from collections.abc import Collection
from typing import Any, ClassVar

from lm.hub.base import ACTIVATIONS, THEIRS, Family, FamilySettings, Options, words
from lm.hub.rules import Rule
from lm.model import Transformer
from lm.model.ends import Transform
from lm.model.layers import LayerNorm
from lm.model.positions import Learned
from lm.objectives import Masked, StatesOnly

_HEADS = {"bert": "cls.predictions.", "roberta": "lm_head.", "distilbert": "vocab_"}
"""How the names of each kind's masked head begin."""


class Bert(Family):
    """`transformers.BertForMaskedLM`, and `BertModel` without a head; so of the other kinds."""

    kinds: ClassVar[tuple[str, ...]] = ("bert", "roberta", "distilbert")
    prefix: ClassVar[str] = "{kind}."
    ignored: ClassVar[frozenset[str]] = words(
        """
        attention_dropout attention_probs_dropout_prob classifier_dropout directionality dropout
        hidden_dropout_prob pooler_fc_size pooler_num_attention_heads
        pooler_num_fc_layers pooler_size_per_head pooler_type qa_dropout seq_classif_dropout
        sinusoidal_pos_embds
        """
    )
    uncomputed: ClassVar[tuple[str, ...]] = (
        r"(^|\.)pooler\.dense\.",
        r"embeddings\.position_ids$",
        r"embeddings\.token_type_ids$",
        r"^cls\.seq_relationship\.",
        r"^cls\.predictions\.bias$",
        r"^lm_head\.bias$",
    )

    def settings(self, options: Options, names: Collection[str]) -> FamilySettings:
        kind = options.values["model_type"]
        headed = any(name.startswith(_HEADS[kind]) for name in names)
        options.must("is_decoder", False)
        options.must("add_cross_attention", False)
        options.must("position_embedding_type", "absolute")
        length, offset = options.take("max_position_embeddings", 512), 0
        if kind == "roberta":  # the pad token's row is the last before the first position's
            offset = options.take("pad_token_id", 1) + 1
            length -= offset
        distil = kind == "distilbert"
        width = options.take("dim" if distil else "hidden_size")
        activation = options.choose(
            "activation" if distil else "hidden_act", ACTIVATIONS, "gelu"
        )
        epsilon = 1e-12 if distil else float(options.take("layer_norm_eps", 1e-12))
        tied = options.take("tie_word_embeddings", True) or not headed
        of_head: Any = "gelu_exact" if kind == "roberta" else activation
        model = Transformer(
            depth=options.take("n_layers" if distil else "num_hidden_layers"),
            width=width,
            heads=options.take("n_heads" if distil else "num_attention_heads"),
            mlp=activation,
            mlp_width=options.take("hidden_dim" if distil else "intermediate_size"),
            norm=LayerNorm(epsilon=epsilon),
            norm_placement="after",
            positions=Learned(length=length, offset=offset),
            token_types=0 if distil else options.take("type_vocab_size", 2),
            embedding_norm="norm",
            attention_bias="all",
            mlp_bias="all",
            embedding="tied" if tied else "untied",
            transform=Transform(activation=of_head) if headed else None,
            output_bias="bias" if headed else "none",
        )
        objective = Masked() if headed else StatesOnly()
        return FamilySettings(model, objective, length, options.take("vocab_size"))

    def options(self, kind: str, settings: FamilySettings) -> dict[str, Any]:
        model, positions = settings.model, settings.model.positions
        offset, places = 0, settings.length
        if isinstance(positions, Learned):
            offset, places = positions.offset, positions.length
        found = {
            "vocab_size": settings.vocabulary,
            "max_position_embeddings": places + offset,
            "tie_word_embeddings": model.embedding == "tied",
        }
        if kind == "distilbert":
            return found | {
                "dim": model.width,
                "hidden_dim": model.mlp_size,
                "n_layers": model.depth,
                "n_heads": model.heads,
                "activation": THEIRS[model.mlp],
            }
        if kind == "roberta" and offset:
            found["pad_token_id"] = offset - 1
        return found | {
            "hidden_size": model.width,
            "intermediate_size": model.mlp_size,
            "num_hidden_layers": model.depth,
            "num_attention_heads": model.heads,
            "hidden_act": THEIRS[model.mlp],
            "layer_norm_eps": model.norm.epsilon,
            # Their table has one row at least.
            "type_vocab_size": max(model.token_types, 1),
            "position_embedding_type": "absolute",
        }

    def architecture(self, kind: str, settings: FamilySettings) -> str:
        name = {"bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert"}[kind]
        return name + ("ForMaskedLM" if settings.objective.predictions else "Model")

    def rules(self, kind: str, settings: FamilySettings) -> list[Rule]:
        tied = settings.model.embedding == "tied"
        distil = kind == "distilbert"
        block = f"{kind}.transformer.layer.{{n}}." if distil else f"{kind}.encoder.layer.{{n}}."
        table = f"{kind}.embeddings."
        found = [
            Rule("embedding", table + "word_embeddings.weight"),
            Rule("positions", table + "position_embeddings.weight"),
            Rule("token_types", table + "token_type_embeddings.weight"),
        ]
        matrices = {
            "query": "attention.self.query",
            "key": "attention.self.key",
            "value": "attention.self.value",
            "out": "attention.output.dense",
            "up": "intermediate.dense",
            "down": "output.dense",
        }
        norms = {"norm_1": "attention.output.LayerNorm", "norm_2": "output.LayerNorm"}
        if distil:
            matrices = {
                "query": "attention.q_lin",
                "key": "attention.k_lin",
                "value": "attention.v_lin",
                "out": "attention.out_lin",
                "up": "ffn.lin1",
                "down": "ffn.lin2",
            }
            norms = {"norm_1": "sa_layer_norm", "norm_2": "output_layer_norm"}
        for ours, theirs in matrices.items():
            found.append(Rule(f"layers/{ours}", f"{block}{theirs}.weight", "linear"))
            found.append(Rule(f"layers/{ours}_bias", f"{block}{theirs}.bias"))
        dense, norm, decoder, bias = {
            "bert": (
                "cls.predictions.transform.dense",
                "cls.predictions.transform.LayerNorm",
                "cls.predictions.decoder",
                "cls.predictions.bias",
            ),
            "roberta": (
                "lm_head.dense",
                "lm_head.layer_norm",
                "lm_head.decoder",
                "lm_head.bias",
            ),
            "distilbert": (
                "vocab_transform",
                "vocab_layer_norm",
                "vocab_projector",
                "vocab_projector.bias",
            ),
        }[kind]
        of = {f"layers/{ours}": block + theirs for ours, theirs in norms.items()}
        of |= {"embedding_norm": table + "LayerNorm", "transform_norm": norm}
        for ours, theirs in of.items():
            found.append(Rule(f"{ours}/scale", f"{theirs}.weight"))
            found.append(Rule(f"{ours}/bias", f"{theirs}.bias"))
        return [
            *found,
            Rule("transform", dense + ".weight", "linear"),
            Rule("transform_bias", dense + ".bias"),
            Rule("unembedding", decoder + ".weight"),
            # An untied decoder has a bias of its own.
            Rule("output_bias", bias if tied else decoder + ".bias"),
        ]

    def copies(self, kind: str) -> dict[str, str]:
        table = f"{kind}.embeddings.word_embeddings.weight"
        head = _HEADS[kind]
        if kind == "distilbert":
            return {"vocab_projector.weight": table}
        return {f"{head}decoder.weight": table, f"{head}decoder.bias": f"{head}bias"}

    def renamed(self, name: str) -> str:
        """LayerNorm's arrays were called gamma and beta, as in TensorFlow."""
        return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
            "LayerNorm.beta", "LayerNorm.bias"
        )
