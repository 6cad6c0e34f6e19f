"""Every kind of model, by being in a list: published ones made small, and parts of their own.

What holds for the default transformer (`test_transformer.py`) is asked of all here.
"""

import shutil
from collections import Counter
from dataclasses import replace
from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest
from jax.extend.core import ClosedJaxpr

from lm.artifact import as_tree
from lm.data import Bytes, Data
from lm.distributed import mesh
from lm.example import Batch, BidirectionalMask, CausalMask, Example, Source, positions_of
from lm.generate import Sampling, answer, generate
from lm.loss import cross_entropy, logits
from lm.model import (
    Convolution,
    EncoderDecoder,
    LinearRecurrence,
    Lstm,
    Transformer,
    build,
)
from lm.model.attention.xla import pairs
from lm.model.code import Code
from lm.model.experts import Experts
from lm.model.positions import Alibi, Linear, Local, NoPositions, Rotary, Yarn
from lm.model.presets import presets
from lm.objectives import Causal, Masked, Spans
from lm.optimizer import Adamw, Muon, Slopes, WarmupStableDecay
from lm.optimizer import build as build_optimizer
from lm.run import CheckpointSettings, Run
from lm.train.load import load_run
from lm.train.step import prepare
from lm.train.trackers.jsonl import read_metrics
from lm.train.train import train_run
from lm.verify.dependence import modules
from lm.verify.leaks import prove
from lm.verify.rows import VOCABULARY as LETTERS

SMALL = {
    name: presets()[name].model.tiny(2)
    for name in (
        *("gpt2", "gpt3-xl", "bert-base", "roberta-base", "llama2-7b", "llama3.2-1b"),
        *("qwen3-0.6b", "smollm2-135m", "modernbert-base", "ettin-decoder-17m"),
        *("t5-small", "t5-v1.1-small", "transformer2017-base"),
    )
}
SIZE = {"depth": 2, "width": 16, "heads": 2}
OWN = {
    "alibi, sandwiched": Transformer(**SIZE, positions=Alibi(), norm_placement="both"),
    "yarn on half a head": Transformer(
        **SIZE, positions=Rotary(fraction=0.5, scaling=Yarn(factor=4, original_length=8))
    ),
    "linear, by layer, capped": Transformer(
        **SIZE,
        positions=Rotary(scaling=Linear(factor=2)),
        attention_scale="by_layer",
        logit_softcap=5.0,
    ),
    "no positions, all local": Transformer(
        **SIZE, positions=NoPositions(), local=Local(pattern="l", reach=2), attention_bias="qkv"
    ),
    "experts": Transformer(**SIZE, experts=Experts(count=4, active=2)),
    "gated experts, one a token, of both stacks": EncoderDecoder(
        **SIZE, mlp="swiglu", experts=Experts(count=4, active=1)
    ),
    "a narrow code between both stacks": EncoderDecoder(**SIZE, code=Code(size=3)),
}
OTHER = {
    "lstm": Lstm().tiny(2),
    "lstm of one cell": Lstm(cells=1, mlp="swiglu").tiny(2),
    "convolution": Convolution().tiny(2),
    "linear recurrence": LinearRecurrence(recurrence_width=8, embedding="untied").tiny(2),
}
KINDS = SMALL | OWN | OTHER
FEW = ("modernbert-base", "t5-small", "linear recurrence")
"""Between them windows, a norm that is missing, a bias by distance, a source and a state; the
others are asked in make test-all, and answers held to those of transformers in tests/hub, or to
loops in test_experts and test_without_attention."""
LENGTH, TOKENS = 12, 32
SEGMENTS = np.array([[1] * 5 + [2] * 4 + [0] * 3, [1] * LENGTH])

every_kind = pytest.mark.parametrize("name", KINDS)
some_kinds = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in FEW else pytest.mark.slow) for name in KINDS],
)


def example(model, segments=SEGMENTS, seed=0, **changes):
    segments = jnp.array(segments)
    inputs = jax.random.randint(jax.random.key(seed), segments.shape, 4, TOKENS)
    source = None
    if model.reads_source:
        source = Source(jnp.flip(inputs, 1) % TOKENS, segments, positions_of(segments))
    whole = BidirectionalMask() if BidirectionalMask in model.masks else CausalMask()
    fields = {
        "inputs": inputs,
        "target_positions": None,
        "targets": inputs,
        "weights": (segments > 0).astype(jnp.float32),
        "segments": segments,
        "positions": positions_of(segments),
        "attention_mask": whole,
        "source": source,
        "token_types": (inputs % 2) * (model.token_types > 1),
    }
    return Example(**fields | changes)


@cache
def module(model, many=False, **how):
    devices = jax.devices() if many else jax.devices()[:1]
    layout = mesh.Mesh(fsdp=2, tensor=2, context=2) if many else mesh.Mesh()
    made = mesh.make(layout, devices)
    return build(model, TOKENS, mesh=made, **{"precision": "float32"} | how)


@cache
def params(model):
    initial = jax.jit(lambda key: nn.unbox(module(model).init(key, example(model)))["params"])
    tree = initial(jax.random.key(0))
    # Far from the initial values, where scales are 1, biases 0 and attention is flat. By numpy,
    # as JAX would compile programs for each shape.
    draw = np.random.default_rng(1)
    tree = jax.device_get(tree)
    return jax.device_put(
        jax.tree.map(lambda x: np.float32(x + 0.3 * draw.normal(size=x.shape)), tree)
    )


@cache
def compiled(model, many=False, **how):
    """Loss, states and gradients of an example, as one program."""
    made = module(model, many, **how)

    def loss(tree, given):
        output = made.apply({"params": tree}, given)
        total = cross_entropy(
            output, given.targets, given.weights, einsum=made.einsum, mesh=made.mesh
        )
        return total.total, output.hidden_BPD

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def answers(model, given, **how):
    tree = jax.tree.map(np.asarray, params(model))
    (loss, states), gradients = compiled(model, **how)(tree, given)
    return float(loss), np.asarray(states), gradients


@some_kinds
def test_every_parameter_has_a_gradient_and_packed_equals_unpacked(name):
    """Fails if a part is declared and not used, or a document sees where another one stands."""
    model = KINDS[name]
    given = example(model)
    _, states, gradients = answers(model, given)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        used = np.abs(np.asarray(gradient)).max() > 0
        # Softmax does not see what all keys have in common.
        flat = jax.tree_util.keystr(path).endswith(("key_bias']",))
        assert used or (flat and model.positions.__class__ is not Rotary), path
    alone = np.zeros_like(SEGMENTS)
    alone[0, :4] = 1
    shown = np.zeros_like(SEGMENTS)
    shown[0, :4] = np.asarray(given.inputs)[0, 5:9]
    moved = replace(
        example(model, alone, inputs=jnp.array(shown)),
        token_types=jnp.roll(given.token_types, -5, axis=1),
    )
    if model.reads_source:
        text = jnp.roll(given.source.inputs_BM, -5, axis=1)
        moved = replace(moved, source=moved.source._replace(inputs_BM=text))
    _, found, _ = answers(model, moved)
    np.testing.assert_allclose(found[0, :4], states[0, 5:9], atol=2e-5)


@some_kinds
def test_no_prediction_depends_on_what_it_must_not(name):
    """Fails if any part looks across a mask, a segment or a source that is not its own."""
    model = KINDS[name]
    objective = Spans(stack="encoder_decoder") if model.reads_source else Masked(rate=0.5)
    small = modules(model, depths=(1, 2))
    window = model.tiny(1).window
    if objective.masks <= model.masks:
        assert prove(objective, small, keys=1, window=window).violations == ()
    if not model.reads_source:
        assert prove(Causal(), small, keys=1, window=window).violations == ()


@pytest.mark.eight_devices
@some_kinds
@pytest.mark.parametrize("how", [{"remat": "block", "unroll": 1}, {"many": True}], ids=str)
def test_execution_changes_neither_values_nor_gradients(name, how):
    """Fails if a layer's own window, number or norm is lost in a loop or on a mesh."""
    model = KINDS[name]
    given = example(model)
    loss, states, gradients = answers(model, given)
    other_loss, other_states, other = answers(model, given, **how)
    assert other_loss == pytest.approx(loss, rel=1e-5)
    real = SEGMENTS > 0
    np.testing.assert_allclose(other_states[real], states[real], atol=5e-5)
    for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * max(1.0, float(jnp.abs(a).max())))


TOGETHER = ("t5-small", "linear recurrence")
"""Of the few, those that are asked with their layers together, as on accelerators, and as
`test_transformer` asks the default one; apart, as on CPUs, are those that can be."""


@pytest.mark.parametrize(
    ("name", "apart"),
    [
        pytest.param(name, apart, marks=() if name in few else pytest.mark.slow)
        for name in KINDS
        for apart, few in ((False, TOGETHER), (True, FEW[:2]))
    ],
)
def test_going_on_from_the_past_gives_the_states_of_the_whole_row(name, apart):
    """Fails if the cache loses a position, a window counts from the cache, a source is lost, a
    row goes on at another's place, or behind its own padding, or a layer that is apart is
    another.
    """
    model = KINDS[name]
    given = example(model, np.ones((2, LENGTH), int), attention_mask=CausalMask())
    _, whole, _ = answers(model, given)
    made, tree = module(model), params(model)
    if apart:
        made, tree = made.for_generating(tree, rows=2)
    source = (LENGTH,) if model.reads_source else ()
    cache = made.init_cache(2, LENGTH + 3, *source)
    names = "inputs", "targets", "weights", "positions", "token_types"
    # What stood in the rows before is behind them, and must not be seen.
    for emptied, calls in enumerate(([(0, 9), (0, 6)], [(0, 5), (0, 3)], [(5, 12), (3, 10)])):
        if emptied == 1:
            cache = cache._replace(cache_length_B=jnp.zeros(2, jnp.int32))
        width = max(stop - start for start, stop in calls)
        place_BL = np.array([np.arange(start, start + width) for start, _ in calls])
        real_BL = place_BL < np.array([[stop] for _, stop in calls])
        rows = np.arange(2)[:, None], np.minimum(place_BL, LENGTH - 1)
        part = replace(
            given,
            **{field: getattr(given, field)[rows] for field in names},
            segments=jnp.array(real_BL, jnp.int32),
            source=None if place_BL[0, 0] else given.source,
        )
        output, cache = jax.jit(made.apply)({"params": tree}, part, cache)
        np.testing.assert_allclose(
            np.asarray(output.hidden_BPD)[real_BL], whole[rows][real_BL], atol=5e-5
        )
    assert cache.cache_length_B.tolist() == [12, 10]


@every_kind
def test_the_ledger_counts_the_parameters_and_products_that_there_are(name):
    """Fails if a bias, a table, a transform or a stack is forgotten, or counted twice."""
    model = KINDS[name]
    given = example(model)
    made = module(model)
    tree = nn.unbox(jax.eval_shape(made.init, jax.random.key(0), given))["params"]
    assert sum(model.parameters(TOKENS).values()) == sum(x.size for x in jax.tree.leaves(tree))

    def forward(tree):
        return logits(made.apply({"params": tree}, given), einsum=made.einsum)

    traced = products(jax.make_jaxpr(forward)(tree))
    counted = model.matmul_flops(
        TOKENS,
        rows=2,
        length=LENGTH,
        targets=LENGTH,
        attention_mask=given.attention_mask,
        source=LENGTH if model.reads_source else 0,
    )
    assert sum(counted.values()) == traced
    assert pairs(given.attention_mask, LENGTH) <= LENGTH**2


def products(jaxpr, times=1):
    """FLOPs of the matrix products of a program, those of its parts too."""
    found = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            inner = np.prod([equation.invars[0].aval.shape[i] for i in contracted])
            found += 2 * times * int(inner) * equation.outvars[0].aval.size
        for value in equation.params.values():
            if isinstance(value, ClosedJaxpr):
                found += products(value, times * equation.params.get("length", 1))
    return found


@some_kinds
def test_it_generates(name):
    """Fails if a kind cannot go on from its cache one token at a time, or reads past places."""
    model = KINDS[name]
    if model.reads_source:
        pytest.skip("what an encoder-decoder generates has a source")
    vocabulary = replace(LETTERS, size=TOKENS, begins_word=(True,) * TOKENS)
    (found,) = generate(
        *(module(model), params(model), [[20, 21]]),
        vocabulary=vocabulary,
        length=LENGTH,
        count=4,
        sampling=Sampling(temperature=0),
    )
    tokens = [vocabulary.bos, 20, 21, *found][:LENGTH]
    row = np.array([tokens + [0] * (LENGTH - len(tokens))])
    segments = (np.arange(LENGTH) < len(tokens)).astype(int)[None]
    given = example(model, segments, inputs=jnp.array(row), attention_mask=CausalMask())
    apply = jax.jit(module(model).apply)
    output = apply({"params": params(model)}, replace(given, token_types=None))
    scores = np.array(logits(output, einsum=module(model).einsum))[0]
    scores[:, : vocabulary.first_ordinary] = -np.inf
    for place, token in enumerate(found, 2):
        if token != vocabulary.eos:
            assert scores[place].argmax() == token


@pytest.mark.parametrize("name, rows", [("gpt2", 1), ("gpt2", 2), ("experts", 1)])
def test_small_rounding_once_changes_nothing(name, rows):
    """Fails if a vector or a router is rounded, or a matrix laid out for one row another."""
    model = KINDS[name]
    made = module(model, precision="bfloat16")
    given = example(model, np.ones((2, LENGTH), int), attention_mask=CausalMask())
    apart, tree = made.for_generating(params(model), rows=rows)
    whole, found = (
        jax.jit(
            lambda tree, each=each: logits(
                each.apply({"params": tree}, given), einsum=made.einsum
            )
        )(given_tree)
        for each, given_tree in ((made, params(model)), (apart, tree))
    )
    np.testing.assert_allclose(found, whole, atol=1e-5)
    assert tree["layers_0"]["up"].dtype == jnp.bfloat16
    exact = tree["layers_0"]["router" if name == "experts" else "up_bias"]
    assert exact.dtype == tree["embedding"].dtype == jnp.float32


@pytest.mark.parametrize(
    "name", ["t5-small", pytest.param("t5-v1.1-small", marks=pytest.mark.slow)]
)
def test_a_decoder_answers_by_its_source(name):
    """Fails if the source is read once too few, its padding is seen, or the cache loses it."""
    model = SMALL[name]
    vocabulary = replace(LETTERS, size=TOKENS, begins_word=(True,) * TOKENS)
    sources = [[20, 21, 4, 22], [23, 5]]
    how = {"vocabulary": vocabulary, "count": 4, "sampling": Sampling(temperature=0)}
    found = answer(module(model), params(model), sources, **how)
    alone = [answer(module(model), params(model), [source], **how)[0] for source in sources]
    assert found == alone and found[0] != found[1]
    said = [vocabulary.bos, *found[0]]
    source = Source(*(jnp.array([row]) for row in (sources[0], [1] * 4, range(4))))
    given = example(
        model, np.ones((1, len(said)), int), inputs=jnp.array([said]), source=source
    )
    apply = jax.jit(module(model).apply)
    output = apply({"params": params(model)}, replace(given, token_types=None))
    scores = np.array(logits(output, einsum=module(model).einsum))[0]
    legal = {vocabulary.eos, *vocabulary.sentinels, *range(vocabulary.first_ordinary, TOKENS)}
    scores[:, [token for token in range(TOKENS) if token not in legal]] = -np.inf
    for place, token in enumerate(found[0]):
        assert scores[place].argmax() == token


OPTIMIZERS = {"adamw": Adamw(), "muon": Muon()}


@every_kind
def test_every_parameter_has_an_update(name):
    """Fails if a loss has no gradient, or an optimizer cannot tell what a parameter is by the
    names of its axes.
    """
    model, schedule = KINDS[name], WarmupStableDecay()
    axes = as_tree(model.axes())
    params = as_tree(
        {
            path: jax.ShapeDtypeStruct(shape, jnp.float32)
            for path, shape in model.shapes(TOKENS).items()
        }
    )
    _, gradients = jax.eval_shape(compiled(model), params, example(model))
    for optimizer in OPTIMIZERS.values():
        slopes = Slopes.of(schedule, 9)
        update = build_optimizer(optimizer, schedule, slopes, axes, width=model.width)
        state = jax.eval_shape(update.init, params)
        updates, after = jax.eval_shape(update.update, gradients, state, params)
        assert updates == params and after == state


@some_kinds
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_it_can_be_trained(name, optimizer):
    """Fails if a step leads to another kind of state, or gives no loss."""
    model = KINDS[name]
    objective = Spans(stack="encoder_decoder") if model.reads_source else Causal()
    data = Data(tokenizer=Bytes(sentinels=64), length=32, batch=2)
    run = Run(model=model, objective=objective, optimizer=optimizer, data=data)
    program = prepare(run, Bytes(sentinels=64).open().vocabulary, alone())
    rows = jax.ShapeDtypeStruct((2, 32), jnp.int32)
    given = program.abstract, Batch(rows, rows), np.uint32(0), objective, program.beside
    state, metrics = jax.eval_shape(program.update, *given)
    assert jax.tree.structure(state) == jax.tree.structure(program.abstract)
    assert metrics["loss"].shape == ()


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n == "t5-small" else pytest.mark.slow) for n in KINDS],
)
def test_it_learns_and_goes_on_from_where_it_was_stopped(name, run, tmp_path):
    """Fails if a kind learns nothing, or a part of it is not kept in a checkpoint."""
    model = KINDS[name]
    objective = Spans(stack="encoder_decoder") if model.reads_source else Causal()
    made = msgspec.structs.replace(
        run,
        model=model,
        objective=objective,
        data=msgspec.structs.replace(run.data, tokenizer=Bytes(sentinels=8)),
        checkpoints=CheckpointSettings(steps=6, keep=9),
    )
    whole = train_run(made, tmp_path / "whole")
    losses = [r["loss"] for r in read_metrics(tmp_path / "whole") if "loss" in r]
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.3
    # As if it had been stopped after step 6.
    stopped = shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    (stopped / "result.json").unlink()
    for step in ("12", "16"):
        shutil.rmtree(stopped / "checkpoints" / step)
    again = train_run(made, stopped)
    assert again["validation_loss"] == whole["validation_loss"]
    jax.tree.map(
        np.testing.assert_array_equal,
        load_run(tmp_path / "stopped").params,
        load_run(tmp_path / "whole").params,
    )


def alone():
    return mesh.make(mesh.Mesh(), jax.devices()[:1])


@pytest.mark.parametrize("name", ["t5-small"])
def test_an_encoder_decoder_is_for_examples_with_a_source(name):
    """Fails if a causal objective is trained with nothing to read, or spans are refused."""
    model = SMALL[name]
    assert isinstance(model, EncoderDecoder)
    assert "have no source" in (model.refuse_objective(Causal().masks, source=False) or "")
    spans = Spans(stack="encoder_decoder")
    assert model.refuse_objective(spans.masks, source=True) is None
    run = Run(model=model, objective=spans, data=Data(tokenizer=Bytes(sentinels=64)))
    assert run.objective.source_positions(256) > run.objective.positions(256)


def test_kinds_are_told_apart_by_their_predictions():
    """Fails if a part that is set changes nothing."""
    plain = Transformer(**SIZE)
    seen = Counter()
    for _name, model in OWN.items():
        if {*model.parameters(TOKENS).items()} == {*plain.parameters(TOKENS).items()}:
            made = module(model)
            tree = params(plain)
            output = jax.jit(made.apply)({"params": tree}, example(model))
            found = logits(output, einsum=made.einsum)
            seen[np.asarray(found).round(4).tobytes()] += 1
    assert len(seen) >= 2 and max(seen.values()) == 1
