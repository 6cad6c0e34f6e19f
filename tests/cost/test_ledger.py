"""What a run costs: held to the parameters' tree and to the compiler's count."""

import math
from collections import Counter

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest

import lm.loss
from lm.cost import ledger
from lm.cost.count import count_flops
from lm.data import Bytes, Data
from lm.distributed import mesh
from lm.distributed.mesh import Mesh
from lm.example import Batch, Vocabulary
from lm.model import Convolution, LinearRecurrence, Lstm, Transformer, build
from lm.model.layers import LayerNorm, RmsNorm
from lm.objectives import (
    AnyOrder,
    Causal,
    Classify,
    Contrastive,
    Curriculum,
    Masked,
    Mixture,
    PolicyGradient,
    Preference,
    Prefix,
    Regress,
    Reward,
    Spans,
    Tag,
)
from lm.objectives import Base as Objective
from lm.objectives.rewards import Learnt
from lm.objectives.rollout import Named
from lm.optimizer import Lora
from lm.plan import hlo
from lm.run import Run
from lm.train.step import prepare

GROUPS = {
    "embedding": {"embedding", "unembedding"},
    "attention": {"query", "key", "value", "out"},
    "mlp": {"up", "down", "gate"},
    "norm": {"norm", "norm_1", "norm_2"},
}
OBJECTIVES = (Causal(), Causal(masked=0.5), Masked(), AnyOrder())


def vocabulary(size: int) -> Vocabulary:
    return Vocabulary(
        size=size, pad=0, mask=1, bos=2, eos=3, first_ordinary=4, begins_word=(True,) * size
    )


def alone() -> jax.sharding.Mesh:
    return mesh.make(Mesh(), jax.devices()[:1])


@pytest.mark.parametrize(
    ("mlp", "kv_heads", "embedding", "norm"),
    [
        ("gelu", None, "tied", RmsNorm()),
        ("relu2", 2, "untied", RmsNorm()),
        ("swiglu", 1, "tied", LayerNorm()),
        ("geglu", 2, "untied", LayerNorm()),
    ],
)
def test_parameters_are_those_of_the_tree(mlp, kv_heads, embedding, norm):
    """Fails if a group's formula leaves out the gate, shared heads, a table, or a bias.

    Or if a tied table is in no product, or an untied one in two.
    """
    model = Transformer(
        depth=3, width=24, heads=4, kv_heads=kv_heads, mlp=mlp, embedding=embedding, norm=norm
    )
    run = Run(model=model, data=Data(length=5, tokenizer=Bytes()))
    tree = prepare(run, vocabulary(37), alone()).abstract.params
    counted: Counter[str] = Counter()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        names = {key.key for key in path}
        (group,) = (group for group, members in GROUPS.items() if members & names)
        counted[group] += math.prod(leaf.shape)
    found = ledger.parameters(run, 37)
    assert found.groups == counted
    assert found.total == counted.total()
    assert found.non_embedding == counted.total() - counted["embedding"]
    # The vectors are in no product, and one table is, by whichever name.
    assert found.matmul == counted["attention"] + counted["mlp"] + 37 * 24


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
@pytest.mark.parametrize(("mlp", "kv_heads"), [("gelu", None), ("swiglu", 1), ("geglu", 2)])
def test_forward_flops_by_component_are_the_products_that_are_traced(objective, mlp, kv_heads):
    """Fails if a component counts a wrong width, every position as a target, or heads once."""
    length, hidden, size = 17, 44, 53  # each occurs in the products of one component only
    model = Transformer(
        depth=3, width=24, heads=4, kv_heads=kv_heads, mlp=mlp, mlp_width=hidden
    )
    run = Run(
        model=model, objective=objective, data=Data(length=length, batch=2, tokenizer=Bytes())
    )
    module = build(model, size, mesh=alone(), precision="bfloat16")
    params = prepare(run, vocabulary(size), alone()).abstract.params

    def forward(params, tokens_BL):
        batch = Batch(tokens_BL, jnp.ones_like(tokens_BL))
        example = objective(batch, vocabulary(size), jax.random.key(0))
        return lm.loss.logits(module.apply({"params": params}, example), einsum=module.einsum)

    tokens_BL = jax.ShapeDtypeStruct((2, length), jnp.int32)
    counted: Counter[str] = Counter()
    for product in count_flops(forward, params, tokens_BL).products:
        sizes = {size for shape in product.operands for size in shape}
        # Only scores have no axis as wide as the stream or the MLP.
        kinds = {"head": size in sizes, "mlp": hidden in sizes, "attention": 24 in sizes}
        counted[next((kind for kind, true in kinds.items() if true), "scores")] += product.flops
    assert counted | {"embedding": 0} == ledger.step_flops(run, size)


BLOCK = {"remat": "block"}
UNTIED = {"embedding": "untied"}
FROZEN: list[tuple[Objective, dict[str, str], tuple[str, ...]]] = [
    (Causal(), {}, ("norm/*",)),  # the head's input alone
    (Causal(), {}, ("layers/down",)),  # all inputs, of matrices one in eight
    (Masked(), {"mlp": "swiglu"}, ("layers/query", "layers/value")),
    (Causal(), {}, ("embedding",)),  # which speaks as well, but for the matrices of all layers
    (Causal(), UNTIED, ("embedding",)),
    (Causal(), UNTIED, ("unembedding",)),  # nothing goes down
    (Classify(), {}, ("head_*",)),
    (Classify(pool="first"), {}, ("norm/*",)),
    (Classify(pool="last"), UNTIED, ("layers/*",)),
]
"""Where parts of the backward pass are left out: objective, model, what is trained."""


@pytest.mark.parametrize(
    ("objective", "model", "settings"),
    [
        (Causal(), {}, {}),
        (Masked(), {"mlp": "swiglu", "kv_heads": 2, "embedding": "untied"}, BLOCK),
        (AnyOrder(), {"mlp": "geglu", "kv_heads": 1}, {"remat": "matmuls"}),
        (Masked(rate=0.5), {"mlp": "relu2", "embedding": "untied"}, {"precision": "float32"}),
        (Classify(), {}, {}),
        (Preference(), {}, {}),  # whose logits are computed again
        (Reward(), {}, {}),
        (Contrastive(), {}, {}),  # whose vectors meet those of all rows
        *((objective, model, {"trainable": names}) for objective, model, names in FROZEN),
        (Causal(), {}, {"trainable": ("layers/down",), **BLOCK}),
        (Causal(), {}, {"trainable": ("norm/*",), **BLOCK}),
        (Causal(), {"mlp": "swiglu"}, {"adapter": Lora(rank=64, targets=("layers/*",))}),
        (Classify(), {}, {"adapter": Lora(rank=96), **BLOCK}),
        *(
            pytest.param(objective, model, settings, marks=pytest.mark.slow)
            for objective in (Causal(), Masked(), Prefix())
            for model in ({}, {"mlp": "swiglu", "kv_heads": 1, "norm": LayerNorm()})
            for settings in ({}, {"remat": "matmuls"}, BLOCK)
        ),
    ],
)
def test_a_runs_flops_are_those_of_its_step(objective, model, settings):
    """Fails if the backward pass is not taken for twice the forward, or a product is forgotten.

    Or if the last product of a block is taken to be computed again, or the scores are not. Or
    if the vocabulary is counted where a head speaks, a frozen matrix costs what a trained one
    does, or the backward pass is taken to go on below all that changes, or to end above.
    """
    run = Run(
        model=Transformer(**{"depth": 2, "width": 512, "heads": 4} | model),
        objective=objective,
        data=Data(length=128, batch=16, tokenizer=Bytes()),
        tokens=3 * 16 * 128,
        **settings,
    )
    program = prepare(run, vocabulary(2048), alone())
    rows = jax.ShapeDtypeStruct((16, 128), jnp.int32)
    batch = Batch(rows, rows, dict.fromkeys(objective.needs, rows))
    found = count_flops(
        program.update, program.abstract, batch, np.uint32(0), objective, program.beside
    )
    cost = ledger.cost(run, 2048)
    # Gradients of norms' scales are products of vectors, and a thousandth at most.
    assert 3 * (found.flops + found.rematerialized) == pytest.approx(
        cost.flops + cost.flops_rematerialized, rel=1e-3
    )


def test_sampling_and_what_companions_are_asked_are_counted(monkeypatch):
    """Fails if the prompt is read for nothing, a token's scores are those of itself alone, or
    the start or the reward model costs nothing, or a backward pass.

    The compiler counts the body of the loop that samples once, so there is one token to sample.
    """
    monkeypatch.setattr(lm.loss, "LOGITS_AT_ONCE", 1 << 62)
    reward = Learnt(model=Named(path="nowhere"))
    run = Run(
        model=Transformer(depth=2, width=512, heads=4),
        objective=PolicyGradient(reward=reward, group=4, answer=1),
        data=Data(length=128, batch=16, tokenizer=Bytes()),
        tokens=3 * 16 * 128,
    )
    judge = Run(model=Transformer(depth=1, width=512, heads=4), objective=Classify())
    program = prepare(run, vocabulary(2048), alone(), {"reward": judge})
    rows = jax.ShapeDtypeStruct((16, 128), jnp.int32)
    batch = Batch(rows, rows, {"loss": rows})
    counted = program.update.lower(
        program.abstract, batch, np.uint32(0), run.objective, program.beside
    ).cost_analysis()["flops"]
    cost = ledger.cost(run, 2048, {"reward": judge})
    assert 3 * counted == pytest.approx(cost.flops, rel=0.02)
    causal = ledger.cost(msgspec.structs.replace(run, objective=Causal()), 2048)
    forward = sum(causal.flops_forward.values())
    assert cost.flops_backward == causal.flops_backward | {"rollout": 0, "companions": 0}
    assert 0.8 * forward < cost.flops_forward["rollout"] < forward
    assert forward < cost.flops_forward["companions"] < 2 * forward
    assert list(program.companions) == ["start", "reward"]
    parameters = sum(x.size for x in jax.tree.leaves(program.companions))
    assert ledger.companion_parameters(run, 2048, {"reward": judge}) == parameters


@pytest.mark.parametrize(
    ("objective", "settings"),
    [
        (Classify(), {}),
        (Classify(pool="last"), {"trainable": ("head_*",)}),
        (Classify(pool="attention"), {}),
        (Regress(pool="attention"), {"trainable": ("head_*",)}),
        (Tag(classes=4), {}),
        (Causal(), {"trainable": ("layers/out", "norm/*")}),
    ],
    ids=["pooled", "head alone", "attention", "attention alone", "tokens", "one matrix"],
)
def test_a_loop_over_layers_does_the_products_that_are_counted(objective, settings):
    """Fails if pooling costs nothing, or its gradient twice, or without anything below it.

    Or if the first layer is taken to do less than the others: on other platforms than CPUs,
    and where it is asked for, they are one loop.
    """
    run = Run(
        model=Transformer(depth=2, width=16, heads=2),
        objective=objective,
        data=Data(length=64, batch=2, tokenizer=Bytes()),
        unroll=1,
        **settings,
    )
    rows = jax.ShapeDtypeStruct((2, 64), jnp.int32)
    batch = Batch(rows, rows, dict.fromkeys(objective.needs, rows))
    program = prepare(run, vocabulary(64), alone())
    lowered = program.update.lower(
        program.abstract, batch, np.uint32(0), objective, program.beside
    )
    done = hlo.work(lowered.compile().as_text(), 1).flops
    # The compiler makes a product of a norm's sum as well: a thousandth.
    assert ledger.program_flops(run, objective, 64, "cpu") == pytest.approx(done, rel=2e-3)


@pytest.mark.parametrize(
    ("model", "objective", "settings"),
    [
        (Lstm(depth=2, width=16), AnyOrder(), {"remat": "block"}),
        *(
            pytest.param(model, objective, settings, marks=pytest.mark.slow)
            for model, objective, settings in (
                (Lstm(cells=1), Causal(), {"unroll": 1}),
                (Convolution(depth=2, width=16), Causal(), {}),
                (Convolution(), Masked(), {"remat": "block"}),
                (LinearRecurrence(depth=2, width=16), AnyOrder(), {"remat": "block"}),
            )
        ),
    ],
    ids=str,
)
def test_loops_over_positions_do_the_products_that_are_counted(model, objective, settings):
    """Fails if a state's product is taken once a row, a tap costs nothing or twice, or the
    blocks of a matrix are counted as a whole one.
    """
    data = Data(length=64, batch=2, tokenizer=Bytes())
    run = Run(model=model, objective=objective, data=data, **settings)
    rows = jax.ShapeDtypeStruct((2, 64), jnp.int32)
    program = prepare(run, vocabulary(64), alone())
    lowered = program.update.lower(
        program.abstract, Batch(rows, rows), np.uint32(0), objective, program.beside
    )
    done = hlo.work(lowered.compile().as_text(), 1).flops
    assert ledger.program_flops(run, objective, 64, "cpu") == pytest.approx(done, rel=2e-3)


@pytest.mark.eight_devices
@pytest.mark.parametrize(
    "objective", [Causal(), pytest.param(Masked(), marks=pytest.mark.slow)]
)
def test_devices_that_share_rows_share_all_of_the_products(monkeypatch, objective):
    """Fails if any part of a row is computed by each of the devices that it is spread over."""
    monkeypatch.setattr(lm.loss, "LOGITS_AT_ONCE", 32 * 2048)  # two chunks of causal rows
    run = Run(
        model=Transformer(depth=2, width=128, heads=4),
        objective=objective,
        data=Data(length=128, batch=4, tokenizer=Bytes()),
        mesh=Mesh(fsdp=2, context=4),
    )
    program = prepare(run, vocabulary(2048), mesh.make(run.mesh))
    rows = jax.ShapeDtypeStruct((4, 128), jnp.int32)
    lowered = program.update.lower(
        program.abstract, Batch(rows, rows), np.uint32(0), objective, program.beside
    )
    done = hlo.work(lowered.compile().as_text(), 8).flops
    planned = ledger.program_flops(run, objective, 2048, "cpu")
    assert 8 * done == pytest.approx(planned, rel=0.02)


@pytest.mark.parametrize(
    ("objective", "target_positions", "predicted"),
    [(Causal(), 17, 16), (Masked(rate=0.25), 4, 4), (Masked(rate=0.01), 1, 0)],
    ids=["causal", "masked", "fewer than one"],
)
def test_target_positions_are_what_the_head_computes_and_predictions_are_fewer(
    objective, target_positions, predicted
):
    """Fails if all target positions count as predicted: a row's bos token never is."""
    data = Data(length=17, batch=2, tokenizer=Bytes())
    run = Run(objective=objective, data=data, tokens=5 * 34)
    assert ledger.cost(run, 53).target_positions == 5 * 2 * target_positions
    tokens_BL = jnp.full((2, 17), 9).at[:, 0].set(2)
    batch = Batch(tokens_BL, jnp.ones_like(tokens_BL))
    example = objective(batch, vocabulary(53), jax.random.key(0))
    assert example.targets.shape == (2, target_positions)
    assert int((example.weights > 0).sum()) == 2 * predicted


def test_a_budget_is_what_is_trained_on():
    """Fails if tokens are those asked for, 6ND takes the embedding along, or a step is lost."""
    run = Run(data=Data(length=16, batch=2, tokenizer=Bytes()), tokens=33)
    cost = ledger.cost(run, 260)
    assert (cost.steps, cost.tokens) == (2, 64)
    assert cost.flops_6nd == 6 * 64 * ledger.parameters(run, 260).non_embedding
    assert cost.flops == 3 * 2 * sum(cost.flops_forward.values())


def test_backward_and_rematerialized_products_are_counted_apart():
    """Fails if remat changes the FLOPs, or takes the last objective for those of all steps."""
    data, objective = Data(length=32, batch=4, tokenizer=Bytes(sentinels=8)), Curriculum()
    again = {"none": lambda _: 0, "matmuls": lambda forward: forward["scores"]}
    again["block"] = lambda f: f["attention"] + f["scores"] + f["mlp"] // 2
    for remat, of_step in again.items():
        run = Run(data=data, objective=objective, tokens=10 * 128, remat=remat)
        cost = ledger.cost(run, 268)
        assert cost.flops == ledger.cost(msgspec.structs.replace(run, remat="none"), 268).flops
        assert cost.flops_backward == {n: 2 * flops for n, flops in cost.flops_forward.items()}
        parts = [objective.at(step, 10, run.seed) for step in range(10)]
        steps = [ledger.objective_flops(run, part, 268) for part in parts]
        assert len(set(map(str, steps))) == 2
        assert cost.flops_rematerialized == sum(map(of_step, steps))
        assert 10 * sum(cost.flops_again.values()) == pytest.approx(sum(map(of_step, steps)))


@pytest.mark.parametrize(
    "objective",
    [Masked(), AnyOrder(), Spans(), Mixture(draw="step"), Curriculum(switch=0.3)],
    ids=lambda objective: type(objective).__name__,
)
@pytest.mark.parametrize("of_causal", [1, 37])
def test_tokens_for_equal_flops_are_the_closest_whole_steps(objective, of_causal):
    """Fails if steps are cut off rather than rounded, or all are taken to cost the same."""
    data = Data(length=32, batch=4, tokenizer=Bytes(sentinels=8))
    run = Run(data=data, model=Transformer(depth=1, width=16, heads=1), objective=objective)
    steps = msgspec.structs.replace(run, objective=Causal(), tokens=of_causal * 128)
    flops = ledger.cost(steps, 268).flops
    found = ledger.tokens_for(run, 268, flops)
    assert found % 128 == 0

    def off(tokens: int) -> float:
        return abs(ledger.cost(msgspec.structs.replace(run, tokens=tokens), 268).flops - flops)

    best = min(range(1, 3 * of_causal + 3), key=lambda count: off(count * 128))
    assert off(found) == off(best * 128)
    assert ledger.tokens_for(steps, 268, flops) == of_causal * 128
