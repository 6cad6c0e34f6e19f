"""Proofs that no prediction depends on what it must not: by derivatives and by edits.

What is proven. A prediction that can see its own target, or a position that its mask forbids,
makes every number after it worthless, and training looks all the better for it. So `lm prove`
asks two questions about short rows of documents and padding (`rows.py`), which hold every case
that masks and segments tell apart, and it asks them about every position there is:

- of the objective: can a target position see that its target changed? Each content token is
  replaced, one at a time, with the same key. What states there may depend on must be the same
  before and after, and so must the position itself.
- of the model: do its states depend on exactly what the mask and the segments allow? Backward
  by the Jacobian of each state by each position's embedding, which misses nothing that is
  differentiable; forward by an edit of each position, which sees what has no derivative
  (`dependence.py`). Both must find nothing that is forbidden, in its own row and in others; the
  Jacobian must find all that is allowed.

How far it goes. Models are tiny, of one and of two layers, with random parameters far from the
initial ones, in float32: what they compute is what large ones compute, with the same code. An
objective is asked with several keys, so that what it draws is met in several forms. Nothing is
sampled within a row.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from functools import cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from rich.console import Console

from lm.config import Config, UserError
from lm.example import Batch, Example
from lm.model import Attention
from lm.model import Base as Model
from lm.objectives import Base, Curriculum, Masked, Mixture
from lm.verify import dependence
from lm.verify.dependence import (
    allowed,
    by_position,
    changed_logits,
    closed,
    jit,
    modules,
    random_parameters,
    reach,
)
from lm.verify.proof import Picture, Proof, draw, interest, title
from lm.verify.rows import HALVES, LENGTH, VOCABULARY, channel, glyph, rows_and_edits


def prove(
    objective: Base,
    modules: Sequence[nn.Module],
    *,
    keys: int = 8,
    seed: int = 0,
    window: int | None = None,
) -> Proof:
    """Asks both questions for `keys` keys, the second one by an edit of every content token.

    The modules have a vocabulary of `TABLE` tokens, and their layers must read all that is
    allowed within the `window` of their model. An objective that shows some tokens that it asks
    for (80/10/10) is proven twice: with every target exempt whose token is so kept, and with a
    random token in place of each, where none is exempt. A token is kept if these two differ at
    its place, and the first shows it before and after its edit.

    >>> from lm.model import Transformer
    >>> proof = prove(Masked(rate=0.5), modules(Transformer(), depths=(1,)), keys=2)
    >>> proof.violations, 0 < proof.kept < proof.targets
    ((), True)
    """
    twin = never_kept(objective)
    asked = [objective] if twin == objective else [objective, twin]
    cases = [
        _Case(
            each,
            twin,
            jax.random.fold_in(jax.random.key(seed), key),
            key / max(1, keys - 1),
            seed,
            window,
        )
        for each in asked
        for key in range(keys)
    ]
    params = [random_parameters(module, cases[0].edited(0)) for module in modules]
    for case in cases:
        case.ask_objective()
        for module, values in zip(modules, params, strict=True):
            case.ask_module(module, values)
    own = cases[:keys]
    return Proof(
        objective=objective,
        modules=len(modules),
        keys=keys,
        targets=sum(int(case.used_BP.sum()) for case in own),
        pairs=sum(case.pairs for case in cases),
        kept=sum(len(case.kept) for case in own),
        indirect=sum(case.indirect for case in own),
        violations=tuple(dict.fromkeys(line for case in cases for line in case.violations)),
        picture=max((case.picture() for case in cases), key=interest),
    )


def prove_all(
    objective: Base, model: Model, console: Console, *, attention: Attention = "auto"
) -> None:
    """Proves every part of an objective with a tiny model of this kind, and shows how.

    Raises UserError at the first part that is not as it must be.
    """
    small = modules(model, attention=attention)
    layers = " and ".join(str(module.config.depth) for module in small)
    console.print(
        f"{model.kind} of {layers} layers and width {model.tiny(1).width} in"
        f" float32 (shrunk from {model.depth} and {model.width}), random parameters, rows of"
        f" {LENGTH}, attention={attention}"
    )
    for part in parts(objective):
        proof = prove(part, small, window=model.tiny(1).window)
        if not proof.targets:
            raise UserError(
                f"{title(part)} asks for nothing in rows of {LENGTH}, the longest that are"
                " proven: nothing was; a higher rate shows what it does"
            )
        console.print(draw(proof), soft_wrap=True)
        proof.raise_if_leaky()


def parts(objective: Base) -> tuple[Base, ...]:
    """The objectives that steps train by: a curriculum's, a mixture's and their mixture.

    >>> [type(part).__name__ for part in parts(Curriculum(then=Mixture()))]
    ['Causal', 'Shifted', 'Mixture']
    """
    match objective:
        case Curriculum(first=first, then=then):
            found = [*parts(first), *parts(then)]
        case Mixture(mixed=mixed):
            found = [*(part.objective for part in mixed), objective.last]
        case _:
            found = [objective]
    return tuple(dict.fromkeys(found))


def never_kept(value: Any) -> Any:
    """The objective with a random token wherever it shows a token that it asks for.

    >>> never_kept(Masked(mask=0.5, random=0.25)).random
    0.5
    """
    if isinstance(value, tuple):
        return tuple(map(never_kept, value))
    if not isinstance(value, Config):
        return value
    changed = {name: never_kept(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, Masked) and value.mask + value.random < 1:
        changed["random"] = 1 - value.mask
    return msgspec.structs.replace(value, **changed)


_ANSWERS = ("targets", "weights", "facts")
"""What of an example only the loss reads."""


class _Case:
    """The examples of one key, what may be seen at their targets, and what is wrong."""

    def __init__(
        self,
        objective: Base,
        twin: Base,
        key: jax.Array,
        progress: float,
        seed: int,
        window: int | None,
    ) -> None:
        self.objective, self.pairs = objective, 0
        self.violations: list[str] = []
        self.tokens_NBL, segments_BL = rows_and_edits(seed)
        rows = self.tokens_NBL, segments_BL, key, np.float32(progress), np.int32(0)
        self.examples = e = jax.tree.map(np.asarray, _examples(objective)(*rows))
        self.edits, batch, self.length = e.inputs.shape
        self.asked_NBP = e.target_positions
        if e.target_positions is None:
            self.asked_NBP = np.broadcast_to(np.arange(self.length), e.targets.shape)
        used_NBP = e.weights > 0
        self.used_BP = used_NBP[0]
        real_BP = np.take_along_axis(e.segments[0], self.asked_NBP[0], axis=1) > 0
        # What is said in padding is nobody's concern, unless it counts.
        self.checked_BP = real_BP | self.used_BP

        one_NBLM = np.stack([allowed(self.edited(edit)) for edit in range(self.edits)])
        all_NBLM = closed(one_NBLM.reshape(-1, *one_NBLM.shape[2:])).reshape(one_NBLM.shape)
        self.indirect = int((all_NBLM[0] & ~one_NBLM[0]).sum())
        rows_B1 = np.arange(batch)[:, None]
        in_window_BLM = allowed(self.edited(0), window)
        self.one_BPM = in_window_BLM[rows_B1, self.asked_NBP[0]]
        self.all_NBPM = all_NBLM[:, rows_B1, self.asked_NBP[0]]
        self.found_BPM = np.zeros_like(self.one_BPM)
        self.wrong_BPM = np.zeros_like(self.one_BPM)

        shown = [np.stack([e.inputs, e.segments, e.positions])]
        if e.source is not None:
            shown.append(np.stack(e.source))
        shown_3NBM = np.concatenate(shown, axis=3)
        self.differs_NBM = (shown_3NBM != shown_3NBM[:, :1]).any(0)
        if objective.needs:
            other = _examples(objective)(*rows[:-1], np.int32(1))
            told = ", ".join(objective.needs)
            for field in fields(Example):
                # Which side of a pair is which may number them, no more: a side sees itself.
                by_number = field.name == "segments" and set(HALVES) & objective.needs.keys()
                view = _boundaries if by_number else np.asarray
                pair = [jax.tree.leaves(getattr(each, field.name)) for each in (other, e)]
                if field.name not in _ANSWERS and any(
                    (view(one) != view(two)).any() for one, two in zip(*pair, strict=True)
                ):
                    self.violations.append(
                        f"its {field.name} tell what the channels say: {told}"
                    )

        changed_NBP = (e.targets != e.targets[:1]) & (used_NBP | used_NBP[:1])
        self.changes = [tuple(map(int, where)) for where in np.argwhere(changed_NBP)]
        """(edit, row, number) of each target that an edit changes."""
        self.places = {(row, target): edit - 1 for edit, row, target in reversed(self.changes)}
        self.kept: set[tuple[int, int]] = set()
        if twin != objective:
            unlike_NBL = e.inputs != np.asarray(_examples(twin)(*rows).inputs)
            for edit, row, target in self.changes:
                at = np.array([0, edit]), row, edit - 1
                shows_both = (e.inputs[at] == self.tokens_NBL[at]).all()
                if shows_both and unlike_NBL[at].any():
                    self.kept.add((row, target))

    def edited(self, edit: int) -> Example:
        """The example of an edit; the first is none."""
        return jax.tree.map(lambda x: x[edit], self.examples)

    def ask_objective(self) -> None:
        """Is no target seen where it is predicted, and is that where `predictions` say?"""
        for edit, row, target in self.changes:
            asked_N, seen_NM = self.asked_NBP[:, row, target], self.all_NBPM[:, row, target]
            if asked_N[edit] != asked_N[0] or (seen_NM[edit] != seen_NM[0]).any():
                self._wrong(row, target, "is laid out otherwise when its target changes")
            told_M = seen_NM[0] & self.differs_NBM[edit, row]
            if self.objective.reconstructs:  # its source tells all, and nothing else may
                told_M[self.length :] = False
            for position in np.flatnonzero(told_M):
                if (row, target) not in self.kept or position != edit - 1:
                    self._wrong(row, target, f"sees its target at {self._at(position)}")
                    self.wrong_BPM[row, target, position] = True
        for (row, target), place in self.places.items():
            if self.used_BP[row, target] and not self._answers(row, target, place):
                how = ", ".join(sorted(self.objective.predictions))
                self._wrong(row, target, f"is not asked as `predictions` say: {how}")

    def ask_module(self, module: nn.Module, params: Any) -> None:
        """Do logits depend on what they may, all of it, and on nothing else?"""
        example = self.edited(0)
        found_BPBM = reach(module, params, example)
        rows_B = np.arange(len(found_BPBM))
        found_BPM = found_BPBM[rows_B, :, rows_B]
        if example.source is not None and not found_BPM[:, :, self.length :].any():
            self.violations.append("its example has a source, and this module takes none")
            return
        self.pairs += int(self.checked_BP.sum()) * found_BPM.shape[2]
        checked_BP1 = self.checked_BP[:, :, None]
        stacks = [self.examples, by_position(example)]
        both = jax.tree.map(lambda *x: np.concatenate(x), *stacks)
        apart_NBP, moved_MBP = np.split(changed_logits(module, params, both), [self.edits])
        moved_BPM = np.moveaxis(moved_MBP, 0, 2)
        forbidden_BPM = checked_BP1 & (found_BPM | moved_BPM) & ~self.all_NBPM[0]
        for row, target, position in np.argwhere(forbidden_BPM):
            at = self._at(position)
            self._wrong(row, target, f"depends on {at}, which `attention_mask` forbids")
        for row, target, position in np.argwhere(checked_BP1 & self.one_BPM & ~found_BPM):
            at = self._at(position)
            self._wrong(row, target, f"does not depend on {at}, which `attention_mask` allows")
        found_BPBM[rows_B, :, rows_B] = False
        for row, target, other in np.argwhere(checked_BP1 & found_BPBM.any(3)):
            self._wrong(row, target, f"depends on row {other}")
        self.found_BPM |= found_BPM | moved_BPM

        # A module that looks at targets has logits that change although all inputs stay.
        for edit, row, target in self.changes:
            seen_M = self.all_NBPM[0, row, target]
            seen = (seen_M & self.differs_NBM[edit, row]).any()
            if apart_NBP[edit, row, target] and not seen:
                self._wrong(row, target, "changes with its target, of which it sees nothing")

    def picture(self) -> Picture:
        """The row with the most to show."""
        return max(map(self._picture, range(len(self.used_BP))), key=interest)

    def _picture(self, row: int) -> Picture:
        labels, lines = [], []
        wrong_PM = self.wrong_BPM[row] | (self.found_BPM[row] & ~self.all_NBPM[0, row])
        used = np.flatnonzero(self.used_BP[row])
        order = np.argsort(self.asked_NBP[0, row, used], kind="stable")
        for target in used[order].tolist():
            found_M, one_M = self.found_BPM[row, target], self.one_BPM[row, target]
            cells = np.where(found_M, "■", np.where(one_M, "○", "·"))
            if (row, target) in self.kept:
                cells[self.places[row, target]] = "◆"
            cells[wrong_PM[target]] = "✗"
            token = glyph(int(self.examples.targets[0, row, target]))
            labels.append(f"{self.asked_NBP[0, row, target]:>2} says {token}")
            lines.append("".join(cells))
        source = self.examples.source
        shown = [self.examples.inputs, *([] if source is None else [source.inputs_BM])]
        glyphs = map(glyph, np.concatenate(shown, axis=2)[0, row].tolist())
        return Picture("".join(glyphs), tuple(labels), tuple(lines))

    def _answers(self, row: int, target: int, place: int) -> bool:
        predictions, asked = self.objective.predictions, self.asked_NBP[0, row, target]
        sees_on = self.all_NBPM[0, row, target, place : self.length].any()
        return (
            not predictions
            or "spans" in predictions  # their places are not the row's
            or ("masked" in predictions and asked == place)
            or ("masked before" in predictions and asked == place - 1)
            or ("next" in predictions and asked == place - 1 and not sees_on)
        )

    def _wrong(self, row: int, target: int, what: str) -> None:
        name = f"target position {target} (row {row}, asked at {self.asked_NBP[0, row, target]}"
        if (row, target) in self.places:
            name += f", target at {self.places[row, target]}"
        self.violations.append(f"{name}) {what}")

    def _at(self, position: int | np.integer) -> str:
        inside = position < self.length
        return f"position {position}" if inside else f"source position {position - self.length}"


@cache
def _examples(objective: Base) -> Any:
    """`(tokens_NBL, segments_BL, key, progress, label)` to the examples of edits, drawn alike.

    Behind its own target positions each has one at every position, unused: attention is proven
    everywhere.
    The channels that the objective needs say of each token what `lm.verify.rows` says.
    """

    def examples(
        tokens_NBL: jax.Array,
        segments_BL: jax.Array,
        key: jax.Array,
        progress: jax.Array,
        label: jax.Array,
    ) -> Example:
        def example(tokens_BL: jax.Array) -> Example:
            channels = {name: channel(name, segments_BL, label) for name in objective.needs}
            batch = Batch(tokens_BL, segments_BL, channels)
            return _ask_everywhere(objective(batch, VOCABULARY, key, progress))

        return jax.vmap(example)(tokens_NBL)

    return jit(examples)


def _boundaries(segments_NBL: Any) -> np.ndarray:
    """Where segments begin and padding does, without their numbers, int[2, N, B, L - 1]."""
    segments_NBL = np.asarray(segments_NBL)
    return np.stack([np.diff(segments_NBL) != 0, segments_NBL[..., 1:] > 0])


def _ask_everywhere(example: Example) -> Example:
    if example.head is not None:
        # Its targets are documents' own: attention is proven at every token of them.
        return replace(
            example,
            target_positions=None,
            targets=jnp.zeros_like(example.inputs),
            weights=(example.segments > 0).astype(jnp.float32),
            head=None,
        )
    if example.target_positions is None:
        return example
    batch, length = example.inputs.shape
    room = ((0, 0), (0, max(0, length - example.target_positions.shape[1])))
    every_BL = jnp.broadcast_to(jnp.arange(length)[None], (batch, length))
    return replace(
        example,
        target_positions=jnp.concatenate(
            [jnp.pad(example.target_positions, room), every_BL], axis=1
        ),
        targets=jnp.pad(jnp.pad(example.targets, room), ((0, 0), (0, length))),
        weights=jnp.pad(jnp.pad(example.weights, room), ((0, 0), (0, length))),
    )


def forget() -> None:
    """Drops what was compiled, for who changes code that it was compiled from."""
    _examples.cache_clear()
    dependence.forget()
