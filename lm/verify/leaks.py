"""Proofs that no prediction depends on what it must not: by derivatives and by edits.

`prove` takes any objective and any bodies. On short rows of documents and padding it asks

- of each body, whether what it says depends on exactly the positions that `visible` and the
  segments allow: backward by its Jacobian, forward by edits of one position at a time;
- of the objective, whether a piece that changes can be seen from the slot that predicts it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from rich.console import Console
from rich.text import Text

from lm.config import Config, UserError
from lm.distributed import mesh as _mesh
from lm.example import Batch, Causal, Example, Full, Source, Until, Vocabulary, content_of
from lm.model import Attention, Model, build
from lm.objectives import Base, Curriculum, Masked, Mixture

LENGTH = 14
"""Positions of a row: few, as every state is derived by every position."""
DOCUMENTS = ((LENGTH,), (6, 5), (3, 2, 8, 1), (4, 5))
"""Lengths of each row's documents: cut off at the row's end, with padding, empty, begun."""
LETTERS = "abcdefghijkl"
_SENTINELS = range(4, 4 + LENGTH // 2 + 1)
VOCABULARY = Vocabulary(
    size=_SENTINELS.stop + len(LETTERS),
    pad=0,
    mask=1,
    begin=2,
    end=3,
    ordinary=_SENTINELS.stop,
    begins_word=(True,) * _SENTINELS.stop + (True, False) * (len(LETTERS) // 2),
    sentinels=tuple(_SENTINELS),
)
TABLE = 256
"""Pieces of the bodies' vocabulary, so that every position of a batch has one of its own."""


@dataclass(frozen=True)
class Proof:
    """What was checked, and what was found to be wrong."""

    objective: Base
    bodies: int
    keys: int
    slots: int
    """Slots that count, over keys and rows."""
    pairs: int
    """Pairs of a slot and a position that were held against what is allowed."""
    kept: int
    """Slots that show their target on purpose: exempt from the question whether they see it."""
    indirect: int
    """Pairs that are allowed through other positions only: 0 if `visible` is transitive."""
    violations: tuple[str, ...]
    picture: "Picture"

    def raise_if_leaky(self) -> None:
        """Raises UserError with the first violations in one line."""
        if self.violations:
            more = len(self.violations) - 3
            raise UserError(
                f"{title(self.objective)}: {'; '.join(self.violations[:3])}"
                + (f"; and {more} more" if more > 0 else "")
            )


class Picture(NamedTuple):
    """What the slots of one row were found to depend on."""

    shown: str
    labels: tuple[str, ...]
    cells: tuple[str, ...]
    """A character for each position, of those in `LEGEND`."""


LEGEND = {
    "■": ("allowed and found", "green"),
    "·": ("neither", "dim"),
    "◆": ("its own target, kept on purpose", "cyan"),
    "✗": ("forbidden, but found", "bold red"),
    "○": ("allowed, but not found", "bold yellow"),
}


def prove(
    objective: Base, bodies: Sequence[nn.Module], *, keys: int = 8, seed: int = 0
) -> Proof:
    """Asks both questions for `keys` keys, the second one by an edit of every content piece.

    The bodies have a vocabulary of `TABLE` pieces. An objective that shows some pieces that it
    asks for (80/10/10) is proven twice: with every slot exempt whose piece is so kept, and with
    a random piece in place of each, where no slot is exempt. A piece is kept if these two
    differ at its place, and the first shows it before and after its edit.

    >>> proof = prove(Masked(rate=0.5), bodies(Model(), depths=(1,)), keys=2)
    >>> proof.violations, 0 < proof.kept < proof.slots
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
        )
        for each in asked
        for key in range(keys)
    ]
    params = [parameters(body, cases[0].edited(0)) for body in bodies]
    for case in cases:
        case.ask_objective()
        for body, values in zip(bodies, params, strict=True):
            case.ask_body(body, values)
    own = cases[:keys]
    return Proof(
        objective=objective,
        bodies=len(bodies),
        keys=keys,
        slots=sum(int(case.used_BP.sum()) for case in own),
        pairs=sum(case.pairs for case in cases),
        kept=sum(len(case.kept) for case in own),
        indirect=sum(case.indirect for case in own),
        violations=tuple(dict.fromkeys(line for case in cases for line in case.violations)),
        picture=max((case.picture() for case in cases), key=_interest),
    )


def prove_all(
    objective: Base, model: Model, console: Console, *, attention: Attention = "auto"
) -> None:
    """Proves every part of an objective with a tiny model of this kind, and shows how.

    Raises UserError at the first part that is not as it must be.
    """
    small = bodies(model, attention=attention)
    layers = " and ".join(str(body.config.depth) for body in small)
    console.print(
        f"{model.__struct_config__.tag} of {layers} layers and width {tiny(model).width} in"
        f" float32 (shrunk from {model.depth} and {model.width}), random parameters, rows of"
        f" {LENGTH}, attention={attention}"
    )
    for part in parts(objective):
        proof = prove(part, small)
        if not proof.slots:
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
    """The objective with a random piece wherever it shows a piece that it asks for.

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


def tiny(config: Model) -> Model:
    """The same kind of model at width 16 with 2 query heads, which share keys if they did."""
    shared = config.kv_heads is not None and config.kv_heads < config.heads
    return msgspec.structs.replace(
        config, width=16, heads=2, kv_heads=1 if shared else None, hidden=None
    )


def bodies(
    config: Model,
    *,
    depths: Sequence[int] = (1, 2),
    mesh: jax.sharding.Mesh | None = None,
    unroll: int | None = None,
    attention: Attention = "auto",
) -> tuple[Any, ...]:
    """Tiny bodies of one and of two layers, in float32, on one device or a mesh.

    What a mask leaves out is missed by one layer only, as the next may go around it; what one
    layer passes on of a position that it must not see is found by the next.
    """
    mesh = mesh or _mesh.make(_mesh.Mesh(), jax.devices()[:1])
    return tuple(
        build(
            msgspec.structs.replace(tiny(config), depth=depth),
            TABLE,
            mesh=mesh,
            precision="float32",
            unroll=unroll,
            attention=attention,
        )
        for depth in depths
    )


def parameters(body: nn.Module, example: Example, *, seed: int = 1) -> Any:
    """Random parameters, far from initial ones, where scales are 1 and attention is flat."""
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: random.normal(scale=0.5, size=x.shape).astype(x.dtype),
        nn.unbox(_boxed(body, _source_width(example))),
    )


def allowed(example: Example) -> np.ndarray:
    """What each position's state may depend on after one layer, bool[B, L, L + M].

    It says in its own words what each kind of `visible` means, as attention's masks are held
    against it. Positions of a source come last; what a state has of its own input stays.

    >>> segments, nothing = np.array([[1, 1, 2, 0]]), np.zeros((1, 4), int)
    >>> example = Example(
    ...     inputs=nothing, predict=None, targets=nothing, weights=nothing, segments=segments,
    ...     positions=nothing, visible=Causal(),
    ... )
    >>> allowed(example)[0].astype(int).tolist()
    [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    """
    segments_BL = keys_BM = np.asarray(example.segments)
    batch, length = segments_BL.shape
    match example.visible:
        case Causal():
            until_BL = np.tile(np.arange(length), (batch, 1))
        case Full():
            until_BL = np.full((batch, length), length - 1)
        case Until(until):
            until_BL = np.array(until)
    if example.source is not None:
        keys_BM = np.concatenate([segments_BL, np.asarray(example.source.segments_BM)], axis=1)
    may_BLM = np.zeros((batch, length, keys_BM.shape[1]), bool)
    for row, query in np.argwhere(segments_BL > 0):
        may_BLM[row, query] = keys_BM[row] == segments_BL[row, query]
        may_BLM[row, query, until_BL[row, query] + 1 : length] = False
    return may_BLM | np.eye(*may_BLM.shape[1:], dtype=bool)[None]


def closed(may_BLM: np.ndarray) -> np.ndarray:
    """The same after any number of layers.

    >>> chain = np.array([[[1, 0, 0], [1, 1, 0], [0, 1, 1]]], bool)
    >>> closed(chain)[0].astype(int).tolist()
    [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    """
    length = may_BLM.shape[1]
    for _ in range(length.bit_length()):
        may_BLM = may_BLM | (may_BLM[:, :, :length] @ may_BLM)
    return may_BLM


def reach(body: nn.Module, params: Any, example: Example) -> np.ndarray:
    """Which inputs each slot's state depends on, by its Jacobian, bool[B, P, B, L + M].

    Each position looks up a row of its own in the body's tables (the parameters whose first
    axis is `vocab`): a derivative by that row is one by the position's embedding.
    """
    sizes = [example.inputs.shape]
    if example.source is not None:
        sizes.append(example.source.inputs_BM.shape)
    number, places = 0, []
    for batch, width in sizes:
        places.append(number + np.arange(batch * width).reshape(batch, width))
        number += batch * width
    found_BPV = np.asarray(_jacobian(body)(params, _with_inputs(example, *places))) > 0
    found = [np.take(found_BPV, places_BM, axis=2) for places_BM in places]
    return np.concatenate(found, axis=3)


def _with_inputs(example: Example, inputs: Any, source: Any = None) -> Example:
    if example.source is not None:
        return replace(example, inputs=inputs, source=example.source._replace(inputs_BM=source))
    return replace(example, inputs=inputs)


_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
"""What runs a few times, on tiny arrays, is not worth the compiler's pains."""


@cache
def _boxed(body: nn.Module, source_width: int) -> Any:
    """The shapes of a body's parameters, with the names of their axes."""
    zeros, source = jnp.zeros((1, LENGTH), int), None
    if source_width:
        source = Source(*[jnp.zeros((1, source_width), int)] * 3)
    example = Example(
        inputs=zeros,
        predict=None,
        targets=zeros,
        weights=zeros,
        segments=zeros,
        positions=zeros,
        visible=Causal(),
        source=source,
    )
    return jax.eval_shape(body.init, jax.random.key(0), example)["params"]


def _source_width(example: Example) -> int:
    return 0 if example.source is None else example.source.inputs_BM.shape[1]


@cache
def _jacobian(body: nn.Module) -> Any:
    def sizes(params: Any, example: Example) -> jax.Array:
        boxed = _boxed(body, _source_width(example))
        boxes = jax.tree.leaves(boxed, is_leaf=lambda x: isinstance(x, nn.Partitioned))
        tables = [number for number, box in enumerate(boxes) if box.names[0] == "vocab"]
        leaves, structure = jax.tree.flatten(params)

        def states(values: list[jax.Array]) -> jax.Array:
            new = dict(zip(tables, values, strict=True))
            given = [new.get(number, leaf) for number, leaf in enumerate(leaves)]
            tree = jax.tree.unflatten(structure, given)
            hidden_BPD, _ = body.apply({"params": tree}, example)
            # One random direction of each state depends on what the state depends on.
            return hidden_BPD @ jax.random.normal(jax.random.key(2), hidden_BPD.shape[-1:])

        by_table = jax.jacrev(states)([leaves[number] for number in tables])
        return jnp.stack([jnp.abs(each).sum(-1) for each in by_table]).sum(0)

    return _jit(sizes)


@cache
def _logits(body: nn.Module) -> Any:
    def logits(params: Any, example: Example) -> jax.Array:
        hidden_BPD, unembedding_VD = body.apply({"params": params}, example)
        return jnp.einsum("BPD,VD->BPV", hidden_BPD, unembedding_VD)

    return _jit(logits)


def _logits_NBPV(body: nn.Module, params: Any, examples: Example) -> np.ndarray:
    """Logits of a stack of examples, in one batch."""
    shape = examples.inputs.shape[:2]
    batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), examples)
    logits = np.asarray(_logits(body)(params, batch))
    return logits.reshape(*shape, *logits.shape[1:])


def _apart(logits_NBPV: np.ndarray) -> np.ndarray:
    """Which logits differ from those of the first example by more than rounding, bool[N, B, P].

    A row may be computed in another order at another place of a batch.
    """
    sizes_NBP = np.abs(logits_NBPV - logits_NBPV[:1]).max(-1)
    return sizes_NBP > 1e-5 * np.abs(logits_NBPV).max()


def _rows(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows, then with the piece at each position changed: int[1 + L, B, L], int[B, L].

    The other piece begins a word if the one did, so that units of whole words stay; what is no
    content stays too.
    """
    random = np.random.default_rng(seed)
    tokens_BL = random.integers(
        VOCABULARY.ordinary, VOCABULARY.size, (len(DOCUMENTS), LENGTH), np.int32
    )
    segments_BL = np.zeros_like(tokens_BL)
    for row, sizes in enumerate(DOCUMENTS):
        stops = np.cumsum(sizes).tolist()
        for number, (size, stop) in enumerate(zip(sizes, stops, strict=True)):
            segments_BL[row, stop - size : stop] = number + 1
            if stop < LENGTH:
                tokens_BL[row, stop - 1] = VOCABULARY.end
            tokens_BL[row, stop - size] = VOCABULARY.begin
    tokens_BL[segments_BL == 0] = VOCABULARY.pad
    content_BL = np.asarray(
        content_of(jnp.array(tokens_BL), jnp.array(segments_BL), VOCABULARY)
    )
    begins_V, edits_NBL = np.array(VOCABULARY.begins_word), [tokens_BL]
    for position in range(LENGTH):
        edits_NBL.append(tokens_BL.copy())
        for row in np.flatnonzero(content_BL[:, position]).tolist():
            piece = tokens_BL[row, position]
            others = np.flatnonzero(begins_V == begins_V[piece])
            others = others[(others >= VOCABULARY.ordinary) & (others != piece)]
            edits_NBL[-1][row, position] = random.choice(others)
    return np.stack(edits_NBL), segments_BL


@cache
def _examples(objective: Base) -> Any:
    """`(tokens_NBL, segments_BL, key, progress, label)` to the examples of edits, drawn alike.

    Behind its own slots each has one at every position, unused: attention is proven everywhere.
    The channels that the objective needs say `label` of each token.
    """

    def examples(
        tokens_NBL: jax.Array,
        segments_BL: jax.Array,
        key: jax.Array,
        progress: jax.Array,
        label: jax.Array,
    ) -> Example:
        def example(tokens_BL: jax.Array) -> Example:
            channels = {name: jnp.full_like(tokens_BL, label) for name in objective.needs}
            batch = Batch(tokens_BL, segments_BL, channels)
            return _ask_everywhere(objective(batch, VOCABULARY, key, progress))

        return jax.vmap(example)(tokens_NBL)

    return _jit(examples)


def _ask_everywhere(example: Example) -> Example:
    if example.head is not None:
        # Its slots are documents: attention is proven at every token of them.
        return replace(
            example,
            predict=None,
            targets=jnp.zeros_like(example.inputs),
            weights=(example.segments > 0).astype(jnp.float32),
            head=None,
        )
    if example.predict is None:
        return example
    batch, length = example.inputs.shape
    room = ((0, 0), (0, max(0, length - example.predict.shape[1])))
    every_BL = jnp.broadcast_to(jnp.arange(length)[None], (batch, length))
    return replace(
        example,
        predict=jnp.concatenate([jnp.pad(example.predict, room), every_BL], axis=1),
        targets=jnp.pad(jnp.pad(example.targets, room), ((0, 0), (0, length))),
        weights=jnp.pad(jnp.pad(example.weights, room), ((0, 0), (0, length))),
    )


def forget() -> None:
    """Drops what was compiled, for who changes code that it was compiled from."""
    for function in (_boxed, _jacobian, _logits, _examples):
        function.cache_clear()


class _Case:
    """The examples of one key, what their slots may depend on, and what is wrong with them."""

    def __init__(
        self, objective: Base, twin: Base, key: jax.Array, progress: float, seed: int
    ) -> None:
        self.objective, self.pairs = objective, 0
        self.violations: list[str] = []
        self.tokens_NBL, segments_BL = _rows(seed)
        rows = self.tokens_NBL, segments_BL, key, np.float32(progress), np.int32(0)
        self.examples = e = jax.tree.map(np.asarray, _examples(objective)(*rows))
        self.edits, batch, self.length = e.inputs.shape
        self.asked_NBP = e.predict
        if e.predict is None:
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
        self.one_BPM = one_NBLM[0][rows_B1, self.asked_NBP[0]]
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
            for name in ("inputs", "segments", "positions"):
                if (np.asarray(getattr(other, name)) != getattr(e, name)).any():
                    told = ", ".join(objective.needs)
                    self.violations.append(f"its {name} tell what the channels say: {told}")

        changed_NBP = (e.targets != e.targets[:1]) & (used_NBP | used_NBP[:1])
        self.changes = [tuple(map(int, where)) for where in np.argwhere(changed_NBP)]
        """(edit, row, slot) of each target that an edit changes."""
        self.places = {(row, slot): edit - 1 for edit, row, slot in reversed(self.changes)}
        self.kept: set[tuple[int, int]] = set()
        if twin != objective:
            unlike_NBL = e.inputs != np.asarray(_examples(twin)(*rows).inputs)
            for edit, row, slot in self.changes:
                at = np.array([0, edit]), row, edit - 1
                shows_both = (e.inputs[at] == self.tokens_NBL[at]).all()
                if shows_both and unlike_NBL[at].any():
                    self.kept.add((row, slot))

    def edited(self, edit: int) -> Example:
        """The example of an edit; the first is none."""
        return jax.tree.map(lambda x: x[edit], self.examples)

    def ask_objective(self) -> None:
        """Can a slot see its target change, and is it asked where its answers say?"""
        for edit, row, slot in self.changes:
            asked_N, seen_NM = self.asked_NBP[:, row, slot], self.all_NBPM[:, row, slot]
            if asked_N[edit] != asked_N[0] or (seen_NM[edit] != seen_NM[0]).any():
                self._wrong(row, slot, "is laid out otherwise when its target changes")
            for position in np.flatnonzero(seen_NM[0] & self.differs_NBM[edit, row]):
                if (row, slot) not in self.kept or position != edit - 1:
                    self._wrong(row, slot, f"sees its target at {self._at(position)}")
                    self.wrong_BPM[row, slot, position] = True
        for (row, slot), place in self.places.items():
            if self.used_BP[row, slot] and not self._answers(row, slot, place):
                how = ", ".join(sorted(self.objective.answers))
                self._wrong(row, slot, f"is not asked as `answers` say: {how}")

    def ask_body(self, body: nn.Module, params: Any) -> None:
        """Do logits depend on what they may, all of it, and on nothing else?"""
        example = self.edited(0)
        found_BPBM = reach(body, params, example)
        rows_B = np.arange(len(found_BPBM))
        found_BPM = found_BPBM[rows_B, :, rows_B]
        if example.source is not None and not found_BPM[:, :, self.length :].any():
            self.violations.append("its example has a source, and this body takes none")
            return
        self.pairs += int(self.checked_BP.sum()) * found_BPM.shape[2]
        checked_BP1 = self.checked_BP[:, :, None]
        stacks = [self.examples, _by_position(example)]
        both = jax.tree.map(lambda *x: np.concatenate(x), *stacks)
        apart_NBP, moved_MBP = np.split(_apart(_logits_NBPV(body, params, both)), [self.edits])
        moved_BPM = np.moveaxis(moved_MBP, 0, 2)
        forbidden_BPM = checked_BP1 & (found_BPM | moved_BPM) & ~self.all_NBPM[0]
        for row, slot, position in np.argwhere(forbidden_BPM):
            at = self._at(position)
            self._wrong(row, slot, f"depends on {at}, which `visible` forbids")
        for row, slot, position in np.argwhere(checked_BP1 & self.one_BPM & ~found_BPM):
            at = self._at(position)
            self._wrong(row, slot, f"does not depend on {at}, which `visible` allows")
        found_BPBM[rows_B, :, rows_B] = False
        for row, slot, other in np.argwhere(checked_BP1 & found_BPBM.any(3)):
            self._wrong(row, slot, f"depends on row {other}")
        self.found_BPM |= found_BPM | moved_BPM

        # A body that looks at targets has logits that change although all inputs stay.
        for edit, row, slot in self.changes:
            seen_M = self.all_NBPM[0, row, slot]
            if apart_NBP[edit, row, slot] and not (seen_M & self.differs_NBM[edit, row]).any():
                self._wrong(row, slot, "changes with its target, of which it sees nothing")

    def picture(self) -> Picture:
        """The row with the most to show."""
        return max(map(self._picture, range(len(self.used_BP))), key=_interest)

    def _picture(self, row: int) -> Picture:
        labels, lines = [], []
        wrong_PM = self.wrong_BPM[row] | (self.found_BPM[row] & ~self.all_NBPM[0, row])
        slots = np.flatnonzero(self.used_BP[row])
        for slot in slots[np.argsort(self.asked_NBP[0, row, slots], kind="stable")].tolist():
            found_M, one_M = self.found_BPM[row, slot], self.one_BPM[row, slot]
            cells = np.where(found_M, "■", np.where(one_M, "○", "·"))
            if (row, slot) in self.kept:
                cells[self.places[row, slot]] = "◆"
            cells[wrong_PM[slot]] = "✗"
            piece = _glyph(int(self.examples.targets[0, row, slot]))
            labels.append(f"{self.asked_NBP[0, row, slot]:>2} says {piece}")
            lines.append("".join(cells))
        source = self.examples.source
        shown = [self.examples.inputs, *([] if source is None else [source.inputs_BM])]
        glyphs = map(_glyph, np.concatenate(shown, axis=2)[0, row].tolist())
        return Picture("".join(glyphs), tuple(labels), tuple(lines))

    def _answers(self, row: int, slot: int, place: int) -> bool:
        answers, asked = self.objective.answers, self.asked_NBP[0, row, slot]
        sees_on = self.all_NBPM[0, row, slot, place : self.length].any()
        return (
            not answers
            or "spans" in answers  # their places are not the row's
            or ("hidden" in answers and asked == place)
            or ("hidden before" in answers and asked == place - 1)
            or ("next" in answers and asked == place - 1 and not sees_on)
        )

    def _wrong(self, row: int, slot: int, what: str) -> None:
        name = f"slot {slot} (row {row}, asked at {self.asked_NBP[0, row, slot]}"
        if (row, slot) in self.places:
            name += f", target at {self.places[row, slot]}"
        self.violations.append(f"{name}) {what}")

    def _at(self, position: int | np.integer) -> str:
        inside = position < self.length
        return f"position {position}" if inside else f"source position {position - self.length}"


def _by_position(example: Example) -> Example:
    """The example with another piece at each position of its inputs, then of its source."""
    parts = [np.asarray(example.inputs)]
    if example.source is not None:
        parts.append(np.asarray(example.source.inputs_BM))
    shown_BM = np.concatenate(parts, axis=1)
    width = shown_BM.shape[1]
    edits_NBM = shown_BM[None] + np.eye(width, dtype=shown_BM.dtype)[:, None]
    stack = jax.tree.map(lambda x: np.tile(x, (width, *[1] * np.ndim(x))), example)
    return _with_inputs(stack, *np.split(edits_NBM, [parts[0].shape[1]], axis=2))


def draw(proof: Proof) -> Text:
    """A proof in a sentence, and a picture of one row with its legend."""
    text = Text()
    verdict = (
        ("proven", "bold green")
        if not proof.violations
        else (f"{len(proof.violations)} violations", "bold red")
    )
    text.append(f"\n{title(proof.objective)}: ", "bold").append(*verdict)
    text.append(
        f"  {proof.slots} slots of {proof.keys} keys, {proof.pairs:,} pairs of slot and"
        " position"
    )
    if proof.kept:
        text.append(f", {proof.kept} slots exempt: their piece is shown on purpose")
    picture = proof.picture
    if not proof.pairs or not picture.labels:
        return text
    margin = max(map(len, picture.labels)) + 3
    text.append("\n" + "sees ".rjust(margin) + " ".join(picture.shown), "bold")
    for label, cells in zip(picture.labels, picture.cells, strict=True):
        text.append("\n" + f"{label}  ".rjust(margin))
        for cell in cells:
            text.append(f"{cell} ", LEGEND[cell][1])
    text.append("\n" + " " * margin)
    there = set("".join(picture.cells))
    for cell, (meaning, style) in LEGEND.items():
        if cell in there:
            text.append(cell, style).append(f" {meaning}   ")
    return text.append("\n" + " " * margin + "^ begin  $ end  _ mask  0-9 sentinels  - padding")


def title(objective: Base) -> str:
    """An objective as one would ask for it, without what is as usual.

    >>> title(Masked(rate=0.3, select="word"))
    'masked rate=0.3 select=word'
    """
    words = [str(objective.__struct_config__.tag)]
    for field in msgspec.structs.fields(objective):
        value = getattr(objective, field.name)
        if value != field.default:
            plain = value if isinstance(value, str) else msgspec.json.encode(value).decode()
            words.append(f"{field.name}={plain}")
    return " ".join(words)


def _interest(picture: Picture) -> tuple[int, ...]:
    cells = "".join(picture.cells)
    wrong, kept = cells.count("✗") + cells.count("○"), "◆" in cells
    # Then several documents and padding, and as many slots as there are.
    return wrong, kept, picture.shown.count("^") == 2, "-" in picture.shown, len(picture.labels)


def _glyph(piece: int) -> str:
    return ("-_^$" + "0123456789"[: len(_SENTINELS)] + LETTERS)[piece]
