"""Values that tests need whole and care for in part."""

import math
from typing import Annotated, Any, get_args, get_origin

import msgspec

from lm.results import Costs, Evaluation, Passage, Result, Score, Training


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
