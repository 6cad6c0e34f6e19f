"""Everything a trained model is asked: the scorers valid for it, the probe, baselines."""

from dataclasses import replace

import numpy as np

from lm.data import Split
from lm.data.sources import LOSS
from lm.evaluate.baselines import MOST_TRAINING, baselines, has_ppm, window_contents
from lm.evaluate.components import by_component
from lm.evaluate.effort import USUAL, Effort
from lm.evaluate.passage import says
from lm.evaluate.probe.labels import probe_of
from lm.evaluate.scorers.base import mask_prediction_of
from lm.evaluate.scoring import error_curve, score_by, valid
from lm.evaluate.truth import truth_of
from lm.evaluate.windows import Windows
from lm.generate.question import possible
from lm.results import Evaluation
from lm.train.load import ModelWithText
from lm.train.train import rows_seen


def evaluate(trained: ModelWithText, effort: Effort = USUAL) -> Evaluation | None:
    """Scores, probe, baselines and a sample of what the model says.

    None, for a model that no scorer is valid for: it was not trained to predict tokens.
    """
    asked = {
        name: scorer
        for name, scorer in valid(trained.run, effort).items()
        if not scorer.only_by_name or (effort.orders is not None and scorer.kind == "exact")
    }
    if not asked:
        return None  # its validation tells all that is asked of it
    scores = {name: score_by(trained, scorer, effort) for name, scorer in asked.items()}
    windows = Windows.of(trained, trained.tokens.validation, effort.rows)
    name, headline = next(iter(scores.items()))
    probed = probe_of(trained, effort.probe_tokens)
    blank = mask_prediction_of(trained.run.objective.predictions)
    return Evaluation(
        bits_per_byte=headline.bits_per_byte,
        layout_bits=headline.layout_bits,
        mc_se=headline.mc_se,
        text_se=headline.text_se,
        scorer=name,
        kind=headline.kind,
        scores={name: value.brief() for name, value in scores.items()},
        error_by_fraction=error_curve(trained, effort, blank) if blank else {},
        probe_accuracy=None if probed is None else probed.accuracy,
        probe_se=None if probed is None else probed.accuracy_se,
        probe=probed,
        baselines=baselines_of(trained, windows),
        truth=truth_of(trained, effort),
        document_bytes=headline.document_bytes,
        document_nats=headline.document_nats,
        says=says(trained),
        by_component=by_component(trained, asked[name], headline, effort) or None,
    )


def baselines_of(trained: ModelWithText, windows: Windows) -> dict[str, float]:
    """What predictors without a network need for the same validation text."""
    tokenizer, split = trained.tokens.tokenizer, trained.tokens.validation
    vocabulary = tokenizer.vocabulary
    content_RL = windows.text.documents_RL >= 0
    counts_V = np.bincount(windows.tokens_RL[content_RL], minlength=vocabulary.size)
    possible_V = possible(vocabulary)
    if LOSS in split.channels:  # a chat template writes special tokens
        possible_V |= counts_V > 0
    return baselines(
        [split.text(d).encode() for d in range(len(split.ids))],
        window_contents(windows.tokens_RL, content_RL, tokenizer.tokens),
        training_counts_V=_counts(trained.tokens.train, vocabulary.size),
        counts_V=counts_V,
        possible_V=possible_V,
        training=training_text(trained) if has_ppm() else b"",
    )


def training_text(trained: ModelWithText) -> bytes:
    """The rows that a run was trained on, each once, as many as PPM reads."""
    run, tokenizer = trained.run, trained.tokens.tokenizer
    copies, left = run.objective.copies, rows_seen(run, trained.tokens)
    # Which row is the next does not depend on how many are read at a time.
    batches = replace(trained.tokens.batches(run.data, run.seed, copies), batch=1024 * copies)
    found, size, step = list[bytes](), 0, 0
    while left > 0 and size < MOST_TRAINING:
        batch = batches(step)
        tokens_BL, segments_BL = (
            np.asarray(of_BL)[::copies][:left] for of_BL in (batch.tokens_BL, batch.segments_BL)
        )
        content_BL = (segments_BL > 0) & (tokens_BL != tokenizer.vocabulary.bos)
        rows = window_contents(tokens_BL, content_BL, tokenizer.tokens)
        found += rows
        size += sum(map(len, rows))
        left, step = left - len(rows), step + 1
    return b"".join(found)[:MOST_TRAINING]


def _counts(split: Split, size: int) -> np.ndarray:
    """How often each token stands in a split, or in a billion of it, by runs evenly spaced."""
    counts_V, step = np.zeros(size, np.int64), 1 << 20
    starts = range(0, split.size, step)
    if len(starts) > 1024:
        starts = range(0, split.size, -(-split.size // 1024))
    for start in starts:
        chunk = split.read([start], min(step, split.size - start))
        counts_V += np.bincount(chunk.ravel(), minlength=size)
    return counts_V
