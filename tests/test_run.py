"""A run as a whole: derived numbers, checks of one line, JSON."""

import json
import math
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.config import UserError, digest, dump, essence, override, parse
from lm.data import Bytes, Data, SentencePiece, Stdlib, Text, Tfds
from lm.distributed.mesh import Mesh
from lm.model import Transformer
from lm.model.layers import LayerNorm
from lm.model.positions import Rotary
from lm.objectives import AnyOrder, Causal, Masked
from lm.optimizer import Adafactor, Adamw, Cosine, Lion, Lora, Muon, WarmupStableDecay
from lm.run import (
    EXECUTION,
    CheckpointSettings,
    Faults,
    Run,
    Start,
    evaluation_steps,
    same_result,
    steps,
    validate,
)

SMALL = Data(batch=4, length=8)


@pytest.mark.parametrize(("tokens", "expected"), [(1, 1), (31, 1), (32, 1), (33, 2), (64, 2)])
def test_the_last_step_of_the_budget_is_whole(tokens, expected):
    """Fails if the number of steps is rounded down or to the nearest."""
    assert steps(Run(tokens=tokens, data=SMALL)) == expected


def test_steps_of_a_budget_that_no_float_holds():
    """Fails if the budget is divided as a float, which is off by one here."""
    tokens = 2**60 + 1
    assert steps(Run(tokens=tokens, data=Data(batch=1, length=2))) == 2**59 + 1


@given(st.integers(1, 200), st.integers(1, 300))
def test_evaluations_are_evenly_spaced_and_the_last_is_at_the_end(total, times):
    """Fails if one is at step 0, twice at one step, left out while there is room, or late."""
    found = evaluation_steps(Run(tokens=total * 32, data=SMALL, evaluations=times))
    assert found == sorted(set(found))
    assert found[0] >= 1
    assert found[-1] == total
    assert len(found) == min(total, times)
    gaps = [b - a for a, b in zip([0, *found], found, strict=False)]
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["model.width=64", "model.heads=3"], "model.heads=3 .* nearest: [1, 2, 4]"),
        (["model.width=12", "model.heads=4"], "model.heads=4 .* odd head size 3"),
        (["model.heads=4", "model.kv_heads=3"], "model.kv_heads=3 .* one of [1, 2, 4]"),
        (["model.heads=4", "model.kv_heads=8"], "model.kv_heads=8 .* one of [1, 2, 4]"),
        (
            ["objective.type=masked", "objective.mask=0.8", "objective.random=0.3"],
            "objective.random=0.3 .* at most 0.2",
        ),
        (["schedule.warmup=0.5", "schedule.decay=0.6"], "schedule.decay: 0.6 .* at most 0.5"),
        (["data.batch=32", "microbatches=3"], "microbatches=3 .* nearest: [1, 2, 4]"),
        (["data.length=64", "data.unique=63"], "data.unique=63 .* at least data.length, 64"),
    ],
)
def test_fields_that_do_not_go_together_are_one_line_with_what_would(overrides, line):
    """Fails if a check is left to the compiler, or does not say what is legal."""
    run = override(Run(), overrides)
    with pytest.raises(UserError) as info:
        validate(run)
    message = str(info.value)
    assert "\n" not in message
    for part in line.split(" .* "):
        assert part in message


@pytest.mark.parametrize(
    ("run", "field"),
    [
        (Run(tokens=0), "tokens=0"),
        (Run(seed=-1), "seed=-1"),
        (Run(seed=2**31), "seed="),
        (Run(precision="float16"), "precision=float16"),  # type: ignore[arg-type]
        (Run(optimizer=Adamw(learning_rate=math.nan)), "optimizer.learning_rate"),
        (Run(optimizer=Muon(clip=math.inf)), "optimizer.clip"),
        (Run(optimizer=Lion(clip=0.0)), "optimizer.clip=0"),
        (Run(optimizer=Adamw(base_width=0)), "optimizer.base_width=0: must be >= 2"),
        (Run(model=Transformer(dropout=1.0)), "model.dropout=1"),
        (Run(model=Transformer(kv_heads=0)), "model.kv_heads=0"),
        (Run(model=Transformer(kv_heads=-2)), "model.kv_heads=-2"),
        (Run(model=Transformer(mlp_width=0)), "model.mlp_width=0"),
        (Run(data=Data(length=1)), "data.length=1"),
        (Run(data=Data(validation=0.0)), "data.validation=0"),
        (Run(data=Data(unique=0)), "data.unique=0"),
        (Run(objective=Masked(rate=0.0)), "objective.rate=0"),
        (Run(schedule=Cosine(final=2.0)), "schedule.final=2"),
        (Run(checkpoints=CheckpointSettings(seconds=0.0)), "checkpoints.seconds=0"),
        (Run(checkpoints=CheckpointSettings(steps=0)), "checkpoints.steps=0"),
        (Run(checkpoints=CheckpointSettings(directory="")), "checkpoints.directory="),
        (Run(faults=Faults(policy="ignore")), "faults.policy=ignore"),  # type: ignore[arg-type]
        (Run(faults=Faults(spike=0.0)), "faults.spike=0"),
        (Run(faults=Faults(most=0)), "faults.most=0"),
        (Run(mesh=Mesh(fsdp=0)), "mesh.fsdp=0"),
        (Run(mesh=Mesh(tensor=0)), "mesh.tensor=0"),
        (Run(unroll=0), "unroll=0"),
    ],
)
def test_a_value_out_of_bounds_is_one_line_that_names_the_field(run, field):
    """Fails if a bound is dropped: constructors check none, `validate` all."""
    with pytest.raises(UserError, match=r"^[^\n]*$") as info:
        validate(run)
    assert str(info.value).startswith(field)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["tokens=1e18"], "tokens=1000000000000000000: .* at most 2147483647 steps"),
        (["evaluations=1e12"], "evaluations=1000000000000: must be <= 1048576"),
        (["model.width=1e18"], "model.width=1000000000000000000: must be <= 2147483647"),
        (["objective.type=masked", "objective.span=1e12"], "objective.span=.*must be <= "),
        (["data.batch=2147483646", "microbatches=5"], r"nearest: \[3, 6, 7\]"),
        (["model.width=2147483646", "model.heads=5"], r"nearest: \[3, 6, 7\]"),
    ],
)
def test_oneline_numbers_beyond_any_machine_are_one_line_at_once(overrides, line):
    """Fails if one is counted up to, or is left to what indexes in 32 bits."""
    start = time.monotonic()
    with pytest.raises(UserError, match=line):
        validate(override(Run(), overrides))
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("fraction", range(101))
def test_shares_that_add_up_to_one_are_not_above_it(fraction):
    """Fails if the check of a sum is exact where floats are not."""
    a, b = fraction / 100, (100 - fraction) / 100
    validate(Run(objective=Masked(mask=a, random=b)))
    validate(Run(schedule=WarmupStableDecay(warmup=a, decay=b)))


SHARE = st.floats(0, 0.5)
RUNS = st.builds(
    Run,
    data=st.builds(
        Data,
        corpus=st.one_of(
            st.just(Stdlib()),
            st.builds(
                Text,
                paths=st.lists(st.text(min_size=1), min_size=1, max_size=3).map(tuple),
                documents=st.sampled_from(["file", "paragraph"]),
            ),
            st.builds(Tfds, name=st.text(), text=st.text(), data_dir=st.none() | st.text()),
        ),
        tokenizer=st.just(Bytes())
        | st.builds(SentencePiece, kind=st.sampled_from(["bpe", "unigram"])),
        validation=st.floats(1e-300, 0.999),
        unique=st.none() | st.integers(256, 2**62),
    ),
    objective=st.just(Causal())
    | st.just(AnyOrder())
    | st.builds(Masked, rate=st.floats(0.6, 1), mask=SHARE, random=SHARE),
    model=st.builds(Transformer, mlp=st.sampled_from(["gelu", "swiglu"]), dropout=SHARE),
    optimizer=st.one_of(
        st.builds(Adamw, learning_rate=st.floats(0, 1e300), clip=st.none() | st.just(2.0)),
        st.builds(Lion, b1=SHARE),
        st.builds(Adafactor, exponent=st.floats(1e-300, 1)),
        st.builds(Muon, iterations=st.integers(1, 99)),
    ),
    schedule=st.builds(WarmupStableDecay, warmup=SHARE, decay=SHARE, final=SHARE)
    | st.builds(Cosine, warmup=SHARE),
    tokens=st.integers(1, 2**32),
    seed=st.integers(0, 2**31 - 1),
    mesh=st.builds(Mesh, fsdp=st.none() | st.integers(1, 8)),
    checkpoints=st.builds(CheckpointSettings, steps=st.none() | st.integers(1, 9)),
)


@settings(max_examples=100)
@given(RUNS)
def test_json_and_back_is_the_identity(run):
    """Fails if a field is left out of the JSON, a tag is lost, or a float is rounded."""
    assert validate(run) == run
    assert parse(Run, dump(run), "here") == run
    assert digest(parse(Run, dump(run), "here")) == digest(run)


OTHER: dict[str, Any] = {
    "data": SMALL,
    "objective": Masked(),
    "model": Transformer(depth=1),
    "optimizer": Lion(),
    "schedule": Cosine(),
    "tokens": 7,
    "start": Start(path="runs/a"),
    "trainable": ("norm*",),
    "adapter": Lora(),
    "seed": 1,
    "precision": "float32",
    "evaluations": 1,
    "evaluation_rows": 1,
    "evaluation_windows": 1,
    "evaluation_tasks": ("blimp",),
    "evaluation_items": 1,
    "trackers": (),
    "microbatches": 2,
    "remat": "block",
    "unroll": 1,
    "attention": "xla",
    "mesh": Mesh(tensor=2),
    "checkpoints": CheckpointSettings(keep=9),
    "faults": Faults(policy="skip"),
}


@pytest.mark.parametrize("name", Run.__struct_fields__)
def test_only_execution_may_differ_between_runs_of_one_result(name):
    """Fails if a field that decides the result is taken for execution, or the other way."""
    execution = {
        "microbatches",
        "remat",
        "unroll",
        "attention",
        "mesh",
        "checkpoints",
        "faults",
        "trackers",
        "evaluation_windows",
        "evaluation_tasks",
        "evaluation_items",
    }
    assert set(EXECUTION) == execution
    changed = Run(**{name: OTHER[name]})
    assert same_result(Run(), changed) == ([] if name in execution else [name])


def test_settings_that_an_earlier_version_wrote_are_read():
    """Fails if a run or an artifact of before norms and positions had settings is lost."""
    before = json.loads(dump(Run()))
    before["model"] |= {"norm": "layer", "rope_theta": 500.0}
    del before["model"]["positions"]
    found = parse(Run, json.dumps(before), "config.json")
    assert found.model.norm == LayerNorm() and found.model.positions == Rotary(theta=500.0)
    assert essence(found) == {
        "model": {
            "type": "transformer",
            "norm": {"type": "layer"},
            "positions": {"type": "rotary", "theta": 500.0},
        }
    }
