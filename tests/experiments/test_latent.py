"""latent: what is asked of a code, and what the report says of it."""

import math
from types import SimpleNamespace

import jax.numpy as jnp
import msgspec
import numpy as np
import pytest

from experiments import latent as study
from lm.artifact import as_tree
from lm.data import Digits, open_tokens, rows, vocabulary_size
from lm.evaluate.tasks import metrics
from lm.model import EncoderDecoder
from lm.run import validate
from lm.study.analyses import latent
from lm.study.analyses.latent import Latent
from lm.study.grid import StudyRun, placed, variant_of
from lm.study.report.figures import svg_of
from tests.experiments.results import result_of

pytest.importorskip("sklearn", reason="scikit-learn is not installed")
IMAGES = [document.text for document, _ in zip(Digits().read(), range(30), strict=False)]


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch):
    monkeypatch.setattr(metrics, "RESAMPLES", 40)


def cells_of(directory, *, finished=True):
    cells = []
    for name, run in study.runs("smoke").items():
        run = placed(run, directory)
        result = result_of(run, 2.0, evaluation=None) if finished else None
        cells.append(StudyRun(name, run, result, directory / name))
        cells[-1].directory.mkdir(parents=True)
    return cells


def found_of(cell):
    """What a run may have been found to know: images cost 1 bit a pixel given the code."""
    content, kind, width = variant_of(cell).split("_")
    texts = IMAGES if content == "digits" else [f"sentence {n:02}." for n in range(30)]
    sizes = np.array([len(text) for text in texts])
    bits, width = (2.0 if kind == "gpt" else 1.0), int(width)
    # Three of a digit are near each other, but for the first, which is near those of the next.
    across = np.arange(30) // 3 * 0.1 + np.arange(30) % 3 * 0.01
    across[0] = 0.115
    codes = np.tile(across[:, None], (1, width))
    spent = tuple((sizes * bits * math.log(2)).tolist())
    return Latent(
        nats=spent,
        bytes=tuple(sizes.tolist()),
        rounded=dict.fromkeys(latent.ROUNDINGS, spent) if width else {},
        codes=tuple(map(tuple, codes.tolist())) if width else (),
        labels=tuple(n // 3 for n in range(30)) if content == "digits" else (),
        texts=tuple(texts),
        said=tuple(text[:-1] + "?" for text in texts[:20]) if width else (),
        plane=tuple(IMAGES[:1]) * latent.GRID**2 if width == 2 else (),
        ends=((-0.5, 0.5),) * 2 if width == 2 else (),
    )


def test_the_report_says_what_codes_cost_with_and_without_their_price(tmp_path):
    """Fails if a code is not paid for, a unit is lost, a picture is, or letters that come back
    are counted where they do not stand.
    """
    cells = cells_of(tmp_path)
    for cell in cells:
        (cell.directory / latent.FILE).write_bytes(msgspec.json.encode(found_of(cell)))
    report = study.report(cells)
    rows = {(row["documents"], row["decoder"]): row for row in report.table.rows}
    image = rows["Images of digits", "has the code alone"]
    assert image["bits"].startswith("1.000 (") and image["width"] == 2
    # Two numbers of one bit each, of 64 pixels.
    assert image["paid"].startswith("1.031 (") and image["paid"].endswith(", 1")
    assert image["right"].startswith(f"{63 / 64:.0%} (")
    # It and the two that it is between.
    assert image["alike"].startswith("90% (")
    assert rows["Images of digits", "GPT"]["bits"].startswith("2.000")
    assert rows["Sentences", "sees what it said"].get("alike") is None
    assert "Images of digits, in bits per pixel: " in report.answer
    assert "a GPT without a code needs 2.000" in report.answer
    plots = {plot.name: plot for plot in report.plots}
    assert list(plots) == ["widths", "space", "plane", "reconstructions", "neighbours"]
    for plot in plots.values():
        assert "<svg" in svg_of(plot.figure)
    assert report.sections[-1].heading == "What this does and does not show"


def test_a_report_of_nothing_says_so(tmp_path):
    """Fails if a study that was not trained has an answer, or no page."""
    report = study.report(cells_of(tmp_path, finished=False))
    assert report.answer == study.NO_ANSWER and not report.sections


@pytest.mark.parametrize("scale", study.SCALES)
def test_runs_differ_in_code_decoder_and_text_alone(scale):
    """Fails if a width has other layers, rows or a budget, or a run is refused."""
    rest = set()
    for name, run in study.runs(scale).items():
        validate(run)
        content, kind, width = name.partition("-")[0].split("_")
        code = run.model.code if isinstance(run.model, EncoderDecoder) else None
        assert (0 if code is None else code.size) == int(width)
        assert isinstance(run.data.corpus, Digits) == (content == "digits")
        assert run.objective == study.KINDS[kind].objective
        same = (run.model.depth, run.model.width, run.tokens, run.optimizer, run.data.batch)
        rest.add(msgspec.json.encode(same))
    assert len(rest) == 1


def test_what_a_code_is_asked(tmp_path, monkeypatch):
    """Fails if a document has another's code, a code as it is costs other than the encoder's
    own, rounding to many bits costs as much as to one, or nothing comes back.
    """
    monkeypatch.setattr(latent, "MOST", 32)
    monkeypatch.setattr(latent, "SAID", 8)
    monkeypatch.setattr(latent, "GRID", 2)
    runs = study.runs("smoke")
    run = next(runs[name] for name in runs if name.startswith("digits_alone_2"))
    shapes = run.model.shapes(vocabulary_size(run.data.tokenizer))
    random = np.random.default_rng(0)
    params = as_tree({n: jnp.array(random.normal(size=s)) for n, s in shapes.items()})
    trained = SimpleNamespace(run=run, tokens=open_tokens(run.data), params=params)
    found = latent.latent_of(trained)
    assert np.array(found.codes).shape == (32, 2) and len(set(found.codes)) > 16
    split = trained.tokens.validation
    assert found.texts[3] == split.text(3) and set(found.bytes) == {64}
    labels = {document.text: document.parts[0].values["label"] for document in Digits().read()}
    assert list(found.labels) == [labels[text] for text in found.texts]
    whole = sum(found.nats)
    assert abs(sum(found.rounded[8]) - whole) < abs(sum(found.rounded[1]) - whole)
    assert len(found.said) == 8 and len(found.plane) == 4
    # Its own codes, put in their place, are worth what they are to the whole model.
    batch = rows(split, np.arange(32), run.data.length, split.tokenizer.vocabulary, "single")
    own = latent._nats(latent._How.of(trained), params, batch, None)
    np.testing.assert_allclose(found.nats, np.asarray(own), rtol=1e-2)


def test_sentences_are_short_and_once_each(tmp_path):
    """Fails if a long text is among them, one is there twice, or as many as asked are not."""
    latent.write_sentences(tmp_path, 50)
    lines = (tmp_path / "sentences.jsonl").read_text().splitlines()
    texts = [msgspec.json.decode(line)["text"] for line in lines]
    assert len(texts) == len(set(texts)) == 50
    assert all(latent.SHORTEST <= len(text) <= latent.LONGEST for text in texts)


def test_codes_of_many_numbers_are_shown_by_their_variance():
    """Fails if the directions shown are others than those of most variance."""
    random = np.random.default_rng(0)
    codes = random.normal(size=(50, 5)) * np.array([0.1, 5, 0.1, 2, 0.1])
    shown = latent.principal(codes)
    assert abs(np.corrcoef(shown[:, 0], codes[:, 1])[0, 1]) > 0.99
    assert abs(np.corrcoef(shown[:, 1], codes[:, 3])[0, 1]) > 0.95
