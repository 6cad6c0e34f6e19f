"""Everything a trained model is asked: the scorers valid for it, the probe, baselines."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import jax
import numpy as np

from lm import hosts
from lm import mesh as _mesh
from lm.config import UserError
from lm.data import Bytes, Hmm, LengthModel, Split, n_rows, rows
from lm.data.hmm import bayes_accuracy, index_of, symbols_of
from lm.data.lengths import Geometric
from lm.example import Causal as SeesBefore
from lm.example import Visible
from lm.objectives import Answer, Spans
from lm.run import Run
from lm.score import python_roles, say
from lm.score.baselines import baselines, window_contents
from lm.score.bits import Score, Text, measure, text_of
from lm.score.layout import Told, ends_nats, layout_nats
from lm.score.likelihood import (
    AnyOrder,
    BehindSentinel,
    Blank,
    ChainRule,
    FixedOrder,
    Pseudo,
    Scorer,
    SharesHidden,
    refuses,
    score,
)
from lm.score.oracle import Oracle
from lm.score.probe import Probe, probe, sample
from lm.train.fit import Trained

SHARES = (0.05, 0.15, 0.3, 0.5, 0.7, 0.85, 1.0)
"""Shares of a row that are hidden for the curve of a masked model's error."""
TURNS = 32
"""Passes that an order of writing takes for a row, where its block is not given."""
MOST_REPLICATES = 128
"""How many independent estimates are drawn at most to reach an `mc_se`."""


@dataclass(frozen=True)
class Effort:
    """How much is spent on scoring; the defaults take a small model a minute on a laptop."""

    rows: int | None = None
    """Validation windows scored, evenly spaced; None: all."""
    samples: int = 4
    """Mask draws of one any-order estimate, stratified over the number hidden."""
    replicates: int = 2
    """Independent estimates, whose spread is `mc_se`."""
    mc_se: float | None = None
    """More are drawn until it is at most this; a UserError if that takes too many."""
    share_rows: int = 128
    """Windows for each point of the error against the share hidden, and pseudo-likelihood."""
    probe_tokens: int = 20_000
    orders: int | None = None
    """Windows scored by the exact likelihood of each order of writing; None: not scored."""
    block: int | None = None
    """Pieces that an order uncovers at once; None: so many that a row takes `TURNS` passes."""


def evaluate(trained: Trained, effort: Effort = Effort()) -> dict[str, Any]:
    """Scores, probe, baselines and a sample of what the model says, as plain JSON values."""
    asked = {
        name: scorer
        for name, scorer in valid(trained.run, effort).items()
        if effort.orders is not None or not isinstance(scorer, FixedOrder)
    }
    scores = {name: score_by(trained, scorer, effort) for name, scorer in asked.items()}
    windows = Windows.of(trained, trained.tokens.validation, effort.rows)
    name, headline = next(iter(scores.items()))
    probed = probe_of(trained, effort.probe_tokens)
    blank = blank_of(trained.run.objective.answers)
    return {
        "bits_per_byte": headline.bits_per_byte,
        "layout_bits": headline.layout_bits,
        "mc_se": headline.mc_se,
        "text_se": headline.text_se,
        "scorer": name,
        "kind": headline.kind,
        "scores": {name: plain(value, asked[name]) for name, value in scores.items()},
        "error_by_share": shares_of(trained, effort, blank) if blank else {},
        "probe_accuracy": probed and probed.accuracy,
        "probe_se": probed and probed.accuracy_se,
        "probe": probed and {name: getattr(probed, name) for name in Probe.__struct_fields__},
        "baselines": baselines_of(trained, windows),
        "truth": truth_of(trained, effort),
        "document_bytes": list(headline.document_bytes),
        "document_nats": list(headline.document_nats),
        "says": says(trained),
    }


def scorers(run: Run, effort: Effort = Effort()) -> dict[str, Scorer]:
    """Every scorer, valid for the model or not, as it would be asked; exact ones come first.

    The first that is valid gives the headline.

    >>> list(scorers(Run()))[:4], list(valid(Run()))
    (['chain_rule', 'spans', 'any_order', 'pseudo'], ['chain_rule'])
    """
    last, blank = run.objective.last, blank_of(run.objective.answers) or "hidden"
    block = effort.block or -(-(run.data.length - 1) // TURNS)
    return {
        "chain_rule": ChainRule(),
        "spans": BehindSentinel(last.stack if isinstance(last, Spans) else "single"),
        "any_order": AnyOrder(effort.samples, blank),
        "pseudo": Pseudo(8, blank),
        "left_to_right": FixedOrder("left to right", block, blank),
        "random_order": FixedOrder("random", block, blank),
        "confident_first": FixedOrder("most confident first", block, blank),
    }


def valid(run: Run, effort: Effort = Effort()) -> dict[str, Scorer]:
    """The scorers that ask what the model was taught to answer."""
    answers = run.objective.answers
    return {
        name: scorer
        for name, scorer in scorers(run, effort).items()
        if refuses(scorer, answers) is None
    }


def blank_of(answers: frozenset[Answer]) -> Blank | None:
    """Where a model says what is hidden, if it was taught that; at the place, if at both."""
    blanks: tuple[Blank, ...] = ("hidden", "hidden before")
    return next((blank for blank in blanks if blank in answers), None)


def sees(trained: Trained) -> Visible:
    """What the model's positions see where nothing is hidden."""
    return trained.run.objective.last.visible


@dataclass(frozen=True)
class Windows:
    """Non-overlapping windows of a split, and what each of their tokens stands for."""

    split: Split
    lengths: LengthModel
    tokens_RL: np.ndarray
    segments_RL: np.ndarray
    index_R: np.ndarray
    text: Text
    batch: int
    corpus_digest: str

    @staticmethod
    def of(trained: Trained, split: Split, number: int | None) -> "Windows":
        """The first window to the last, or `number` of them evenly spaced."""
        data, tokenizer = trained.run.data, trained.tokens.tokenizer
        there = n_rows(split, data.length)
        index_R = np.unique(np.linspace(0, there - 1, min(number or there, there)).astype(int))
        tokens_RL, segments_RL = rows(split, index_R, data.length, tokenizer.vocabulary)
        text = text_of(
            tokens_RL,
            segments_RL,
            windows=index_R,
            begin=tokenizer.vocabulary.begin,
            piece_bytes_V=piece_bytes(trained),
            offsets=split.offsets,
        )
        digest = trained.tokens.corpus_digest
        return Windows(
            split=split,
            lengths=trained.tokens.lengths,
            tokens_RL=tokens_RL,
            segments_RL=segments_RL,
            index_R=index_R,
            text=text,
            batch=data.batch,
            corpus_digest=digest,
        )

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(self.tokens_RL), self.batch):
            part = slice(start, start + self.batch)
            yield self.tokens_RL[part], self.segments_RL[part]

    def layout(self, told: Told) -> np.ndarray:
        """Nats of what a model is told of where documents end, float64[R, L]."""
        return layout_nats(
            told,
            self.lengths,
            windows=self.index_R,
            offsets=self.split.offsets,
            length=self.tokens_RL.shape[1],
        )

    def same_as(self, other: "Windows") -> bool:
        """Whether these are the same windows of the same text, cut into the same pieces.

        The pieces' ids may differ, as they do where a tokenizer has sentinels.
        """
        both = zip((self.index_R, *self.text), (other.index_R, *other.text), strict=True)
        same = all(np.array_equal(mine, others) for mine, others in both)
        return same and self.corpus_digest == other.corpus_digest


def score_by(trained: Trained, scorer: Scorer, effort: Effort) -> Score:
    """Bits per byte by a scorer, with what is spent on it."""
    windows = windows_for(trained, scorer, effort)
    replicates, mc_se = effort.replicates, effort.mc_se
    return score_of(trained, scorer, windows, replicates=replicates, mc_se=mc_se)


def windows_for(trained: Trained, scorer: Scorer, effort: Effort) -> Windows:
    """The held-out windows that are scored by a scorer: fewer by those that take longer."""
    match scorer:
        case FixedOrder():
            number = effort.orders
        case Pseudo():
            number = effort.share_rows
        case _:
            number = effort.rows
    return Windows.of(trained, trained.tokens.validation, number)


def score_of(
    trained: Trained,
    scorer: Scorer,
    windows: Windows,
    *,
    replicates: int = 1,
    mc_se: float | None = None,
) -> Score:
    """A scorer's bits per byte of the windows: the mean over independent estimates.

    With `mc_se`, estimates are added until theirs is not above it; raises UserError where that
    would take too many. How many are missing is predicted from those there are.
    """
    exact = scorer.kind == "exact"
    number = 1 if exact else replicates if mc_se is None else max(2, replicates)
    layout_RL = windows.layout(scorer.told)
    nats_KRL = _nats(trained, scorer, windows, number).mean(axis=1)
    while True:
        found = measure(
            nats_KRL,
            windows.text,
            scorer=scorer.name,
            kind=scorer.kind,
            layout_RL=layout_RL,
        )
        if mc_se is None or found.mc_se is None or found.mc_se <= mc_se:
            return found
        needed = math.ceil(len(nats_KRL) * (found.mc_se / mc_se) ** 2)
        if needed > MOST_REPLICATES:
            raise UserError(
                f"mc_se {mc_se:g}: the {scorer.name} would take some {needed:,} replicates,"
                f" and {MOST_REPLICATES} are the most; after {len(nats_KRL)} it is"
                f" {found.mc_se:.2g}"
            )
        # A tenth more than predicted, as the prediction has an error too.
        needed = min(MOST_REPLICATES, max(len(nats_KRL) + 1, math.ceil(1.1 * needed)))
        more_KSRL = _nats(trained, scorer, windows, needed - len(nats_KRL), first=len(nats_KRL))
        nats_KRL = np.concatenate([nats_KRL, more_KSRL.mean(axis=1)])


def shares_of(trained: Trained, effort: Effort, blank: Blank) -> dict[str, dict[str, Any]]:
    """Bits per byte of what is hidden by the share hidden, without the layout's."""
    windows = Windows.of(trained, trained.tokens.validation, effort.share_rows)
    scorer = SharesHidden(SHARES, blank)
    nats_KSRL = _nats(trained, scorer, windows, effort.replicates)
    found = {}
    for i, share in enumerate(SHARES):
        name = f"{share:.0%} hidden"
        value = measure(nats_KSRL[:, i], windows.text, scorer=name, kind=scorer.kind)
        found[str(share)] = plain(value, scorer)
    return found


def _nats(
    trained: Trained, scorer: Scorer, windows: Windows, replicates: int, *, first: int = 0
) -> np.ndarray:
    return score(
        scorer,
        trained.program.body,
        trained.params,
        windows,
        vocabulary=trained.tokens.tokenizer.vocabulary,
        replicates=replicates,
        first=first,
        place=place_of(trained),
    )


def place_of(trained: Trained) -> Callable[[np.ndarray], jax.Array]:
    """Puts an array of rows on the devices, split as in training, filled up with zeros."""
    mesh = trained.program.mesh

    def place(array: np.ndarray) -> jax.Array:
        axes = ("batch", "length")[: array.ndim]
        # A text of few windows may have fewer rows than there are devices.
        missing = -len(array) % _mesh.ways(mesh, "batch")
        filled = np.pad(array, [(0, missing), (0, 0)][: array.ndim])
        return hosts.put(filled, _mesh.sharding(mesh, *axes))

    return place


def piece_bytes(trained: Trained) -> np.ndarray:
    """UTF-8 bytes of each piece."""
    return np.array([len(piece) for piece in trained.tokens.tokenizer.pieces])


def probe_of(trained: Trained, number: int) -> Probe | None:
    """The probe for what tokens are: states of a source, roles in Python; None elsewhere."""
    samples = []
    for split in (trained.tokens.train, trained.tokens.validation):
        rows = -(-number // (trained.run.data.length - 1))
        windows = Windows.of(trained, split, rows)
        labels_RL, names = _labels(trained, split, windows)
        if (labels_RL >= 0).sum() < 1000:
            return None
        samples.append(
            sample(
                trained.program.body,
                trained.params,
                windows,
                labels_RL,
                windows.text.documents_RL,
                visible=sees(trained),
                place=place_of(trained),
            )
        )
    return probe(*samples, names=names)


def _labels(
    trained: Trained, split: Split, windows: Windows
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The label of each token of the windows, -1 where there is none, and the labels' names."""
    corpus = trained.run.data.corpus
    if isinstance(corpus, Hmm):
        states = tuple(f"state {number}" for number in range(corpus.states))
        labels_RL = np.full(windows.tokens_RL.shape, -1)
        if known_source(trained.run):
            states_RT, _ = _drawn(corpus, split, windows)
            labels_RL[:, 1 : 1 + corpus.length] = states_RT
        return labels_RL, states
    roles_RL = python_roles.window_roles(
        windows.index_R,
        trained.run.data.length,
        offsets=split.offsets,
        document=partial(_document, split),
        piece_lengths_V=piece_bytes(trained),
    )
    return roles_RL, python_roles.ROLES


def known_source(run: Run) -> Hmm | None:
    """The source of the run's text, where a row is one document of it and a symbol a piece."""
    corpus = _source(run)
    rows = corpus and corpus.lengths == "equal" and run.data.length == corpus.row_length
    return corpus if rows else None


def _source(run: Run) -> Hmm | None:
    """The source of the run's text, where a symbol is a piece."""
    corpus = run.data.corpus
    return corpus if isinstance(corpus, Hmm) and isinstance(run.data.tokenizer, Bytes) else None


def truth_of(trained: Trained, effort: Effort) -> dict[str, Any] | None:
    """What the source itself answers to the same questions; None where it is not known.

    The least bits per byte of any model, whatever the order in which it predicts; and, where a
    row is one document, the least error by share hidden, under the same masks, and how often
    the likeliest hidden state, given what a position sees, is the true one, which bounds the
    probe.
    """
    corpus = _source(trained.run)
    if corpus is None:
        return None
    further: dict[str, Any] = {"error_by_share": {}, "probe_accuracy": None, "probe_se": None}
    if known_source(trained.run):
        exact, further = _truth_of_rows(trained, effort, corpus)
    elif corpus.lengths == "geometric":
        exact = true_score(trained, corpus, effort)
    else:
        return None  # windows cut documents, and where they do tells what is left of them
    rate = corpus.source().entropy_rate()
    return {
        "bits_per_byte": exact.bits_per_byte,
        "layout_bits": exact.layout_bits,
        "text_se": exact.text_se,
        "document_bytes": list(exact.document_bytes),
        "document_nats": list(exact.document_nats),
        "entropy_rate": rate.bits,
        "entropy_rate_se": rate.se,
        **further,
    }


def true_score(trained: Trained, corpus: Hmm, effort: Effort) -> Score:
    """What a source of geometric lengths needs for the windows, each by itself.

    What a window holds of a document is distributed as a document is, but for its end; where
    documents end is paid for by their true lengths.
    """
    windows = Windows.of(trained, trained.tokens.validation, effort.rows)
    symbols_RL = windows.text.bytes_RL > 0
    # A run of symbols for each document of each window, filled up with any.
    row_n, segment_n = np.nonzero(symbols_RL)[0], windows.segments_RL[symbols_RL]
    first_n = np.diff(row_n * windows.tokens_RL.shape[1] + segment_n, prepend=-1) != 0
    run_n = np.cumsum(first_n) - 1
    place_n = np.arange(len(run_n)) - np.flatnonzero(first_n)[run_n]
    pieces, tokens_n = trained.tokens.tokenizer.pieces, windows.tokens_RL[symbols_RL]
    symbols_NT = np.zeros((run_n[-1] + 1, place_n.max() + 1), np.int64)
    symbols_NT[run_n, place_n] = symbols_of(b"".join(pieces[t] for t in tokens_n).decode())
    nats_RL = np.zeros(symbols_RL.shape)
    nats_RL[symbols_RL] = corpus.source().prediction_nats(symbols_NT)[run_n, place_n]
    ends_RL = ends_nats(
        Geometric(corpus.length),
        windows=windows.index_R,
        offsets=windows.split.offsets,
        length=symbols_RL.shape[1],
    )
    return measure(
        nats_RL[None], windows.text, scorer="source", kind="exact", layout_RL=ends_RL
    )


def _truth_of_rows(
    trained: Trained, effort: Effort, corpus: Hmm
) -> tuple[Score, dict[str, Any]]:
    """The source's own score, and further truths, where rows are one document each."""
    blank = blank_of(trained.run.objective.answers)
    oracle: Any = Oracle(corpus, trained.tokens.tokenizer.vocabulary)
    source = replace(trained, program=replace(trained.program, body=oracle), params={})
    test = Windows.of(
        trained, trained.tokens.validation, -(-effort.probe_tokens // (corpus.row_length - 1))
    )
    states_NT, symbols_NT = _drawn(corpus, trained.tokens.validation, test)
    given: Any = "so far" if isinstance(sees(trained), SeesBefore) else "all"
    posterior_NTS = corpus.source().state_posterior(symbols_NT, given=given)
    named = bayes_accuracy(posterior_NTS, states_NT)
    return score_by(source, ChainRule(), effort), {
        # It answers at the place of what is hidden, wherever the model does.
        "error_by_share": shares_of(source, effort, "hidden") if blank else {},
        "probe_accuracy": named.value,
        "probe_se": named.se,
    }


def _drawn(corpus: Hmm, split: Split, windows: Windows) -> tuple[np.ndarray, np.ndarray]:
    """Hidden states and symbols of the windows' documents, int64[R, T] each."""
    numbers = [index_of(split.ids[document]) for document in windows.text.documents_RL[:, 1]]
    drawn = [corpus.draw(number, number + 1) for number in numbers]
    return tuple(np.concatenate(arrays) for arrays in zip(*drawn, strict=True))  # type: ignore[return-value]


def baselines_of(trained: Trained, windows: Windows) -> dict[str, float]:
    """What predictors without a network need for the same validation text."""
    tokenizer, split = trained.tokens.tokenizer, trained.tokens.validation
    vocabulary = tokenizer.vocabulary
    content_RL = windows.text.documents_RL >= 0
    possible_V = np.arange(vocabulary.size) >= vocabulary.ordinary
    possible_V[vocabulary.end] = True
    return baselines(
        [split.text(d).encode() for d in range(len(split.ids))],
        window_contents(windows.tokens_RL, content_RL, tokenizer.pieces),
        training_counts_V=_counts(trained.tokens.train, vocabulary.size),
        counts_V=np.bincount(windows.tokens_RL[content_RL], minlength=vocabulary.size),
        possible_V=possible_V,
    )


def _counts(split: Split, size: int) -> np.ndarray:
    """How often each piece stands in a split, read a few megabytes at a time."""
    counts_V, step = np.zeros(size, np.int64), 1 << 20
    for start in range(0, split.size, step):
        chunk = split.read([start], min(step, split.size - start))
        counts_V += np.bincount(chunk.ravel(), minlength=size)
    return counts_V


def says(trained: Trained, *, context: int = 120, places: int = 6) -> dict[str, Any]:
    """The model at work on a held-out passage: five likeliest pieces at a few places.

    A causal model sees what is before a place; a masked one all but the places themselves. One
    that was taught neither is asked nothing.
    """
    answers = trained.run.objective.answers
    answer: Literal["next"] | Blank | None = "next" if "next" in answers else blank_of(answers)
    tokenizer, split = trained.tokens.tokenizer, trained.tokens.validation
    longest = int(np.argmax(split.bytes))
    length = min(context, trained.run.data.length - 1, int(np.diff(split.offsets)[longest]) - 2)
    start = int(split.offsets[longest]) + 1
    passage = split.read([start], length)[0]
    # Places are spread over the second half, where both kinds of model have seen something.
    spread = np.linspace(length // 2, max(length // 2, length - 2), places)
    chosen = sorted({int(place) for place in spread})
    said: dict[str, Any] = {
        "document": split.ids[longest],
        "passage": tokenizer.decode(passage),
    }
    if answer is None:
        return said | {"after": said["passage"], "pieces": []}
    seen = passage.copy()
    if answer != "next":
        seen[chosen] = tokenizer.vocabulary.mask
    ids, probabilities = say.likeliest(
        trained.program.body,
        trained.params,
        seen.tolist(),
        chosen,
        vocabulary=tokenizer.vocabulary,
        length=trained.run.data.length,
        answer=answer,
    )
    pieces, last = [], 0
    for row, place in enumerate(chosen):
        pieces.append(
            {
                "before": tokenizer.decode(passage[last:place]),
                "truth": tokenizer.decode(passage[place : place + 1]),
                "hidden": answer != "next",
                "likeliest": [
                    [tokenizer.decode([piece]), float(share)]
                    for piece, share in zip(ids[row], probabilities[row], strict=True)
                ],
            }
        )
        last = place + 1
    return said | {"after": tokenizer.decode(passage[last:]), "pieces": pieces}


def _document(split: Split, number: int) -> tuple[str, np.ndarray]:
    start, stop = split.offsets[number : number + 2]
    return split.text(number), split.read([int(start)], int(stop - start))[0]


def plain(value: Score, scorer: Scorer) -> dict[str, Any]:
    """A score as JSON values, with the block of an order of writing."""
    names = ("bits_per_byte", "layout_bits", "mc_se", "text_se", "kind", "tokens", "bytes")
    found = {name: getattr(value, name) for name in names}
    return found | ({"block": scorer.block} if isinstance(scorer, FixedOrder) else {})
