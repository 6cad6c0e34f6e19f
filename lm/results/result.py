"""The result of a run: what it cost, what training found, what the trained model was asked.

In result.json the fields of all parts stand side by side, under the names that are the columns
of results.csv. Without an evaluator there is no `Evaluation`, and the file says so.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import msgspec

from lm.artifact import Started
from lm.config import UserError, read_json
from lm.output.numbers import count, decimals, duration, percent, power
from lm.output.plain import to_json
from lm.results.record import ColumnInfo, Record

Kind = Literal["exact", "bound", "no likelihood"]
"""What a number is: the code length itself, an upper bound on it, or neither."""


def _thousands(number: int) -> str:
    return f"{number:,}"


def _shortened(digest: str) -> str:
    return f"{digest[:12]}…"


class ComponentCosts(Record):
    """What a run read of a component of a mixture."""

    tokens: int
    """Positions of the rows that were read."""
    epochs: float
    """How often all of its rows were."""
    unique_tokens: int
    unique_bytes: int


class ComponentScore(Record):
    """How well the documents of a component of a mixture are predicted, by the headline."""

    bits_per_byte: float
    text_se: float | None
    documents: int
    bytes: int


class Costs(Record):
    """What a run consumed. FLOPs are of matrix products; a multiply-add counts two."""

    params_total: Annotated[
        int, ColumnInfo("parameters", _thousands, leading=True, compared="equal")
    ]
    params_non_embedding: Annotated[
        int, ColumnInfo("parameters without the embedding", count, leading=True)
    ]
    params_matmul: Annotated[int, ColumnInfo("parameters in matmuls", count)]
    steps: Annotated[int, ColumnInfo("steps", _thousands, compared="equal")]
    tokens: Annotated[int, ColumnInfo("tokens", _thousands, leading=True, compared="equal")]
    """Positions of the rows that were read: steps x rows x length."""
    predicted_targets: Annotated[
        int, ColumnInfo("predicted targets", count, leading=True, compared="spent")
    ]
    """Targets of weight above 0, over all steps."""
    target_positions: Annotated[int, ColumnInfo("target positions", count, compared="spent")]
    """Prediction positions that the head computed, used or not."""
    flops: Annotated[int, ColumnInfo("FLOPs", power, leading=True, compared="spent")]
    """Forward and backward, without what is computed again."""
    flops_6nd: Annotated[int, ColumnInfo("FLOPs as 6ND", power, compared="spent")]
    """6 x non-embedding parameters x tokens."""
    flops_rematerialized: Annotated[int, ColumnInfo("FLOPs again", power)]
    """What the backward pass computed again; in no other number."""
    flops_forward: dict[str, int]
    """One forward pass of one batch, by component."""
    unique_tokens: Annotated[int, ColumnInfo("different tokens", count)]
    """Positions of the different rows that were read."""
    unique_bytes: Annotated[int, ColumnInfo("different bytes", count)]
    """UTF-8 bytes of their text."""
    device_seconds: Annotated[
        float, ColumnInfo("device time", duration, leading=True, compared="spent")
    ]
    """Seconds of training times devices; compilation and validation are left out."""
    params_trainable: Annotated[int | None, ColumnInfo("trainable parameters", count)] = None
    """Those that training changed; None: all."""
    flops_derived: Annotated[int | None, ColumnInfo("FLOPs of derived channels", power)] = None
    """Of a reference's pass over all rows of the text, which is done once and kept; in no other
    number. None: nothing is derived."""
    params_active: Annotated[int | None, ColumnInfo("active parameters", count)] = None
    """Those that a token passes through, of a mixture of experts; None: all."""
    components: dict[str, ComponentCosts] | None = None
    """By name, what was read of each component of a mixture; None: of no mixture."""


class Training(Record):
    """What training found, and what it was of."""

    validation_loss: Annotated[float, ColumnInfo("own loss", decimals, leading=True)]
    """The objective's own loss at the end, in nats per predicted token."""
    seed: Annotated[int, ColumnInfo("seed", leading=True, compared="equal")]
    corpus_digest: Annotated[
        str, ColumnInfo("corpus", _shortened, leading=True, compared="equal")
    ]
    tokenizer_digest: Annotated[str, ColumnInfo("tokenizer", _shortened, compared="equal")]
    batches_digest: Annotated[
        str, ColumnInfo("batches, in order", _shortened, leading=True, compared="equal")
    ]
    """Of all global batches, chained on device."""
    skipped: Annotated[int, ColumnInfo("updates left out")]
    """Steps whose update was left out because of a fault."""
    rolled_back: Annotated[int, ColumnInfo("returns to a checkpoint")]
    left_out: Annotated[int, ColumnInfo("batches left out")]
    """Batches that returns to a checkpoint left out."""
    decided_by: dict[str, str] | None = None
    """A digest of each setting that is not as by default; None in files that do not say."""
    start: Started | None = None
    """The model that training started from; None: from scratch."""
    validation_terms: dict[str, float] = msgspec.field(default_factory=dict)
    """What else the objective's loss found at the end, by name."""


class Score(Record, omit_defaults=True):
    """How well a text is predicted by one scorer."""

    bits_per_byte: float
    """Of the text and of its layout."""
    layout_bits: float | None
    """The part of `bits_per_byte`, in the same unit, that the length model pays for what the
    model was told of where documents end. 0: it was told nothing, and paid for their ends with
    its own predictions, as causal models do. None: it was told, and nothing was paid."""
    mc_se: float | None
    """Standard error from the masks drawn; None with one replicate, 0 where none is drawn."""
    text_se: float | None
    """Standard error from the choice of documents; None with one. It holds what `mc_se` says as
    well, as each document's number has its own masks' noise."""
    kind: Kind
    nats: float
    """Of the text and its layout together: `bits_per_byte` x ln 2 x `bytes`."""
    tokens: int
    bytes: int
    """UTF-8 bytes of the text that was scored."""
    block: int | None = None
    """Tokens that a decoding order unmasks at once; None for other scorers."""
    document_nats: tuple[float, ...] = ()
    """Of each document; () where they are not kept."""
    document_bytes: tuple[int, ...] = ()

    def brief(self) -> "Score":
        """The same without what it is made of, document by document."""
        return msgspec.structs.replace(self, document_nats=(), document_bytes=())


class Probe(Record):
    """How well labels can be read off linearly, and what is reached without the model."""

    accuracy: float
    accuracy_se: float | None
    """Bootstrap over the test documents; None with one."""
    majority_accuracy: float
    """Always the most frequent label."""
    token_accuracy: float
    """For each token its most frequent label in training: what lies above it is context."""
    recall: dict[str, float]
    """For each label in the test sample, the fraction of its tokens that were found."""
    training_tokens: int
    test_tokens: int
    document_right: tuple[int, ...]
    """Labels found in each test document, of `document_tokens`; they pair two probes."""
    document_tokens: tuple[int, ...]


class Truth(Record):
    """What a known source itself answers to the questions that its models are asked."""

    bits_per_byte: float
    """The least of any model."""
    layout_bits: float | None
    text_se: float | None
    document_bytes: tuple[int, ...]
    document_nats: tuple[float, ...]
    entropy_rate: float
    """Bits per symbol."""
    entropy_rate_se: float
    error_by_fraction: dict[str, Score]
    probe_accuracy: float | None
    """How often the likeliest hidden state, given what a position sees, is the true one."""
    probe_se: float | None


class Guess(Record):
    """A place of a passage, and the likeliest tokens there."""

    before: str
    """The text since the place before."""
    truth: str
    masked: bool
    """Whether the place was masked, and not the next one of a text."""
    likeliest: tuple[tuple[str, float], ...]
    """Tokens and their probabilities."""


class Passage(Record):
    """The model at work on a held-out passage."""

    document: str
    passage: str
    after: str
    """The text behind the last place."""
    tokens: tuple[Guess, ...]


class Evaluation(Record):
    """Everything that a trained model was asked; the headline is its first valid scorer's."""

    bits_per_byte: Annotated[
        float, ColumnInfo("bits per byte", decimals, error="text_se", leading=True)
    ]
    layout_bits: Annotated[float | None, ColumnInfo("of it layout", decimals, leading=True)]
    mc_se: Annotated[float | None, ColumnInfo("± masks", decimals, leading=True)]
    text_se: Annotated[float | None, ColumnInfo("± documents", decimals, leading=True)]
    scorer: Annotated[str, ColumnInfo("scorer", leading=True)]
    kind: Annotated[Kind, ColumnInfo("which is")]
    scores: dict[str, Score]
    """By scorer, all that are valid."""
    error_by_fraction: dict[str, Score]
    """Bits per byte of what is masked, by the fraction masked; empty for causal models."""
    probe_accuracy: Annotated[
        float | None, ColumnInfo("probe", percent, error="probe_se", leading=True)
    ]
    probe_se: Annotated[float | None, ColumnInfo("± probe", percent)]
    probe: Probe | None
    baselines: dict[str, float]
    """Bits per byte of predictors without a network, by name."""
    truth: Truth | None
    """None where the source is not known."""
    document_bytes: tuple[int, ...]
    document_nats: tuple[float, ...]
    """The headline's, by document: they pair two results."""
    says: Passage
    by_component: dict[str, ComponentScore] | None = None
    """The headline's, by component of a mixture; None: of no mixture."""


class Result(Record):
    """The result of a run; as a mapping, from column names to the values of all its parts."""

    costs: Costs
    training: Training
    evaluation: Evaluation | None = None
    """None where the trained model was asked nothing."""

    def __getitem__(self, name: str) -> Any:
        for part in self.parts:
            if name in part:
                return part[name]
        if name == "evaluated":
            return self.evaluation is not None
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        for part in self.parts:
            yield from part
        yield "evaluated"

    def __len__(self) -> int:
        return sum(map(len, self.parts)) + 1

    @property
    def parts(self) -> tuple[Record, ...]:
        """Its parts, without one that is not there."""
        parts = (self.costs, self.training, self.evaluation)
        return tuple(part for part in parts if part is not None)

    @property
    def headline(self) -> Evaluation:
        """The evaluation; raises ValueError where there is none."""
        if self.evaluation is None:
            raise ValueError("the run was trained and not scored")
        return self.evaluation

    def to_json(self) -> str:
        """The content of result.json; what is no number is null."""
        return to_json({name: self[name] for name in self})

    @classmethod
    def from_columns(cls, found: Mapping[str, Any]) -> Self:
        """The result that a result.json holds; raises ValueError where it is none.

        What was recorded before results said whether they are evaluated, is.
        """
        left = dict(found)
        parts: dict[str, Any] = {"costs": Costs, "training": Training}
        if left.pop("evaluated", True):
            parts["evaluation"] = Evaluation
        taken = {
            name: {field: left.pop(field) for field in part.__struct_fields__ if field in left}
            for name, part in parts.items()
        }
        if left:
            raise ValueError(f"no such field: {', '.join(left)}")
        return cls(**{name: msgspec.convert(taken[name], parts[name]) for name in parts})


def read_result(path: Path) -> Result:
    """What a result.json holds; raises UserError where it is damaged."""
    found = read_json(path)
    try:
        return Result.from_columns(found)
    except ValueError as error:  # of which msgspec's is one
        raise UserError(f"{path}: damaged: {error}; remove it and train again") from None
