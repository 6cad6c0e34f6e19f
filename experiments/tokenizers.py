"""Which tokens should a model read: bytes, BPE or unigram ones, and how many kinds of them?

One transformer reads the same text as bytes and as tokens of two kinds and several vocabulary
sizes, learnt from its training part. A row holds as many bytes for all, as near as whole tokens
allow, so that each has as much context; rows, steps and so the bytes read are equal. GPTs are
trained once more at the FLOPs of the model of bytes, for which they take more or fewer steps.
BERTs at all rates are trained on equal bytes alone.

Answers to: Xue et al. 2022 (ByT5, arXiv:2105.13626), where bytes hold their own at equal
parameters and cost more; Bostrom & Durrett 2020 (arXiv:2004.03720), where unigram tokens are
better than BPE's in fine-tuned BERTs; Gowda & May 2020 (arXiv:2004.02334), by whom the best
vocabulary grows with the data; and Tao et al. 2024 (arXiv:2407.13623), by whom it grows with
the model.

    python -m experiments.tokenizers --scale laptop

    smoke        3 minutes        toys, to see that everything works
    laptop       half an hour     0.4M parameters, 0.6M bytes of Python's library
    workstation  not run          1.8M parameters, 8M bytes of Python's library
    v5e-8        2 days, 8 chips  85M parameters (BERT-base), 10 GB of Wikipedia

The accelerator's line is a plan by FLOPs, not run (`--cost v5e-8`).

Expect tokens ahead of bytes at equal FLOPs, where they read more text, and some middle size to
be best: in so small a model the head of a large vocabulary is most of the FLOPs. Of the bounds
of BERTs expect those of longer tokens lower, as what is masked then leaves more of the rest to
be seen: a token stands for three bytes, which bytes have to say one by one, in any order.

WordPiece is not among them: the library's trainer gives other tokens in every run, and what it
gives cannot be undone to the text, so that its bits are no code length of it.
"""

import sys
from dataclasses import replace as with_fields
from typing import Any, NamedTuple

from msgspec.structs import replace

from lm.cost import ledger
from lm.data import Bytes, SentencePiece, vocabulary_size
from lm.output.numbers import count, percent
from lm.run import Run
from lm.study import runner, scales, sections
from lm.study.analyses import parts
from lm.study.analyses.parts import Contrast
from lm.study.grid import (
    ANY_ORDER,
    GPT,
    Scale,
    Size,
    StudyRun,
    Variant,
    flops_text,
    parameters,
    size_text,
)
from lm.study.groups import Group, groups_of
from lm.study.report.figures import BLUE, INK, VERMILLION
from lm.study.report.values import Column, Report, Table

OBJECTIVES = {"causal": ("GPTs", GPT.objective), "masked": ("BERTs", ANY_ORDER.objective)}
BYTES_A_TOKEN = {
    # Of the training part of Python's library.
    "bytes": (Bytes(), 1.0),
    "bpe512": (SentencePiece(size=512), 1.98),
    "bpe2048": (SentencePiece(size=2048), 3.14),
    "unigram2048": (SentencePiece(kind="unigram", size=2048), 3.09),
    "bpe8192": (SentencePiece(size=8192), 3.87),
    "unigram8192": (SentencePiece(kind="unigram", size=8192), 3.83),
    # Of Wikipedia, as it is expected: the report says what it was.
    "bpe32768": (SentencePiece(size=32_768), 4.4),
    "unigram32768": (SentencePiece(kind="unigram", size=32_768), 4.4),
    "unigram131072": (SentencePiece(kind="unigram", size=131_072), 4.8),
}
"""Tokenizers, and how many bytes of text one of their tokens stands for: a plan's number."""


def _label(name: str) -> str:
    """What figures call a tokenizer.

    >>> _label("bpe512"), _label("bytes")
    ('BPE 512', 'bytes')
    """
    kind = name.rstrip("0123456789")
    title = {"bpe": "BPE", "unigram": "unigram"}.get(kind)
    return f"{title} {int(name.removeprefix(kind)):,}" if title else name


COLOURS = {"bytes": INK, "bpe": BLUE, "unigram": VERMILLION}
VARIANTS = {
    f"{name}_{how}": Variant(
        _label(name), _label(name), objective, COLOURS[name.rstrip("0123456789")]
    )
    for how, (_, objective) in OBJECTIVES.items()
    for name in BYTES_A_TOKEN
}
VARIED = ("data", "tokens")


class Plan(NamedTuple):
    """What a scale reads, and with which tokenizers."""

    scale: Scale
    """Its tokens are bytes."""
    row_bytes: int
    """Of a row, as near as whole tokens allow."""
    causal: tuple[str, ...]
    masked: tuple[str, ...]


PYTHON = "bytes", "bpe512", "bpe2048", "unigram2048", "bpe8192", "unigram8192"
OF_BERTS = "bytes", "bpe2048", "unigram2048"
WIKIPEDIA = "bytes", "unigram8192", "bpe32768", "unigram32768", "unigram131072"
READ = replace(scales.PYTHON_BYTES, validation=0.03)
PLANS = {
    "smoke": Plan(
        scales.SMOKE._replace(data=replace(READ, batch=16)),
        row_bytes=64,
        causal=("bytes", "bpe512"),
        masked=("bytes",),
    ),
    "laptop": Plan(
        scales.PART_LAPTOP._replace(data=READ, sizes=(Size(2, 128, 4),), tokens=(600_000,)),
        row_bytes=256,
        causal=PYTHON,
        masked=OF_BERTS,
    ),
    "workstation": Plan(
        scales.PART_WORKSTATION._replace(data=replace(READ, batch=32)),
        row_bytes=512,
        causal=PYTHON,
        masked=OF_BERTS,
    ),
    "v5e-8": Plan(
        scales.V5E_8._replace(tokens=(10_000_000_000,)),
        row_bytes=2048,
        causal=WIKIPEDIA,
        masked=("bytes", "unigram32768"),
    ),
}
SCALES = tuple(PLANS)
EFFORT = {
    # All held-out text, as windows of one number would be of as many texts as tokenizers.
    name: with_fields(effort, rows=None)
    for name, effort in scales.PART_EFFORT.items()
}


def runs(scale: str) -> dict[str, Run]:
    """The runs by name: every tokenizer at equal bytes, GPTs at equal FLOPs too, by seed."""
    plan, found = PLANS[scale], dict[str, Run]()
    (size,), (budget,) = plan.scale.sizes, plan.scale.tokens
    steps = round(budget / plan.scale.data.batch / plan.row_bytes)
    for seed in range(plan.scale.seeds):
        flops = 0.0
        for how, names in (("causal", plan.causal), ("masked", plan.masked)):
            for name in names:
                run = _run(plan, size, name, VARIANTS[f"{name}_{how}"], steps, seed)
                stem = f"{name}_{how}-{size_text(parameters(run.model))}"
                found[f"{stem}-b{count(budget)}-seed{seed}"] = run
                vocabulary = vocabulary_size(run.data.tokenizer)
                flops = flops or ledger.cost(run, vocabulary).flops
                tokens = ledger.tokens_for(run, vocabulary, flops)
                if how == "causal" and tokens != run.tokens:
                    at_flops = replace(run, tokens=tokens)
                    found[f"{stem}-{flops_text(flops)}-seed{seed}"] = at_flops
    return found


def _run(plan: Plan, size: Size, name: str, variant: Variant, steps: int, seed: int) -> Run:
    """The run that reads so many rows of as many bytes."""
    tokenizer, bytes_a_token = BYTES_A_TOKEN[name]
    # The first position of a row is the last of the row before.
    length = 1 + round(plan.row_bytes / bytes_a_token)
    data = replace(plan.scale.data, tokenizer=tokenizer, length=length)
    return plan.scale.run(variant, size, steps * data.batch * length, seed=seed, data=data)


def report(cells: list[StudyRun]) -> Report:
    """What the finished runs say; what is missing is named."""
    groups = list(groups_of(cells, VARIANTS).values())
    contrasts = _contrasts(groups)
    return sections.report_of(
        sys.modules[__name__],
        cells,
        groups,
        title="Bytes, BPE and unigram tokens",
        answer=parts.contrasts_answer(contrasts),
        table=parts.contrasts_table(contrasts, "tokens"),
        sections=[
            sections.figure_section(
                "Against bytes",
                "tokenizers",
                parts.contrasts_figure(contrasts),
                parts.BARS,
                _read_table(groups),
            ),
            parts.equal_section(
                contrasts,
                VARIED,
                "Steps and rows are equal at equal bytes, and the bytes of a row as near as"
                " whole tokens allow; the table above says what they were. A vocabulary has"
                " a table of its own size, so that parameters with it are not equal.",
            ),
            parts.limits(
                contrasts,
                "Python's source",
                "FLOPs are those of matrix products: of a large vocabulary most are the head's,"
                " the more so the smaller the model, so that the best size found here is small,"
                " and no advice for larger models. Context is equal in bytes, which is in"
                " favour of bytes: at equal positions longer tokens would see more text. A"
                " bound of a BERT depends on what is masked together: its tokens.",
            ),
        ]
        if groups
        else [],
        compared=parts.contrast_rows(contrasts),
        varied=VARIED,
    )


def _contrasts(groups: list[Group]) -> list[Contrast]:
    """At equal bytes and at equal FLOPs, for which the model of bytes is the same."""
    found = []
    for how, (title, objective) in OBJECTIVES.items():
        ours = [group for group in groups if group.objective == objective]
        first = VARIANTS[f"bytes_{how}"]
        same = [group for group in ours if group.budget[0] == "b"]
        found.append(Contrast(f"{title}, equal bytes", same, first))
        if how == "causal":
            at_flops = [g for g in ours if g.budget[0] == "f" or g.variant == first]
            found.append(Contrast(f"{title}, equal FLOPs", at_flops, first))
    return found


def _read_table(groups: list[Group]) -> Table:
    """What each group read: its tokens in bytes, and the head's part of its FLOPs."""
    rows: list[dict[str, Any]] = []
    for group in groups:
        result = next(iter(group.results.values()))
        length, forward = group.run.data.length, result["flops_forward"]
        read = result["unique_tokens"] // length
        rows.append(
            {
                "what": group.variant.label,
                "for": "a GPT" if group.objective == GPT.objective else "a BERT",
                "equal": "bytes" if group.budget[0] == "b" else "FLOPs",
                "vocabulary": vocabulary_size(group.run.data.tokenizer),
                "token": result["unique_bytes"] / read / (length - 1),
                "row": result["unique_bytes"] / read,
                "bytes": result["unique_bytes"],
                "head": forward["head"] / sum(forward.values()),
            }
        )
    columns = (
        Column("what", "tokens"),
        Column("for", "read by"),
        Column("equal", "at equal"),
        Column("vocabulary", "vocabulary"),
        Column("token", "bytes a token", "{:.2f}".format),
        Column("row", "bytes a row", "{:.0f}".format),
        Column("bytes", "bytes read", count),
        Column("head", "head’s part of FLOPs", percent),
    )
    return Table(columns, rows, "What was read by the runs of the first seed.")


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
