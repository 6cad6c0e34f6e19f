"""Our models as Hugging Face folders: the family that has their parts, or why none has."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import msgspec
import numpy as np

from lm.config import UserError
from lm.data.tokenizers import Tokenizer, to_hf_folder
from lm.hub.base import Family, FamilySettings, Options
from lm.hub.families import KINDS, spelled_out
from lm.hub.folder import CONFIG, shapes_of
from lm.hub.rules import names, to_theirs
from lm.hub.without import WithoutTokenizer
from lm.output.files import write_whole
from lm.output.tensors import SHARD, LazyArray, write_arrays


class ChosenFamily(NamedTuple):
    """A model in a family's words."""

    kind: str
    family: Family
    settings: FamilySettings
    options: dict[str, Any]


def choose_family(settings: FamilySettings, *, first: str = "") -> ChosenFamily:
    """The family that has all parts of a model; `first` is asked before the others.

    Whether it has is seen by reading what it writes. Raises UserError that names the family
    which comes nearest, and what would have to be otherwise.
    """
    nearest: dict[str, list[str]] = {}
    shapes = shapes_of(settings)
    for kind in sorted(KINDS, key=lambda kind: kind != first):
        family = KINDS[kind]
        options = {"model_type": kind, **family.options(kind, settings)}
        rules = family.rules(kind, settings)
        try:
            again = family.settings(Options(options), names(rules, shapes))
        except UserError:
            continue
        differing = _differing(settings, again)
        if not differing:
            return ChosenFamily(kind, family, settings, options)
        if type(again.model) is type(settings.model):
            nearest[kind] = differing
    if not nearest:
        raise UserError(
            f"no family of transformers has models like model.type={settings.model.kind}"
        )
    kind = min(nearest, key=lambda kind: len(nearest[kind]))
    raise UserError(
        f"no family of transformers has all parts of this model; {kind} comes nearest, and has"
        f" {' '.join(nearest[kind])}"
    )


def _differing(mine: FamilySettings, other: FamilySettings) -> list[str]:
    """What of a model another one has otherwise, as overrides that would make it so."""
    found = []
    ours, theirs = mine.objective, other.objective
    if (ours.masks, ours.predictions) != (theirs.masks, theirs.predictions):
        found.append(f"objective.type={theirs.__struct_config__.tag}")
    if type(mine.model) is not type(other.model):
        return [*found, f"model.type={other.model.kind}"]
    model, again = (spelled_out(each.model) for each in (mine, other))
    for field in model.__struct_fields__:
        if (value := getattr(again, field)) != getattr(model, field):
            found += _overrides(f"model.{field}", value, getattr(model, field))
    return found


def _overrides(path: str, value: Any, mine: Any) -> list[str]:
    """Overrides that make a part of a model what another has."""
    if not isinstance(value, msgspec.Struct):
        return [f"{path}={'null' if value is None else value}"]
    tag = value.__struct_config__.tag
    found = [f"{path}.type={tag}"] if tag and type(value) is not type(mine) else []
    for field in value.__struct_fields__:
        each = getattr(value, field)
        if type(value) is not type(mine) or each != getattr(mine, field):
            found += _overrides(f"{path}.{field}", each, getattr(mine, field, None))
    return found


def write_folder(
    folder: Path,
    written: ChosenFamily,
    arrays: Mapping[str, LazyArray],
    tokenizer: Tokenizer,
    *,
    precision: str = "float32",
    shard: int = SHARD,
) -> str | None:
    """Writes a model to a folder as transformers reads it; returns what is not the same."""
    folder.mkdir(exist_ok=True)
    family, kind, settings = written.family, written.kind, written.settings
    theirs = to_theirs(arrays, family.rules(kind, settings))
    cast = {name: array.astype(_TYPES[precision]) for name, array in theirs.items()}
    write_arrays(folder, cast, shard=shard)
    vocabulary = tokenizer.vocabulary
    special = {"bos": vocabulary.bos, "eos": vocabulary.eos, "pad": vocabulary.pad}
    ids = {f"{role}_token_id": id for role, id in special.items()}
    options = {
        "architectures": [family.architecture(kind, settings)],
        **ids,
        **written.options,
        "dtype": precision,
        "torch_dtype": precision,
    }
    _write_json(folder / CONFIG, options)
    if settings.objective.predictions & {"next", "spans"}:
        begins = (
            {"decoder_start_token_id": vocabulary.bos} if settings.model.reads_source else {}
        )
        _write_json(folder / "generation_config.json", {**ids, **begins})
    if isinstance(tokenizer, WithoutTokenizer):
        return "no tokenizer is written, as there is none"
    return to_hf_folder(tokenizer, folder)


def _write_json(path: Path, value: Any) -> None:
    write_whole(path, json.dumps(value, indent=2) + "\n")


_TYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
