"""What the device does: products, training steps, evaluation, scoring and generation."""

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks.speed.machine import Failed, alone, complain
from experiments.benchmarks.speed.peers import ours
from experiments.benchmarks.speed.plan import (
    OBJECTIVES,
    PEAK,
    Plan,
    Result,
    Shape,
    compiled,
    random_rows,
    vocabulary_of,
    work_of,
)
from experiments.benchmarks.speed.timing import interleave, ratio, repeat, seconds_each, spread
from lm.evaluate.scorers.any_order import AnyOrderBound
from lm.evaluate.scorers.base import score
from lm.evaluate.scorers.chain_rule import ChainRule
from lm.evaluate.scoring import Effort
from lm.generate import Sampling
from lm.generate import generate as generate_texts
from lm.numerics import Einsum
from lm.objectives import AnyOrder, Causal


def floors(plan: Plan) -> Result:
    """What the machine can do: products in each precision, and reading and writing memory."""
    plan = plan._replace(burst=plan.burst / 3)
    products = {
        "float32": product(plan, partial(Einsum("float32"), "MK,KN->MN"), jnp.float32),
        PEAK: peak_product(plan),
        "bfloat16": product(plan, jnp.matmul, jnp.bfloat16),
    }
    seconds = interleave(products, plan)
    found: Result = {
        name: {"seconds": spread(seconds[name]), "flops": _product_flops(plan)}
        for name in products
    }
    array = jnp.zeros(plan.stream // 4, jnp.float32)
    add = jax.jit(lambda x: x + 1, donate_argnums=0)

    def stream() -> jax.Array:
        nonlocal array
        array = add(array)
        return array

    memory = {"seconds": repeat(partial(seconds_each, stream), plan), "bytes": 2 * array.nbytes}
    return {"matmuls": found, "memory": memory}


def product(plan: Plan, einsum: Callable[..., Any], dtype: Any) -> Callable[[int], float]:
    """Seconds of a large product of matrices."""
    matrices = jax.random.normal(jax.random.key(0), (2, plan.product, plan.product))
    return partial(seconds_each, partial(jax.jit(einsum), *matrices.astype(dtype)))


def peak_product(plan: Plan) -> Callable[[int], float]:
    """The product whose rate is the peak: what our models take, as large as suits it."""
    return product(plan, partial(Einsum("bfloat16"), "MK,KN->MN"), jnp.bfloat16)


def _product_flops(plan: Plan) -> int:
    return 2 * plan.product**3


def peak_fraction(
    flops: int, seconds: Sequence[float], peak_seconds: Sequence[float], plan: Plan
) -> Result:
    """Of the rate that the peak's product had in the same rounds, when it took `peak_seconds`.

    A machine that others use too has another peak from minute to minute.
    """
    most = _product_flops(plan)
    pairs = zip(seconds, peak_seconds, strict=True)
    return spread([flops / mine * peak / most for mine, peak in pairs])


def train(plan: Plan) -> Result:
    """The training step: its time beside its FLOPs, the time to compile it, its memory."""
    rows, ratios = [], {}
    for name, shape in plan.shapes.items():
        with tempfile.TemporaryDirectory() as cache:
            try:
                cold = {
                    variant: alone(_cold, shape, variant, cache=Path(cache))
                    for variant in OBJECTIVES
                }
                warm = alone(_warm, shape, plan, cache=Path(cache))
            except Failed as error:
                complain(f"train {name}: {error}")
                continue
        peak = warm["seconds"][PEAK]
        for variant, objective in OBJECTIVES.items():
            size, seconds = work_of(shape, objective), warm["seconds"][variant]
            rows.append(
                {
                    "shape": name,
                    "objective": variant,
                    **size,
                    "seconds": spread(seconds),
                    "peak_fraction": peak_fraction(size["flops"], seconds, peak, plan),
                    "warm_compile_seconds": warm["first"][variant] - min(seconds),
                    **cold[variant],
                }
            )
        causal, masked = (row["flops"] for row in rows[-2:])
        measured = ratio(*(warm["seconds"][variant] for variant in OBJECTIVES))
        ratios[name] = {"measured": measured, "ledger": masked / causal}
    if not rows:
        raise Failed("no shape could be trained")
    return {"rows": rows, "masked_to_causal": ratios}


def _cold(shape: Shape, variant: str) -> Result:
    """Compiles a step that nobody has compiled before."""
    program = ours(shape, OBJECTIVES[variant])
    first, usual = program.run(1), program.run(2)
    return {"compile_seconds": first - usual, "peak_bytes": program.memory()}


def _warm(shape: Shape, plan: Plan) -> Result:
    """Steps of all objectives in turns, compiled from the cache of the processes before."""
    programs = {variant: ours(shape, objective) for variant, objective in OBJECTIVES.items()}
    first = {variant: program.run(1) for variant, program in programs.items()}
    runs = {variant: program.run for variant, program in programs.items()}
    return {"first": first, "seconds": interleave({**runs, PEAK: peak_product(plan)}, plan)}


def evaluate(plan: Plan) -> Result:
    """Validation steps, and scoring as `lm score` does it, from the host and back."""
    shape, effort = plan.shapes[plan.main], Effort()
    vocabulary, host_rows = vocabulary_of(shape), random_rows(shape)
    runs = {PEAK: peak_product(plan)}
    rows = {}
    for variant, scorer, asks, replicates in (
        ("causal", ChainRule(), Causal(), 1),
        ("masked", AnyOrderBound(samples=effort.samples), AnyOrder(), effort.replicates),
    ):
        program = compiled(shape, OBJECTIVES[variant])
        params = program.init().params
        step = partial(program.validate, params, program.place(host_rows), jax.random.key(0))
        scoring: Callable[[], Any] = partial(
            score,
            scorer,
            program.module,
            params,
            [(host_rows.tokens_BL, host_rows.segments_BL)],
            vocabulary=vocabulary,
            replicates=replicates,
        )
        for what, function, objective, passes in (
            (f"validation, {variant}", step, OBJECTIVES[variant], 1),
            (f"{scorer.name}, {variant}", scoring, asks, scorer.samples * replicates),
        ):
            runs[what] = partial(seconds_each, function)
            size = work_of(shape, objective, products=passes)
            rows[what] = {"what": what, "objective": variant, "passes": passes, **size}
    seconds = interleave(runs, plan)
    for what, row in rows.items():
        row["seconds"] = spread(seconds[what])
        row["peak_fraction"] = peak_fraction(row["flops"], seconds[what], seconds[PEAK], plan)
    return {"shape": plan.main, "rows": list(rows.values())}


def generate(plan: Plan) -> Result:
    """The time of one more token, by how many are there already."""
    shape = plan.shapes[plan.main]
    program = compiled(shape)
    params = program.init().params
    few, many = 1, 33  # their difference leaves out what is done once for a prompt
    rows = []
    for batch in plan.at_once:
        for there in plan.generated:
            prompts = [[5] * max(1, there - (few + many) // 2)] * batch

            def speak(count: int, seed: int, prompts: list[list[int]] = prompts) -> Any:
                return generate_texts(
                    program.module,
                    params,
                    prompts,
                    vocabulary=vocabulary_of(shape),
                    length=max(plan.generated) + many,
                    count=count,
                    sampling=Sampling(seed=seed),
                )

            # No text may end before its time.
            seed = next(s for s in range(1000) if max(map(len, speak(many, s))) == many)
            turns = [
                [seconds_each(partial(speak, count, seed), 1) for count in (few, many)]
                for _ in range(1 + plan.rounds // 2)
            ]
            seconds = spread([(long - short) / (many - few) for short, long in turns[1:]])
            rows.append({"batch": batch, "there": there, "seconds": seconds})
    return {"shape": plan.main, "rows": rows}
