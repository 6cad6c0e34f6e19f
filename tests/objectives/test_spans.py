"""Span corruption: T5's arithmetic, and nothing lost between the text and its spans."""

import numpy as np
import pytest

from lm.objectives import Spans


def rebuild(example, row, vocabulary, *, text):
    """The row's documents, put together again from the text and the spans behind sentinels."""
    inputs, segments = np.asarray(example.inputs)[row], np.asarray(example.segments)[row]
    targets = np.asarray(example.targets)[row]
    used = np.asarray(example.weights)[row] > 0
    asked = segments[text:]
    documents = []
    for document in range(1, segments.max() + 1):
        said = targets[used & (asked == document)].tolist()
        spans: dict[int, list[int]] = {}
        for token in said:
            if token in vocabulary.sentinels:
                spans[token] = current = []
            else:
                current.append(token)
        whole = []
        for token in inputs[:text][segments[:text] == document].tolist():
            whole += spans.pop(token) if token in vocabulary.sentinels else [token]
        # What is left is the last sentinel, behind which nothing stands.
        assert list(spans.values()) in ([], [[]])
        documents.append(whole)
    return documents


def test_t5_turns_568_tokens_into_512_and_114_targets(whole_rows, vocabulary, ask):
    """Fails if rounding is not that of the reference code, or the ends are not counted."""
    objective = Spans(rate=0.15, span=3.0)
    assert objective.removed(568) == (85, 28)
    assert objective.sizes(1 + 568) == (512, 114)
    tokens, segments = whole_rows(4, 569)
    many = range(4, 4 + 29)
    wide = type(vocabulary)(
        **{**vars(vocabulary), "sentinels": tuple(many), "first_ordinary": 33}
    )
    example = ask(objective, (tokens.clip(33), segments), vocabulary=wide)
    assert ((np.asarray(example.segments) > 0).sum(1) == 512 + 114).all()
    assert (np.asarray(example.weights).sum(1) == 114).all()
    shown = np.asarray(example.inputs)[:, :515]
    assert (np.isin(shown, many).sum(1) == 28).all()


@pytest.mark.parametrize("rate", [0.15, 0.5])
def test_nothing_is_lost_between_text_and_spans(rate, rows, vocabulary, ask):
    """Fails if a run is cut at the wrong place, a sentinel comes twice, a token is lost."""
    tokens, segments = rows(16)
    objective = Spans(rate=rate, span=4)
    example = ask(objective, (tokens, segments))
    text = example.inputs.shape[1] - example.targets.shape[1]
    whole = 0
    for row in range(16):
        documents = [
            np.asarray(tokens)[row][np.asarray(segments)[row] == d].tolist() for d in (1, 2)
        ]
        found = rebuild(example, row, vocabulary, text=text)
        whole += found == [document for document in documents if document]
    assert whole == 16


def test_the_share_and_the_spans_are_those_of_the_settings(whole_rows, vocabulary, ask):
    """Fails if tokens are removed by chance for each position, or spans may touch."""
    tokens, segments = whole_rows(256, 129)
    objective = Spans(rate=0.3, span=4)
    example = ask(objective, (tokens, segments), seed=1)
    noise, spans = objective.removed(128)
    text = example.inputs.shape[1] - example.targets.shape[1]
    shown = np.isin(np.asarray(example.inputs)[:, :text], vocabulary.sentinels)
    assert (shown.sum(1) == spans).all()
    assert not (shown[:, 1:] & shown[:, :-1]).any()
    assert not shown[:, 1].any(), "a row begins with text"
    targets = np.asarray(example.targets)[:, : noise + spans + 1]
    assert (np.asarray(example.weights).sum(1) == noise + spans + 1).all()
    assert ((~np.isin(targets, vocabulary.sentinels)).sum(1) == noise).all()
    # Lengths of spans, from 1 to what is left: all are met, and the mean is noise / spans.
    first = np.argwhere(np.isin(targets, vocabulary.sentinels))
    lengths = np.diff(first[:, 1])[np.diff(first[:, 0]) == 0] - 1
    assert lengths.min() == 1 and lengths.max() > 2 * noise / spans
    assert lengths.mean() == pytest.approx(noise / spans)


def test_positions_go_on_from_the_text_to_its_spans(rows, vocabulary, ask):
    """Fails if positions count the row in place of the document, or start anew in the spans."""
    tokens, segments = rows(4)
    example = ask(Spans(rate=0.3), (tokens, segments))
    for row in range(4):
        seen = np.asarray(example.segments)[row]
        for document in range(1, seen.max() + 1):
            places = np.asarray(example.positions)[row][seen == document]
            assert places.tolist() == list(range(len(places)))


def test_a_documents_spans_do_not_depend_on_its_neighbours_sentinels(rows, vocabulary, ask):
    """Fails if sentinels are counted over the row: then packing would change a document."""
    tokens, segments = rows(16)
    example = ask(Spans(rate=0.4, span=2), (tokens, segments))
    text = example.inputs.shape[1] - example.targets.shape[1]
    inputs, seen = np.asarray(example.inputs)[:, :text], np.asarray(example.segments)[:, :text]
    for row in range(16):
        for document in range(1, seen[row].max() + 1):
            shown = inputs[row][seen[row] == document]
            shown = shown[np.isin(shown, vocabulary.sentinels)].tolist()
            assert shown == list(vocabulary.sentinels[: len(shown)])


def test_the_source_form_says_the_same_in_two_rows(rows, vocabulary, ask):
    """Fails if the encoder sees the spans, or the decoder reads other than its targets."""
    tokens, segments = rows(4)
    one = ask(Spans(rate=0.3), (tokens, segments))
    two = ask(Spans(rate=0.3, stack="encoder_decoder"), (tokens, segments))
    text = two.source.inputs_BM.shape[1]
    assert (np.asarray(one.inputs)[:, :text] == np.asarray(two.source.inputs_BM)).all()
    assert (np.asarray(one.inputs)[:, text:] == np.asarray(two.inputs)).all()
    assert (np.asarray(one.targets) == np.asarray(two.targets)).all()
    inputs, targets = np.asarray(two.inputs), np.asarray(two.targets)
    starts = inputs == vocabulary.bos
    used = np.asarray(two.weights) > 0
    assert starts[:, 0].all()
    goes_on = used[:, 1:] & ~starts[:, 1:]
    assert (inputs[:, 1:][goes_on] == targets[:, :-1][goes_on]).all()


def test_too_few_sentinels_are_named_with_the_number_that_is_needed():
    """Fails if the last sentinel, which ends the spans, is not counted."""
    objective = Spans(rate=0.15, span=3.0)
    assert objective.check(length=569, sentinels=29) is None
    why = objective.check(length=569, sentinels=28)
    assert why is not None and "at least 29" in why
