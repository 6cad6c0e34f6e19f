"""PEFT's adapters: LoRA as other people's code keeps it, of models whose family is known.

    adapter_config.json         r, lora_alpha, which matrices, and what must be as by default
    adapter_model.safetensors   "base_model.model." and a module's name, then lora_A.weight
                                [r, inputs] and lora_B.weight [outputs, r]

As `peft.PeftModel.save_pretrained` writes them (github.com/huggingface/peft,
src/peft/tuners/lora/config.py and layer.py).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lm.artifact import Card, PutOn
from lm.config import UserError, read_json, validate_fields
from lm.data.tokenizers import Tokenizer
from lm.hub.base import FamilySettings, Options, transformer_of, words
from lm.hub.folder import shapes_of
from lm.hub.rules import Rule, to_ours, to_theirs
from lm.hub.writing import ChosenFamily, choose_family
from lm.optimizer import Lora
from lm.output.files import write_whole
from lm.output.tensors import LazyArray, read_file, write_file

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
ROOT = "base_model.model."
"""How names of arrays begin."""


class Adapter(NamedTuple):
    """What a folder of PEFT's holds, in our words."""

    lora: Lora
    arrays: dict[str, LazyArray]
    """A and B by their paths."""


def is_peft_folder(folder: Path) -> bool:
    """Whether a folder holds an adapter as PEFT writes it."""
    return (folder / CONFIG).is_file()


def read_adapter(folder: Path, base: Card, tokenizer: Tokenizer) -> Adapter:
    """The adapter of a folder, of a model with this card.

    Raises UserError in one line for a kind of adapter, an option or an array that is not known
    here, and where it is of another model.
    """
    options = Options(read_json(folder / CONFIG), str(folder / CONFIG))
    options.must("peft_type", "LORA")
    for name, legal in _MUST.items():
        options.must(name, legal)
    if (how := options.take("init_lora_weights", True)) not in (True, False, "gaussian"):
        raise UserError(
            f"{options.where}: init_lora_weights={how} may have changed the model itself; only"
            " true, false and gaussian leave it"
        )
    rank, alpha = options.take("r"), options.take("lora_alpha")
    options.take("target_modules")  # which the names of arrays say as well
    options.finish(_IGNORED)
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder}: it has no {WEIGHTS}")
    written = _family(base, tokenizer)
    found = {_with_head(name, written): x for name, x in read_file(folder / WEIGHTS).items()}
    rules = {rule.ours: rule for rule in _matrices(written) if _names(rule)[0] in found}
    depth = written.settings.model.depth
    used = {name for rule in rules.values() for name in _names(rule, depth)}
    if left := sorted(found.keys() - used):
        raise UserError(
            f"{folder}: tensor {left[0]} is left over: of no matrix of a {written.kind} model"
            " that adapters are added to here"
        )
    try:
        lora = validate_fields(Lora(rank=rank, alpha=float(alpha), targets=tuple(rules)))
    except (TypeError, ValueError, UserError) as error:
        raise UserError(f"{folder}: {error}") from None
    shapes = lora.shapes(base.model.axes(), shapes_of(written.settings))
    try:
        return Adapter(lora, to_ours(found, _of_adapter(rules), shapes))
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None


def write_adapter(
    folder: Path,
    put_on: PutOn,
    arrays: Mapping[str, LazyArray],
    card: Card,
    tokenizer: Tokenizer,
) -> None:
    """Writes an adapter of a model with this card as PEFT reads it.

    Raises UserError where no family has the model, or its matrices are not each a module.
    """
    written, lora = _family(card, tokenizer), put_on.lora
    rules = {rule.ours: rule for rule in _matrices(written)}
    targets = lora.chosen(card.model.axes())
    if others := [name for name in targets if name not in rules]:
        raise UserError(
            f"adapter.targets: {others[0]} is no module by itself in a {written.kind} model"
        )
    if own := sorted(arrays.keys() - lora.axes(card.model.axes()).keys()):
        raise UserError(
            f"{own[0]}: is no part of a low-rank adapter of PEFT's; export it merged"
        )
    folder.mkdir(exist_ok=True)
    chosen = {name: rules[name] for name in targets}
    # A model without a head has modules without the prefix of those below one.
    bare = written.family.architecture(written.kind, written.settings).endswith("Model")
    prefix = written.family.prefix.format(kind=written.kind) if bare else ""
    theirs = to_theirs(arrays, _of_adapter(chosen))
    write_file(
        folder / WEIGHTS,
        {ROOT + name.removeprefix(ROOT + prefix): array for name, array in theirs.items()},
    )
    modules = [
        rule.theirs.removesuffix(".weight").removeprefix(prefix) for rule in chosen.values()
    ]
    options = {
        "base_model_name_or_path": put_on.base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": int(lora.alpha) if lora.alpha.is_integer() else lora.alpha,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": lora.rank,
        # A pattern of whole names, as the ends of names may be of other modules as well.
        "target_modules": "|".join(
            module.replace(".", r"\.").replace("{n}", r"\d+") for module in modules
        ),
        "task_type": None,
    }
    write_whole(folder / CONFIG, json.dumps(options, indent=2) + "\n")


def _family(card: Card, tokenizer: Tokenizer) -> ChosenFamily:
    """The family of a model, for the names of its modules."""
    size = tokenizer.vocabulary.size
    settings = FamilySettings(transformer_of(card.model), card.objective, card.length, size)
    return choose_family(settings, first=card.origin.family)


def _with_head(name: str, written: ChosenFamily) -> str:
    """The name that an array has in a model with its head."""
    prefix = ROOT + written.family.prefix.format(kind=written.kind)
    return name if name.startswith(prefix) else prefix + name.removeprefix(ROOT)


def _matrices(written: ChosenFamily) -> list[Rule]:
    """Where a family has each matrix of the layers that is a module by itself."""
    return [
        rule
        for rule in written.family.rules(written.kind, written.settings)
        if rule.kind == "linear" and rule.layered and rule.part == (0, 1)
    ]


def _of_adapter(rules: Mapping[str, Rule]) -> list[Rule]:
    """Where PEFT has A and B of each of these matrices."""
    return [
        Rule(f"lora/{rule.ours}/{ours}", _name(rule, theirs), "linear", first=rule.first)
        for rule in rules.values()
        for ours, theirs in (("a", "lora_A"), ("b", "lora_B"))
    ]


def _name(rule: Rule, which: str) -> str:
    return f"{ROOT}{rule.theirs.removesuffix('weight')}{which}.weight"


def _names(rule: Rule, layers: int = 1) -> list[str]:
    """The names of A and B in the first layers."""
    both = _of_adapter({rule.ours: rule})
    return [each.name(layer) for layer in range(layers) for each in both]


_MUST: dict[str, Any] = {
    "alpha_pattern": {},
    "bias": "none",
    "fan_in_fan_out": False,
    "lora_bias": False,
    "loftq_config": {},
    "rank_pattern": {},
    "use_bdlora": False,
    "use_dora": False,
    "use_qalora": False,
    "use_rslora": False,
    "ensure_weight_tying": False,
}
"""Options that change what is computed, as they are in a plain low-rank adapter."""
_IGNORED = words(
    """
    auto_mapping base_model_name_or_path exclude_modules inference_mode layers_pattern
    lora_dropout megatron_core peft_version qalora_group_size revision task_type
    """
)
"""Options of training, of which matrices (as the arrays tell), and of bookkeeping."""
