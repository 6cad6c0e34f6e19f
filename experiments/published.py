"""How far do small models of one's own lie from published ones, in bits per byte of one text?

Every model that is at hand reads the same paragraphs of WikiText-2's test part: the runs of
this study, trained on its valid part, and the folders in `YARDSTICK_ASSETS`, whatever their
architecture and tokenizer. `YARDSTICK_CORPORA` holds `wikitext-2`.

Answers to: the perplexities of WikiText-2 that papers and model cards report (Radford et al.
2019, table 3), which compare neither between tokenizers nor between encoders and decoders.

    YARDSTICK_CORPORA=... YARDSTICK_ASSETS=... python -m experiments.published --scale laptop

    smoke   not timed           toys on the held-out text of Python's library; no assets needed
    laptop  not timed           0.8M parameters, 0.4M tokens, beside all folders there are

Held equal: the bytes, the documents (paragraphs, of which each model is told where they begin
and end), and the windows, of at most 256 of a model's own tokens after the one that begins its
texts. Expect any published decoder far ahead: it has read some million times more.
"""

import os
import sys
from pathlib import Path

from lm.data import Data, SentencePiece, Text
from lm.data.sources.text import paragraphs
from lm.output.files import write_whole
from lm.output.numbers import with_error
from lm.run import Run
from lm.study import runner, scales, sections
from lm.study.analyses.given import models_table, read_scores, score_models
from lm.study.grid import ANY_ORDER, GPT, Size, StudyRun, variant_of
from lm.study.report.values import Report
from lm.study.sentences import NO_ANSWER
from lm.train.load import load_run

VARIANTS = {"causal": GPT, "any_order": ANY_ORDER}
VALID = Text(paths=("$YARDSTICK_CORPORA/wikitext-2/valid.txt",), documents="paragraph")
WIKITEXT = Data(
    corpus=VALID, tokenizer=SentencePiece(size=2048), length=257, batch=16, validation=0.05
)
PLANS = {
    "smoke": scales.SMOKE._replace(seeds=1),
    "laptop": scales.LAPTOP._replace(
        data=WIKITEXT, sizes=(Size(4, 128, 2),), tokens=(400_000,), seeds=1
    ),
}
SCALES = tuple(PLANS)
EFFORT = {name: effort for name, effort in scales.EFFORT.items() if name in PLANS}
LABELS = {
    "minilm": "MiniLM-L6",
    "smollm2-135m-instruct": "SmolLM2-135M-Instruct Q4_1",
}
"""Of folders whose name does not say what they hold."""
SCORES, PARAGRAPHS, LEAST = "scores.json", 40, 500
"""Where scores are kept; how many documents are read, and their least bytes: no headings."""


def runs(scale: str) -> dict[str, Run]:
    """A GPT and a BERT at all rates."""
    return PLANS[scale].runs(VARIANTS)


def after(cells: list[StudyRun], directory: Path) -> None:
    """Scores what was trained and what is at hand on one text."""
    done = [cell for cell in cells if cell.result is not None]
    if not done:
        return
    models = {VARIANTS[variant_of(cell)].label: cell.directory for cell in done}
    assets, run = os.environ.get("YARDSTICK_ASSETS"), done[0].run
    if assets and isinstance(run.data.corpus, Text):
        for config in sorted(Path(assets).glob("*/config.json")):
            models[LABELS.get(config.parent.name, config.parent.name)] = config.parent
    texts = _texts(done[0], directory / "text")
    score_models(models, texts, length=run.data.length - 1, file=directory / SCORES)


def _texts(cell: StudyRun, folder: Path) -> list[Path]:
    """A file for each document that is read."""
    corpus = cell.run.data.corpus
    if isinstance(corpus, Text):
        test = Path(os.path.expandvars(corpus.paths[0])).with_name("test.txt")
        there = [text.decode() for _, _, text in paragraphs(test) if len(text) >= LEAST]
    else:
        split = load_run(cell.directory).tokens.validation
        there = [split.text(number)[:LEAST] for number in range(len(split.ids))]
    chosen = there[:: max(1, len(there) // PARAGRAPHS)][:PARAGRAPHS]
    folder.mkdir(exist_ok=True)
    files = [folder / f"{number:02}.txt" for number in range(len(chosen))]
    for file, text in zip(files, chosen, strict=True):
        write_whole(file, text)
    return files


def report(cells: list[StudyRun]) -> Report:
    """What the models at hand need for the text; which have no number, and why."""
    scores, refused = read_scores(cells[0].directory.parent / SCORES)
    first = {label: next(iter(of.values())) for label, of in scores.items()}
    bytes_of = {score.document_bytes for score in first.values()}
    answer = NO_ANSWER
    if first:
        told = [
            f"{label} needs {with_error(score.bits_per_byte, score.text_se)} ({score.kind})"
            for label, score in sorted(first.items(), key=lambda item: item[1].bits_per_byte)
        ]
        score = next(iter(first.values()))
        answer = (
            f"Of {score.bytes:,} bytes in {len(score.document_bytes)} documents, in bits per"
            f" byte: {'; '.join(told)}."
        )
    return sections.report_of(
        sys.modules[__name__],
        cells,
        title="Published models and one's own",
        answer=answer,
        table=models_table(scores),
        sections=[
            sections.section(
                "Which models have no number",
                *(f"{label}: {why}." for label, why in refused.items()),
            ),
            sections.section(
                "What this does and does not show",
                "It shows how far models lie apart on one text, in one unit. It does not show"
                " why: size, training text, tokens read and tokenizer differ at once, and a"
                " published model may have read this text in training. WikiText-2 is in a form"
                " of its own (<unk> for rare words, spaces around punctuation), which our runs"
                " learnt from its valid part. Q4_1 stands for the weights of a 4-bit model. A"
                " bound may lie above what its model knows."
                " Windows are alike in tokens: a larger vocabulary sees more bytes at once, and"
                " none sees beyond its paragraph. Our runs have one seed and an untuned rate.",
            ),
        ],
        warnings=["The models did not read the same bytes."] if len(bytes_of) > 1 else [],
    )


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
