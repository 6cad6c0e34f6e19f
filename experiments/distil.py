"""What does a small model gain from a larger one's probabilities, as a GPT and as a BERT?

A teacher of each kind is trained first. Students of one size and seed then read the same rows:
alone, taught by the teacher's probabilities and the text, and taught by probabilities alone.
Teaching costs the teacher's forward pass in each step, so a fourth student is trained alone on
as many FLOPs as the taught ones, and reads more text for it.

Answers to: Hinton et al. 2015 (arXiv:1503.02531) and Sanh et al. 2019 (DistilBERT,
arXiv:1910.01108), who compare at equal steps; and Busbridge et al. 2025 (arXiv:2502.08606),
where a student that is trained alone for long enough is not behind one that was taught.

    python -m experiments.distil --scale laptop

    smoke   2 minutes   toys on bytes, to see that everything works
    laptop  5 minutes   students of 0.1M parameters, teachers of 0.8M, 0.2M bytes of Python

Expect the taught student ahead at equal tokens, and little or nothing left of that at equal
FLOPs.
"""

import sys
from typing import NamedTuple

from msgspec.structs import replace

from lm.cost import ledger
from lm.data import vocabulary_size
from lm.objectives import AnyOrder, Causal, Distil
from lm.objectives.plain import Plain
from lm.objectives.rollout import Named
from lm.output.numbers import count
from lm.run import Run
from lm.study import runner, scales, sections
from lm.study.analyses import parts
from lm.study.analyses.parts import Contrast
from lm.study.grid import (
    STUDY,
    Scale,
    Size,
    StudyRun,
    Variant,
    parameters,
    size_text,
)
from lm.study.groups import Group, groups_of, of_variant
from lm.study.report.figures import BLUE, GREEN, INK, MUTED, ORANGE
from lm.study.report.values import Report, Table
from lm.study.tables import spent_table

KINDS: dict[str, tuple[str, Plain]] = {
    "causal": ("GPTs", Causal()),
    "masked": ("BERTs", AnyOrder()),
}
"""What students of a kind have in common, and what they and their teacher answer."""
TEACHING = {
    "taught": ("taught, and the text", 2.0, 0.5, BLUE),
    "soft": ("taught alone", 1.0, 0.0, GREEN),
}
"""How students are taught: the temperature, the weight of the text, and a colour."""


def _variants() -> dict[str, Variant]:
    found = {}
    for kind, (_, of) in KINDS.items():
        found[f"teacher_{kind}"] = Variant("the teacher", "the teacher", of, INK)
        found[f"alone_{kind}"] = Variant("alone", "the student alone", of, MUTED)
        found[f"longer_{kind}"] = Variant("alone, longer", "the longer student", of, ORANGE)
        for way, (label, temperature, hard, colour) in TEACHING.items():
            objective = Distil(of=of, temperature=temperature, hard=hard)
            found[f"{way}_{kind}"] = Variant(label, f"the student {label}", objective, colour)
    return found


VARIANTS = _variants()


class Plan(NamedTuple):
    """What a scale trains."""

    rows: Scale
    teacher: tuple[Size, int]
    """Its size, and tokens."""
    student: tuple[Size, int]
    """Theirs, at equal tokens."""


PLANS = {
    "smoke": Plan(scales.SMOKE, (Size(1, 32), 8192), (Size(1, 16), 4096)),
    "laptop": Plan(
        scales.PART_LAPTOP._replace(seeds=3),
        (Size(4, 128, 2), 400_000),
        (Size(2, 64, 1), 200_000),
    ),
}
SCALES = tuple(PLANS)
EFFORT = {scale: scales.PART_EFFORT[scale] for scale in SCALES}


def runs(scale: str) -> dict[str, Run]:
    """A teacher of each kind, then its students for every seed."""
    plan, found = PLANS[scale], {}
    (large, more), (small, tokens) = plan.teacher, plan.student
    for kind in KINDS:
        name = _name(f"teacher_{kind}", large, more, 0)
        teacher = found[name] = plan.rows.run(VARIANTS[f"teacher_{kind}"], large, more)
        at = Named(path=f"{STUDY}/{name}")
        for seed in range(plan.rows.seeds):
            taught = plan.rows.run(_taught(VARIANTS[f"taught_{kind}"], at), small, tokens)
            for way in ("alone", "longer", *TEACHING):
                variant = _taught(VARIANTS[f"{way}_{kind}"], at)
                run = plan.rows.run(variant, small, tokens, seed=seed)
                if way == "longer":
                    run = replace(run, tokens=_tokens(taught, run, teacher))
                found[_name(f"{way}_{kind}", small, run.tokens, seed)] = run
    return found


def _name(variant: str, size: Size, tokens: int, seed: int) -> str:
    return f"{variant}-{size_text(parameters(size.model))}-d{count(tokens)}-seed{seed}"


def _taught(variant: Variant, teacher: Named) -> Variant:
    """The variant with its teacher, if it has one."""
    objective = variant.objective
    if not isinstance(objective, Distil):
        return variant
    return variant._replace(objective=replace(objective, teacher=teacher))


def _tokens(taught: Run, alone: Run, teacher: Run) -> int:
    """With how many tokens a student alone comes to the FLOPs of one that is taught."""
    size = vocabulary_size(alone.data.tokenizer)
    spent = ledger.cost(taught, size, {"teacher": teacher})
    return ledger.tokens_for(alone, size, spent.flops)


def report(cells: list[StudyRun]) -> Report:
    """What the finished runs say; what is missing is named."""
    groups = list(groups_of(cells, VARIANTS).values())
    equal_tokens = _contrasts(groups, "alone", "equal tokens")
    equal_flops = _contrasts(groups, "longer", "equal FLOPs")
    contrasts = [*equal_tokens, *equal_flops]
    return sections.report_of(
        sys.modules[__name__],
        cells,
        groups,
        title="What a student gains from its teacher",
        answer=parts.contrasts_answer(contrasts),
        table=parts.contrasts_table([*contrasts, *_teachers(groups)], "student"),
        sections=[
            sections.figure_section(
                "Against students that learn from the text alone",
                "gains",
                parts.contrasts_figure(contrasts),
                f"{parts.BARS} Equal FLOPs count the teacher's forward passes, and not its"
                " training.",
            ),
            parts.equal_section(
                equal_tokens,
                (),
                "Students of a seed read the same rows in the same order from the same initial"
                " values, and masks are the same for all, and for the teacher. At equal FLOPs"
                " the student alone goes on to rows that the others have not read.",
                *_spent(groups),
            ),
            parts.limits(
                equal_tokens,
                "Python's source",
                "Each kind has one teacher, with the students' tokenizer, so that intervals are"
                " over students and not over teachers. Its training is in no student's FLOPs:"
                " who trains a teacher for one student alone pays that too. Temperature and the"
                " text's weight are two settings of many, tuned for neither kind; the students"
                " are far from having read as much as they could use.",
            ),
        ]
        if groups
        else [],
        compared=parts.contrast_rows(equal_tokens),
    )


def _contrasts(groups: list[Group], reference: str, at: str) -> list[Contrast]:
    """Each kind's taught students against one that learns alone."""
    found = []
    for kind, (title, _) in KINDS.items():
        there = [VARIANTS[f"{way}_{kind}"] for way in (reference, *TEACHING)]
        mine = [group for group in groups if _is_of(group, kind) and group.variant in there]
        found.append(Contrast(f"{title}, {at}", mine, there[0]))
    return found


def _teachers(groups: list[Group]) -> list[Contrast]:
    found = []
    for kind, (title, _) in KINDS.items():
        variant = VARIANTS[f"teacher_{kind}"]
        mine = [g for g in of_variant(groups, variant) if _is_of(g, kind)]
        found.append(Contrast(title, mine, variant))
    return found


def _is_of(group: Group, kind: str) -> bool:
    return group.name.partition("-")[0].endswith(f"_{kind}")


def _spent(groups: list[Group]) -> list[Table]:
    """What students and teachers of each kind used."""
    found = []
    for kind in KINDS:
        mine = [group for group in groups if _is_of(group, kind)]
        alone = [g for g in mine if g.variant == VARIANTS[f"alone_{kind}"]]
        found += [spent_table(mine, alone[0])] if alone else []
    return found


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
