"""What a family owes: settings both ways, and which array of theirs is which of ours."""

import re
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, NamedTuple

from lm.config import UserError
from lm.hub.rules import Rule
from lm.model import Model, Transformer
from lm.objectives import Objective


class FamilySettings(NamedTuple):
    """What a config.json of theirs says, in our words."""

    model: Transformer
    objective: Objective
    """What the model was trained to predict."""
    length: int
    """Positions of a row, at most."""
    vocabulary: int
    """Rows of the table of tokens."""


def transformer_of(model: Model) -> Transformer:
    """The model, if it is one that a family can have; raises UserError where it is none."""
    if not isinstance(model, Transformer):
        raise UserError(f"no family of transformers has models like model.type={model.kind}")
    return model


def words(text: str) -> frozenset[str]:
    """The words of a text, as names of options.

    >>> sorted(words("b a"))
    ['a', 'b']
    """
    return frozenset(text.split())


class Options:
    """The options of a config.json; each that nobody asks for is refused at the end."""

    def __init__(self, values: Mapping[str, Any], where: str = "config.json") -> None:
        self.values, self.where = values, where
        self._known = {"model_type"}

    def take(self, name: str, *default: Any) -> Any:
        """The value of an option, the default where it is missing or null.

        Raises UserError where there is no default either.
        """
        self._known.add(name)
        value = self.values.get(name)
        if value is None and not default:
            raise UserError(f"{self.where}: {name} is missing")
        return default[0] if value is None else value

    def choose(self, name: str, legal: Mapping[str, Any], *default: str) -> Any:
        """What the value of an option means; raises UserError for one that is not known."""
        value = self.take(name, *default)
        if value not in legal:
            raise UserError(
                f"{self.where}: {name}={value} is nothing that is computed here; one of"
                f" {', '.join(legal)}"
            )
        return legal[value]

    def must(self, name: str, legal: Any) -> None:
        """Raises UserError where an option has another value than the one that is computed."""
        if (value := self.take(name, legal)) != legal:
            raise UserError(
                f"{self.where}: {name}={value} is nothing that is computed here; only {legal}"
            )

    def finish(self, ignored: Collection[str]) -> None:
        """Raises UserError for an option that nobody has asked for, nor is to be ignored."""
        for name, value in self.values.items():
            if name in self._known or value is None or name in IGNORED or name in ignored:
                continue
            raise UserError(
                f"{self.where}: {name}={value!r} is an option that is not known here: whether"
                " it changes what is computed, nobody can say"
            )


class Family:
    """Models of one make: a value that carries what is known of them."""

    kinds: ClassVar[tuple[str, ...]]
    """Their `model_type`s."""
    prefix: ClassVar[str]
    """Of names of what is not the head; published files may lack it."""
    ignored: ClassVar[frozenset[str]] = frozenset()
    """Options that decide nothing, besides those of all families."""
    uncomputed: ClassVar[tuple[str, ...]] = ()
    """Patterns of names of arrays that are known and not computed."""

    def settings(self, options: Options, names: Collection[str]) -> FamilySettings:
        """What a config.json says, of a file with arrays of these names."""
        raise NotImplementedError

    def options(self, kind: str, settings: FamilySettings) -> dict[str, Any]:
        """The options of a model as near as the kind can say; read again, they may differ."""
        raise NotImplementedError

    def rules(self, kind: str, settings: FamilySettings) -> list[Rule]:
        """Where each array is; rules of arrays that the model lacks are passed over."""
        raise NotImplementedError

    def architecture(self, kind: str, settings: FamilySettings) -> str:
        """The class of transformers for it."""
        raise NotImplementedError

    def copies(self, kind: str) -> dict[str, str]:
        """Names that may repeat another array, as a head that is tied, and that one's."""
        return {}

    def renamed(self, name: str) -> str:
        """The name by now of an array in a file of old."""
        return name

    def is_uncomputed(self, name: str) -> bool:
        """Whether an array is known, and nothing that we compute needs it."""
        return any(re.search(pattern, name) for pattern in self.uncomputed)


ACTIVATIONS: dict[str, Any] = {
    "gelu": "gelu_exact",
    "gelu_python": "gelu_exact",
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
    "relu2": "relu2",
}
"""Theirs to ours; "gelu" alone is the exact form."""
GATES: dict[str, Any] = {
    "gelu": "geglu_exact",
    "gelu_python": "geglu_exact",
    "gelu_new": "geglu",
    "gelu_pytorch_tanh": "geglu",
    "silu": "swiglu",
    "swish": "swiglu",
    "relu": "reglu",
}
"""The same where what is activated is a gate."""
THEIRS = {
    "gelu_exact": "gelu",
    "gelu": "gelu_pytorch_tanh",
    "silu": "silu",
    "relu": "relu",
    "relu2": "relu2",
    "tanh": "tanh",
    "geglu_exact": "gelu",
    "geglu": "gelu_pytorch_tanh",
    "swiglu": "silu",
    "reglu": "relu",
}
"""Ours to theirs, gated or not."""

IGNORED = words(
    """
    _attn_implementation_autoset _name_or_path architectures auto_map bad_words_ids
    begin_suppress_tokens bos_token_id chunk_size_feed_forward cls_token_id
    decoder_start_token_id diversity_penalty do_sample dtype early_stopping
    encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty finetuning_task
    forced_bos_token_id forced_eos_token_id gradient_checkpointing id2label initializer_range
    label2id length_penalty max_length min_length no_repeat_ngram_size num_beam_groups
    num_beams num_labels num_return_sequences output_attentions output_hidden_states
    output_past output_scores pad_token_id prefix problem_type remove_invalid_values
    repetition_penalty return_dict return_dict_in_generate sep_token_id suppress_tokens
    task_specific_params temperature tf_legacy_loss tie_encoder_decoder tokenizer_class top_k
    top_p torch_dtype torchscript transformers.js_config transformers_version typical_p
    use_bfloat16 use_cache
    """
)
"""Options of any family that decide nothing of what a model computes: of training, of
generation, of their own bookkeeping."""
