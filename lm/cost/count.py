"""The matmul FLOPs of any JAX function, counted in its jaxpr and equal on every backend.

XLA's own analysis counts the body of a loop once and a kernel not at all, and differs from one
backend to the next. Here a scan counts as often as it turns, and so does a while loop whose
condition follows from known values; what `jax.checkpoint` computes again is apart.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core
from jax.interpreters import partial_eval

from lm.config import UserError

KNOWN = 64
"""Elements of the largest array whose values are followed."""
TURNS = 10_000_000
"""After so many turns a loop is taken for endless."""
RECOMPUTED = "rematted_computation"
"""How jax names what a backward pass computes again."""

FlopsOfKernel = Callable[[Any], float]
"""FLOPs of a kernel, of the equation that calls it (`invars`, `outvars`, `params`)."""


class Product(NamedTuple):
    """Products of one kind and shape."""

    primitive: str
    operands: tuple[tuple[int, ...], ...]
    """The shapes of both, or of all that a kernel is given."""
    times: int
    flops: int
    """Of all of them together."""


@dataclass(frozen=True)
class Counted:
    """What a call of a function multiplies: a multiplication and an addition are two FLOPs."""

    flops: int
    """Without what is computed again."""
    rematerialized: int
    """What the backward passes of `jax.checkpoint` compute again."""
    products: tuple[Product, ...]
    """All of both, the largest first."""
    assumed: tuple[str, ...]
    """What the count takes for granted, a line each, as loops whose turns depend on data."""
    left_out: Mapping[str, int]
    """How often what multiplies in other ways, as a Cholesky decomposition, is called."""


def count_flops(
    function: Callable[..., Any],
    *arguments: Any,
    turns: int | None = None,
    kernels: Mapping[str, FlopsOfKernel] = MappingProxyType({}),
    **named: Any,
) -> Counted:
    """Counts the matmul FLOPs of a call, which is traced and not made.

    The function is anything that `jax.jit` takes, jitted or not, and its arguments are arrays
    or `jax.ShapeDtypeStruct`s. Values of small arrays tell how often loops turn; `turns` is how
    often those turn of which they do not tell (None: once, which is said). `kernels` has the
    FLOPs of Pallas kernels by name; of others it is the cost that their author states, or else
    the body's products times the grid.

    What counts are matrix products, convolutions (products with padding and with the zeros of
    dilation among them) and ragged products, each row of which meets one matrix; on several
    devices, of all of them together. Raises UserError for a loop without an end.

    >>> import jax.numpy as jnp
    >>> w = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    >>> def ten_times(w):
    ...     return jax.lax.fori_loop(0, 10, lambda _, x: x @ w, w)
    >>> count_flops(ten_times, w).flops == 10 * 2 * 64**3
    True
    """
    jitted = function if hasattr(function, "trace") else jax.jit(function)
    closed = jitted.trace(*arguments, **named).jaxpr
    jaxpr, used = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    given = jax.tree.leaves((arguments, named))
    if len(given) != len(used):  # some are static
        given = [None] * len(used)
    values = [_known(x) for x, of in zip(given, used, strict=True) if of]
    counter = _Counter(turns, kernels)
    counter.open(jaxpr, list(map(_known, closed.consts)), values, _Place())
    return counter.counted()


class _Place(NamedTuple):
    """Where an equation stands: how often it is met, and whether it is met again."""

    times: int = 1
    again: bool = False


def _known(x: Any) -> Any:
    """A value that is followed; None: it is not known, or is large."""
    if not isinstance(x, jax.Array | np.ndarray | np.generic | int | float | bool):
        return None
    return x if np.size(x) <= KNOWN else None


@dataclass
class _Counter:
    turns: int | None
    kernels: Mapping[str, FlopsOfKernel]
    flops: Counter[bool] = field(default_factory=Counter)
    """By whether they are computed again."""
    times: Counter[tuple[str, Any, int]] = field(default_factory=Counter)
    """By primitive, shapes of operands, and FLOPs, which depend on what is summed over."""
    assumed: dict[str, None] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)

    def counted(self) -> Counted:
        products = [
            Product(name, operands, times, times * flops)
            for (name, operands, flops), times in self.times.items()
        ]
        products.sort(key=lambda product: -product.flops)
        return Counted(
            self.flops[False],
            self.flops[True],
            tuple(products),
            tuple(self.assumed),
            dict(self.left_out),
        )

    def closed(self, closed: Any, values: list[Any], place: _Place) -> list[Any]:
        """Counts a closed jaxpr of which some inputs are known; the outputs that are then."""
        return self.open(closed.jaxpr, list(map(_known, closed.consts)), values, place)

    def open(
        self, jaxpr: Any, consts: list[Any], values: list[Any], place: _Place
    ) -> list[Any]:
        """The same of one whose constants come apart."""
        known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *values], strict=True))

        def value(of: Any) -> Any:
            return _known(of.val) if isinstance(of, core.Literal) else known.get(of)

        for equation in jaxpr.eqns:
            inputs = list(map(value, equation.invars))
            outputs = self.equation(equation, inputs, place)
            known.update(zip(equation.outvars, outputs, strict=True))
        return list(map(value, jaxpr.outvars))

    def equation(self, equation: Any, inputs: list[Any], place: _Place) -> list[Any]:
        """Counts an equation; those of its outputs that are known."""
        name, params = equation.primitive.name, equation.params
        again = place.again or RECOMPUTED in str(equation.source_info.name_stack)
        place = place._replace(again=again)
        unknown = [None] * len(equation.outvars)
        if name in _PRODUCTS:
            self.add(equation, _PRODUCTS[name](equation), place)
        elif name == "scan":
            constants = params["num_consts"]
            others = [None] * (len(inputs) - constants)
            times = place.times * params["length"]
            self.closed(
                params["jaxpr"], [*inputs[:constants], *others], place._replace(times=times)
            )
        elif name == "while":
            return self.loop(equation, inputs, place)
        elif name == "cond":
            return self.branches(equation, inputs, place)
        elif name == "pallas_call":
            self.kernel(equation, place)
        elif name == "shard_map":
            devices = math.prod(params["mesh"].shape[axis] for axis in params["manual_axes"])
            place = place._replace(times=place.times * devices)
            self.open(params["jaxpr"], [], [None] * len(inputs), place)
        elif name == "custom_linear_solve":
            start = params["const_lengths"].matvec + params["const_lengths"].vecmat
            size = params["const_lengths"].solve
            ends = inputs[sum(params["const_lengths"]) :]
            self.closed(params["jaxprs"].solve, [*inputs[start : start + size], *ends], place)
        elif (called := _called(params)) is not None:
            if hasattr(called, "consts"):
                return self.closed(called, inputs, place)
            return self.open(called, [], inputs, place)
        elif name in _OTHERS:
            self.left_out[name] += place.times
        elif all(each is not None for each in inputs):
            return _evaluated(equation, inputs)
        return unknown

    def add(self, equation: Any, flops: int, place: _Place) -> None:
        """Counts the products of an equation."""
        name = equation.primitive.name
        many = None if name == "pallas_call" else 2  # of ragged ones, sizes are the third
        operands = tuple(x.aval.shape for x in equation.invars[:many])
        self.flops[place.again] += place.times * flops
        self.times[name, operands, flops] += place.times

    def loop(self, equation: Any, inputs: list[Any], place: _Place) -> list[Any]:
        """Counts a while loop as often as it turns, and its condition once more."""
        params = equation.params
        first, second = params["cond_nconsts"], params["body_nconsts"]
        constants = inputs[:first], inputs[first : first + second]
        begin = inputs[first + second :]
        condition, body = params["cond_jaxpr"], params["body_jaxpr"]
        turned = _turned(condition, body, *constants, begin)
        if turned is not None:
            turns, end = turned
        else:
            turns, end = self.turns if self.turns is not None else 1, [None] * len(begin)
            if self.turns is None:
                where = str(equation.source_info.name_stack) or "the function"
                self.assumed[f"a while loop in {where} turns as data say: counted once"] = None
        unknown = [None] * len(begin)
        self.closed(
            condition,
            [*constants[0], *unknown],
            place._replace(times=place.times * (turns + 1)),
        )
        self.closed(body, [*constants[1], *unknown], place._replace(times=place.times * turns))
        return end

    def branches(self, equation: Any, inputs: list[Any], place: _Place) -> list[Any]:
        """Counts the branch that is taken, or the largest where that is not known."""
        index, *operands = inputs
        branches = equation.params["branches"]
        if index is not None:
            taken = min(max(int(index), 0), len(branches) - 1)
            return self.closed(branches[taken], operands, place)
        counts = []
        for branch in branches:
            counts.append(_Counter(self.turns, self.kernels))
            counts[-1].closed(branch, operands, place)
        totals = [count.flops.total() for count in counts]
        if len({*totals}) > 1:
            where = str(equation.source_info.name_stack) or "the function"
            self.assumed[f"a branch in {where} is taken as data say: the largest counted"] = (
                None
            )
        self.join(counts[int(np.argmax(totals))])
        return [None] * len(equation.outvars)

    def join(self, other: "_Counter") -> None:
        """Adds what another has counted."""
        self.flops += other.flops
        self.left_out += other.left_out
        self.assumed |= other.assumed
        self.times += other.times

    def kernel(self, equation: Any, place: _Place) -> None:
        """Counts a Pallas kernel."""
        params = equation.params
        name, stated = str(params.get("name") or ""), params.get("cost_estimate")
        if name in self.kernels:
            self.add(equation, int(self.kernels[name](equation)), place)
        elif stated is not None:
            self.add(equation, int(stated.flops), place)
        else:
            grid = params["grid_mapping"].grid
            if not all(isinstance(size, int) for size in grid):
                self.assumed[f"the grid of kernel {name} is not known: counted once"] = None
                grid = ()
            times = place.times * math.prod(grid)
            jaxpr = params["jaxpr"]
            self.open(jaxpr, [], [None] * len(jaxpr.invars), place._replace(times=times))


def _called(params: Mapping[str, Any]) -> Any:
    """The jaxpr that a call calls, of jit, checkpoint, custom derivatives and others."""
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if key in params:
            return params[key]
    return None


def _evaluated(equation: Any, inputs: list[Any]) -> list[Any]:
    """The outputs of an equation whose inputs are all known, if they are small."""
    if equation.effects or any(x.aval.size > KNOWN for x in equation.outvars):
        return [None] * len(equation.outvars)
    with jax.ensure_compile_time_eval():
        found = equation.primitive.bind(*inputs, **equation.params)
    return list(found) if equation.primitive.multiple_results else [found]


def _turned(
    condition: Any, body: Any, of_condition: list[Any], of_body: list[Any], begin: list[Any]
) -> tuple[int, list[Any]] | None:
    """How often a loop turns, and what of its state is known in the end.

    None: its condition depends on what is not known. Only the part of the state that the
    condition needs is followed.
    """
    needed = np.zeros(len(begin), bool)
    _, used = partial_eval.dce_jaxpr(condition.jaxpr, [True])
    consts_used, needed[:] = used[: len(of_condition)], used[len(of_condition) :]
    if any(u and x is None for u, x in zip(consts_used, of_condition, strict=True)):
        return None
    while True:
        small, used = partial_eval.dce_jaxpr(body.jaxpr, list(needed))
        more = needed | np.array(used[len(of_body) :], bool)
        if (more == needed).all():
            break
        needed = more
    constants_used = used[: len(of_body)]
    values = [x for x, of in zip(begin, needed, strict=True) if of]
    kept = [x for x, of in zip(of_body, constants_used, strict=True) if of]
    if any(x is None for x in [*values, *kept]):
        return None
    places = np.flatnonzero(needed)

    def goes_on(state: Any) -> Any:
        filled = [np.zeros(v.aval.shape, v.aval.dtype) for v in condition.jaxpr.invars]
        filled[: len(of_condition)] = [
            x if x is not None else old for x, old in zip(of_condition, filled, strict=False)
        ]
        for place, x in zip(places, state[1], strict=True):
            filled[len(of_condition) + place] = x
        (going,) = jax.core.eval_jaxpr(condition.jaxpr, condition.consts, *filled)
        return going & (state[0] < TURNS)

    def turn(state: Any) -> Any:
        return state[0] + 1, jax.core.eval_jaxpr(small, body.consts, *kept, *state[1])

    with jax.ensure_compile_time_eval():
        turns, end = jax.lax.while_loop(goes_on, turn, (0, values))
    if int(turns) == TURNS:
        raise UserError(f"a while loop has not ended after {TURNS:,} turns")
    found: list[Any] = [None] * len(begin)
    for place, x in zip(places, end, strict=True):
        found[place] = _known(x)
    return int(turns), found


def _dot(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    lhs = equation.invars[0].aval.shape
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(lhs[a] for a in contracted)


def _convolution(equation: Any) -> int:
    kernel, numbers = equation.invars[1].aval.shape, equation.params["dimension_numbers"]
    _, *others = (kernel[axis] for axis in numbers.rhs_spec)
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(others)


def _ragged(equation: Any) -> int:
    """Each row meets the matrix of its group, or, where groups divide a sum, what it sums."""
    numbers = equation.params["ragged_dot_dimension_numbers"]
    (_, contracted), (_, batch) = numbers.dot_dimension_numbers
    lhs, rhs = (x.aval.shape for x in equation.invars[:2])
    met = {*contracted, *batch, *numbers.rhs_group_dimensions}
    free = math.prod(size for axis, size in enumerate(rhs) if axis not in met)
    return 2 * math.prod(lhs) * free


_PRODUCTS: Mapping[str, Callable[[Any], int]] = {
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    "ragged_dot_general": _ragged,
    "scaled_dot": _dot,
}
_OTHERS = (
    *("cholesky", "triangular_solve", "lu", "geqrf", "householder_product", "eig", "eigh"),
    *("svd", "schur", "tridiagonal", "tridiagonal_solve", "fft"),
)
"""What multiplies matrices in other ways, and is not counted."""
