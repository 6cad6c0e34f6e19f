"""Everything a trained model is asked: the scorers valid for it, the probe, baselines."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from lm import mesh as _mesh
from lm.data import Split, n_rows, rows
from lm.example import Causal as SeesBefore
from lm.example import Full, Visible
from lm.objectives import Causal
from lm.score import python_roles, say
from lm.score.baselines import baselines, window_contents
from lm.score.bits import Score, Text, measure, text_of
from lm.score.likelihood import AnyOrder, ChainRule, Pseudo, Scorer, SharesHidden, score
from lm.score.probe import Probe, probe, sample
from lm.train.fit import Trained

SHARES = (0.05, 0.15, 0.3, 0.5, 0.7, 0.85, 1.0)
"""Shares of a row that are hidden for the curve of a masked model's error."""


@dataclass(frozen=True)
class Effort:
    """How much is spent on scoring; the defaults take a small model a minute on a laptop."""

    rows: int | None = None
    """Validation windows scored, evenly spaced; None: all."""
    samples: int = 4
    """Mask draws of one any-order estimate, stratified over the number hidden."""
    replicates: int = 2
    """Independent estimates, whose spread is `mc_se`."""
    share_rows: int = 128
    """Windows for each point of the error against the share hidden, and pseudo-likelihood."""
    probe_tokens: int = 20_000


def evaluate(trained: Trained, effort: Effort = Effort()) -> dict[str, Any]:
    """Scores, probe, baselines and a sample of what the model says, as plain JSON values."""
    windows = Windows.of(trained, trained.tokens.validation, effort.rows)
    fewer = Windows.of(trained, trained.tokens.validation, effort.share_rows)
    if is_causal(trained):
        scores = {"chain_rule": score_of(trained, ChainRule(), windows)}
        shares: dict[str, Score] = {}
    else:
        many = partial(score_of, trained, replicates=effort.replicates)
        scores = {
            "any_order": many(AnyOrder(samples=effort.samples), windows),
            "pseudo": many(Pseudo(samples=8), fewer),
        }
        shares = shares_of(trained, fewer, effort.replicates)
    name, headline = next(iter(scores.items()))
    probed = probe_of(trained, effort.probe_tokens)
    return {
        "bits_per_byte": headline.bits_per_byte,
        "mc_se": headline.mc_se,
        "text_se": headline.text_se,
        "scorer": name,
        "kind": headline.kind,
        "scores": {name: _plain(value) for name, value in scores.items()},
        "error_by_share": {share: _plain(value) for share, value in shares.items()},
        "probe_accuracy": probed and probed.accuracy,
        "probe_se": probed and probed.accuracy_se,
        "probe": probed and {name: getattr(probed, name) for name in Probe.__struct_fields__},
        "baselines": baselines_of(trained, windows),
        "document_bytes": list(headline.document_bytes),
        "document_nats": list(headline.document_nats),
        "says": says(trained),
    }


def is_causal(trained: Trained) -> bool:
    """Whether the model was trained to read from left to right."""
    return isinstance(trained.run.objective, Causal)


def sees(trained: Trained) -> Visible:
    """What the model's positions see where nothing is hidden."""
    return SeesBefore() if is_causal(trained) else Full()


@dataclass(frozen=True)
class Windows:
    """Non-overlapping windows of a split, and what each of their tokens stands for."""

    tokens_RL: np.ndarray
    segments_RL: np.ndarray
    index_R: np.ndarray
    text: Text
    batch: int

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
        return Windows(tokens_RL, segments_RL, index_R, text, data.batch)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(self.tokens_RL), self.batch):
            part = slice(start, start + self.batch)
            yield self.tokens_RL[part], self.segments_RL[part]


def score_of(
    trained: Trained, scorer: Scorer, windows: Windows, *, replicates: int = 1
) -> Score:
    """A scorer's bits per byte of the windows."""
    nats_KRL = _nats(trained, scorer, windows, replicates).mean(axis=1)
    return measure(nats_KRL, windows.text, scorer=scorer.name, kind=scorer.kind)


def shares_of(trained: Trained, windows: Windows, replicates: int) -> dict[str, Score]:
    """Bits per byte of what is hidden, for each share hidden."""
    scorer = SharesHidden(SHARES)
    nats_KSRL = _nats(trained, scorer, windows, replicates)
    return {
        str(share): measure(
            nats_KSRL[:, i], windows.text, scorer=f"{share:.0%} hidden", kind=scorer.kind
        )
        for i, share in enumerate(SHARES)
    }


def _nats(trained: Trained, scorer: Scorer, windows: Windows, replicates: int) -> np.ndarray:
    return score(
        scorer,
        trained.program.body,
        trained.params,
        windows,
        vocabulary=trained.tokens.tokenizer.vocabulary,
        replicates=replicates,
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
        return jax.device_put(filled, _mesh.sharding(mesh, *axes))

    return place


def piece_bytes(trained: Trained) -> np.ndarray:
    """UTF-8 bytes of each piece."""
    return np.array([len(piece) for piece in trained.tokens.tokenizer.pieces])


def probe_of(trained: Trained, number: int) -> Probe | None:
    """The probe for the roles of tokens in Python source; None where the text is not Python."""
    samples = []
    for split in (trained.tokens.train, trained.tokens.validation):
        rows = -(-number // (trained.run.data.length - 1))
        windows = Windows.of(trained, split, rows)
        roles_RL = python_roles.window_roles(
            windows.index_R,
            trained.run.data.length,
            offsets=split.offsets,
            document=partial(_document, split),
            piece_lengths_V=piece_bytes(trained),
        )
        if (roles_RL >= 0).sum() < 1000:
            return None
        samples.append(
            sample(
                trained.program.body,
                trained.params,
                windows,
                roles_RL,
                windows.text.documents_RL,
                visible=sees(trained),
                place=place_of(trained),
            )
        )
    return probe(*samples, names=python_roles.ROLES)


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

    A causal model sees what is before a place; a masked one all but the places themselves.
    """
    tokenizer, split = trained.tokens.tokenizer, trained.tokens.validation
    longest = int(np.argmax(split.bytes))
    length = min(context, trained.run.data.length - 1, int(np.diff(split.offsets)[longest]) - 2)
    start = int(split.offsets[longest]) + 1
    passage = split.read([start], length)[0]
    # Places are spread over the second half, where both kinds of model have seen something.
    spread = np.linspace(length // 2, length - 2, places)
    chosen = sorted({int(place) for place in spread})
    seen = passage.copy()
    if not is_causal(trained):
        seen[chosen] = tokenizer.vocabulary.mask
    ids, probabilities = say.likeliest(
        trained.program.body,
        trained.params,
        seen.tolist(),
        chosen,
        vocabulary=tokenizer.vocabulary,
        length=trained.run.data.length,
        visible=sees(trained),
    )
    pieces, last = [], 0
    for row, place in enumerate(chosen):
        pieces.append(
            {
                "before": tokenizer.decode(passage[last:place]),
                "truth": tokenizer.decode(passage[place : place + 1]),
                "hidden": not is_causal(trained),
                "likeliest": [
                    [tokenizer.decode([piece]), float(share)]
                    for piece, share in zip(ids[row], probabilities[row], strict=True)
                ],
            }
        )
        last = place + 1
    return {
        "document": split.ids[longest],
        "passage": tokenizer.decode(passage),
        "after": tokenizer.decode(passage[last:]),
        "pieces": pieces,
    }


def _document(split: Split, number: int) -> tuple[str, np.ndarray]:
    start, stop = split.offsets[number : number + 2]
    return split.text(number), split.read([int(start)], int(stop - start))[0]


def _plain(value: Score) -> dict[str, Any]:
    names = ("bits_per_byte", "mc_se", "text_se", "kind", "tokens", "bytes")
    return {name: getattr(value, name) for name in names}
