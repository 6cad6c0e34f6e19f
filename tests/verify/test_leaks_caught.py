"""What a proof must find: leaks of objectives, wrong masks, and models that peek."""

from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from lm.config import UserError
from lm.example import Batch, BidirectionalMask, UntilMask, mask_array
from lm.model import Output, Transformer, inputs
from lm.model.attention import kernels, xla
from lm.objectives import (
    AnyOrder,
    Causal,
    Classify,
    Contrastive,
    Curriculum,
    Diffusion,
    Masked,
    Mixture,
    Preference,
    Prefix,
    Regress,
    Reward,
    Shifted,
    Spans,
    Tag,
    mixture,
    spans,
)
from lm.verify.dependence import modules
from lm.verify.leaks import forget, prove, prove_all
from lm.verify.proof import draw
from lm.verify.proof import title as title_of
from lm.verify.rows import LENGTH, VOCABULARY, rows_and_edits

pytestmark = pytest.mark.usefixtures("blocks_of_four")


def examples_of(objective, **changes):
    """An objective's `__call__` whose example is then changed, by functions of it."""
    call = type(objective).__call__

    def changed(self, batch, *rest):
        example = call(self, batch, *rest)
        new = {name: change(example, batch.tokens_BL) for name, change in changes.items()}
        return replace(example, **new)

    return changed


def _shown_at_one_slot(example, tokens_BL):
    at_B1 = example.target_positions[:, :1]
    token_B1 = jnp.take_along_axis(tokens_BL, at_B1, axis=1)
    return example.inputs.at[jnp.arange(len(at_B1))[:, None], at_B1].set(token_B1)


def _next_token(example, tokens_BL):
    other_BL = (example.inputs != tokens_BL) & (example.inputs != 1)
    return jnp.where(other_BL, tokens_BL + 1, example.inputs)


def _spans_until_one_more(example, tokens_BL):
    return UntilMask(example.attention_mask.until_BL + 1)


LEAKY = {
    "one input stays": (AnyOrder(), {"inputs": _shown_at_one_slot}),
    "one input stays, beside kept ones": (Masked(rate=0.4), {"inputs": _shown_at_one_slot}),
    "random tokens tell": (Masked(rate=0.4, mask=0.0, random=1.0), {"inputs": _next_token}),
    "all inputs stay": (Diffusion(), {"inputs": lambda example, tokens_BL: tokens_BL}),
    "shifted by none": (
        Shifted(), {"target_positions": lambda example, _: example.target_positions + 1},
    ),
    "shifted by two": (
        Shifted(),
        {"target_positions": lambda example, _: (example.target_positions - 1).clip(0)},
    ),
    "targets not shifted": (Causal(), {"targets": lambda example, tokens_BL: tokens_BL}),
    "causal sees all": (Causal(), {"attention_mask": lambda *_: BidirectionalMask()}),
    "until one more": (Prefix(), {"attention_mask": _spans_until_one_more}),
    "the prefix counts": (
        Prefix(), {"weights": lambda example, _: jnp.ones_like(example.weights)},
    ),
    "spans until one more": (Spans(rate=0.4), {"attention_mask": _spans_until_one_more}),
}  # fmt: skip


@pytest.mark.parametrize("name", LEAKY)
def test_a_leak_of_an_objective_is_caught(mutated, name):
    """Fails if the question that finds this mutation is not asked."""
    objective, changes = LEAKY[name]
    mutated.setattr(type(objective), "__call__", examples_of(objective, **changes))
    proof = prove(objective, ())
    assert proof.violations
    with pytest.raises(UserError, match=r"target position \d+ \(row \d+, asked at \d+"):
        proof.raise_if_leaky()


def test_masking_by_what_is_masked_is_caught(mutated):
    """Fails if which tokens are masked may depend on them."""
    call = AnyOrder.__call__

    def telling(self, batch, vocabulary, key, progress):
        key = jax.random.fold_in(key, batch.tokens_BL.sum())
        return call(self, batch, vocabulary, key, progress)

    mutated.setattr(AnyOrder, "__call__", telling)
    assert prove(AnyOrder(), (), keys=1).violations


@pytest.mark.parametrize(
    ("objective", "name"),
    [(Classify(), "inputs"), (Regress(), "token_types"), (Tag(), "positions")],
)
def test_a_label_among_the_inputs_is_caught(mutated, objective, name):
    """Fails if only tokens are edited, as a document's label is in a channel; or if some of
    what a model sees is not looked at.
    """
    assert prove(objective, (), keys=1).violations == ()
    forget()
    call = type(objective).__call__

    def telling(self, batch, vocabulary, key, progress):
        example = call(self, batch, vocabulary, key, progress)
        told = batch.channels["label"].astype(int)
        there = getattr(example, name)
        return replace(example, **{name: told if there is None else there + told})

    mutated.setattr(type(objective), "__call__", telling)
    (line,) = prove(objective, (), keys=1).violations
    assert line == f"its {name} tell what the channels say: label"


@pytest.mark.parametrize("objective", [Preference(), Reward(), Contrastive()], ids=title_of)
def test_a_choice_that_the_model_can_tell_is_caught(mutated, objective):
    """Fails if what was chosen, or is the first, may be told by where it stands, or what is
    beside it.
    """
    which = "side" if isinstance(objective, Contrastive) else "choice"
    assert prove(objective, (), keys=1).violations == ()
    call = type(objective).__call__
    for name in ("inputs", "positions"):

        def telling(self, batch, vocabulary, key, progress, name=name):
            example = call(self, batch, vocabulary, key, progress)
            return replace(example, **{name: getattr(example, name) + batch.channels[which]})

        with mutated.context() as patch:
            forget()
            patch.setattr(type(objective), "__call__", telling)
            found = prove(objective, (), keys=1).violations
            assert any(line.startswith(f"its {name} tell") for line in found)


@pytest.mark.parametrize("what", ["sentinel", "shown", "segments"])
def test_a_leak_of_spans_is_caught(mutated, what):
    """Fails if a first token may stand for its sentinel, or spans be read one early."""
    lay_out = spans.lay_out

    def leaky(*arguments, **sizes):
        layout = lay_out(*arguments, **sizes)
        if what == "shown":
            return layout._replace(shown_BP=layout.targets_BP)
        targets_BP, first = layout.targets_BP, 4
        at_B1 = jnp.argmax(targets_BP == first, axis=1)[:, None] + 1
        token_B1 = jnp.take_along_axis(targets_BP, at_B1, axis=1)
        if what == "segments":  # a token of padding is given the document of the target
            text_BM = layout.text_BM.at[:, -1:].set(token_B1)
            segments_BM = layout.text_segments_BM.at[:, -1:].set(1)
            return layout._replace(text_BM=text_BM, text_segments_BM=segments_BM)
        text_BM = jnp.where(layout.text_BM == first, token_B1, layout.text_BM)
        return layout._replace(text_BM=text_BM)

    mutated.setattr(spans, "lay_out", leaky)
    assert prove(Spans(rate=0.4), (), keys=2).violations


def test_a_mixture_that_shows_all_to_its_causal_rows_is_caught(mutated):
    """Fails if rows of a mixture are not each held to their own attention mask."""
    alike = mixture._alike

    def leaky(example, targets, positions):
        example = alike(example, targets, positions)
        return replace(
            example, attention_mask=UntilMask(jnp.full_like(example.inputs, positions - 1))
        )

    mutated.setattr(mixture, "_alike", leaky)
    assert prove(Mixture(), (), keys=2).violations


def _one_entry(seed: int, *, add: bool):
    """A mutation of one entry of a mask: one too many, or one too few."""

    def mutate(mask_BLM, segments_BL):
        # A state keeps what it has of its own input, so that no mask can take it away.
        elsewhere_BLM = (segments_BL > 0)[:, :, None] & ~np.eye(LENGTH, dtype=bool)[None]
        choices = np.argwhere(elsewhere_BLM & (~mask_BLM if add else mask_BLM))
        entry = tuple(np.random.default_rng(seed).choice(choices))
        mutated = mask_BLM.copy()
        mutated[entry] = add
        return mutated

    return mutate


def _segments_ignored(mask_BLM, segments_BL):
    """Every query sees as far as it did, in all documents."""
    last_BL = mask_BLM.shape[2] - 1 - mask_BLM[:, :, ::-1].argmax(2)
    return np.arange(mask_BLM.shape[2])[None, None] <= last_BL[:, :, None]


MASKS = {
    "off by one": lambda mask, _: np.pad(mask[:, 1:], ((0, 0), (0, 1), (0, 0))),
    "until one more": lambda mask, _: mask | np.pad(mask[:, :, :-1], ((0, 0), (0, 0), (1, 0))),
    "transposed": lambda mask, _: mask.swapaxes(1, 2),
    "segments ignored": _segments_ignored,
    "rows exchanged": lambda mask, _: mask[::-1],
} | {
    f"one too {'many' if add else 'few'}, seed {seed}": _one_entry(seed, add=add)
    for seed in range(8)
    for add in (True, False)
}


@pytest.mark.parametrize("objective", [Causal(), AnyOrder(), Prefix()], ids=title_of)
def test_every_wrong_mask_is_caught(mutated, objective):
    """Fails if one pair of one row is not looked at, or is looked at in two layers only."""
    (inner,) = modules(Transformer(), depths=(1,))
    tokens_NBL, segments_BL = rows_and_edits(0)
    wrong_BLM = np.zeros((len(segments_BL), LENGTH, LENGTH), bool)

    def flipped(attention_mask, segments):
        # Known at run time only, so that all mutations share one compiled program.
        mask = mask_array(attention_mask, segments)
        shape = jax.ShapeDtypeStruct(mask.shape, bool)
        times = len(mask) // len(wrong_BLM)
        return mask ^ jax.pure_callback(lambda: np.tile(wrong_BLM, (times, 1, 1)), shape)

    mutated.setattr(inputs, "mask_array", flipped)
    mutated.setattr(
        inputs,
        "key_extents",
        lambda _, length: xla.key_extents(BidirectionalMask(), length),
    )
    assert prove(objective, (inner,), keys=1).violations == ()
    key = jax.random.fold_in(jax.random.key(0), 0)
    batch = Batch(jnp.array(tokens_NBL[0]), jnp.array(segments_BL))
    example = objective(batch, VOCABULARY, key, 0.0)
    mask_BLM = np.asarray(mask_array(example.attention_mask, segments_BL))
    caught = 0
    for name, mutate in MASKS.items():
        wrong_BLM[:] = mask_BLM ^ mutate(mask_BLM, segments_BL)
        if not wrong_BLM.any():
            continue  # what sees a whole document is the same transposed
        found = prove(objective, (inner,), keys=1).violations
        assert any("`attention_mask`" in line for line in found), name
        caught += 1
        if wrong_BLM.sum() == 1:
            row, query, position = np.argwhere(wrong_BLM)[0]
            at = f"(row {row}, asked at {query}"
            assert any(at in line and f"position {position}, " in line for line in found), name
    assert caught >= len(MASKS) - 2


def test_a_block_that_reaches_too_few_keys_is_caught(mutated):
    """Fails if causal rows are one block in these tests, or misses are no violations."""

    def short(attention_mask, length):
        first, *rest = xla.key_extents(attention_mask, length)
        return (first, *(extent._replace(keys=extent.keys - 2) for extent in rest))

    mutated.setattr(inputs, "key_extents", short)
    found = prove(Causal(), modules(Transformer(), depths=(1,)), keys=1)
    assert any("which `attention_mask` allows" in line for line in found.violations)


def test_a_kernel_that_sees_one_more_key_is_caught(mutated):
    """Fails if a proof of a kernel is one of the reference."""
    kernel = kernels.KERNELS["splash"]

    def one_more(*arguments, at_home):
        *arrays, attention_mask = arguments
        attention_mask = jax.tree.map(lambda until: until + 1, attention_mask)
        return kernel.attend(*arrays, attention_mask, at_home=at_home)

    mutated.setitem(kernels.KERNELS, "splash", kernel._replace(attend=one_more))
    found = prove(Prefix(), modules(Transformer(), depths=(1,), attention="splash"), keys=1)
    assert any("which `attention_mask` forbids" in line for line in found.violations)


class Peeking(nn.Module):
    """A module that adds to what it says something that it must not know."""

    inner: nn.Module
    peek: str

    @nn.compact
    def __call__(self, example):
        hidden_BPD, unembedding_VD, *_ = self.inner(example)
        if self.peek == "targets":
            told_BP = example.targets
        else:  # without a derivative
            told_BP = jax.lax.stop_gradient(example.inputs.sum(1))[:, None]
        return Output(hidden_BPD * (1 + 0.1 * told_BP[:, :, None]), unembedding_VD)


@pytest.mark.parametrize(
    ("peek", "says"), [("targets", "of which it sees nothing"), ("inputs", "forbids")]
)
def test_a_model_that_peeks_without_a_derivative_is_caught(peek, says):
    """Fails if the Jacobian alone is asked."""
    (inner,) = modules(Transformer(), depths=(1,))
    found = prove(AnyOrder(), (Peeking(inner, peek),), keys=1)
    assert any(says in line for line in found.violations)


def test_a_proof_is_drawn_with_what_was_found(mutated):
    """Fails if a leak is drawn as if it were none, or a kept token as a leak."""
    small = modules(Transformer(), depths=(1,))
    proven = draw(prove(Masked(rate=0.4), small, keys=3)).plain
    assert "proven" in proven
    assert "◆" in proven and "✗" not in proven
    stays = examples_of(Masked(), inputs=lambda example, tokens_BL: tokens_BL)
    mutated.setattr(Masked, "__call__", stays)
    forget()
    leaky = draw(prove(Masked(rate=0.4), small, keys=1)).plain
    assert "violations" in leaky and "✗" in leaky and "◆" not in leaky


def test_the_command_stops_at_the_first_part_that_leaks(mutated):
    """Fails if the parts of a curriculum are not each proven, or a leak is only printed."""
    mutated.setattr(
        Prefix, "__call__", examples_of(Prefix(), attention_mask=lambda *_: BidirectionalMask())
    )
    curriculum = Curriculum(first=AnyOrder(), then=Prefix())
    with pytest.raises(UserError, match=r"^prefix: "):
        prove_all(curriculum, Transformer(), Console(quiet=True))
