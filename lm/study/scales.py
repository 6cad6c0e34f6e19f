"""The scales that studies have in common, how much each spends on scoring, and their text."""

from dataclasses import replace

import msgspec

from lm.data import Bytes, Data, Hmm, SentencePiece, Stdlib, Text, Tfds
from lm.evaluate.scoring import Effort
from lm.study.grid import Scale, Size

SMOKE = Scale(
    Data(tokenizer=Bytes(), length=64, batch=16),
    sizes=(Size(1, 32),),
    tokens=(8192,),
    seeds=2,
    settings={"evaluations": 1, "evaluation_rows": 16},
)
LAPTOP = Scale(
    Data(
        corpus=Stdlib(),
        tokenizer=SentencePiece(size=2048),
        length=128,
        batch=16,
        validation=0.05,
    ),
    sizes=(Size(4, 64),),
    tokens=(200_000,),
    seeds=3,
    settings={"evaluations": 3, "evaluation_rows": 32},
)
V5E_8 = Scale(
    Data(
        corpus=Tfds(name="wiki40b/en"),
        tokenizer=SentencePiece(kind="unigram", size=32_768),
        length=512,
        batch=1024,
        validation=0.001,
    ),
    sizes=(Size(12, 768, 12, 3e-3),),
    tokens=(6_500_000_000,),
    seeds=2,
    settings={
        "evaluations": 32,
        "evaluation_rows": 1024,
        "remat": "block",
        "microbatches": 4,
    },
)
EFFORT = {
    "smoke": Effort(rows=16, samples=2, replicates=2, curve_rows=8, probe_tokens=3_000),
    "laptop": Effort(rows=128, samples=2, replicates=2, curve_rows=32, probe_tokens=6_000),
    "v5e-8": Effort(rows=4096, curve_rows=1024, probe_tokens=100_000),
}
"""What studies of objectives train and spend on scoring."""


def wide(*widths: int) -> tuple[Size, ...]:
    """Two layers of these widths, with heads of 64 where that is possible: few shapes."""
    return tuple(Size(2, width, max(1, width // 64)) for width in widths)


def deep(*depths: int) -> tuple[Size, ...]:
    """The shapes of `lm budget`: 64 times as wide as deep."""
    return tuple(Size(depth, 64 * depth, depth) for depth in depths)


def source_data(source: Hmm, batch: int) -> Data:
    """Rows of a document each, of a source whose truth is known."""
    return Data(corpus=source, tokenizer=Bytes(), length=source.row_length, batch=batch)


SMOKE_SOURCE = source_data(
    Hmm(states=3, symbols=5, length=29, documents=900, concentration=0.4), batch=16
)
LAPTOP_SOURCE = source_data(Hmm(documents=40_000), batch=16)
"""What models learn that a laptop trains in seconds, from masked tokens too: of text, after the
0.2M tokens of `objectives`, those know little more than how frequent tokens are."""
FEW_ROWS = msgspec.structs.replace(LAPTOP_SOURCE, batch=4)
"""A hundred steps in 26k tokens: with fewer, the loss is a matter of steps and not of data."""
WIKIPEDIA = V5E_8.data
ENGLISH = Data(
    corpus=Text(paths=("$YARDSTICK_CORPORA/english/*/*.txt",), documents="file"),
    tokenizer=SentencePiece(size=4096),
    length=128,
    batch=32,
    validation=0.01,
)
"""Manuals, books and a dictionary: what a machine without network has of English."""
TUNED_EFFORT = {name: replace(effort, probe_tokens=1) for name, effort in EFFORT.items()}
"""What studies of tuning spend on scoring what was pre-trained, which other probes are for."""
ENGLISH_LAPTOP = Scale(
    ENGLISH,
    sizes=(Size(4, 128, 2),),
    tokens=(1_000_000,),
    settings={"evaluations": 2, "evaluation_rows": 64},
)
"""Small models of it, to be tuned."""
C4 = Data(
    # A seventh of C4, so that nothing is read twice.
    corpus=Tfds(name="c4/en", split="train[:15%]"),
    tokenizer=SentencePiece(kind="unigram", size=32_768),
    length=1024,
    batch=256,
    validation=0.0002,
)
LAW_EFFORT = {
    "smoke": Effort(rows=32, samples=2, replicates=2, curve_rows=8, probe_tokens=1),
    "laptop": Effort(rows=1024, samples=2, replicates=2, curve_rows=16, probe_tokens=1),
    "v5e-16": Effort(rows=4096, curve_rows=256, probe_tokens=1),
}
"""What studies of size and data spend on scoring: much text, and no probe."""
PYTHON_BYTES = Data(corpus=Stdlib(), tokenizer=Bytes(), length=128, batch=8, validation=0.05)
"""Many steps of few tokens, and no vocabulary that would cost more than the model."""
PART_LAPTOP = Scale(PYTHON_BYTES, seeds=2, settings={"evaluations": 2, "evaluation_rows": 64})
PART_WORKSTATION = Scale(
    msgspec.structs.replace(PYTHON_BYTES, length=256, batch=32),
    sizes=(Size(4, 192, 6, 8e-3),),
    tokens=(8_000_000,),
    seeds=3,
    settings={"evaluations": 8},
)
"""What studies of a model's parts train, with sizes and tokens of their own."""
PART_EFFORT = {
    "smoke": Effort(rows=16, samples=2, replicates=2, curve_rows=8, probe_tokens=1),
    "laptop": Effort(rows=512, samples=2, replicates=2, curve_rows=32, probe_tokens=1),
    "workstation": Effort(samples=2, probe_tokens=1),
    "v5e-8": Effort(rows=4096, curve_rows=256, probe_tokens=1),
}
"""What they spend on scoring: no probe, as that is of what models represent."""
WHOLE_EFFORT = {name: replace(PART_EFFORT[name], rows=None) for name in ("smoke", "laptop")}
"""The same on all that is held out, whose parts are then told apart."""
