"""A Hugging Face folder: what model it holds, in our words, and its arrays, not read yet."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from lm.artifact import Card, Provenance, by_name
from lm.config import UserError, read_json, validate_fields
from lm.data.tokenizers import Tokenizer, from_hf_folder
from lm.hub.base import Family, FamilySettings, Options
from lm.hub.families import family_of
from lm.hub.rules import Shapes, names, to_ours
from lm.hub.without import has_tokenizer, without_tokenizer
from lm.model import Model, blank_example, build
from lm.output.tensors import LazyArray, holds_arrays, read_arrays

CONFIG = "config.json"


def is_hf_folder(folder: Path) -> bool:
    """Whether a folder is one that transformers reads: its config.json has a `model_type`."""
    config = folder / CONFIG
    try:
        return config.is_file() and "model_type" in read_json(config)
    except UserError:  # damaged, and nobody knows of what it is the settings
        return False


class Opened(NamedTuple):
    """What a Hugging Face folder holds, in our words."""

    card: Card
    tokenizer: Tokenizer
    arrays: dict[str, LazyArray]
    """The parameters by name, in the type that the folder has them in."""
    said: tuple[str, ...]
    """What is worth knowing, a line each: what is there and not computed."""


class HfFolder:
    """The settings and the names of a folder; raises UserError where they are not known."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / CONFIG).is_file():
            raise UserError(f"{folder}: no Hugging Face folder: it has no {CONFIG}")
        options = read_json(folder / CONFIG)
        if not isinstance(options, dict) or not isinstance(options.get("model_type"), str):
            raise UserError(f"{folder / CONFIG}: has no model_type")
        self.kind: str = options["model_type"]
        where = str(folder / CONFIG)
        self.family: Family = family_of(self.kind, where)
        found = self._arrays()
        asked = Options(options, where)
        try:
            self.settings: FamilySettings = self.family.settings(asked, found.keys())
            validate_fields(self.settings.model)
        except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
            raise UserError(
                f"{where}: an option has a value that it cannot have: {error}"
            ) from None
        except UserError as error:
            said = str(error)
            raise UserError(said if str(folder) in said else f"{where}: {said}") from None
        asked.finish(self.family.ignored)
        if why := self.settings.model.check():
            raise UserError(f"{where}: {why}")
        rules = self.family.rules(self.kind, self.settings)
        shapes = shapes_of(self.settings)
        self.said = self._refuse_left_over(found, names(rules, shapes))
        try:
            self.arrays = to_ours(found, rules, shapes)
        except UserError as error:
            raise UserError(f"{folder}: {error}") from None

    def _arrays(self) -> dict[str, LazyArray]:
        """Theirs, by the names that a model with its head has by now."""
        if not holds_arrays(self.folder):
            pickled = sorted(self.folder.glob("pytorch_model*.bin"))
            why = "it has no model.safetensors"
            if pickled:
                why = (
                    f"{pickled[0].name} is a pickle, which runs what is in it: convert it where"
                    " you trust it, by transformers' save_pretrained(FOLDER)"
                )
            raise UserError(f"{self.folder}: {why}")
        found = read_arrays(self.folder)
        prefix = self.family.prefix.format(kind=self.kind)
        if not any(name.startswith(prefix) for name in found):  # saved without a head
            found = {prefix + name: array for name, array in found.items()}
        return {self.family.renamed(name): array for name, array in found.items()}

    def _refuse_left_over(
        self, found: Mapping[str, LazyArray], used: set[str]
    ) -> tuple[str, ...]:
        copies, passed = self.family.copies(self.kind), []
        for name in sorted(found.keys() - used):
            original = copies.get(name, "")
            if original in found:
                if not _equal(found[name], found[original]):
                    raise UserError(
                        f"{self.folder}: tensor {name} is not {original}, though"
                        " tie_word_embeddings says so"
                    )
            elif self.family.is_uncomputed(name):
                passed.append(name)
            else:
                raise UserError(
                    f"{self.folder}: tensor {name} is left over: no part of a {self.kind} model"
                    " that is computed here"
                )
        if not passed:
            return ()
        more = f" and {len(passed) - 1} more" if len(passed) > 1 else ""
        return (f"{passed[0]}{more}: there, and no part of what is computed",)


def open_folder(folder: Path, *, source: str = "", revision: str = "") -> Opened:
    """What a Hugging Face folder holds; no array is read yet.

    `source` and `revision` say where it comes from, if that is not the folder. Raises UserError
    in one line for a family, an option or an array that is not known, or is missing.
    """
    opened = HfFolder(folder)
    settings, said = opened.settings, opened.said
    if has_tokenizer(folder):
        tokenizer, kind = from_hf_folder(folder, size=settings.vocabulary)
    else:
        tokenizer, kind = without_tokenizer(folder, size=settings.vocabulary)
        said += ("no tokenizer is there: the model takes ids, and no text",)
    card = Card(
        model=settings.model,
        objective=settings.objective,
        tokenizer=kind,
        length=_own_length(folder, settings.length),
        precision="float32",
        origin=Provenance(
            source=source or str(folder), revision=revision, family=opened.kind, consumed=None
        ),
    )
    return Opened(card, tokenizer, opened.arrays, said)


def _own_length(folder: Path, places: int) -> int:
    """Positions of a row: as many as there are places, or fewer, where sentence-transformers'
    file says so.
    """
    path = folder / "sentence_bert_config.json"
    told = read_json(path).get("max_seq_length") if path.is_file() else None
    return min(places, told) if isinstance(told, int) and told > 0 else places


def shapes_of(settings: FamilySettings) -> Shapes:
    """The shape of each of our arrays for a model; nothing is allocated."""
    return _shapes(settings.model, settings.vocabulary)


@cache
def _shapes(model: Model, vocabulary: int) -> Shapes:
    module = build(model, vocabulary, mesh=None)
    made = jax.eval_shape(
        lambda: module.init(jax.random.key(0), blank_example(model, 1, 2))["params"]
    )
    boxes = by_name(made)
    return {name: tuple(box.value.shape) for name, box in boxes.items()}


def _equal(one: LazyArray, other: LazyArray) -> bool:
    return one.shape == other.shape and bool(np.array_equal(one.whole(), other.whole()))
