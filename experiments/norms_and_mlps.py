"""What are norms, biases and the kind of MLP worth, in a GPT and in a BERT?

One transformer (RMSNorm before attention and MLP, GELU, no bias) is changed in one part at a
time: the kind of norm and its place, norms of queries and keys, biases, and the MLP at equal
parameters, gated ones having two thirds of the width. Norms after the addition, as in BERT, and
before it are trained without warm-up as well.

Answers to: Xiong et al. 2020 (arXiv:2002.04745), by whom norms after the addition need warm-up
under Adam and norms before it do not; Shazeer 2020 (arXiv:2002.05202), table 1, where GEGLU and
SwiGLU lie 0.04 to 0.05 nats below GELU and ReLU at equal parameters; and Narang et al. 2021
(arXiv:2102.11972), table 1, where gated MLPs and RMSNorm are of the few changes that help.

    python -m experiments.norms_and_mlps --scale laptop

    smoke        3 minutes        toys on bytes, to see that everything works
    laptop       13 minutes       0.4M parameters, 0.4M bytes of Python's library
    workstation  not run          1.8M parameters, 8M bytes of Python's library
    v5e-8        3 days, 8 chips  85M parameters (BERT-base), 6.5B tokens of Wikipedia

The accelerator's line is a plan by FLOPs, not run (`--cost v5e-8`).

AdamW trains all, as that is what the claim about warm-up is of. Expect gated MLPs a few
hundredths of a bit ahead, kinds of norm and biases level, and norms after the addition behind,
most of all without warm-up; in four layers less than in the papers' twelve.
"""

import sys
from typing import Any

from msgspec.structs import replace

from lm.model.layers import LayerNorm
from lm.optimizer import Adamw, WarmupStableDecay
from lm.run import Run
from lm.study import runner, scales, sections
from lm.study.analyses import parts
from lm.study.analyses.parts import Contrast
from lm.study.grid import ANY_ORDER, GPT, Scale, Size, StudyRun, Variant
from lm.study.groups import groups_of
from lm.study.report.figures import BLUE, VERMILLION
from lm.study.report.values import Report

AFTER = {"norm_placement": "after"}
NORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "layer": ("LayerNorm", {"norm": LayerNorm()}),
    "after": ("norms after", AFTER),
    "both": ("norms before and after", {"norm_placement": "both"}),
    "qk": ("norms of queries and keys", {"query_key_norm": "head"}),
    "biases": ("biases", {"attention_bias": "all", "mlp_bias": "all"}),
    "cold": ("norms before, no warm-up", {}),
    "coldafter": ("norms after, no warm-up", AFTER),
}
MLPS: dict[str, tuple[str, dict[str, Any]]] = {
    kind: (label, {"mlp": kind})
    for kind, label in {
        "relu": "ReLU",
        "relu2": "ReLU squared",
        "geglu": "GEGLU",
        "swiglu": "SwiGLU",
    }.items()
}
"""What figures call a change, and the model's fields that differ from the usual."""
CHANGES = {"usual": ("the usual", dict[str, Any]())} | NORMS | MLPS
OBJECTIVES = {"causal": ("GPTs", GPT.objective), "masked": ("BERTs", ANY_ORDER.objective)}
OF_BERTS = ("usual", "layer", "after", "relu2", "swiglu")
"""A BERT has the changes that papers say most of."""
VARIANTS = {
    f"{change}_{name}": Variant(
        label, label, objective, VERMILLION if change in NORMS else BLUE
    )
    for name, (_, objective) in OBJECTIVES.items()
    for change, (label, _) in CHANGES.items()
    if name == "causal" or change in OF_BERTS
}
CAPTION = f"The usual has RMSNorm before attention and MLP, GELU and no bias. {parts.BARS}"
SMOKE = "usual_causal", "after_causal", "coldafter_causal", "swiglu_causal", "usual_masked"
VARIED = ("model", "schedule")


def _adam(scale: Scale, learning_rate: float) -> Scale:
    settings = {**scale.settings, "optimizer": Adamw(learning_rate=learning_rate)}
    return scale._replace(settings=settings)


PLANS = {
    # Widths of which 8/3 are whole: gated MLPs have as many parameters to the last one.
    "smoke": _adam(scales.SMOKE._replace(sizes=(Size(1, 24, 2),), only=SMOKE), 3e-3),
    "laptop": _adam(
        scales.PART_LAPTOP._replace(sizes=(Size(4, 96, 3),), tokens=(400_000,)), 3e-3
    ),
    "workstation": _adam(scales.PART_WORKSTATION, 2e-3),
    "v5e-8": _adam(scales.V5E_8, 6e-4),
}
SCALES = tuple(PLANS)
EFFORT = scales.PART_EFFORT


def runs(scale: str) -> dict[str, Run]:
    """The runs by name: every change as a GPT, some as a BERT, for every seed."""
    found = {}
    for name, run in PLANS[scale].runs(VARIANTS).items():
        change = name.partition("_")[0]
        model = replace(run.model, **CHANGES[change][1])
        found[name] = replace(run, model=model)
        if change.startswith("cold"):
            found[name] = replace(found[name], schedule=WarmupStableDecay(warmup=0.0))
    return found


def report(cells: list[StudyRun]) -> Report:
    """What the finished runs say; what is missing is named."""
    groups = list(groups_of(cells, VARIANTS).values())
    contrasts = [
        Contrast(
            f"{title}, {what}",
            [
                group
                for group in groups
                if group.objective == objective
                and group.name.partition("_")[0] in ("usual", *changes)
            ],
            VARIANTS[f"usual_{name}"],
        )
        for name, (title, objective) in OBJECTIVES.items()
        for what, changes in (("norms", NORMS), ("MLPs", MLPS))
    ]
    figures = {
        what: parts.contrasts_figure([f for f in contrasts if f.title.endswith(what)])
        for what in ("norms", "MLPs")
    }
    return sections.report_of(
        sys.modules[__name__],
        cells,
        groups,
        title="Norms, biases and MLPs, one at a time",
        answer=parts.contrasts_answer(contrasts),
        table=parts.contrasts_table(contrasts, "changed part"),
        sections=[
            *(
                sections.figure_section(heading, what.lower(), figures[what], CAPTION)
                for what, heading in (
                    ("norms", "Norms, biases and warm-up"),
                    ("MLPs", "MLPs at equal parameters"),
                )
            ),
            parts.equal_section(
                contrasts,
                VARIED,
                "Gated MLPs have two thirds of the width and so as many parameters and FLOPs;"
                " norms and biases add vectors, which the table counts.",
            ),
            parts.limits(
                contrasts,
                "Python's source",
                "Xiong et al.'s claim is about the gradients of many layers at the first steps:"
                " these models have few layers, and their warm-up few steps. What is shown is"
                " the loss at the end, not whether a training may fail: a part may be worth"
                " nothing here and keep a deeper model from failing."
                " Each part is changed alone, so nothing is said of two together.",
            ),
        ]
        if groups
        else [],
        compared=parts.contrast_rows(contrasts),
        varied=VARIED,
    )


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
