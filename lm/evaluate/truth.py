"""What a source whose truth is known answers to the questions that models are asked."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from lm.data import Hmm, Split
from lm.data.lengths import Geometric
from lm.data.sources.hmm import bayes_accuracy, index_of, symbols_of
from lm.evaluate.bits import measure
from lm.evaluate.effort import Effort
from lm.evaluate.layout import ends_nats
from lm.evaluate.oracle import Oracle
from lm.evaluate.scorers.base import mask_prediction_of
from lm.evaluate.scorers.chain_rule import ChainRule
from lm.evaluate.scoring import error_curve, score_by, sees
from lm.evaluate.windows import Windows
from lm.example import CausalMask
from lm.results import Score, Truth
from lm.run import Run
from lm.train.load import ModelWithText


def known_source(run: Run) -> Hmm | None:
    """The source of the run's text, where a row is one document of it and a symbol a token."""
    corpus = source_of(run)
    rows = corpus and corpus.lengths == "equal" and run.data.length == corpus.row_length
    return corpus if rows else None


def source_of(run: Run) -> Hmm | None:
    """The source of the run's text, where a symbol is a token."""
    return run.data.corpus.truth() if run.data.tokenizer.byte_a_token else None


def truth_of(trained: ModelWithText, effort: Effort) -> Truth | None:
    """What the source itself answers to the same questions; None where it is not known.

    The least bits per byte of any model, whatever the order in which it predicts; and, where a
    row is one document, the least error by fraction hidden, under the same masks, and how often
    the likeliest hidden state, given what a position sees, is the true one, which bounds the
    probe.
    """
    corpus = source_of(trained.run)
    if corpus is None:
        return None
    further = _OfRows({}, None, None)
    if known_source(trained.run):
        exact, further = _truth_of_rows(trained, effort, corpus)
    elif corpus.lengths == "geometric":
        exact = true_score(trained, corpus, effort)
    else:
        return None  # windows cut documents, and where they do tells what is left of them
    rate = corpus.source().entropy_rate()
    return Truth(
        bits_per_byte=exact.bits_per_byte,
        layout_bits=exact.layout_bits,
        text_se=exact.text_se,
        document_bytes=exact.document_bytes,
        document_nats=exact.document_nats,
        entropy_rate=rate.bits,
        entropy_rate_se=rate.se,
        **further._asdict(),
    )


class _OfRows(NamedTuple):
    """What is known beside the score where rows are one document each."""

    error_by_fraction: dict[str, Score]
    probe_accuracy: float | None
    probe_se: float | None


def true_score(trained: ModelWithText, corpus: Hmm, effort: Effort) -> Score:
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
    tokens, tokens_n = trained.tokens.tokenizer.tokens, windows.tokens_RL[symbols_RL]
    symbols_NT = np.zeros((run_n[-1] + 1, place_n.max() + 1), np.int64)
    symbols_NT[run_n, place_n] = symbols_of(b"".join(tokens[t] for t in tokens_n).decode())
    nats_RL = np.zeros(symbols_RL.shape)
    nats_RL[symbols_RL] = corpus.source().prediction_nats(symbols_NT)[run_n, place_n]
    ends_RL = ends_nats(
        Geometric(corpus.length),
        windows=windows.index_R,
        offsets=windows.split.offsets,
        length=symbols_RL.shape[1],
    )
    return measure(nats_RL[None], windows.text, kind="exact", layout_RL=ends_RL)


def _truth_of_rows(
    trained: ModelWithText, effort: Effort, corpus: Hmm
) -> tuple[Score, _OfRows]:
    """The source's own score, and further truths, where rows are one document each."""
    blank = mask_prediction_of(trained.run.objective.predictions)
    oracle: Any = Oracle(corpus, trained.tokens.tokenizer.vocabulary)
    source = replace(trained, program=replace(trained.program, module=oracle), params={})
    test = Windows.of(
        trained, trained.tokens.validation, -(-effort.probe_tokens // (corpus.row_length - 1))
    )
    states_NT, symbols_NT = drawn_rows(corpus, trained.tokens.validation, test)
    given: Any = "so far" if isinstance(sees(trained), CausalMask) else "all"
    posterior_NTS = corpus.source().state_posterior(symbols_NT, given=given)
    named = bayes_accuracy(posterior_NTS, states_NT)
    return score_by(source, ChainRule(), effort), _OfRows(
        # It answers at the place of what is hidden, wherever the model does.
        error_by_fraction=error_curve(source, effort, "masked") if blank else {},
        probe_accuracy=named.value,
        probe_se=named.se,
    )


def drawn_rows(corpus: Hmm, split: Split, windows: Windows) -> tuple[np.ndarray, np.ndarray]:
    """Hidden states and symbols of the windows' documents, int64[R, T] each."""
    numbers = [index_of(split.ids[document]) for document in windows.text.documents_RL[:, 1]]
    drawn = [corpus.draw(number, number + 1) for number in numbers]
    return tuple(np.concatenate(arrays) for arrays in zip(*drawn, strict=True))  # type: ignore[return-value]
