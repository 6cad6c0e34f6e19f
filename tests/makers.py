"""Values that tests need whole and care for in part."""

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import jax
import msgspec
import pytest

from lm.data import Bytes, Data, Text
from lm.model import Transformer
from lm.optimizer import Adamw
from lm.results import Costs, Evaluation, Passage, Result, Score, Training
from lm.run import Run


@contextmanager
def one_device() -> Iterator[None]:
    """Within, this process and those that it starts have one device of the eight.

    They are of the same cores, so that more of them cost memory and time alone.
    """
    one = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_NUM_CPU_DEVICES", "1")
        patch.setattr(jax, "devices", lambda: one)
        patch.setattr(jax, "device_count", lambda: 1)
        yield


def text(folder: Path) -> Text:
    """Forty files of made-up sentences in the folder, the same every time."""
    random_ = random.Random(0)
    for number in range(40):
        words = random_.choices(("one", "two", "three"), k=random_.randint(20, 60))
        (folder / f"{number}.txt").write_text(" ".join(words))
    return Text(paths=(f"{folder}/*.txt",))


def small_run(corpus: Text) -> Run:
    """A run of a second: 16 steps of 8 rows.

    Its compiled step depends on neither budget, learning rate, corpus nor seed: tests that
    change these alone share one, over files and processes too.
    """
    return Run(
        data=Data(corpus=corpus, tokenizer=Bytes(), length=32, batch=8, validation=0.2),
        model=Transformer(depth=1, width=16, heads=4),
        optimizer=Adamw(learning_rate=1e-2),
        tokens=16 * 8 * 32,
        precision="float32",
        evaluations=2,
    )


def _empty(type_: Any) -> Any:
    """The empty value of a field's type: 0, "" or {}."""
    if get_origin(type_) is Annotated:
        type_ = get_args(type_)[0]
    return (get_origin(type_) or type_)()


def score(**changes: Any) -> Score:
    """An exact score of two bits per byte, with these changes."""
    usual = {
        "bits_per_byte": 2.0, "layout_bits": 0.0, "mc_se": 0.0, "text_se": 0.1, "kind": "exact",
        "tokens": 10, "bytes": 10, "nats": 20 * math.log(2),
    }  # fmt: skip
    return msgspec.convert(usual | changes, Score)


def evaluation(**changes: Any) -> Evaluation:
    """What a causal model is found to be, with these changes."""
    usual = {
        "bits_per_byte": 2.0, "layout_bits": 0.0, "mc_se": 0.0, "text_se": 0.1,
        "scorer": "chain_rule", "kind": "exact", "scores": {"chain_rule": score()},
        "error_by_fraction": {}, "probe_accuracy": None, "probe_se": None, "probe": None,
        "baselines": {}, "truth": None, "document_bytes": (), "document_nats": (),
        "says": Passage(document="a", passage="", after="", tokens=()),
    }  # fmt: skip
    return Evaluation(**usual | changes)


def result(**columns: Any) -> Result:
    """The result of a run of no length; evaluated if columns of an evaluation are given."""
    parts = {}
    for name, part in (("costs", Costs), ("training", Training), ("evaluation", Evaluation)):
        fields = part.__struct_fields__
        parts[name] = {field: columns.pop(field) for field in fields if field in columns}
    if columns:
        raise TypeError(f"no columns: {', '.join(columns)}")
    costs, training = (
        part(
            **{f.name: _empty(f.type) for f in msgspec.structs.fields(part) if f.required}
            | given
        )
        for part, given in ((Costs, parts["costs"]), (Training, parts["training"]))
    )
    asked = parts["evaluation"]
    return Result(
        costs=costs, training=training, evaluation=evaluation(**asked) if asked else None
    )


def save_random(folder: Path, objective: Any, model: Any) -> None:
    """An artifact of random numbers, on bytes; nothing is compiled for it."""
    import numpy as np

    from lm.artifact import Artifact, Card, as_tree, save_artifact

    config, random_ = Bytes(), np.random.default_rng(0)
    shapes = model.shapes(config.vocabulary_size)
    params = {name: random_.normal(size=shape) for name, shape in shapes.items()}
    params = {name: array.astype(np.float32) for name, array in params.items()}
    card = Card(
        model=model, objective=objective, tokenizer=config, length=16, precision="float32"
    )
    save_artifact(Artifact(card, config.open(), as_tree(params)), folder)


def save_untrained(
    folder: Path,
    objective: Any,
    model: Any,
    *,
    length: int,
    precision: str = "float32",
    tokenizer: Bytes | None = None,
) -> None:
    """An artifact of a model that nobody trained, on bytes, with a sentinel for each span."""
    # Others of these values need no jax.
    import flax.linen as nn
    import jax
    import numpy as np

    from lm.artifact import Artifact, Card, save_artifact
    from lm.model import blank_example, build

    config = tokenizer or Bytes(sentinels=4)
    opened = config.open()
    module = build(model, opened.vocabulary.size, mesh=None)
    examples = [blank_example(model, 1, 2)]
    examples += [replace(examples[0], head=head) for head in objective.heads]
    params: dict[str, Any] = {}
    for example in examples:
        # In one program, not one for each operation.
        params |= jax.jit(module.init)(jax.random.key(0), example)["params"]
    card = Card(
        model=model, objective=objective, tokenizer=config, length=length, precision=precision
    )
    params = jax.tree.map(np.asarray, nn.unbox(params))
    save_artifact(Artifact(card, opened, params), folder)
