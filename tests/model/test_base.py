"""A model of another kind is trained, counted, proven and scored by the contract alone."""

import dataclasses
import subprocess
import sys
from functools import cache
from typing import Annotated, ClassVar, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest
from msgspec import Meta
from rich.console import Console

import lm.loss
from lm.config import UserError
from lm.cost import budget, ledger, memory
from lm.data import Bytes, Data
from lm.distributed import mesh
from lm.distributed.mesh import Mesh, constrain
from lm.evaluate.scorers.base import score
from lm.evaluate.scorers.chain_rule import ChainRule
from lm.example import Batch, CausalMask, Vocabulary
from lm.generate import generate
from lm.model import Base, Module, Output
from lm.objectives import AnyOrder, Causal, Curriculum, Masked, Mixture, Objective, Prefix
from lm.run import Run, mesh_for, validate
from lm.train.step import prepare
from lm.verify.dependence import modules
from lm.verify.leaks import forget, prove, prove_all


class Window(Base, tag="window"):
    """At every position an MLP over it and the few positions before it."""

    masks: ClassVar = frozenset({CausalMask})
    depth: Annotated[int, Meta(ge=1, description="layers N")] = 2
    width: Annotated[int, Meta(ge=1, description="model width D")] = 32
    reach: Annotated[int, Meta(ge=0, description="positions before it")] = 2

    @property
    def window(self):
        return self.reach

    def splits(self):
        return {"embed": ("width", self.width), "mlp": ("width", self.width)}

    def tiny(self, depth):
        return msgspec.structs.replace(self, depth=depth, width=16)

    def at_depth(self, depth):
        return msgspec.structs.replace(self, depth=depth, width=8 * depth)

    def build(
        self, vocabulary_size, *, mesh, precision="bfloat16", remat="none", unroll=None,
        attention="auto",
    ):  # fmt: skip
        return WindowModule(self, vocabulary_size, mesh, precision)


class WindowModule(Module):
    @nn.compact
    def __call__(self, example):
        c, init = self.config, nn.initializers.lecun_normal()
        box = nn.with_logical_partitioning
        table_VD = self.param(
            "table", box(nn.initializers.normal(0.02), ("vocab", "embed")),
            (self.vocabulary_size, c.width),
        )  # fmt: skip
        wide = c.width * (c.reach + 1)
        up_NWF = self.param(
            "up", box(init, ("layers", "embed", "mlp")), (c.depth, wide, c.width)
        )
        down_NFD = self.param(
            "down", box(init, ("layers", "mlp", "embed")), (c.depth, c.width, c.width)
        )
        x_BLD = constrain(table_VD[example.inputs], self.mesh, ("batch", "length", "act_embed"))
        for up_WF, down_FD in zip(up_NWF, down_NFD, strict=True):
            seen = [_before(x_BLD, example.segments, by) for by in range(c.reach + 1)]
            x_BLF = self.einsum("BLW,WF->BLF", jnp.concatenate(seen, axis=2), up_WF)
            x_BLD = x_BLD + self.einsum("BLF,FD->BLD", jnp.tanh(x_BLF), down_FD)
        if example.target_positions is not None:
            x_BLD = jnp.take_along_axis(x_BLD, example.target_positions[..., None], axis=1)
        return Output(x_BLD, table_VD)


def _before(x_BLD, segments_BL, by):
    """The state so many positions before, where that is in the same document."""
    shifted_BLD = jnp.pad(x_BLD, ((0, 0), (by, 0), (0, 0)))[:, : x_BLD.shape[1]]
    before_BL = jnp.pad(segments_BL, ((0, 0), (by, 0)))[:, : segments_BL.shape[1]]
    return jnp.where((before_BL == segments_BL)[..., None], shifted_BLD, 0)


class Opened(Run):
    """A run of either kind of model: the line in the union."""

    model: Run.__annotations__["model"] | Window = Window()


SIZE = 260
VOCABULARY = Vocabulary(
    size=SIZE, pad=0, mask=1, bos=2, eos=3, first_ordinary=4, begins_word=(True,) * SIZE
)
RUN = Opened(data=Data(length=16, batch=8, tokenizer=Bytes()), tokens=120 * 128)


@cache
def trained():
    """Program, parameters and losses of a run on rows that count upward."""
    program = prepare(validate(RUN), VOCABULARY, mesh.make(Mesh(), jax.devices()[:1]))
    state, losses = program.init(), []
    for step in range(120):
        tokens_BL = rows(step)
        state, metrics = program.step(state, Batch(tokens_BL, np.ones_like(tokens_BL)))
        losses.append(float(metrics["loss"]))
    return program, state.params, losses


def rows(seed, count=8):
    start_B1 = np.random.default_rng(seed).integers(16, size=(count, 1))
    tokens_BL = (4 + (start_B1 + np.arange(16)[None]) % 16).astype(np.int32)
    tokens_BL[:, 0] = VOCABULARY.bos
    return tokens_BL


def test_it_is_trained_by_the_step_that_all_models_have():
    """Fails if the step, the optimizer or a mesh asks for something that only one model has."""
    _, _, losses = trained()
    assert losses[0] == pytest.approx(np.log(SIZE), abs=0.2)
    assert losses[-1] < losses[0] / 2
    assert mesh_for(RUN, devices=8).fsdp == 8


def test_it_is_scored_by_the_chain_rule():
    """Fails if a scorer knows a module: what follows a token was learnt, the first was not."""
    program, params, _ = trained()
    tokens_BL = rows(99)
    windows = [(tokens_BL, np.ones_like(tokens_BL))]
    nats_BL = score(ChainRule(), program.module, params, windows, vocabulary=VOCABULARY)[0, 0]
    assert nats_BL[:, 0].max() == 0
    assert nats_BL[:, 3:].mean() < 0.75 * nats_BL[:, 1].mean()


def test_its_parameters_and_flops_are_counted_without_a_formula(monkeypatch):
    """Fails if a count is a transformer's: it is the tree's, and the compiler's."""
    monkeypatch.setattr(lm.loss, "LOGITS_AT_ONCE", 1 << 62)
    run = msgspec.structs.replace(
        RUN, model=Window(depth=2, width=256), data=Data(length=64, batch=16, tokenizer=Bytes())
    )
    program = prepare(run, VOCABULARY, mesh.make(Mesh(), jax.devices()[:1]))
    found = ledger.parameters(run, SIZE)
    there = sum(leaf.size for leaf in jax.tree.leaves(program.abstract.params))
    assert found.total == found.matmul == there
    assert found.groups == {"embedding": SIZE * 256, "mlp": 2 * 4 * 256**2, "norm": 0}
    part = jax.ShapeDtypeStruct((16, 64), jnp.int32)
    lowered = program.update.lower(
        program.abstract, Batch(part, part), np.uint32(0), run.objective, program.beside
    )
    cost = ledger.cost(run, SIZE)
    assert lowered.cost_analysis()["flops"] == pytest.approx(cost.flops / cost.steps, rel=0.02)
    assert memory.least(run, "tpu")[memory.STATE] == 4 * 4 * there


def test_counting_asks_for_no_device():
    """Fails if hosts that count parameters before they have met can meet no more."""
    code = (
        "from lm.cost import ledger; from lm.run import Run\n"
        "assert ledger.cost(Run(), 100).flops > 0\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge.backends_are_initialized()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_it_is_proven_within_its_window():
    """Fails if a proof wants more of a model than it reads, or takes its word for it."""
    prove_all(Causal(), Window(), Console(quiet=True))
    (one,) = modules(Window(reach=2), depths=(1,))
    assert prove(Causal(), (one,), keys=1, window=2).violations == ()
    found = prove(Causal(), (one,), keys=1, window=3).violations
    assert found and all("which `attention_mask` allows" in line for line in found)


def test_a_window_that_reaches_into_another_document_is_caught(monkeypatch):
    """Fails if what a model without a mask reads is not asked about."""
    forget()
    monkeypatch.setitem(globals(), "_before", lambda x, segments, by: _whole(x, by))
    (one,) = modules(Window(), depths=(1,))
    found = prove(Causal(), (one,), keys=1, window=2).violations
    forget()
    assert any("which `attention_mask` forbids" in line for line in found)


def _whole(x_BLD, by):
    return jnp.pad(x_BLD, ((0, 0), (by, 0), (0, 0)))[:, : x_BLD.shape[1]]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"objective": Masked()}, "its attention is bidirectional, and model.type=window"),
        ({"objective": Prefix()}, "prefix, and model.type=window serves causal alone"),
        ({"objective": Mixture()}, "prefix"),
        ({"objective": Curriculum(then=AnyOrder())}, "bidirectional"),
        ({"attention": "splash"}, "attention=splash: model.type=window has none"),
        ({"remat": "block"}, "remat=block: model.type=window"),
    ],
    ids=str,
)
def test_what_it_cannot_serve_is_refused_by_name(changes, says):
    """Fails if a model is trained on masks that it does not look at."""
    with pytest.raises(UserError, match=rf"^[^\n]*{says}[^\n]*$"):
        validate(msgspec.structs.replace(RUN, **changes))


def test_depth_is_the_dial_of_a_budget_where_a_model_has_one():
    """Fails if a ladder makes shapes of one kind for another, or ends in a traceback."""
    depth = budget.nearest_depth(Window(), SIZE, 1e5, "matmul")
    sizes = [
        abs(np.log(sum(Window().at_depth(n).matmul_parameters(SIZE).values()) / 1e5))
        for n in range(1, 20)
    ]
    assert depth == 1 + int(np.argmin(sizes))
    with pytest.raises(UserError, match=r"^model.type=fixed: "):
        Fixed().at_depth(2)


class Fixed(Window, tag="fixed"):
    """A window whose shape is as it is."""

    at_depth = Base.at_depth


def test_a_model_without_a_cache_does_not_generate():
    """Fails if that is found out in a traceback."""
    program, params, _ = trained()
    with pytest.raises(UserError, match=r"^model.type=window: it keeps no cache"):
        generate(program.module, params, [[5]], vocabulary=VOCABULARY, length=16, count=2)


@pytest.mark.parametrize("objective", [kind() for kind in get_args(Objective)], ids=str)
def test_objectives_name_the_masks_of_their_examples(objective):
    """Fails if a model would be refused what it can serve, or given what it cannot."""
    sentinels = dataclasses.replace(
        VOCABULARY, sentinels=tuple(range(4, 12)), first_ordinary=12
    )
    shape = jax.ShapeDtypeStruct((2, 24), jnp.int32)

    def masks(of):
        example = jax.eval_shape(
            lambda rows: of(rows, sentinels, jax.random.key(0)),
            Batch(shape, shape, dict.fromkeys(of.needs, shape)),
        )
        return {type(example.attention_mask)}

    steps = objective.parts(50, 0)
    assert set().union(*map(masks, [*steps, objective.last])) == objective.masks
