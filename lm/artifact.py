"""A model as a thing: a folder that can be mailed, and used where it was not trained.

    config.json         what the model is, what it was trained to predict, where it comes from
    tokenizer/          the tokenizer's own file, if it has one, and its settings
    model.safetensors   the parameters by name, "layers/query" of all layers in one array;
                        beyond 5 GB in shards, named by model.safetensors.index.json

An adapter's folder has its own parameters alone, and names the model that they are put on.
Of a quantized parameter there are two arrays, "layers/query.codes" and "layers/query.scale".

`lm.train.load.load_model` takes such a folder, or a run directory, and touches no corpus.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from msgspec import Meta

from lm.config import Config, UserError, dump, essence_text, parse
from lm.data import LengthModel, Tokenizer, TokenizerConfig
from lm.data.tokenizers import load_tokenizer, save_tokenizer
from lm.model import Model
from lm.numerics import Precision, Quantized
from lm.objectives import Objective
from lm.optimizer import Lora
from lm.output.files import write_whole
from lm.output.tensors import SHARD, WEIGHTS, LazyArray, holds_arrays, read_arrays, write_arrays
from lm.quantization import Quantization
from lm.quantization.stored import from_arrays, to_arrays

_CONFIG = "config.json"


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
    consumed: (
        Annotated[Consumed, Meta(description="what went into it; null: unknown")] | None
    ) = Consumed()
    commit: Annotated[str, Meta(description="of the code that trained it")] = ""
    source: Annotated[str, Meta(description="folder or name that it was imported from")] = ""
    revision: Annotated[str, Meta(description="of that name, where it is known")] = ""
    family: Annotated[str, Meta(description="model_type of what was imported")] = ""


class Started(Config):
    """What a run keeps of the model that it started from."""

    digest: Annotated[str, Meta(description="of that model")]
    origin: Annotated[Provenance, Meta(description="where that model comes from")] = (
        Provenance()
    )
    consumed: (
        Annotated[Consumed, Meta(description="what had gone into it; null: unknown")] | None
    ) = Consumed()


class PutOn(Config):
    """What an adapter's folder says of the model that it is put on, its base."""

    lora: Annotated[Lora, Meta(description="how its A and B are added")]
    base: Annotated[str, Meta(description="where that model was")]
    digest: Annotated[str, Meta(description="of that model")]


class Card(Config):
    """The config.json of an artifact: all that its use takes, but for arrays and tokens."""

    model: Annotated[Model, Meta(description="the architecture")]
    objective: Annotated[Objective, Meta(description="what it was trained to predict")]
    tokenizer: Annotated[TokenizerConfig, Meta(description="text to ids")]
    length: Annotated[int, Meta(ge=2, description="positions of a row (L)")]
    precision: Annotated[Precision, Meta(description="of matrix products in training")]
    lengths: Annotated[LengthModel, Meta(description="lengths of its documents")] | None = None
    origin: Annotated[Provenance, Meta(description="where it comes from")] = Provenance()
    adapter: (
        Annotated[
            PutOn,
            Meta(
                description="null: a whole model; else the parameters are those"
                " that an adapter adds to its base, or has in place of the base's"
            ),
        ]
        | None
    ) = None
    quantization: (
        Annotated[
            Quantization,
            Meta(description="how the layers' matrices are kept; null: as other parameters"),
        ]
        | None
    ) = None
    format: Annotated[Literal[1], Meta(description="of this folder")] = 1


class Artifact(NamedTuple):
    """What an artifact's folder holds; the parameters are on the host."""

    card: Card
    tokenizer: Tokenizer
    params: dict[str, Any]
    """The tree of arrays that the model's module takes, of `Quantized` ones too."""

    @property
    def digest(self) -> str:
        """What decides the model's answers: its config, tokenizer and parameters.

        A quantized model has that of its dequantized self.
        """
        # Of what is not as by default, so that a new field with a default changes nobody's.
        found = hashlib.sha256(essence_text(self.card.model).encode())
        found.update(self.tokenizer.digest.encode())
        for name, array in sorted(by_name(self.params).items()):
            # Of the numbers as they are used, in whatever type they are kept.
            array = array.dequantized() if isinstance(array, Quantized) else array
            array = np.ascontiguousarray(array, np.float32)
            found.update(f"{name} {array.dtype} {array.shape}".encode())
            found.update(array.view(np.uint8).data)
        return found.hexdigest()[:16]


def is_artifact(folder: Path) -> bool:
    """Whether a folder holds an artifact, and not a run."""
    return holds_arrays(folder)


def save_artifact(artifact: Artifact, folder: Path, *, shard: int = SHARD) -> None:
    """Writes an artifact to a folder, made if it is not there.

    Raises UserError where the folder holds files already.
    """
    arrays = to_arrays(by_name(artifact.params))
    write_artifact(artifact.card, artifact.tokenizer, arrays, folder, shard=shard)


def write_artifact(
    card: Card,
    tokenizer: Tokenizer,
    arrays: Mapping[str, LazyArray],
    folder: Path,
    *,
    shard: int = SHARD,
) -> None:
    """The same of parameters by name, of which a file's are in memory at a time."""
    check_folder(folder)
    folder.mkdir(exist_ok=True)
    save_tokenizer(tokenizer, card.tokenizer, folder / "tokenizer")
    write_arrays(folder, arrays, shard=shard)
    # Last, as without it the folder is no artifact.
    write_whole(folder / _CONFIG, dump(card))


def check_folder(folder: Path) -> None:
    """Raises UserError where an artifact cannot be written."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: is there, and not an empty folder; choose another")
    if not folder.absolute().parent.is_dir():
        raise UserError(f"{folder}: there is no directory {folder.parent}")


def load_artifact(folder: Path) -> Artifact:
    """What a folder holds; raises UserError in one line where it is damaged or no artifact."""
    card = load_card(folder)
    params = from_arrays(read_arrays(folder), card.quantization, card.model)
    return Artifact(card, load_tokenizer(folder / "tokenizer"), as_tree(params))


def load_card(folder: Path) -> Card:
    """What an artifact is, without its parameters; raises UserError like `load_artifact`."""
    config = folder / _CONFIG
    if not is_artifact(folder) or not config.exists():
        raise UserError(f"{folder}: no artifact: it has no {_CONFIG} with {WEIGHTS}")
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
