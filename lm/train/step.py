"""The training step: rows in, a new state out, on any mesh."""

import fnmatch
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lm.artifact import as_tree, by_name
from lm.config import UserError
from lm.data.digest import chained
from lm.distributed import hosts
from lm.distributed import mesh as _mesh
from lm.example import Batch, Example, Vocabulary, content_of
from lm.generate.rollout import roll_out
from lm.loss import Sum, minimized, recorded
from lm.model import Module, blank_example, build
from lm.objectives import Base
from lm.objectives.rollout import START, Companion, RolledOut, Taught
from lm.optimizer import initial as initial_values
from lm.optimizer import state_axes, trainable
from lm.run import Run, changing, compiled_settings
from lm.train.microbatches import over_microbatches
from lm.train.update import Hyperparameters, Optimization


class State(NamedTuple):
    """All that training carries from step to step, and a checkpoint holds."""

    params: Any
    optimizer: Any
    step: jax.Array
    """int32: steps done."""
    batches: jax.Array
    """uint32[2]: digest of every batch so far, chained."""


@dataclass(frozen=True)
class Program:
    """The compiled parts of a run."""

    run: Run
    module: Module
    mesh: jax.sharding.Mesh
    abstract: State
    """Shapes and shardings of the state, without the arrays."""
    initial: Callable[[jax.Array], State]
    """The seed to the state before training."""
    update: Any
    """`(state, batch, seed, objective)`, jitted; see `step`.

    `beside` are the numbers of its update, and what else there is."""
    check: Any
    """`(params, batch, key)`, jitted; see `validate`. Companions are the last argument."""
    join: Callable[[Any], Any]
    """Parameters as they are trained to those that the module takes."""
    merge: Callable[[Any], Any]
    """Parameters as they are trained to those of a model without an adapter."""
    companions: Mapping[str, Any] = field(default_factory=dict)
    """By name, parameters of the frozen models that the objective asks; until they are placed,
    their shapes and shardings."""
    named: Mapping[str, Run] = field(default_factory=dict)
    """The settings of those that are not the start."""

    def init(self) -> State:
        """The state before training."""
        return self.initial(_seed(self.run))

    def own(self, params: Any) -> Any:
        """Those of the parameters that a checkpoint holds: with an adapter, what changes.

        The others are what the run starts from.
        """
        if self.run.adapter is None:
            return params
        patterns = changing(self.run) or ()
        return as_tree(
            {
                name: array
                for name, array in by_name(params).items()
                if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
            }
        )

    def step(
        self,
        state: State,
        batch: Batch,
        objective: Base | None = None,
        *,
        limit: float = math.inf,
        flags: Sequence[bool] = (False, False),
    ) -> tuple[State, dict[str, jax.Array]]:
        """The next state, and metrics; donates the old one.

        `objective` is that of the step (`run.objective.at`); each is compiled once. It may be
        left out where all steps have the same. Where faults are skipped, a loss above `limit`
        is one, and the metrics say `skipped`; `flags` are those that any host set.
        """
        objective = self.run.objective if objective is None else objective
        beside: Any = {"limit": np.float32(limit)} if _skips(self.run) else {}
        if hosts.is_multihost():
            beside["flags"] = hosts.place_flags(flags, self.mesh)
        found: tuple[State, dict[str, jax.Array]] = self.update(
            state, batch, _seed(self.run), objective, beside | self.beside
        )
        return found

    def validate(self, params: Any, batch: Batch, key: jax.Array) -> dict[str, Sum]:
        """What the objective's loss is on these rows, by name."""
        companions = (self.companions,) if self.companions else ()
        found: dict[str, Sum] = self.check(params, batch, key, *companions)
        return found

    @property
    def beside(self) -> dict[str, Any]:
        """What is `beside` a step's arguments whatever the step."""
        companions = {"companions": self.companions} if self.companions else {}
        return companions | {"numbers": self._numbers}

    @cached_property
    def _numbers(self) -> np.ndarray:
        return np.array(Hyperparameters.of(self.run), np.float32)

    @cached_property
    def rows(self) -> np.ndarray:
        """Which rows of a batch this host's devices hold, and so it must read; ascending."""
        all_B = np.arange(self.run.data.batch)
        held: Any = self._where.addressable_devices_indices_map(self._shape).values()
        return np.unique([all_B[index[0]] for index in held])

    def place(self, part: Batch) -> Batch:
        """The batch, its rows split over all devices, from this host's `rows` of it."""
        at_B = np.full(self.run.data.batch, -1)
        at_B[self.rows] = np.arange(len(self.rows))

        def put(array: np.ndarray) -> jax.Array:
            def shard(index: Any) -> np.ndarray:
                return array[at_B[index[0]], index[1]]

            shape = (*self._shape, *array.shape[2:])
            return jax.make_array_from_callback(shape, self._where, shard)

        return jax.tree.map(put, part)

    @property
    def _shape(self) -> tuple[int, int]:
        return self.run.data.batch, self.run.data.length

    @property
    def _where(self) -> jax.sharding.NamedSharding:
        return _mesh.sharding(self.mesh, "batch", "length")


def prepare(
    run: Run,
    vocabulary: Vocabulary,
    mesh: jax.sharding.Mesh,
    named: Mapping[str, Run] = MappingProxyType({}),
) -> Program:
    """Builds the program of a run; nothing is allocated yet, nothing compiled.

    `named` has the settings of the companions that the objective names by a path. Runs of one
    process that are alike in `compiled_settings` share what is traced and compiled.
    """
    pairs = tuple((name, compiled_settings(of)) for name, of in named.items())
    shared = _prepared(compiled_settings(run), vocabulary, mesh, pairs)
    return replace(shared, run=run, named=named)


@lru_cache(8)  # and no more, as a program takes memory of the devices too
def _prepared(
    run: Run,
    vocabulary: Vocabulary,
    mesh: jax.sharding.Mesh,
    pairs: tuple[tuple[str, Run], ...],
) -> Program:
    """See `prepare`; the pairs are of names and settings of companions."""
    named = dict(pairs)
    adapter, module_axes = run.adapter, run.model.axes()
    asked = {START: run} if START in run.objective.companions else {}
    asked |= {name: of for name, of in named.items() if name in run.objective.companions}
    how: Any = {"vocabulary": vocabulary, "mesh": mesh, "length": run.data.length}
    # Traced once, for the shapes as for the values.
    drawn = jax.jit(partial(_drawn, run, **how), inline=True)
    companions = {
        name: _placed(*_named_shapes(partial(_drawn, of, **how)), mesh)
        for name, of in asked.items()
    }
    _, axes = _named_shapes(drawn)
    if adapter is not None:
        axes |= as_tree(adapter.axes(module_axes))
    patterns = changing(run)
    trains = None if patterns is None else trainable(patterns, axes)
    optimization = Optimization(run, axes, trains, mesh)
    transformation, _ = optimization.with_numbers(Hyperparameters.of(run))

    def init(seed: jax.Array) -> State:
        key = jax.random.key(seed)
        params = nn.unbox(drawn(key))
        if adapter is not None:
            shapes = run.model.shapes(vocabulary.size)
            params |= as_tree(adapter.draw(key, module_axes, shapes))
        params = initial_values(run.optimizer, params, axes, width=run.model.width)
        zeros = jnp.zeros(2, jnp.uint32)
        return State(params, transformation.init(params), jnp.int32(0), zeros)

    def join(params: Any) -> Any:
        return params if adapter is None else as_tree(adapter.joined(by_name(params)))

    def merge(params: Any) -> Any:
        if adapter is None:
            return params
        return as_tree(adapter.merged(by_name(params), module_axes))

    module = _module(run, vocabulary, mesh)
    step, check = _computations(run, vocabulary, mesh, module, join, asked, optimization)
    shapes = jax.eval_shape(init, _seed(run))
    nowhere: Any = ()
    names = State(axes, state_axes(transformation, shapes.params, axes), nowhere, nowhere)
    shardings = jax.tree.map(lambda _, axes: _mesh.sharding(mesh, *axes), shapes, names)
    _check_divides(shapes.params, axes, mesh)
    abstract = jax.tree.map(
        lambda shape, where: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=where),
        shapes,
        shardings,
    )
    everywhere, rows = _mesh.sharding(mesh), _mesh.sharding(mesh, "batch", "length")
    beside: dict[str, Any] = {"limit": everywhere} if _skips(run) else {}
    frozen = jax.tree.map(lambda shape: shape.sharding, companions)
    beside |= {"companions": frozen} if frozen else {}
    beside["numbers"] = everywhere
    if hosts.is_multihost():
        beside["flags"] = hosts.flags_sharding(mesh)
    return Program(
        run=run,
        module=module,
        mesh=mesh,
        abstract=abstract,
        # The seed is an argument, so that runs which differ in it share a compiled program.
        initial=jax.jit(init, out_shardings=shardings),
        update=jax.jit(
            step,
            in_shardings=(shardings, rows, everywhere, beside),
            out_shardings=(shardings, everywhere),
            donate_argnums=0,
            static_argnums=3,
        ),
        check=jax.jit(
            check,
            in_shardings=(shardings.params, rows, everywhere, *([frozen] if frozen else [])),
            out_shardings=everywhere,
        ),
        join=join,
        merge=jax.jit(merge) if adapter is not None else merge,
        companions=companions,
    )


def _computations(
    run: Run,
    vocabulary: Vocabulary,
    mesh: jax.sharding.Mesh,
    module: Module,
    join: Callable[[Any], Any],
    asked: Mapping[str, Run],
    optimization: Optimization,
) -> tuple[Callable[..., tuple[State, dict[str, jax.Array]]], Callable[..., dict[str, Sum]]]:
    """What `Program.update` and `Program.check` compute, not compiled.

    `asked` has the settings of each companion.
    """
    how: Any = {"einsum": module.einsum, "mesh": mesh}

    def loss(
        objective: Base,
        params: Any,
        example: Example,
        dropout: dict[str, jax.Array],
        companions: Any = None,
    ) -> dict[str, Sum]:
        output: Any = module.apply({"params": join(params)}, example, rngs=dropout)
        if (name := objective.taught_by) is None:
            found = objective.loss(output, example, **how)
        else:
            teacher = _companion(asked[name], companions[name], vocabulary, mesh)
            taught = Taught(teacher.ask(example), teacher.einsum)
            found = objective.loss_taught(output, example, taught, **how)
        return {**found, **(output.terms or {})}

    def gradient(
        objective: Base,
        companions: Any,
        params: Any,
        counts: Any,
        example: Example,
        key: jax.Array,
    ) -> tuple[dict[str, Sum], Any]:
        def total(params: Any) -> tuple[jax.Array, dict[str, Sum]]:
            terms = loss(objective, params, example, {"dropout": key}, companions)
            return minimized(terms, counts), terms

        grads, terms = jax.grad(total, has_aux=True)(params)
        return terms, grads

    rolled_out = _rollouts(run, vocabulary, mesh, module, join, asked)

    def step(
        state: State,
        batch: Batch,
        seed: jax.Array,
        objective: Base,
        beside: Mapping[str, Any],
    ) -> tuple[State, dict[str, jax.Array]]:
        mask, drop = jax.random.split(jax.random.fold_in(jax.random.key(seed), state.step))
        numbers = Hyperparameters(*beside["numbers"])
        progress = state.step * numbers.step
        batches = chained(state.batches, batch)  # as they are read
        companions = beside.get("companions")
        batch = rolled_out(objective, state.params, batch, mask, companions)
        example = objective(batch, vocabulary, mask, progress)
        terms, grads = over_microbatches(
            partial(gradient, objective, companions),
            *(state.params, example, drop, run.microbatches),
        )
        both = terms["loss"]
        # Sums over microbatches and devices first, one division at the end.
        grads = jax.tree.map(lambda g: g / jnp.maximum(both.count, 1e-9), grads)
        grads = optimization.kept(grads)
        transformation, rate = optimization.with_numbers(numbers)
        updates, optimizer = transformation.update(grads, state.optimizer, state.params)
        metrics = {
            **recorded({name: term.mean for name, term in terms.items()}),
            **_targets(example, batch, vocabulary),
            "gradient_norm": optax.tree.norm(grads),
            "update_norm": optax.tree.norm(updates),
            "learning_rate": rate(state.step),
            "batches": batches,
        }
        params = optax.apply_updates(state.params, updates)
        if "flags" in beside:
            metrics["flags"] = beside["flags"].any(axis=0)
        if "limit" in beside:
            # Without a target there is no loss, which is no fault.
            loss = jnp.where(both.count > 0, both.mean, -jnp.inf)
            found = (both.total, metrics["gradient_norm"], metrics["update_norm"])
            sound = jnp.isfinite(jnp.stack(found)).all() & (loss <= beside["limit"])
            params = _chosen(sound, params, state.params)
            optimizer = _chosen(sound, optimizer, state.optimizer)
            metrics["skipped"] = ~sound
        return State(params, optimizer, state.step + 1, batches), metrics

    def check(
        params: Any, batch: Batch, key: jax.Array, companions: Any = None
    ) -> dict[str, Sum]:
        last = run.objective.last
        batch = rolled_out(last, params, batch, key, companions)
        return loss(last, params, last(batch, vocabulary, key), {})

    return step, check


def _rollouts(
    run: Run,
    vocabulary: Vocabulary,
    mesh: jax.sharding.Mesh,
    module: Module,
    join: Callable[[Any], Any],
    asked: Mapping[str, Run],
) -> Callable[[Base, Any, Batch, jax.Array, Any], Batch]:
    """`(objective, params, batch, key, companions)` to what the objective is called with."""

    def rolled_out(
        objective: Base, params: Any, batch: Batch, key: jax.Array, companions: Any
    ) -> Batch:
        """The rows, or what the objective's rollout makes of them."""
        if not objective.sample_count(run.data.length):
            return batch

        def generate(
            tokens_BL: jax.Array,
            prompt_B: jax.Array,
            end_B: jax.Array,
            key: jax.Array,
            count: int,
        ) -> RolledOut:
            given = join(params), tokens_BL, prompt_B, end_B, key, count
            return roll_out(module, *given, vocabulary=vocabulary)

        return objective.rollout(
            batch,
            vocabulary,
            jax.random.fold_in(key, _ROLLOUT),
            generate=generate,
            companions={
                name: _companion(of, companions[name], vocabulary, mesh)
                for name, of in asked.items()
            },
        )

    return rolled_out


def _companion(
    of: Run, params: Any, vocabulary: Vocabulary, mesh: jax.sharding.Mesh
) -> Companion:
    """A frozen model with these settings and parameters, as an objective may ask it."""
    last, frozen = of.objective.last, _module(of, vocabulary, mesh)
    return Companion(
        lambda example: frozen.apply({"params": params}, example),
        frozen.einsum,
        mesh,
        last.heads[0] if last.heads else None,
        last.attention_mask,
    )


def _module(run: Run, vocabulary: Vocabulary, mesh: jax.sharding.Mesh) -> Module:
    return build(
        run.model,
        vocabulary.size,
        mesh=mesh,
        precision=run.precision,
        remat=run.remat,
        unroll=run.unroll,
        attention=run.attention,
    )


def _drawn(
    of: Run, key: jax.Array, *, vocabulary: Vocabulary, mesh: jax.sharding.Mesh, length: int
) -> Any:
    """The parameters of the vocabulary's way through the model, and of each head, in boxes."""
    module = _module(of, vocabulary, mesh)
    # The smallest that fits the mesh.
    blank = partial(blank_example, of.model, _mesh.num_shards(mesh, "batch"), length)
    found = module.init(key, blank())["params"]
    for head in of.objective.heads:
        # Each parameter follows from its own name, so what both have is the same.
        found = module.init(key, replace(blank(), head=head))["params"] | found
    return found


def _named_shapes(drawn: Callable[[jax.Array], Any]) -> tuple[Any, Any]:
    """The shape and the axes of each parameter."""
    boxed = jax.eval_shape(drawn, jax.random.key(0))
    return nn.unbox(boxed), jax.tree.map(lambda box: box.names, boxed, is_leaf=_is_box)


def _placed(shapes: Any, axes: Any, mesh: jax.sharding.Mesh) -> Any:
    """Shapes with the place of each array on the mesh."""
    _check_divides(shapes, axes, mesh)
    return jax.tree.map(
        lambda shape, names: jax.ShapeDtypeStruct(
            shape.shape, shape.dtype, sharding=_mesh.sharding(mesh, *names)
        ),
        shapes,
        axes,
    )


_ROLLOUT = 2
"""Folded into a step's key, what its samples are drawn with."""


def _targets(example: Example, batch: Batch, vocabulary: Vocabulary) -> dict[str, jax.Array]:
    """How many targets count, and which fraction of the content is one.

    Sentinels are targets, but no content.
    """
    counts_BP = example.weights > 0
    sentinel_BP = jnp.isin(example.targets, jnp.array(vocabulary.sentinels, jnp.int32))
    content = jnp.sum(counts_BP & ~sentinel_BP)
    if example.head is not None:
        content = jnp.sum(counts_BP)
    content_BL = content_of(batch.tokens_BL, batch.segments_BL, vocabulary)
    return {
        "predicted": jnp.sum(counts_BP).astype(jnp.float32),
        "target_fraction": content / jnp.maximum(content_BL.sum(), 1),
    }


def _skips(run: Run) -> bool:
    """Whether the step itself leaves out an update that is wrong."""
    return run.faults.policy == "skip"


def _chosen(sound: jax.Array, new: Any, old: Any) -> Any:
    """The new values if they are sound, else the old; counters go on, as schedules follow them.

    >>> _chosen(jnp.bool_(False), {"m": jnp.ones(1), "count": jnp.int32(4)},
    ...     {"m": jnp.zeros(1), "count": jnp.int32(3)})["count"].item()
    4
    """

    def choose(new: jax.Array, old: jax.Array) -> jax.Array:
        counts = jnp.issubdtype(new.dtype, jnp.integer)
        return new if counts else jnp.where(sound, new, old)

    return jax.tree.map(choose, new, old)


def _check_divides(params: Any, axes: Any, mesh: jax.sharding.Mesh) -> None:
    """Raises UserError where a parameter cannot be split evenly over the mesh."""

    def check(path: Any, shape: jax.ShapeDtypeStruct, names: tuple[str, ...]) -> None:
        for name, size in zip(names, shape.shape, strict=True):
            if size % (num_shards := _mesh.num_shards(mesh, name)):
                by = " x ".join(f"mesh.{axis}" for axis in _mesh.LAYOUT[name])
                legal = [n for n in range(1, num_shards + 1) if size % n == 0]
                raise UserError(
                    f"{by}={num_shards} does not divide the axis {name!r} of {size} of"
                    f" {jax.tree_util.keystr(path, simple=True, separator='/')}; it may be one"
                    f" of {legal}"
                )

    jax.tree_util.tree_map_with_path(check, params, axes)


def _seed(run: Run) -> jax.Array:
    return np.uint32(run.seed)  # type: ignore[return-value] # placed by jit


def _is_box(x: object) -> bool:
    return isinstance(x, nn.LogicallyPartitioned)
