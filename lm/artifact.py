"""A model as a thing: a folder that can be mailed, and used where it was not trained.

    config.json         what the model is, what it was trained to predict, where it comes from
    tokenizer/          the tokenizer's own file, if it has one, and its settings
    model.safetensors   the parameters by name, "layers/query" of all layers in one array;
                        beyond 5 GB in shards, named by model.safetensors.index.json

`lm.train.load.load_model` takes such a folder, or a run directory, and touches no corpus.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from msgspec import Meta
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from lm.config import Config, UserError, dump, parse, read_json
from lm.data import LengthModel, Tokenizer, TokenizerConfig
from lm.data.tokenizers import load_tokenizer, save_tokenizer
from lm.model import Model
from lm.numerics import Precision
from lm.objectives import Objective
from lm.output.files import write_whole

SHARD = 5 * 10**9
"""Bytes of a file of parameters, at most."""
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_INDEX = f"{_WEIGHTS}.index.json"


class Consumed(Config):
    """What went into a model's parameters, with all that their starts had consumed."""

    tokens: Annotated[int, Meta(ge=0, description="positions trained on")] = 0
    targets: Annotated[int, Meta(ge=0, description="predictions that counted")] = 0
    flops: Annotated[int, Meta(ge=0, description="of the matmuls, forward and backward")] = 0
    device_seconds: Annotated[float, Meta(ge=0, description="spent in steps")] = 0.0

    def plus(self, other: "Consumed") -> "Consumed":
        """The sums of both.

        >>> Consumed(tokens=3).plus(Consumed(tokens=4, flops=1)).tokens
        7
        """
        names = self.__struct_fields__
        return Consumed(**{name: getattr(self, name) + getattr(other, name) for name in names})


class Provenance(Config):
    """Where a model comes from."""

    run: Annotated[str, Meta(description="name of the run that trained it")] = ""
    step: Annotated[int, Meta(ge=0, description="optimizer steps done")] = 0
    steps: Annotated[int, Meta(ge=0, description="optimizer steps of the whole run")] = 0
    corpus_digest: Annotated[str, Meta(description="of the text it was trained on")] = ""
    start: Annotated[str, Meta(description="digest of the model that it started from")] = ""
    consumed: Annotated[Consumed, Meta(description="what went into it")] = Consumed()
    commit: Annotated[str, Meta(description="of the code that trained it")] = ""


class Started(Config):
    """What a run keeps of the model that it started from."""

    digest: Annotated[str, Meta(description="of that model")]
    origin: Annotated[Provenance, Meta(description="where that model comes from")] = (
        Provenance()
    )
    consumed: Annotated[Consumed, Meta(description="what had gone into it")] = Consumed()


class Card(Config):
    """The config.json of an artifact: all that its use takes, but for arrays and tokens."""

    model: Annotated[Model, Meta(description="the architecture")]
    objective: Annotated[Objective, Meta(description="what it was trained to predict")]
    tokenizer: Annotated[TokenizerConfig, Meta(description="text to ids")]
    length: Annotated[int, Meta(ge=2, description="positions of a row (L)")]
    precision: Annotated[Precision, Meta(description="of matrix products in training")]
    lengths: Annotated[LengthModel, Meta(description="lengths of its documents")] | None = None
    origin: Annotated[Provenance, Meta(description="where it comes from")] = Provenance()
    format: Annotated[Literal[1], Meta(description="of this folder")] = 1


class Artifact(NamedTuple):
    """What an artifact's folder holds; the parameters are on the host."""

    card: Card
    tokenizer: Tokenizer
    params: dict[str, Any]
    """The tree of arrays that the model's module takes."""

    @property
    def digest(self) -> str:
        """What decides the model's answers: its config, tokenizer and parameters."""
        found = hashlib.sha256(dump(self.card.model).encode())
        found.update(self.tokenizer.digest.encode())
        for name, array in sorted(by_name(self.params).items()):
            found.update(f"{name} {array.dtype} {array.shape}".encode())
            found.update(np.ascontiguousarray(array).view(np.uint8).data)
        return found.hexdigest()[:16]


def is_artifact(folder: Path) -> bool:
    """Whether a folder holds an artifact, and not a run."""
    return any((folder / name).exists() for name in (_WEIGHTS, _INDEX))


def save_artifact(artifact: Artifact, folder: Path, *, shard: int = SHARD) -> None:
    """Writes an artifact to a folder, made if it is not there.

    Raises UserError where the folder holds files already.
    """
    check_folder(folder)
    folder.mkdir(exist_ok=True)
    save_tokenizer(artifact.tokenizer, artifact.card.tokenizer, folder / "tokenizer")
    shards = list(_shards(by_name(artifact.params), shard))
    names = [_WEIGHTS]
    if len(shards) > 1:
        total = len(shards)
        names = [f"model-{n:05}-of-{total:05}.safetensors" for n in range(1, total + 1)]
    for name, arrays in zip(names, shards, strict=True):
        save_file(arrays, folder / name)
    if len(shards) > 1:
        where = {key: name for name, part in zip(names, shards, strict=True) for key in part}
        size = sum(array.nbytes for part in shards for array in part.values())
        index = {"metadata": {"total_size": size}, "weight_map": where}
        write_whole(folder / _INDEX, json.dumps(index, indent=2) + "\n")
    # Last, as without it the folder is no artifact.
    write_whole(folder / _CONFIG, dump(artifact.card))


def check_folder(folder: Path) -> None:
    """Raises UserError where an artifact cannot be written."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: is there, and not an empty folder; choose another")
    if not folder.absolute().parent.is_dir():
        raise UserError(f"{folder}: there is no directory {folder.parent}")


def load_artifact(folder: Path) -> Artifact:
    """What a folder holds; raises UserError in one line where it is damaged or no artifact."""
    card = load_card(folder)
    files = [_WEIGHTS]
    if (folder / _INDEX).exists():
        weight_map = read_json(folder / _INDEX).get("weight_map")
        if not isinstance(weight_map, dict):
            raise UserError(f"{folder / _INDEX}: damaged: it has no weight_map")
        files = sorted(set(map(str, weight_map.values())))
    arrays: dict[str, np.ndarray] = {}
    for name in files:
        try:
            arrays |= load_file(folder / name)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{folder / name}: damaged: {error}") from None
    return Artifact(card, load_tokenizer(folder / "tokenizer"), as_tree(arrays))


def load_card(folder: Path) -> Card:
    """What an artifact is, without its parameters; raises UserError like `load_artifact`."""
    config = folder / _CONFIG
    if not is_artifact(folder) or not config.exists():
        raise UserError(f"{folder}: no artifact: it has no {_CONFIG} with {_WEIGHTS}")
    return parse(Card, config.read_bytes(), str(config))


def by_name(params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The arrays of a tree of parameters by their paths.

    >>> sorted(by_name({"layers": {"up": np.ones(2)}, "norm": np.ones(1)}))
    ['layers/up', 'norm']
    """
    found: dict[str, Any] = {}
    for name, value in params.items():
        path = f"{prefix}{name}"
        found |= by_name(value, f"{path}/") if isinstance(value, Mapping) else {path: value}
    return found


def as_tree(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The tree of parameters whose paths these are.

    >>> list(as_tree({"layers/up": np.ones(2)})["layers"])
    ['up']
    """
    tree: dict[str, Any] = {}
    for path, array in arrays.items():
        *folders, name = path.split("/")
        here = tree
        for folder in folders:
            here = here.setdefault(folder, {})
        here[name] = array
    return tree


def _shards(arrays: Mapping[str, np.ndarray], most: int) -> Iterator[dict[str, np.ndarray]]:
    """The arrays by name, in files of at most so many bytes, or of one array."""
    part: dict[str, np.ndarray] = {}
    size = 0
    for name, array in sorted(arrays.items()):
        if part and size + array.nbytes > most:
            yield part
            part, size = {}, 0
        part[name] = np.ascontiguousarray(array)
        size += array.nbytes
    yield part
