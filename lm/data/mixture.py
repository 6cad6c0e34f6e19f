"""Mixtures: named corpora with weights, and how their rows follow each other in training."""

import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeVar

from msgspec import Meta

from lm.config import Config, UserError
from lm.data.sources import Channel, Corpus, Damaged, Document, Empty
from lm.data.sources.base import Base, TooLong
from lm.data.turns import LEAST_WEIGHT, Phase, Turns

Positive = Annotated[float, Meta(gt=0)]
T = TypeVar("T")


def of_component(name: str, read: Callable[[], T]) -> T:
    """What is read of a component; a UserError names it."""
    try:
        return read()
    except UserError as error:
        raise _in_component(name, error) from None


def _in_component(name: str, error: UserError) -> UserError:
    return UserError(f"data.corpus: component {name}: {error}")


class Official(Base, frozen=True, tag="official"):
    """Documents to train on and documents that are held out, each from a corpus of its own."""

    train: Annotated[Corpus, Meta(description="what is trained on")]
    held_out: Annotated[Corpus, Meta(description="what is held out, whatever data.validation")]

    @property
    def _both(self) -> tuple[tuple[str, bool, Corpus], ...]:
        return ("train", False, self.train), ("held_out", True, self.held_out)

    def files(self) -> list[tuple[str, Path]]:
        return [
            (f"{name}/{id}", path)
            for name, _, corpus in self._both
            for id, path in corpus.files()
        ]

    def read(self) -> Iterator[Document]:
        """The documents to train on, then those that are held out."""
        return (found for found in self.read_all() if isinstance(found, Document))

    def read_all(self) -> Iterator[Document | Damaged | Empty]:
        for name, held_out, corpus in self._both:
            for found in corpus.read_all():
                if isinstance(found, Document):
                    found = found._replace(id=f"{name}/{found.id}", held_out=held_out)
                yield found

    @property
    def channels(self) -> tuple[Channel, ...]:
        if self.train.channels != self.held_out.channels:
            raise UserError("data.corpus: what is held out has other channels than the rest")
        return self.train.channels

    @property
    def too_long(self) -> TooLong:
        return self.train.too_long

    @property
    def tokenized(self) -> bool:
        return self.train.tokenized or self.held_out.tokenized

    @property
    def title(self) -> str:
        return self.train.title


class Component(Config, frozen=True):
    """A corpus of a mixture."""

    name: Annotated[
        str, Meta(pattern=r"^[^/\s]+$", description="what reports call it, and ids begin with")
    ]
    corpus: Annotated[Corpus | Official, Meta(description="where its documents come from")]
    weight: Annotated[
        Positive | None,
        Meta(description="tokens of it, to those of the others; null: as many as it has"),
    ] = None
    epochs: Annotated[
        Positive | None, Meta(description="so often it is read, at most; null: for ever")
    ] = None
    then: Annotated[
        Literal["end", "stop"],
        Meta(
            description="when it has been: its weight goes to the others, or no run may be"
            " longer"
        ),
    ] = "end"


class Weights(Config, frozen=True):
    """Other weights, from a step on."""

    step: Annotated[int, Meta(ge=1, description="so many steps are trained before")]
    weights: Annotated[
        tuple[Annotated[float, Meta(ge=0)], ...],
        Meta(description="of the components in their order; 0: none of it"),
    ]

    def __post_init__(self) -> None:
        if not any(self.weights):
            raise UserError("weights: all are 0")


class TextMixture(Base, frozen=True, tag="mixture"):
    """Corpora with weights by tokens, whatever their sizes: a row is of one of them.

    Weights need not sum to 1. At any row each component has had the rows of its weight, with
    an error of less than one row. None of its rows comes again before all of them have been.
    """

    components: Annotated[tuple[Component, ...], Meta(min_length=1, max_length=255)]
    temperature: Annotated[
        Positive | None,
        Meta(
            description="weights are tokens to the power 1 / temperature: 1 as many as each"
            " has, more are more equal; null: as components say"
        ),
    ] = None
    schedule: Annotated[
        tuple[Weights, ...], Meta(description="other weights later, in order of their steps")
    ] = ()

    def __post_init__(self) -> None:
        names = [component.name for component in self.components]
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError(f"components: {twice[0]} is the name of two")
        said = [each.name for each in self.components if each.weight is not None]
        if said and self.temperature is not None:
            raise UserError(f"temperature: {said[0]} has a weight; say one of them")
        if said and len(said) < len(names):
            (name, *_) = (each for each in names if each not in said)
            raise UserError(f"components: {name} has no weight, but {said[0]} has; say all")
        steps = [later.step for later in self.schedule]
        if steps != sorted(set(steps)):
            raise UserError(f"schedule: steps {steps} must rise")
        for later in self.schedule:
            if len(later.weights) != len(names):
                raise UserError(
                    f"schedule: {len(later.weights)} weights at step {later.step}; must be"
                    f" {len(names)}, of {', '.join(names)}"
                )

    @property
    def parts(self) -> tuple[tuple[str, Corpus | Official], ...]:
        """Each component's corpus, with its name."""
        return tuple((component.name, component.corpus) for component in self.components)

    def files(self) -> list[tuple[str, Path]]:
        return [
            (f"{name}/{id}", path)
            for name, corpus in self.parts
            for id, path in of_component(name, corpus.files)
        ]

    def read(self) -> Iterator[Document]:
        """All documents of the first component, then of the next, their ids behind its name."""
        for name, corpus in self.parts:
            try:
                for document in corpus.read():
                    yield document._replace(id=f"{name}/{document.id}")
            except UserError as error:
                raise _in_component(name, error) from None

    @property
    def channels(self) -> tuple[Channel, ...]:
        """All that any component's documents say; the others' say nothing."""
        found: dict[str, Channel] = {}
        for name, corpus in self.parts:
            for channel in corpus.channels:
                if found.setdefault(channel.name, channel) != channel:
                    raise UserError(
                        f"data.corpus: component {name}: its channel {channel.name} is another"
                        " than that of a component before it"
                    )
        return tuple(found.values())

    @property
    def too_long(self) -> TooLong:
        cut = all(corpus.too_long == "cut" for _, corpus in self.parts)
        return "cut" if cut else "refuse"

    @property
    def tokenized(self) -> bool:
        return any(corpus.tokenized for _, corpus in self.parts)

    @property
    def title(self) -> str:
        return "a mixture of " + ", ".join(name for name, _ in self.parts)

    @property
    def expected_documents(self) -> int | None:
        known = [corpus.expected_documents for _, corpus in self.parts]
        return sum(each or 0 for each in known) if any(known) else None


AnyCorpus = Corpus | Official | TextMixture


class Supply(NamedTuple):
    """What there is of a component to train on."""

    rows: int
    """An epoch of it."""
    row_tokens: Fraction
    """Tokens of a row that are no padding, on average."""

    @property
    def tokens(self) -> Fraction:
        return self.rows * self.row_tokens


class ComponentRead(NamedTuple):
    """What a run reads of a component."""

    tokens: int
    epochs: float
    unique_tokens: int
    """Of different rows."""
    unique_bytes: int


def turns_of(
    mixture: TextMixture, supplies: Sequence[Supply], rows_a_step: Fraction, seed: int
) -> Turns:
    """Which component each row of a mixture is of.

    A phase ends where weights change: at a step of the schedule, or where a component has been
    read as often as it may. It has whole rows of each component, so that its weights differ
    from those that are given by less than a row of what it has. Raises UserError where a weight
    is too small for the sum of all.
    """
    steps = [0, *(later.step for later in mixture.schedule)]
    starts = [math.ceil(step * rows_a_step) for step in steps]
    given = [_first_weights(mixture, supplies), *(each.weights for each in mixture.schedule)]
    caps = [
        None if component.epochs is None else max(1, round(component.epochs * supply.rows))
        for component, supply in zip(mixture.components, supplies, strict=True)
    ]
    phases, had = list[Phase](), [0] * len(caps)
    for weights, stop in zip(given, [*starts[1:], None], strict=True):
        by_rows = _by_rows(mixture, weights, supplies)
        while stop is None or sum(had) < stop:
            row = sum(had)
            open_ = [
                weight if cap is None or count < cap else Fraction(0)
                for weight, count, cap in zip(by_rows, had, caps, strict=True)
            ]
            ended = [
                component
                for component, weight, left in zip(
                    mixture.components, by_rows, open_, strict=True
                )
                if weight and not left
            ]
            if why := _end(ended, any(open_), sum(had) / rows_a_step):
                return Turns(phases, seed, (row, why))
            left = [weight / sum(open_) for weight in open_]
            ends = [
                row + math.ceil((cap - count) / weight)
                for weight, count, cap in zip(left, had, caps, strict=True)
                if weight and cap is not None
            ]
            ends += [] if stop is None else [stop]
            if not ends:
                phases.append(Phase(row, tuple(left)))
                return Turns(phases, seed)
            rows = _whole_rows(left, min(ends) - row, had, caps)
            phases.append(Phase(row, tuple(Fraction(each, sum(rows)) for each in rows)))
            had = [a + b for a, b in zip(had, rows, strict=True)]
    raise AssertionError("the last weights hold for ever")


def _first_weights(mixture: TextMixture, supplies: Sequence[Supply]) -> list[float]:
    """Weights as components say; else by their sizes, which a temperature makes more equal."""
    power = 1 / (mixture.temperature or 1.0)
    most = max(supply.tokens for supply in supplies)
    return [
        float(supply.tokens / most) ** power if component.weight is None else component.weight
        for component, supply in zip(mixture.components, supplies, strict=True)
    ]


def _by_rows(
    mixture: TextMixture, weights: Sequence[float], supplies: Sequence[Supply]
) -> list[Fraction]:
    """Weights of rows, where those of tokens are given; as exact as they are written."""
    found = [
        Fraction(str(weight)) / supply.row_tokens
        for weight, supply in zip(weights, supplies, strict=True)
    ]
    for component, weight in zip(mixture.components, found, strict=True):
        part = weight / sum(found)
        if 0 < part < LEAST_WEIGHT:
            raise UserError(
                f"data.corpus: component {component.name} has {float(part):.1g} of the weight;"
                f" must be at least {float(LEAST_WEIGHT):g}, or leave it out"
            )
    return found


def _end(ended: Sequence[Component], others: bool, steps: Fraction) -> str:
    """Why there is no further row, in a line; "" if there is one.

    `ended` have a weight and have been read as often as they may; are there `others`?
    """
    stopping = [component for component in ended if component.then == "stop"]
    if others and not stopping:
        return ""
    component = (stopping or ended)[0]
    why = "then=stop" if stopping else "no other is left"
    return (
        f"data.corpus: component {component.name} has been read {component.epochs:g} times"
        f" after {math.floor(steps):,} steps, and {why}; train no more steps, or raise its"
        " epochs"
    )


def _whole_rows(
    weights: Sequence[Fraction], rows: int, had: Sequence[int], caps: Sequence[int | None]
) -> list[int]:
    """Rows of each component, of so many: whole ones by their weights, and none beyond its cap.

    What is missing goes to the largest remainders; there are fewer where all have their caps.

    >>> _whole_rows([Fraction(2, 3), Fraction(1, 3)], 4, [0, 0], [None, None])
    [3, 1]
    """
    room = [rows if cap is None else cap - count for count, cap in zip(had, caps, strict=True)]
    exact = [rows * weight for weight in weights]
    found = [min(math.floor(each), most) for each, most in zip(exact, room, strict=True)]
    order = sorted(range(len(found)), key=lambda each: found[each] - exact[each])
    for each in order * (rows - sum(found)):
        if sum(found) < rows and weights[each] and found[each] < room[each]:
            found[each] += 1
    return found
