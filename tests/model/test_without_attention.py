"""Models without attention: held to loops, to other people's cells, and to rows taken apart.

What holds for all models (proofs, meshes, checkpoints, counts) is asked in `test_kinds.py`.
"""

from dataclasses import replace
from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from lm.config import UserError
from lm.data import Bytes, Data
from lm.example import BidirectionalMask, CausalMask, positions_of, unanswered
from lm.model import Convolution, LinearRecurrence, Lstm, Transformer, build, matched
from lm.model.lstm import LstmMixer
from lm.model.reading import read
from lm.model.recurrence import linear_scan
from lm.numerics import Einsum
from lm.objectives import Causal, Masked, Prefix
from lm.optimizer import Lora
from lm.run import Run, validate

KINDS = {
    "lstm": Lstm().tiny(2),
    "convolution": Convolution().tiny(2),
    "linear recurrence": LinearRecurrence().tiny(2),
}
MASKS = {"causal": CausalMask(), "bidirectional": BidirectionalMask()}
TOKENS, LENGTH = 32, 12
SEGMENTS = np.array([[1] * 5 + [2] * 4 + [0] * 3, [1] * 3 + [0] * 2 + [2] * 7])

every_kind = pytest.mark.parametrize("name", KINDS)
both_masks = pytest.mark.parametrize("mask", MASKS)


@cache
def module(name):
    return build(KINDS[name], TOKENS, mesh=None, precision="float32")


@cache
def params(name):
    blank = unanswered(*[jnp.ones((1, 2), jnp.int32)] * 2, CausalMask())
    shapes = nn.unbox(jax.eval_shape(module(name).init, jax.random.key(0), blank))["params"]
    random = np.random.default_rng(1)
    return jax.tree.map(lambda x: random.normal(scale=0.5, size=x.shape).astype("f"), shapes)


@cache
def compiled(name):
    return jax.jit(module(name).apply)


def states(name, tokens, segments, mask):
    given = unanswered(jnp.array(tokens), jnp.array(segments), MASKS[mask])
    return np.asarray(compiled(name)({"params": params(name)}, given).hidden_BPD)


def tokens_of(seed=0):
    return np.random.default_rng(seed).integers(4, TOKENS, SEGMENTS.shape)


@every_kind
@both_masks
def test_packed_equals_unpacked_and_a_segment_begins_with_nothing(name, mask):
    """Fails if a state or a convolution goes on over a boundary, or over padding, in either
    direction: then what stands beside a document moves its states by more than nothing.
    """
    tokens = tokens_of()
    packed = states(name, tokens, SEGMENTS, mask)
    alone, segments = np.zeros_like(tokens), np.zeros_like(SEGMENTS)
    for row, (start, stop) in enumerate(((5, 9), (5, 12))):
        alone[row, : stop - start] = tokens[row, start:stop]
        segments[row, : stop - start] = 1
    found = states(name, alone, segments, mask)
    np.testing.assert_allclose(found[0, :4], packed[0, 5:9], atol=1e-5)
    np.testing.assert_allclose(found[1, :7], packed[1, 5:12], atol=1e-5)
    edited = np.where(SEGMENTS == 2, tokens, tokens_of(1))
    np.testing.assert_array_equal(
        states(name, edited, SEGMENTS, mask)[SEGMENTS == 2], packed[SEGMENTS == 2]
    )


@every_kind
def test_the_masks_see_what_they_say(name):
    """Fails if a causal model sees what comes, or a bidirectional one sees one side alone."""
    tokens, whole = tokens_of(), np.ones_like(SEGMENTS)
    edited = tokens.copy()
    edited[:, 6] = 4 + (tokens[:, 6] - 3) % (TOKENS - 4)
    changed = {
        mask: (states(name, tokens, whole, mask) != states(name, edited, whole, mask)).any(-1)
        for mask in MASKS
    }
    assert not changed["causal"][:, :6].any() and changed["causal"][:, 6:9].all()
    assert changed["bidirectional"][:, 4:9].all()


@every_kind
def test_rows_go_on_wherever_they_are_and_padding_leaves_them_as_they_are(name):
    """Fails if padding before, behind or between moves a state or takes a place in what a
    convolution reads, or an emptied row remembers.
    """
    tokens = tokens_of()
    whole = states(name, tokens, np.ones_like(tokens), "causal")
    cache = module(name).init_cache(2, LENGTH)
    calls = [
        ([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]], False),
        ([[0, 1, 0, 1, 1], [1, 1, 1, 1, 1]], True),
        ([[1, 1, 0, 0, 0], [0, 0, 0, 0, 0]], False),
        ([[1], [1]], False),
        ([[0], [1]], False),
        ([[1], [1]], False),
    ]
    done = np.zeros(2, int)
    for segments, emptied in calls:
        real = np.array(segments) > 0
        if emptied:
            cache, done = cache._replace(cache_length_B=jnp.zeros(2, jnp.int32)), 0 * done
        places = done[:, None] + np.cumsum(real, axis=1) - 1
        rows = np.arange(2)[:, None], np.maximum(places, 0)
        given = unanswered(jnp.where(real, tokens[rows], 0), jnp.array(segments), CausalMask())
        output, cache = compiled(name)({"params": params(name)}, given, cache)
        np.testing.assert_allclose(
            np.asarray(output.hidden_BPD)[real], whole[rows][real], atol=2e-5
        )
        done = done + real.sum(axis=1)
    assert cache.cache_length_B.tolist() == done.tolist() == [7, 8]


def test_the_scan_is_its_loop_and_so_is_its_gradient():
    """Fails if a step of the scan is left out, or a gradient is that of another position."""
    random = np.random.default_rng(0)
    decay = random.uniform(0.5, 1.0, (2, 67, 5)) * (random.random((2, 67, 5)) > 0.1)
    added, weights = random.normal(size=(2, 2, 67, 5))

    def loop(decay, added):
        def step(state, given):
            state = given[0] * state + given[1]
            return state, state

        by_position = jnp.moveaxis(decay, 1, 0), jnp.moveaxis(added, 1, 0)
        return jnp.moveaxis(jax.lax.scan(step, jnp.zeros((2, 5)), by_position)[1], 0, 1)

    for function in (linear_scan, loop):
        both = jax.jit(
            jax.value_and_grad(
                lambda d, a, of=function: ((of(d, a) * weights).sum(), of(d, a)),
                argnums=(0, 1),
                has_aux=True,
            )
        )
        (_, found), gradients = both(jnp.asarray(decay, "f"), jnp.asarray(added, "f"))
        if function is linear_scan:
            scanned = found, *gradients
    for ours, theirs in zip(scanned, (found, *gradients), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


SIZE, CELLS, INPUTS = 4, 2, 8


def lstm_params(seed=0):
    random = np.random.default_rng(seed)
    shapes = {
        "input": (INPUTS, 4, CELLS * SIZE),
        "recurrent": (CELLS, SIZE, 4, SIZE),
        "bias": (4, CELLS * SIZE),
    }
    return {name: random.normal(size=shape).astype("f") for name, shape in shapes.items()}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm_by_hand(p, x_LD, cell):
    """Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000, equations 3-8."""
    own = slice(cell * SIZE, (cell + 1) * SIZE)
    w = {gate: p["input"][:, at, own] for at, gate in enumerate("ifgo")}
    u = {gate: p["recurrent"][cell, :, at] for at, gate in enumerate("ifgo")}
    b = {gate: p["bias"][at, own] for at, gate in enumerate("ifgo")}
    y, s, found = np.zeros(SIZE), np.zeros(SIZE), []
    for x in x_LD.astype(np.float64):
        net = {gate: x @ w[gate] + y @ u[gate] + b[gate] for gate in "ifgo"}
        s = sigmoid(net["f"]) * s + sigmoid(net["i"]) * np.tanh(net["g"])
        y = sigmoid(net["o"]) * np.tanh(s)
        found.append(y)
    return np.array(found)


def mix(p, x, segments, mask, cells=CELLS):
    config = Lstm(depth=1, width=CELLS * SIZE, cells=cells)
    rows = read(MASKS[mask], jnp.array(segments), None, 1)
    mixer = LstmMixer(config, None, Einsum("float32"))
    return np.asarray(mixer.apply({"params": p}, jnp.array(x), rows, None, 0)[0])


@both_masks
def test_the_lstm_is_that_of_its_papers(mask):
    """Fails if gates are taken for each other, a cell sees its neighbour's state, or the second
    one reads from the wrong side.
    """
    p = lstm_params()
    x = np.random.default_rng(2).normal(size=(2, LENGTH, INPUTS)).astype("f")
    found = mix(p, x, SEGMENTS, mask)
    for row, segment in ((0, 1), (0, 2), (1, 1), (1, 2)):
        at = SEGMENTS[row] == segment
        way = -1 if mask == "bidirectional" else 1
        one = lstm_by_hand(p, x[row, at], 0)
        other = lstm_by_hand(p, x[row, at][::way], 1)[::way]
        np.testing.assert_allclose(found[row, at], np.hstack([one, other]), atol=1e-5)


def test_a_cell_is_flaxs_and_so_is_its_gradient():
    """Fails if the order of the gates, or where the biases stand, is not the library's."""
    p = lstm_params()
    p["recurrent"] = np.random.default_rng(3).normal(size=(1, 8, 4, 8)).astype("f")
    x = np.random.default_rng(2).normal(size=(2, 7, INPUTS)).astype("f")
    cell = {}
    for at, gate in enumerate("ifgo"):
        cell[f"i{gate}"] = {"kernel": p["input"][:, at]}
        cell[f"h{gate}"] = {"kernel": p["recurrent"][0, :, at], "bias": p["bias"][at]}
    theirs = nn.RNN(nn.OptimizedLSTMCell(8))
    config = Lstm(depth=1, width=8, cells=1)
    rows = read(CausalMask(), jnp.ones((2, 7), jnp.int32), None, 1)
    ours = LstmMixer(config, None, Einsum("float32"))
    functions = (
        lambda x: theirs.apply({"params": {"cell": cell}}, x),
        lambda x: ours.apply({"params": p}, x, rows, None, 0)[0],
    )
    one, two = (
        jax.jit(jax.value_and_grad(lambda x, f=f: (f(x) ** 2).sum())) for f in functions
    )
    np.testing.assert_allclose(one(x)[0], two(x)[0], rtol=1e-5)
    np.testing.assert_allclose(one(x)[1], two(x)[1], atol=2e-5)
    torch = pytest.importorskip("torch", reason="torch is not installed")
    reference = torch.nn.LSTM(INPUTS, 8, batch_first=True)
    stacked = {"ih": p["input"], "hh": p["recurrent"][0]}
    with torch.no_grad():
        for name, weight in stacked.items():
            rows_ = weight.transpose(1, 2, 0).reshape(32, 8)
            getattr(reference, f"weight_{name}_l0").copy_(torch.tensor(rows_))
        reference.bias_ih_l0.copy_(torch.tensor(p["bias"].reshape(32)))
        reference.bias_hh_l0.zero_()
        found = reference(torch.tensor(x))[0].numpy()
    np.testing.assert_allclose(functions[1](x), found, atol=1e-5)


def test_initial_values_are_those_of_the_sources():
    """Fails if forget gates begin half open, a recurrent matrix stretches what it carries, or a
    recurrence forgets within a few tokens.
    """

    def layers(model):
        blank = unanswered(*[jnp.ones((1, 2), jnp.int32)] * 2, CausalMask())
        tree = jax.jit(build(model, 5, mesh=None).init)(jax.random.key(0), blank)
        return nn.unbox(tree)["params"]["layers"]["mixer"]

    found = layers(Lstm(depth=2, width=8))
    assert np.array_equal(np.unique(found["bias"][:, 1]), [1.0])
    assert not found["bias"][:, [0, 2, 3]].any()
    recurrent = found["recurrent"][1, 0, :, 2]
    np.testing.assert_allclose(recurrent.T @ recurrent, np.eye(4), atol=1e-5)
    assert np.abs(recurrent - found["recurrent"][1, 1, :, 2]).max() > 0.1
    decay = layers(LinearRecurrence(depth=1, width=8, recurrence_width=512))["decay"]
    open_ = np.exp(-8 * np.log1p(np.exp(decay)))
    assert 0.9 < open_.min() < 0.902 and 0.997 < open_.max() < 0.999


@pytest.mark.parametrize(
    ("model", "multiple"),
    [
        (Lstm(depth=1), 1),
        (Convolution(depth=1, mlp="swiglu"), 8),
        (LinearRecurrence(depth=1), 1),
        (Transformer(depth=1, heads=2), 1),
    ],
    ids=str,
)
def test_no_other_width_comes_nearer(model, multiple):
    """Fails if the search stops one width too early, or a width that the model refuses is
    found.
    """
    asked = 9_000
    found = matched(model, asked, 100, multiple=multiple)

    def off(width):
        made = msgspec.structs.replace(model, width=width)
        return abs(sum(made.parameters(100).values()) - asked)

    assert found.check() is None and found.width % multiple == 0
    step = found.width - max(
        width for width in range(found.width - 1, 0, -1)
        if width % multiple == 0 and msgspec.structs.replace(model, width=width).check() is None
    )  # fmt: skip
    assert off(found.width) <= min(off(found.width - step), off(found.width + step))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": Lstm(), "objective": Prefix()}, "prefix, and model.type=lstm serves"),
        ({"model": Convolution(), "objective": Prefix()}, "prefix, and model.type=convolution"),
        ({"model": LinearRecurrence(), "objective": Prefix()}, "prefix, .*=linear_rec"),
        ({"model": Lstm(cells=1), "objective": Masked()}, "bidirectional, and model.type=lstm"),
        ({"model": Lstm(cells=3)}, "model.cells=3: of an odd number .* nearest: 2 or 4"),
        ({"model": Lstm(width=18, cells=4)}, "model.width=18: cells=4 do not .*: 16 or 20"),
        ({"model": Convolution(width=17)}, "model.width=17: .*; nearest: 16 or 18"),
        ({"model": LinearRecurrence(width=20)}, "model.cells=8 do not divide width 20; one of"),
        ({"model": Lstm(), "remat": "matmuls"}, "remat=matmuls: .*; block or none"),
    ],
    ids=str,
)  # fmt: skip
def test_what_they_cannot_be_or_serve_is_refused_in_one_line(changes, says):
    """Fails if a model is trained on masks that it does not look at, or of halves of a cell."""
    run = Run(data=Data(length=16, batch=8, tokenizer=Bytes()), objective=Causal())
    with pytest.raises(UserError, match=rf"^[^\n]*{says}[^\n]*$"):
        validate(msgspec.structs.replace(run, **changes))


def test_positions_of_a_row_are_not_asked():
    """Fails if a model that needs no positions depends on them."""
    tokens = tokens_of()
    given = unanswered(jnp.array(tokens), jnp.array(SEGMENTS), CausalMask())
    moved = replace(given, positions=positions_of(given.segments) + 900)
    for name in KINDS:
        one, two = (
            compiled(name)({"params": params(name)}, each).hidden_BPD for each in (given, moved)
        )
        np.testing.assert_array_equal(one, two)


@every_kind
def test_an_adapter_beside_a_matrix_is_one_added_to_it(name):
    """Fails if a product takes a letter for the rank's, or inputs for outputs."""
    axes, lora = KINDS[name].axes(), Lora(rank=2, targets=("layers/*",))
    base = {"/".join(path): x for path, x in flatten_dict(params(name)).items()}
    random = np.random.default_rng(4)
    shapes = lora.shapes(axes, KINDS[name].shapes(TOKENS))
    base |= {path: random.normal(size=shape).astype("f") for path, shape in shapes.items()}
    tokens, segments = jnp.array(tokens_of()), jnp.array(SEGMENTS)
    given = unanswered(tokens, segments, BidirectionalMask())
    beside, added = (
        compiled(name)({"params": unflatten_dict(tree, sep="/")}, given).hidden_BPD
        for tree in (lora.joined(base), lora.merged(base, axes))
    )
    assert np.abs(added - states(name, tokens, segments, "bidirectional")).max() > 0.1
    np.testing.assert_allclose(beside, added, atol=2e-4)
