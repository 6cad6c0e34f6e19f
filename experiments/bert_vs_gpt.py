"""What does a language model gain or lose by being trained as a BERT or as a GPT?

Three arms - causal (GPT), masked at 15% (BERT), masked at all rates - are trained from the
same initial values on the same batches, and all are scored in bits per byte of the same
held-out text. A linear probe then asks what their states represent, because predicting text
and representing it are different virtues.

Answers to: Devlin et al. 2019 (arXiv:1810.04805), table 5, where a left-to-right model of
BERT's size is behind in fine-tuning, and Wettig et al. 2023 (arXiv:2202.08005), figure 1, where
the best masking rate is not 15%. Neither compares how well the models predict, for want of a
common unit.

    python -m experiments.bert_vs_gpt --scale laptop

    smoke        a minute            two toys on bytes, to see that everything works
    laptop       5 minutes, 2 cores  0.2M and 0.8M parameters, 0.6M tokens of Python's library
    workstation  an hour, 2 cores    0.8M and 1.8M parameters, 4M tokens of the same
    v5e-8        two days, 8 chips   25M, 85M and 302M parameters (BERT-base and -large),
                                     6.5B tokens of Wikipedia (wiki40b/en, which TFDS prepares
                                     once, for which it needs apache-beam)

Expect the GPT ahead in bits per byte by more than half a bit at both CPU scales, and below
gzip and xz on whole files at the workstation's (1.4 against 2.2 and 2.1). At these budgets it
is ahead in the probe too, though it sees one side only: a BERT at 15% has been asked a seventh
of its questions. Expect a fixed rate ahead of all rates where little is hidden and behind
where all is.
"""

import sys
from typing import Any, NamedTuple

from lm.data import Bytes, Data, SentencePiece, Stdlib, Tfds
from lm.evaluate.scoring import Effort
from lm.model import Transformer
from lm.objectives import AnyOrder, Causal, Masked
from lm.optimizer import Muon, WarmupStableDecay
from lm.output.numbers import count, decimals, percent, with_error
from lm.run import Run
from lm.study import runner
from lm.study.common import (
    COMPRESSORS,
    Arm,
    Grid,
    Result,
    arm_of,
    bits_figure,
    difference,
    equal_table,
    guesses,
    loss_figure,
    made,
    main_table,
    missing,
    mixed,
    parameters,
    probe_difference,
    probe_figure,
    share_figure,
    size_text,
    spent_table,
    violations,
)
from lm.study.plans import Size
from lm.study.report.figures import BLUE, GREEN, VERMILLION
from lm.study.report.values import Block, Column, Plot, Report, Section, Table
from lm.study.runner import Cell

ARMS = {
    "causal": Arm("GPT", "the GPT", Causal(), BLUE),
    "masked15": Arm("BERT, 15%", "the BERT trained at 15%", Masked(rate=0.15), VERMILLION),
    "any_order": Arm("BERT, all rates", "the BERT trained at all rates", AnyOrder(), GREEN),
}
GPT, BERTS = "causal", ("masked15", "any_order")


class Plan(NamedTuple):
    """What a scale trains: each size in each arm, on as many tokens."""

    data: Data
    tokens: int
    sizes: tuple[Size, ...]
    settings: dict[str, Any]
    """Further fields of the runs."""


PLANS = {
    "smoke": Plan(
        Data(tokenizer=Bytes(), length=64, batch=16),
        tokens=24_576,
        sizes=(Size(1, 32, 1, 1e-2), Size(2, 64, 1, 1e-2)),
        settings={"evaluations": 2, "evaluation_rows": 16},
    ),
    "laptop": Plan(
        Data(
            corpus=Stdlib(),
            tokenizer=SentencePiece(size=2048),
            length=256,
            batch=8,
            validation=0.05,
        ),
        tokens=600_000,
        sizes=(Size(4, 64, 1, 1e-2), Size(4, 128, 2, 1e-2)),
        settings={"evaluations": 5, "evaluation_rows": 64},
    ),
    "workstation": Plan(
        Data(corpus=Stdlib(), tokenizer=SentencePiece(size=2048), length=256, batch=16),
        tokens=4_000_000,
        sizes=(Size(4, 128, 2, 1e-2), Size(4, 192, 3, 8e-3)),
        settings={"evaluations": 16},
    ),
    "v5e-8": Plan(
        Data(
            corpus=Tfds(name="wiki40b/en"),
            tokenizer=SentencePiece(kind="unigram", size=32_768),
            length=1024,
            batch=512,
            validation=0.001,
        ),
        tokens=6_500_000_000,
        sizes=(Size(8, 512, 8, 4e-3), Size(12, 768, 12, 3e-3), Size(24, 1024, 16, 2e-3)),
        settings={
            "evaluations": 32,
            "evaluation_rows": 1024,
            "remat": "block",
            "microbatches": 4,
        },
    ),
}
SCALES = tuple(PLANS)

EFFORT = {
    "smoke": Effort(rows=16, samples=2, replicates=2, share_rows=8, probe_tokens=3_000),
    "laptop": Effort(samples=2, share_rows=32),
    "v5e-8": Effort(rows=4096, share_rows=1024, probe_tokens=100_000),
}
"""Where a scale spends other than the usual effort on scoring."""


def runs(scale: str) -> dict[str, Run]:
    """The runs by cell name, the smallest models first, all arms of a size together."""
    plan, seed = PLANS[scale], 0
    found = {}
    for size in plan.sizes:
        model = Transformer(depth=size.depth, width=size.width, heads=size.heads)
        for name, arm in ARMS.items():
            cell = f"{name}-{size_text(parameters(model))}-d{count(plan.tokens)}-seed{seed}"
            found[cell] = Run(
                data=plan.data,
                objective=arm.objective,
                model=model,
                optimizer=Muon(learning_rate=size.learning_rate),
                schedule=WarmupStableDecay(warmup=0.05),
                tokens=plan.tokens,
                seed=seed,
                **plan.settings,
            )
    return found


def report(cells: list[Cell]) -> Report:
    """What the finished cells say; what is missing is named."""
    grid = Grid.of(cells, ARMS)
    sections = (
        _prediction(grid),
        _training(grid),
        _compressors(grid),
        _bound(grid),
        _probe(grid),
        _equal(grid),
        _at_work(grid),
    )
    return Report(
        title="BERT against GPT on the same bytes",
        question=(__doc__ or "").splitlines()[0],
        answer=_answer(grid),
        details=_details(grid),
        table=main_table(grid),
        rows=[{"cell": c.name, "objective": arm_of(c), **(c.result or {})} for c in cells],
        sections=tuple(section for section in sections if section is not None),
        warnings=(*missing(cells), *mixed(cells), *violations(grid.compared)),
        made=made("bert_vs_gpt", cells),
    )


def _answer(grid: Grid) -> str:
    if not grid.finished:
        return "There is no answer yet: no cell is finished."
    _, row = grid.best
    berts = {arm: row[arm] for arm in BERTS if arm in row}
    if GPT not in row or not berts:
        return "There is no answer yet: no size has both a GPT and a BERT that is finished."
    return f"{_who_predicts(row[GPT], berts)} {_who_represents(row[GPT], berts)}".strip()


def _who_predicts(gpt: Result, berts: dict[str, Result]) -> str:
    arm = min(berts, key=lambda name: berts[name]["bits_per_byte"])
    name, bert = ARMS[arm].name, berts[arm]
    above, error = difference(bert, gpt)
    ours, theirs = _bits(gpt), _bits(bert)
    more = "more" if above > 0 else "fewer"
    gap = f"{with_error(abs(above), error)} {more} on the same documents"
    if error is not None and abs(above) <= 2 * error:
        return (
            f"Neither predicts better beyond the error: the GPT needs {ours} bits per byte of"
            f" held-out text, {name} at most {theirs}, {gap}."
        )
    if above > 0:
        return (
            f"The GPT predicts better, as far as a BERT can be measured: it needs {ours} bits"
            f" per byte of held-out text, {name} at most {theirs}, {gap}."
        )
    return (
        f"{_capital(name)} predicts better: it needs at most {theirs} bits per byte of held-out"
        f" text, the GPT {ours}; that is {gap}."
    )


def _who_represents(gpt: Result, berts: dict[str, Result]) -> str:
    probed = {arm: r for arm, r in berts.items() if r.get("probe_accuracy") is not None}
    if gpt.get("probe_accuracy") is None or not probed:
        return ""
    arm = max(probed, key=lambda name: probed[name]["probe_accuracy"])
    name, bert = ARMS[arm].name, probed[arm]
    ahead, error = probe_difference(bert, gpt)
    theirs, ours = _probed(bert), _probed(gpt)
    reads = "a linear probe reads the role of"
    if error is not None and abs(ahead) <= 2 * error:
        return (
            f"Neither represents better beyond the error: {reads} {ours} of the tokens off the"
            f" GPT's states, and of {theirs} off those of {name}."
        )
    if ahead > 0:
        return (
            f"{_capital(name)} represents better: {reads} {theirs} of the tokens off its"
            f" states, and of {ours} off the GPT's."
        )
    return (
        f"The GPT represents better: {reads} {ours} of the tokens off its states, and of"
        f" {theirs} off those of {name}."
    )


def _details(grid: Grid) -> tuple[str, ...]:
    if not grid.finished:
        return ()
    size, row = grid.best
    tokens = next(iter(row.values()))["tokens"]
    seeds = {result["seed"] for row in grid.finished.values() for result in row.values()}
    return (
        f"This is at {size_text(size)} parameters (without the embedding) after {count(tokens)}"
        " training tokens. After ± stands one standard error over the held-out documents,"
        " paired in differences. "
        + (
            "There is one seed, so how much trainings differ among themselves is not in it."
            if len(seeds) == 1
            else f"There are {len(seeds)} seeds."
        ),
    )


def _prediction(grid: Grid) -> Section | None:
    if not grid.finished:
        return None
    return Section(
        "Who predicts better",
        (
            "Bits per byte is the length of the held-out text when it is coded with the model,"
            " divided by the length of the text itself. For the GPT it is exact, by the chain"
            " rule. For a BERT it is an upper bound: the mean over random orders of uncovering"
            " the text. The mixture of all orders needs at most that, perhaps less, but cannot"
            " be computed.",
            Plot(
                "bits_per_byte",
                bits_figure(grid),
                "Left: bits per byte of the held-out text by size; filled marks are exact,"
                " hollow ones upper bounds; dashed lines are compressors on the same text, by"
                " document and by windows as long as the models' context. Right: how far each"
                " BERT's bound lies above the GPT of its size. Bars are one standard error"
                " over documents, on the right of the paired difference.",
            ),
        ),
    )


def _training(grid: Grid) -> Section | None:
    figure = loss_figure(grid)
    if figure is None:
        return None
    return Section(
        "What training cost",
        (
            "All arms read the same tokens, but a BERT at 15% is asked for a seventh of the"
            " predictions and skips the vocabulary's matrix everywhere else.",
            Plot(
                "loss",
                figure,
                "Training loss (smoothed lines) and validation loss (marks) against tokens and"
                " against FLOPs of forward and backward matrix products. The losses are"
                " different quantities: the next piece, 15% of the pieces given the rest, any"
                " share of them given the rest. Compare curves of one colour.",
            ),
        ),
    )


def _compressors(grid: Grid) -> Section | None:
    if not grid.baselines:
        return None
    size, row = grid.best
    arm = GPT if GPT in row else next(iter(row))
    model, name = row[arm]["bits_per_byte"], f"{ARMS[arm].label}, {size_text(size)}"
    rows = [
        {"name": key, "bits": value, "gap": _gap(model - value)}
        for key, value in sorted(grid.baselines.items(), key=lambda item: -item[1])
    ]
    said = [
        f"{_gap(model - grid.baselines[key])} {COMPRESSORS[key]}"
        for key in COMPRESSORS
        if key in grid.baselines
    ]
    return Section(
        "What the numbers mean: gzip and xz",
        (
            f"The {ARMS[arm].label} of {size_text(size)} parameters, at {decimals(model)} bits"
            f" per byte, lies {', '.join(said[:-1])} and {said[-1]}. Windows are the fair"
            " comparison, as the model sees no further; on whole documents a compressor may"
            " refer back to all that came before. What a model has learnt from the training"
            " text has no counterpart in either.",
            Table(
                (
                    Column("name", "predictor"),
                    Column("bits", "bits per byte", decimals),
                    Column("gap", f"{name}, lies"),
                ),
                rows,
                "Predictors without a network on the same held-out text: all pieces alike,"
                " pieces by their frequency in training, and compressors (level 9, without"
                " file headers) on the whole text, by document, and by windows of the models'"
                " context.",
            ),
        ),
    )


def _bound(grid: Grid) -> Section | None:
    shown = {
        (size, arm): result
        for size, row in grid.finished.items()
        for arm, result in row.items()
        if arm in BERTS and result.get("error_by_share")
    }
    if not shown:
        return None
    blocks: list[Block] = [
        "The any-order bound is a mean over all shares of hidden pieces, from one piece to the"
        " whole row, each as likely. A BERT trained at 15% has seen one of them. Its bound is"
        " valid: nobody who codes the text with this model in random orders needs more, given"
        " where documents begin and end, which a BERT sees and a GPT must predict (a few bits a"
        " document, in the BERT's favour). But it"
        " speaks of the model as a predictor of whole texts, a use that it was never trained"
        " for, and not of what it does at 15%, nor of what it represents. A high bound does"
        " not prove that the model cannot predict; another order, or a mixture of them, may do"
        " better.",
        Plot(
            "share_hidden",
            share_figure(grid),
            "Bits per byte of the hidden pieces when a share of the row is hidden, by arm and"
            " size. The any-order bound is the mean of such a curve over all shares. Bars are"
            " one standard error from the masks drawn.",
        ),
    ]
    if (fixed := grid.best[1].get("masked15")) and fixed.get("error_by_share"):
        blocks.append(_fixed_rate(fixed, grid.baselines))
    return Section("What a fixed-rate BERT's bound says, and what it does not", tuple(blocks))


def _fixed_rate(result: Result, baselines: dict[str, float]) -> str:
    by_share = {
        float(share): score["bits_per_byte"]
        for share, score in result["error_by_share"].items()
    }
    near, far = min(by_share, key=lambda share: abs(share - 0.15)), max(by_share)
    text = (
        f"The BERT trained at 15% needs {decimals(by_share[near])} bits per byte of the hidden"
        f" pieces when {near:.0%} are hidden, and {decimals(by_share[far])} when {far:.0%} are"
    )
    if uniform := baselines.get("uniform"):
        relation = "worse" if by_share[far] > uniform else "still better"
        text += f", {relation} than guessing all pieces alike ({decimals(uniform)})"
    text += f"; over all shares that makes its bound of {decimals(result['bits_per_byte'])}"
    text += f", with {decimals(result['layout_bits'])} for where documents end."
    if pseudo := result["scores"].get("pseudo"):
        text += (
            " Its pseudo-likelihood, each piece given all the others, is"
            f" {decimals(pseudo['bits_per_byte'])} bits per byte. That is no likelihood: each"
            " piece is predicted by a model that has been shown what it is asked to code"
            " next, so the sum bounds nothing and may lie below the entropy of the text."
        )
    return text


def _probe(grid: Grid) -> Section | None:
    if not grid.finished:
        return None
    heading = "Who represents better"
    probed = grid.probes
    if not probed:
        why = (
            "The held-out text has no labels (it is not Python source), so nothing was probed."
        )
        return Section(heading, (why,))
    size = grid.best[0]
    first = next(iter(probed.values()))
    return Section(
        heading,
        (
            "A linear classifier reads the role of each token (keyword, called name,"
            " parameter, attribute ...), as Python's own parser gives it, off the frozen"
            " states of the last layer, with nothing hidden. All arms are asked for the same"
            " tokens. Always naming the most frequent role is right in"
            f" {percent(first['majority_accuracy'])} of them, naming each piece's most"
            f" frequent role in {percent(first['piece_accuracy'])}: what lies above that was"
            " read off the context. A GPT's state knows only the left of it, and was trained"
            " to say what comes next rather than what is there.",
            Plot(
                "probe",
                probe_figure(grid),
                "Left: share of tokens whose role the probe finds, by size; bars are one"
                " standard error over documents. Right: the share found by role, at"
                f" {size_text(size)} parameters.",
            ),
        ),
    )


def _equal(grid: Grid) -> Section | None:
    if not grid.finished:
        return None
    return Section(
        "What was held equal, and what was not",
        (
            equal_table(grid.compared),
            spent_table(grid),
            "The learning rate and all other settings are one choice per size, from a few short"
            " runs of the GPT and of the BERT at all rates, and not tuned for each arm. Equal"
            " tokens are not equal predictions: the comparison is at equal data"
            " read, and the figure of losses against FLOPs shows the other side.",
        ),
    )


def _at_work(grid: Grid) -> Section | None:
    document, blocks = guesses(grid)
    if not blocks:
        return None
    return Section(
        "The models at work",
        (
            f"A held-out passage from {document}. The GPT sees what stands before a numbered"
            " piece and names the five likeliest to come next; a BERT sees the passage with"
            " all numbered pieces hidden and names the five likeliest fillers. The true piece"
            " is set in bold where it is among them; ␣ is a space, ↵ a line's end.",
            *blocks,
        ),
    )


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _bits(result: Result) -> str:
    return with_error(result["bits_per_byte"], result["text_se"])


def _probed(result: Result) -> str:
    return with_error(result["probe_accuracy"], result["probe_se"], percent)


def _gap(bits: float) -> str:
    """Where a number lies from another.

    >>> _gap(-0.25), _gap(0.1)
    ('0.250 below', '0.100 above')
    """
    return f"{abs(bits):.3f} {'below' if bits < 0 else 'above'}"


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
