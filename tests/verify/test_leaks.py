"""No prediction depends on what it must not: every objective, in every form of attention."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import lm
from lm.config import UserError
from lm.distributed import mesh
from lm.example import Batch, UntilMask, mask_array
from lm.model import Transformer
from lm.objectives import (
    AnyOrder,
    Causal,
    Curriculum,
    Diffusion,
    Drawn,
    Masked,
    Mixture,
    Objective,
    Part,
    Prefix,
    Scheduled,
    Shifted,
    Spans,
)
from lm.verify.dependence import allowed, modules
from lm.verify.leaks import never_kept, parts, prove, prove_all
from lm.verify.proof import title as title_of
from lm.verify.rows import VOCABULARY

pytestmark = pytest.mark.usefixtures("blocks_of_four")

EVERY_KIND = [kind() for kind in get_args(Objective) if kind.predictions]
"""Of the union itself, so that a new objective is proven from its first day, if it asks for
anything."""
SELECTED = [Masked(rate=0.4, select=select) for select in ("word", "span", "ngram")]
UL2 = Mixture(
    mixed=(
        Part(objective=Spans(rate=0.5, span=2)),
        Part(objective=Prefix()),
        Part(objective=Masked(rate=0.5)),
    )
)
MORE = [
    *SELECTED,
    Causal(masked=Drawn(low=0.2, high=0.8)),
    Masked(rate=Scheduled(start=0.6, end=0.2)),
    Masked(rate=Drawn(low=0.2, high=0.8), mask=0.2, random=0.2),
    Shifted(of=Masked(rate=0.4, select="word")),
    Shifted(of=AnyOrder()),
    UL2,
    Curriculum(first=Masked(rate=0.3), then=Mixture(draw="step")),
]
REST = [
    *(Shifted(of=of) for of in (*SELECTED[1:], Diffusion())),
    Spans(rate=0.5, span=1),
    Spans(rate=0.9),
    Masked(rate=1.0, mask=1.0, random=0.0),
]
CASES = list(dict.fromkeys(part for each in [*EVERY_KIND, *MORE] for part in parts(each)))
ALL_CASES = list(dict.fromkeys([*CASES, *REST]))
FORMS = ("blocks", "rolled", "whole row")
KERNELS = ("splash", "cudnn", "triton")
"""As they run off their platform: in Pallas' interpreter, and in JAX's own form."""
ENCODED = Spans(stack="encoder_decoder")


@cache
def form(name: str, depths: tuple[int, ...] = (1, 2)):
    config = Transformer(heads=4, kv_heads=2)
    if name == "whole row":
        whole = mesh.make(mesh.Mesh(context=2), jax.devices()[:2])
        return modules(config, depths=depths, mesh=whole)
    attention = name if name in KERNELS else "auto"
    unroll = 1 if name == "rolled" else None
    return modules(config, depths=depths, unroll=unroll, attention=attention)


@pytest.mark.parametrize("objective", CASES, ids=title_of)
def test_no_objective_shows_a_slot_its_target(objective):
    """Fails if an objective leaves an input in place, or lets one more position be seen."""
    proof = prove(objective, ())
    assert proof.violations == ()
    assert proof.targets > 0
    assert proof.indirect == 0, "what is seen through others is not seen by itself"
    assert (proof.kept > 0) == (never_kept(objective) != objective)


ONE_OF_EACH = [Causal(), AnyOrder(), Prefix()]


@pytest.mark.eight_devices
@pytest.mark.parametrize(
    ("objective", "name"),
    [
        *((objective, "blocks") for objective in ONE_OF_EACH),
        *((Prefix(), name) for name in (*FORMS[1:], *KERNELS[:2])),
        (Causal(), "triton"),  # which leaves prefixes to cuDNN
        (Causal(), "whole row"),  # the others are in the next test
    ],
    ids=lambda each: each if isinstance(each, str) else title_of(each),
)
def test_logits_depend_on_what_they_may_and_on_nothing_else(objective, name):
    """Fails if a form of attention sees more, or less, than each `attention_mask` says."""
    depths = {"blocks": (1, 2)} | dict.fromkeys(KERNELS, (1,))
    small = form(name, depths.get(name, (2,)))
    proof = prove(objective, small, keys=2)
    assert proof.violations == ()
    assert proof.pairs > 1000


@pytest.mark.eight_devices
@pytest.mark.slow
@pytest.mark.parametrize("name", [*FORMS, *KERNELS])
@pytest.mark.parametrize("objective", [*ALL_CASES, ENCODED], ids=title_of)
def test_every_objective_in_every_form(objective, name):
    """Fails if an objective's own shapes or gathers break what a form promises."""
    takes_source = getattr(objective, "stack", "single") != "single"
    small = tuple(map(Joined, form(name))) if takes_source else form(name)
    assert prove(objective, small, keys=6, seed=1).violations == ()


class Joined(nn.Module):
    """A module that takes a source: it reads it as the first part of one row."""

    inner: nn.Module

    @nn.compact
    def __call__(self, example):
        if example.source is None:
            return self.inner(example)
        source, (batch, length) = example.source, example.inputs.shape
        width = source.inputs_BM.shape[1]
        index_BL = jnp.broadcast_to(jnp.arange(width + length)[None], (batch, width + length))
        pairs = {
            name: jnp.concatenate([getattr(source, f"{name}_BM"), getattr(example, name)], 1)
            for name in ("inputs", "segments", "positions")
        }
        seen = UntilMask(jnp.maximum(index_BL, width - 1))
        joined = replace(
            example,
            **pairs,
            target_positions=index_BL[:, width:],
            attention_mask=seen,
            source=None,
        )
        return self.inner(joined)


def test_a_source_is_proven_too():
    """Fails if derivatives by the source are put to wrong positions, or are not looked at."""
    assert prove(ENCODED, tuple(map(Joined, form("blocks", (1,)))), keys=1).violations == ()


def test_a_model_that_takes_no_source_is_one_line():
    """Fails if each of its missing dependences is a line, or if none is."""
    proof = prove(ENCODED, form("blocks", (1,)), keys=2)
    assert proof.violations == ("its example has a source, and this module takes none",)


@pytest.mark.parametrize("objective", [Causal(), AnyOrder(), Prefix()], ids=title_of)
def test_what_is_allowed_is_what_masks_are_defined_to_be(objective):
    """Fails if the two definitions, each in its own words, come apart."""
    example = objective(*_some_rows(), progress=1.0)
    mask_BLM = np.asarray(mask_array(example.attention_mask, example.segments))
    own_1LL = np.eye(mask_BLM.shape[1], dtype=bool)[None]
    assert (allowed(example) == (mask_BLM | own_1LL)).all()


def _some_rows():
    tokens = jnp.array([[2, 13, 14, 3, 2, 15, 3, 0], [2, 13, 14, 15, 16, 17, 18, 19]])
    segments = jnp.array([[1] * 4 + [2] * 3 + [0], [1] * 8])
    return Batch(tokens, segments), VOCABULARY, jax.random.key(1)


def test_what_asks_for_nothing_is_not_proven(monkeypatch):
    """Fails if a rate that masks no token of a short row passes for a proof."""
    monkeypatch.setattr(
        "lm.verify.leaks.modules", lambda *_, **__: ()
    )  # of attention, which is whole
    with pytest.raises(UserError, match=r"^masked rate=0.03 asks for nothing in rows of 14"):
        prove_all(Masked(rate=0.03), Transformer(), Console(quiet=True))


NEW = '''"""Predict the last token of each document from all before it."""

from dataclasses import replace
from typing import ClassVar

import jax
import jax.numpy as jnp

from lm.example import AttentionMask, Batch, BidirectionalMask, CausalMask, Example, Vocabulary
from lm.objectives.base import Base, Prediction
from lm.objectives.causal import Causal


class LastToken(Base, tag="last_token"):
    """Predict the last token of each document from all before it."""

    attention_mask: ClassVar[AttentionMask] = CausalMask()
    predictions: ClassVar[frozenset[Prediction]] = frozenset({"next"})

    def target_count(self, length: int) -> int:
        return length

    def __call__(
        self,
        batch: Batch,
        vocabulary: Vocabulary,
        key: jax.Array,
        progress: jax.Array | float = 1.0,
    ) -> Example:
        example = Causal()(batch, vocabulary, key, progress)
        after_BL = jnp.pad(example.weights[:, 1:], ((0, 0), (0, 1)))
        return replace(
            example, weights=example.weights * (1 - after_BL),
            attention_mask=self.attention_mask
        )
'''


def test_a_new_objective_is_a_file_and_a_line(tmp_path):
    """Fails if adding one takes more, or if a proof of it does not find its leak.

    That one can be trained and scored is tested in tests/test_extending.py.
    """
    package = tmp_path / "lm"
    shutil.copytree(
        Path(lm.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
    )
    plain = package / "objectives" / "plain.py"
    text = plain.read_text()
    text = text.replace(
        "from lm.objectives.masked", "from lm.objectives.last_token import LastToken\n"
        "from lm.objectives.masked", 1,
    ).replace("Plain = ", "Plain = LastToken | ")  # fmt: skip
    plain.write_text(text)
    new = package / "objectives" / "last_token.py"
    new.write_text(NEW)
    settings = ["objective.type=last_token", "model.depth=1", "model.width=16", "model.heads=2"]

    def commands(*each):
        code = "import sys; from lm.cli import main; import json\n" + "".join(
            f"main({list(arguments)!r})\n" for arguments in each
        )
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(tmp_path), "JAX_NUM_CPU_DEVICES": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )

    done = commands(["prove", "-", *settings])
    assert done.returncode == 0, done.stderr
    assert "last_token: proven" in done.stdout

    new.write_text(NEW.replace("= CausalMask()", "= BidirectionalMask()"))
    leaky = commands(["prove", "-", *settings])
    assert leaky.returncode == 2
    (line,) = [line for line in leaky.stderr.splitlines() if line.startswith("lm: ")]
    assert "sees its target" in line
