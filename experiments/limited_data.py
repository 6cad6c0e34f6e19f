"""Is it the masking noise, or the objective, that lets a BERT read little text many times?

Answers to: Gao et al. 2025 (arXiv:2510.04071), by whom random masking of the inputs makes most
of what masked diffusion models gain on little text, and weight decay does as much; Kim et al.
2025 (arXiv:2509.14786), by whom a causal model of limited text wants 30 times the usual weight
decay; and Ni et al. 2025 (arXiv:2511.03276), where masked models cross causal ones as epochs
grow.

    python -m experiments.limited_data --scale laptop

    smoke        a minute             toys, to see that everything works
    laptop       12 minutes, 2 cores  0.1M parameters, up to 64 epochs of 13k tokens, two seeds
    workstation  not timed            the same, up to 256 epochs of 13k to 0.8M tokens, five
                                      seeds
    v5e-16       not run, 16 chips    85M parameters, up to 64 epochs of 26M tokens and more

Four arms: a GPT; one with 30 times the weight decay; one whose input tokens are masked at
random, each row at a rate of its own, as the BERT's are; and the BERT at all rates. The noise
of the last two is alike, so that what lies between them is the objective: a BERT also sees what
follows, and is asked for what is masked alone. All read the same rows, of a source whose truth
is known and of Python's library. Expect the GPT to overfit, both controls to put that off, and
the BERT to go on falling; how much of the way the controls go is what is asked.
"""

import sys
from collections.abc import Sequence

from msgspec.structs import replace

from lm.data import Data, Hmm
from lm.objectives import Causal, Drawn
from lm.output.numbers import count
from lm.run import Run
from lm.study import runner, scales, sections, tables
from lm.study.analyses import limited, repeats
from lm.study.checks import objective_rows
from lm.study.grid import ANY_ORDER, GPT, Scale, Size, StudyRun, Variant
from lm.study.groups import Group, groups_of
from lm.study.laws import attempt
from lm.study.report.figures import ORANGE, PURPLE
from lm.study.report.values import Column, Report, Section
from lm.study.sentences import NO_ANSWER

NOISED = Causal(masked=Drawn(low=0.01, high=1.0))
ARMS = {
    "causal": GPT,
    "decayed": Variant(
        "GPT, decay × 30", "the GPT with 30 times the weight decay", Causal(), ORANGE
    ),
    "noised": Variant("GPT, input masked", "the GPT whose input is masked", NOISED, PURPLE),
    "masked": ANY_ORDER,
}
"""By the name that the runs' names have behind that of their text."""
DECAY = 30
NAMES = {
    "source": "the source whose truth is known",
    "python": "Python’s library",
    "wikipedia": "Wikipedia",
}
VARIANTS = {f"{text}_{arm}": ARMS[arm] for text in NAMES for arm in ARMS}
_TEXTS = {"source": scales.FEW_ROWS, "python": replace(scales.PYTHON_BYTES, batch=4)}
TEXTS: dict[str, dict[str, Data]] = {
    "smoke": {
        "source": scales.SMOKE_SOURCE,
        "python": replace(scales.PYTHON_BYTES, length=32, batch=16),
    },
    "laptop": _TEXTS,
    "workstation": _TEXTS,
    "v5e-16": {
        "source": scales.source_data(
            Hmm(states=64, symbols=64, length=1021, documents=2_200_000), batch=256
        ),
        "wikipedia": replace(scales.WIKIPEDIA, batch=512),
    },
}
"""Steps are of as many tokens of each."""
_SMALL = Scale(
    scales.FEW_ROWS,
    sizes=(Size(2, 64, 2),),
    tokens=tuple(12_800 * 4**k for k in range(5)),
    seeds=5,
    settings={"evaluations": 1, "evaluation_rows": 128},
)
PLANS = {
    "smoke": Scale(
        scales.SMOKE_SOURCE,
        sizes=(Size(1, 16),),
        tokens=(1024, 4096),
        settings={"evaluations": 1, "evaluation_rows": 16},
    ),
    "laptop": _SMALL._replace(tokens=_SMALL.tokens[:4], seeds=2),
    "workstation": _SMALL,
    "v5e-16": Scale(
        scales.WIKIPEDIA,
        sizes=(Size(12, 768, 12, 3e-3),),
        tokens=tuple(25 * 2**20 * 4**k for k in range(4)),
        seeds=2,
        settings={"evaluations": 4, "evaluation_rows": 1024, "remat": "block"},
    ),
}
"""The tokens are those of text that is read once."""
REPEATED: dict[str, dict[int, tuple[int, ...]]] = {
    "smoke": {1024: (4096,)},
    "laptop": {12_800: PLANS["laptop"].tokens[1:]},
    "workstation": {u: _SMALL.tokens[k + 1 :] for k, u in enumerate(_SMALL.tokens[:-1])},
    "v5e-16": {
        u: PLANS["v5e-16"].tokens[k + 1 :] for k, u in enumerate(PLANS["v5e-16"].tokens[:2])
    },
}
"""Tokens trained on, by how many of them are different."""
SCALES = tuple(PLANS)
EFFORT = scales.LAW_EFFORT | {"workstation": scales.LAW_EFFORT["laptop"]}
VARIED = ("optimizer",)


def runs(scale: str) -> dict[str, Run]:
    """The runs by name: new text and repeated text of each kind in each arm, for every seed."""
    plan, found = PLANS[scale], dict[str, Run]()
    grid = [(tokens, (tokens,)) for tokens in plan.tokens]
    for text, data in TEXTS[scale].items():
        arms = {f"{text}_{arm}": variant for arm, variant in ARMS.items()}
        for unique, tokens in [*grid, *REPEATED[scale].items()]:
            part = plan._replace(data=replace(data, unique=unique), tokens=tokens)
            for name, run in part.runs(arms).items():
                variant, size, *rest = name.split("-")
                if variant.endswith("decayed"):
                    decay = DECAY * run.optimizer.weight_decay
                    run = replace(run, optimizer=replace(run.optimizer, weight_decay=decay))
                found["-".join([variant, size, f"u{count(unique)}", *rest])] = run
    return found


def report(cells: list[StudyRun]) -> Report:
    """What the finished runs say; what is missing is named."""
    groups = sorted(groups_of(cells, VARIANTS).values(), key=lambda g: (g.unique, g.tokens))
    by_text = {
        text: ours
        for text in NAMES
        if (ours := [group for group in groups if group.name.startswith(f"{text}_")])
    }
    arms = tuple(ARMS.values())
    laws = {
        text: {arm: attempt(repeats.law_of, ours, arm) for arm in arms}
        for text, ours in by_text.items()
    }
    told = {text: limited.question_text(ours, arms) for text, ours in by_text.items()}
    return sections.report_of(
        sys.modules[__name__],
        cells,
        groups,
        title="Little text, read many times",
        answer=" ".join(f"Of {NAMES[text]}, {said}" for text, said in told.items() if said)
        or NO_ANSWER,
        details=(
            "In brackets are 95% intervals, of differences over seeds and documents together,"
            " paired in both. A BERT’s number is a bound, which can only hide how far it is"
            " ahead. What a control leaves is the objective’s, if the control’s noise is the"
            " BERT’s: their rates are drawn alike.",
            *filter(
                None,
                [
                    repeats.overfit_text(ours, laws[text], NAMES[text])
                    for text, ours in by_text.items()
                ],
            ),
        )
        if groups
        else (),
        table=tables.runs_table(
            [cell._replace(result=repeats.with_epochs(cell.result)) for cell in cells],
            ": U different tokens, read for so many epochs",
            Column("unique_tokens", "U", count),
            Column("epochs", "epochs", "{:g}".format),
        ),
        sections=[
            *(
                section
                for text, ours in by_text.items()
                for section in _of_text(text, ours, laws[text])
            ),
            _equal(cells),
            sections.limits(
                [cell for cell in cells if cell.name.startswith("source_")],
                by_text.get("source", groups),
                "The other text has documents of its own, and as many training tokens."
                f" The weight decay is {DECAY} times the usual one and the rates of the noise"
                " are all rates, neither tuned: another decay, or noise at a lower rate, may do"
                " better, so that a control which fails here does not show that none would."
                " Dropout was not tried.",
                "R_D comes from few numbers of epochs, and is a constant of this size, text and"
                " recipe. The law knows no overfitting: runs that end above one of fewer epochs"
                " count as if they had been stopped there.",
            ),
        ]
        if groups
        else [],
        compared=objective_rows(cells),
        varied=VARIED,
    )


def _of_text(
    text: str, groups: Sequence[Group], laws: repeats.FitsByVariant
) -> list[Section | None]:
    """What is shown of one text."""
    arms = tuple(ARMS.values())
    figure = limited.epochs_figure(groups, arms)
    return [
        sections.figure_section(
            f"Where the curves cross: {NAMES[text]}",
            f"epochs_{text}",
            figure,
            "Bits per byte: of new text by tokens, and of a part that is read again by epochs,"
            " with one standard error over seeds. PPM has read the same part once. Numbers with"
            " an arrow lie beyond the frame.",
            limited.divisions_table(groups, arms),
            limited.crossings_table(groups, arms),
        ),
        repeats.readings_section(
            f"What readings are worth: {NAMES[text]}", groups, laws, f"repeats_{text}"
        ),
    ]


def _equal(cells: Sequence[StudyRun]) -> Section:
    """What was held equal, where tokens are most."""
    most = max(cell.run.tokens for cell in cells)
    rows = objective_rows([cell for cell in cells if cell.run.tokens == most])
    return Section(
        sections.EQUAL,
        (
            tables.equal_table(rows, "at the most tokens, between the arms of a seed", VARIED),
            "At each number of tokens, and of different ones, the arms read the same rows in"
            " the same order, from the same initial values, with one learning rate; a run that"
            " repeats begins with the rows that the run of new text begins with. The optimizer"
            " differs in the weight decay of one arm alone. How many targets are predicted"
            " follows from the objective, and is in the table of runs.",
        ),
    )


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
