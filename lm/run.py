"""A run: everything that decides what is trained, on what, and how long."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from lm.config import Config, Count, UserError, divisors, essence, parse, validate_fields
from lm.data import Channel, Data, TextMixture, vocabulary_size
from lm.data.derived import DERIVED
from lm.data.templates import as_kept
from lm.distributed.mesh import Divisibility, Mesh, choose_mesh
from lm.model import Attention, Execution, Model, Remat, Transformer
from lm.numerics import Precision
from lm.objectives import Causal, Objective
from lm.optimizer import LORA, Adamw, Lora, Optimizer, Schedule, WarmupStableDecay
from lm.optimizer import check as check_schedule
from lm.output.files import check_exists


class CheckpointSettings(Config):
    """When training state is saved; a last checkpoint is always written at the end."""

    seconds: Annotated[float, Meta(gt=0, description="save at most this often, in seconds")] = (
        120
    )
    steps: Annotated[
        Count | None, Meta(description="save every so many steps instead; null: by the clock")
    ] = None
    keep: Annotated[int, Meta(ge=1, description="how many of the newest are kept")] = 2
    directory: (
        Annotated[
            str,
            Meta(
                min_length=1,
                description="where they are, gs:// too; null: in the run directory, which all"
                " hosts must then share",
            ),
        ]
        | None
    ) = None


class Faults(Config):
    """What is done when a loss or an update is not finite any more, or the loss jumps."""

    policy: Annotated[
        Literal["stop", "skip", "roll_back"],
        Meta(
            description="end the run, leave this update out, or go on from the last checkpoint"
            " without the batches since then"
        ),
    ] = "stop"
    spike: (
        Annotated[
            float,
            Meta(
                gt=0,
                description="a loss so many nats above the mean of the last 32 is a fault too;"
                " null: only what is not finite",
            ),
        ]
        | None
    ) = None
    most: Annotated[
        int, Meta(ge=1, description="so many in a row end the run, whatever the policy")
    ] = 8


class Start(Config):
    """What training starts from, in place of drawn parameters."""

    path: Annotated[
        str, Meta(min_length=1, description="an artifact, or the directory of a run")
    ]
    parameters: Annotated[
        Literal["all", "fitting"],
        Meta(
            description="all of the start's must fit by name and shape, or those that do are"
            " taken; what the run has beyond them is drawn, and named"
        ),
    ] = "all"
    add_tokens: Annotated[
        tuple[Annotated[str, Meta(min_length=1)], ...],
        Meta(
            description="names of special tokens that the run's tokenizer has beyond the"
            " start's; their rows of the tables begin at the mean of the others, with noise"
        ),
    ] = ()
    chat_template: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(
            description="how messages become text, in place of the start's way: chatml, plain,"
            " or a file in Jinja, whose text is kept; the tokens that chatml writes are added"
        ),
    ] = None
    digest: Annotated[
        str | None,
        Meta(description="of the model there; null: whichever it is, and noted here"),
    ] = None

    def __post_init__(self) -> None:
        if self.chat_template is not None:
            msgspec.structs.force_setattr(self, "chat_template", as_kept(self.chat_template))


class Run(Config):
    """One training run: what decides its result, and, last, how it is executed."""

    data: Data = Data()
    objective: Objective = Causal()
    model: Model = Transformer()
    optimizer: Optimizer = Adamw()
    schedule: Schedule = WarmupStableDecay()
    tokens: Annotated[int, Meta(ge=1, description="budget: tokens trained on")] = 1_000_000
    start: Annotated[
        Start | None,
        Meta(
            description="null: from scratch; else tokenizer and model are the start's,"
            " unless others are given"
        ),
    ] = None
    trainable: (
        Annotated[
            tuple[str, ...],
            Meta(
                min_length=1,
                description='parameters that change, as ["layers/*", "head_*"]; null: all',
            ),
        ]
        | None
    ) = None
    adapter: Annotated[
        Lora | None,
        Meta(
            description="what is trained in place of the start's parameters, which are frozen"
            " but for heads and what trainable names; null: none"
        ),
    ] = None
    seed: Annotated[int, Meta(ge=0, lt=2**31, description="of data order, masks, weights")] = 0
    precision: Annotated[Precision, Meta(description="of matrix products")] = "bfloat16"
    evaluations: Annotated[
        int, Meta(ge=1, le=2**20, description="times validated, evenly spaced")
    ] = 8
    evaluation_rows: Annotated[int, Meta(ge=1, description="validation rows, at most")] = 128
    microbatches: Annotated[
        int, Meta(ge=1, description="parts of a batch, one after the other, to save memory")
    ] = 1
    remat: Annotated[Remat, Meta(description="what the backward pass computes again")] = "none"
    unroll: Annotated[
        Count | None, Meta(description="layers compiled in a row; null: all on CPU, else one")
    ] = None
    attention: Annotated[
        Attention,
        Meta(
            description="what computes it; auto: splash on TPUs for rows of 512 on, the kernel"
            " that experiments.benchmarks.device has noted on GPUs, else XLA"
        ),
    ] = "auto"
    mesh: Mesh = Mesh()
    checkpoints: CheckpointSettings = CheckpointSettings()
    faults: Faults = Faults()
    trackers: Annotated[
        tuple[str, ...],
        Meta(
            description="where metrics go beside metrics.jsonl, such as tensorboard, bar, wandb"
        ),
    ] = ("tensorboard", "bar")
    evaluation_windows: Annotated[
        int,
        Meta(
            ge=0,
            description="held-out windows scored in bits per byte at each validation, by the"
            " first valid scorer; 0: none. A multiple of data.batch compiles nothing anew",
        ),
    ] = 0
    evaluation_tasks: Annotated[
        tuple[str, ...],
        Meta(description="tasks asked at each validation: names of lm eval, or JSON files"),
    ] = ()
    evaluation_items: Annotated[
        int, Meta(ge=1, description="items of each of their files, the first ones")
    ] = 100


EXECUTION = (
    *("microbatches", "remat", "unroll", "attention", "mesh", "checkpoints", "faults"),
    *("trackers", "evaluation_windows", "evaluation_tasks", "evaluation_items"),
)
"""Fields that may differ when a run goes on: they change how it runs, not what it finds.

What `faults` left out is in the metrics and the result; without a fault it changes nothing."""
DECISIVE = tuple(name for name in Run.__struct_fields__ if name not in EXECUTION)
"""The other fields, which decide the result."""


def compiled_settings(run: Run) -> Run:
    """The run, with defaults in place of what its compiled programs do not depend on.

    >>> compiled_settings(Run(seed=1)) == compiled_settings(Run(tokens=4096))
    True
    """
    data, usual = run.data, Run()
    apart = (
        *("seed", "tokens", "evaluations", "evaluation_rows", "checkpoints", "trackers"),
        *("evaluation_windows", "evaluation_tasks", "evaluation_items"),
    )
    # Where the rate turns, and how fast it rises and falls, is given to a step.
    flat: dict[str, Any] = dict.fromkeys(
        {"warmup", "decay"}.intersection(run.schedule.__struct_fields__), 0.0
    )
    return msgspec.structs.replace(
        run,
        data=Data(tokenizer=data.tokenizer, length=data.length, batch=data.batch),
        optimizer=msgspec.structs.replace(run.optimizer, learning_rate=1.0, weight_decay=0.0),
        schedule=msgspec.structs.replace(run.schedule, **flat),
        **{name: getattr(usual, name) for name in apart},
    )


def steps(run: Run) -> int:
    """Optimizer steps of the token budget, the last one whole.

    >>> steps(Run(tokens=100_000, data=Data(batch=32, length=256)))
    13
    """
    return -(-run.tokens // (run.data.batch * run.data.length))


def in_positions(run: Run, row_tokens: float) -> Run:
    """The run with its budget in positions, where rows hold `row_tokens` that are no padding.

    Rows of a stream are full, and so the run stays as it is.

    >>> whole = Run(tokens=1000, data=Data(length=40, packing="whole"))
    >>> in_positions(whole, 25.0).tokens, in_positions(whole, 40.0) is whole
    (1600, True)
    """
    if row_tokens == run.data.length:
        return run
    positions = math.ceil(run.tokens * run.data.length / row_tokens)
    return msgspec.structs.replace(run, tokens=positions)


def evaluation_steps(run: Run) -> list[int]:
    """After which steps validation happens, the last one always among them.

    >>> evaluation_steps(Run(tokens=100_000, data=Data(batch=32, length=256), evaluations=4))
    [3, 6, 9, 13]
    """
    total, times = steps(run), run.evaluations
    return sorted({max(1, total * k // times) for k in range(1, times + 1)})


def validate(run: Run) -> Run:
    """Checks a run as a whole, before anything is allocated; raises UserError in one line."""
    run = validate_fields(run)
    _check_sizes(msgspec.to_builtins(run), "")
    if why := run.model.check():
        raise UserError(f"model.{why}")
    if why := refuse_attention(run):
        raise UserError(why)
    check_schedule(run.schedule)
    if why := run.data.tokenizer.check():
        raise UserError(f"data.tokenizer.{why}")
    if getattr(run.optimizer, "base_width", None) and not run.model.has_last_norm:
        raise UserError(
            "optimizer.base_width: rates are transferred with the norm before the vocabulary,"
            " and the model has none; leave it out"
        )
    if run.adapter is not None:
        _check_adapter(run)
    sentinels = run.data.tokenizer.sentinels
    if why := run.objective.check(length=run.data.length, sentinels=sentinels):
        raise UserError(f"objective.{why}")
    if why := run.model.refuse_objective(run.objective.masks, source=run.objective.source):
        raise UserError(why)
    longest = run.model.longest
    if longest is not None and (rows := run.objective.positions(run.data.length)) > longest:
        raise UserError(
            f"data.length={run.data.length}: rows have {rows} positions, and the model has"
            f" places for {longest}"
        )
    if run.data.unique is not None and isinstance(run.data.corpus, TextMixture):
        raise UserError(
            f"data.unique={run.data.unique}: of a mixture each component has its own epochs;"
            " leave it out"
        )
    if run.data.unique is not None and run.data.unique < run.data.length:
        raise UserError(
            f"data.unique={run.data.unique} is less than a row; at least data.length,"
            f" {run.data.length}"
        )
    if (count := steps(run)) > LARGEST:
        each = run.data.batch * run.data.length
        raise UserError(
            f"tokens={run.tokens}: {count} steps of data.batch x data.length; at most {LARGEST}"
            f" steps, which are {LARGEST * each} tokens"
        )
    if run.data.batch % (copies := run.objective.copies):
        below = run.data.batch // copies * copies
        near = [near for near in (below, below + copies) if near]
        raise UserError(
            f"data.batch={run.data.batch}: each prompt has {copies} rows of it, by"
            f" objective.group; nearest: {near}"
        )
    if run.objective.couples_rows and run.microbatches > 1:
        kind = run.objective.__struct_config__.tag
        raise UserError(
            f"microbatches={run.microbatches}: objective.type={kind} holds all rows of a batch"
            " against each other, and a part has fewer of them; must be 1"
        )
    if run.data.batch % run.microbatches:
        legal = divisors(run.data.batch)
        near = sorted(sorted(legal, key=lambda n: abs(n - run.microbatches))[:3])
        raise UserError(
            f"microbatches={run.microbatches} does not divide data.batch={run.data.batch};"
            f" nearest: {near}"
        )
    return run


def _check_adapter(run: Run) -> None:
    """Raises UserError where an adapter has nothing that it is added to."""
    if run.start is None:
        raise UserError("adapter: it is added to a model; say to which, by start.path")
    if getattr(run.optimizer, "base_width", None):
        raise UserError(
            "optimizer.base_width: rates of adapters, whose rank does not grow with the width,"
            " are not transferred by it; leave it out"
        )


def changing(run: Run) -> tuple[str, ...] | None:
    """Patterns of the parameters that training changes, by path; None: all.

    With an adapter, these are A and B, heads, and what `trainable` names beyond.

    >>> changing(Run()), changing(Run(adapter=Lora(), trainable=("norm/*",)))
    (None, ('lora/*', 'norm/*'))
    """
    if run.adapter is None:
        return run.trainable
    heads = ("head_*",) if any(head.outputs for head in run.objective.heads) else ()
    return (f"{LORA}*", *heads, *(run.trainable or ()))


def check_channels(run: Run) -> None:
    """Raises UserError where the objective reads what the run's rows do not hold.

    It is asked of runs that are trained: an objective is proven without any text.
    """
    if why := run.objective.refuse_training():
        raise UserError(why)
    packing, kind = run.data.packing, run.objective.__struct_config__.tag
    if run.objective.whole and packing == "stream":
        legal = "single" if run.objective.single else "whole"
        raise UserError(
            f"data.packing={packing}: objective.type={kind} asks of whole documents; must be"
            f" {legal}"
        )
    if run.objective.single and packing != "single":
        raise UserError(
            f"data.packing={packing}: objective.type={kind} asks of one document a row; must be"
            " single"
        )
    channels = {channel.name: channel for channel in run.data.corpus.channels}
    for name, classes in run.objective.needs.items():
        if name in DERIVED:
            if run.start is None and run.objective.derived[name] is None:
                raise UserError(
                    f"start: the objective reads the channel {name}, which the model computes"
                    " that the run starts from; say which, by start.path"
                )
            continue
        if name not in channels:
            has = ", ".join(channels) or "none"
            where = _SOURCES.get(name, f"jsonl has it with data.corpus.{name}")
            raise UserError(
                f"data.corpus: the objective reads the channel {name}, and this text has {has};"
                f" data.corpus.type={where}"
            )
        if classes not in (None, channels[name].classes):
            raise UserError(
                f"objective.classes={classes}, but the text's channel {name} has"
                f" {channels[name].classes or 'no classes'}"
            )


_SOURCES = {
    "loss": "chat has it",
    "side": "neighbours has it, and so has jsonl with data.corpus.pair=apart",
}
"""Which sources have a channel that no field of that name gives."""


def channels_of(run: Run) -> tuple[Channel, ...]:
    """What the run's batches hold beside tokens: the text's channels, and derived ones."""
    needs = run.objective.needs
    return *run.data.corpus.channels, *(DERIVED[name] for name in needs if name in DERIVED)


LARGEST = 2**31 - 1
"""Steps are counted, and axes of arrays indexed, in 32 bits."""
_UNBOUNDED = ("tokens", "data.unique", "data.corpus.documents")


def _check_sizes(value: Any, path: str) -> None:
    """Raises UserError for a number larger than any size can be."""
    if isinstance(value, dict):
        for name, item in value.items():
            _check_sizes(item, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            _check_sizes(item, f"{path}[{number}]")
    elif isinstance(value, int) and value > LARGEST and path not in _UNBOUNDED:
        raise UserError(f"{path}={value}: must be <= {LARGEST}")


def splits(run: Run) -> list[Divisibility]:
    """All sizes of a run that its mesh must divide, as the user calls them."""
    data = run.data
    found = [Divisibility("batch", data.batch, "data.batch", each=run.microbatches)]
    for objective in run.objective.parts(steps(run), run.seed):
        positions = objective.positions(data.length)
        if positions == data.length:
            found.append(Divisibility("length", positions, "data.length"))
        else:
            said = f"data.length={data.length}, which gives rows of {positions},"
            found.append(Divisibility("length", positions, said, is_field=False))
    for axis, (name, size) in run.model.splits().items():
        found.append(Divisibility(axis, size, f"model.{name}"))
    tokens = vocabulary_size(data.tokenizer)
    said = f"data.tokenizer, of {tokens} tokens,"
    return [*found, Divisibility("vocab", tokens, said, is_field=False)]


def mesh_for(run: Run, *, devices: int, slices: int = 1) -> Mesh:
    """The mesh of a run on so many devices: what it says, and a legal choice of the rest.

    Raises UserError in one line where there is none, before anything is allocated.

    >>> small = Run(data=Data(batch=8), model=Transformer(width=256, heads=4))
    >>> mesh = mesh_for(small, devices=16)
    >>> mesh.fsdp, mesh.tensor, mesh.context
    (8, 2, 1)
    """
    return Mesh(**choose_mesh(run.mesh, splits(run), devices=devices, slices=slices))


def refuse_attention(run: Run, platform: str | None = None) -> str | None:
    """Why `run.attention` or `run.remat` cannot be had, on a platform if known, or None."""
    return run.model.refuse_execution(execution_of(run, platform))


def execution_of(run: Run, platform: str | None) -> Execution:
    """How the run's model is executed on a platform; None: on one that is not known yet."""
    return Execution(platform, run.precision, run.attention, run.remat)


IDENTITY = 1
"""Raised when a default that decides results is changed: it is then a part of what decides."""


def identity(run: Run) -> dict[str, Any]:
    """What decides a run's result and is not as by default, by field, as JSON values.

    A new field with a default is in nobody's identity. What a run starts from, and what its
    objective asks, is named by the digest of the model, wherever that lies.

    >>> identity(Run(seed=1, microbatches=2))
    {'seed': 1}
    """
    found = essence(validate_fields(run))
    for name in ("start", "objective"):
        found |= {name: _by_digest(found[name])} if name in found else {}
    version = {"identity": IDENTITY} if IDENTITY > 1 else {}
    return version | {name: found[name] for name in DECISIVE if name in found}


def _by_digest(value: Any) -> Any:
    """Settings without the path of what has a digest.

    >>> _by_digest({"reward": {"path": "here", "digest": "ab"}})
    {'reward': {'digest': 'ab'}}
    """
    if not isinstance(value, dict):
        return value
    found = {name: _by_digest(each) for name, each in value.items()}
    if found.get("digest") is not None:
        found.pop("path", None)
    return found


def same_result(a: Run, b: Run) -> list[str]:
    """Names of the fields in which two runs would find different things; [] if none."""
    ours, theirs = identity(a), identity(b)
    names = dict.fromkeys([*ours, *theirs])
    return [name for name in names if ours.get(name) != theirs.get(name)]


def decided_by(run: Run) -> dict[str, str]:
    """A digest of each part of a run's identity, by field.

    Checkpoints and results carry them, as files are moved about and removed.

    >>> list(decided_by(Run(seed=1, microbatches=2)))
    ['seed']
    """
    return {name: _short_digest(value) for name, value in identity(run).items()}


def identity_digest(run: Run) -> str:
    """A digest of a run's whole identity, for names of folders."""
    return _short_digest(identity(run))


def _short_digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def differing(run: Run, carried: Mapping[str, str]) -> list[str]:
    """Names of the fields in which a run differs from what decided a checkpoint or result."""
    mine = decided_by(run)
    names = dict.fromkeys([*mine, *carried])
    return [name for name in names if mine.get(name) != carried.get(name)]


def read_run(directory: Path) -> Run:
    """The settings that a run directory was made with."""
    check_exists(directory)
    settings = directory / "config.json"
    if not settings.exists():
        raise UserError(f"{directory}: not a run directory, it has no config.json")
    return parse(Run, settings.read_bytes(), str(settings))
