"""Does a mixture of experts predict better than one MLP of as many FLOPs, or parameters?

The MLPs of a transformer are replaced by eight experts of half the width, of which a router
sends each token through two: as many FLOPs as before (but for the router's), and four times the
MLP's parameters. It meets the dense model that it was made of, and a dense one whose MLP is
four times as wide, which has its parameters: on the same tokens, where that one spends more
FLOPs, and at the FLOPs of the others. Each is a GPT and a BERT at all rates.

Answers to: Fedus et al. 2022 (arXiv:2101.03961), figures 1 and 4, where mixtures in T5, which
predicts spans, reach a dense model's loss in a seventh of the steps; Artetxe et al. 2021
(arXiv:2112.10684), figure 1, by whom a causal mixture is worth a dense model of four times its
FLOPs, and the less the larger both are; Muennighoff et al. 2024 (OLMoE, arXiv:2409.02060),
section 4.1, a third of the tokens. None compares what it is worth to a GPT and to a BERT.

    python -m experiments.experts --scale laptop

    smoke   1 minute   toys on bytes, to see that everything works
    laptop  10 minutes 0.2M parameters that are active, 0.4M tokens of Python's library
    v5e-8   not run    85M parameters (BERT-base) that are active, 6.5B tokens of Wikipedia

Expect the mixture between the two dense models on the same tokens, nearer to the wide one. At
the laptop's scale little is gained by any of them: 0.4M tokens are read by models that more
parameters help less than more steps would. Routing is balanced by a loss of each row, as the
coefficients are published, and tuned here for nobody.
"""

import sys

from msgspec.structs import replace

from lm.cost import ledger
from lm.data import vocabulary_size
from lm.model import Model, Transformer
from lm.model.experts import Experts
from lm.output.numbers import count, decimals, power
from lm.run import Run
from lm.study import runner, scales, sections
from lm.study.figures import dots_figure
from lm.study.grid import ANY_ORDER, GPT, Size, StudyRun, Variant, flops_text
from lm.study.groups import BITS, Group, gaps, groups_of
from lm.study.report.figures import BLUE, ORANGE, VERMILLION
from lm.study.report.values import Column, Report, Table
from lm.study.sentences import NO_ANSWER, signed

EXPERTS = Experts(count=8, active=2)
MODELS = {
    "dense": ("dense", BLUE),
    "mixture": ("mixture of experts", VERMILLION),
    "wide": ("dense, wide", ORANGE),
}
OBJECTIVES = {"causal": ("GPT", GPT.objective), "masked": ("BERT", ANY_ORDER.objective)}
VARIANTS = {
    f"{model}_{how}": Variant(label, f"the {label} {who}", objective, colour)
    for how, (who, objective) in OBJECTIVES.items()
    for model, (label, colour) in MODELS.items()
}
PLANS = {
    "smoke": scales.SMOKE._replace(sizes=(Size(1, 32, 2),), seeds=1),
    "laptop": scales.LAPTOP._replace(tokens=(400_000,), seeds=2),
    "v5e-8": scales.V5E_8,
}
SCALES = tuple(PLANS)
EFFORT = scales.EFFORT


def runs(scale: str) -> dict[str, Run]:
    """The runs by name: every model on the same tokens; the wide one at others' FLOPs too."""
    found: dict[str, Run] = {}
    for name, run in PLANS[scale].runs(VARIANTS).items():
        model, how = name.partition("-")[0].split("_")
        found[name] = replace(run, model=model_of(model, run.model))
        if model == "wide":
            vocabulary = vocabulary_size(run.data.tokenizer)
            flops = ledger.cost(run, vocabulary).flops  # of the dense model
            tokens = ledger.tokens_for(found[name], vocabulary, flops)
            size, seed = name.split("-")[1::2]
            other = f"{model}_{how}-{size}-{flops_text(flops)}-{seed}"
            found[other] = replace(found[name], tokens=tokens)
    return found


def model_of(name: str, dense: Model) -> Transformer:
    """The model of a name, made of the dense one."""
    assert isinstance(dense, Transformer)
    width, times = dense.mlp_size, EXPERTS.count // EXPERTS.active
    match name:
        case "mixture":
            return replace(dense, experts=EXPERTS, mlp_width=width // EXPERTS.active)
        case "wide":
            return replace(dense, mlp_width=times * width)
        case _:
            return dense


def report(cells: list[StudyRun]) -> Report:
    """What the finished runs say; what is missing is named."""
    groups = list(groups_of(cells, VARIANTS).values())
    parts = {
        how: [g for g in groups if g.objective == of] for how, (_, of) in OBJECTIVES.items()
    }
    return sections.report_of(
        sys.modules[__name__],
        cells,
        groups,
        title="A mixture of experts, or one MLP",
        answer=" ".join(filter(None, map(_answer, parts.values()))) or NO_ANSWER,
        table=_table(parts),
        sections=[
            sections.figure_section(
                "What a mixture is worth",
                "experts",
                dots_figure(
                    {
                        OBJECTIVES[how][0]: (colour, {_label(g): g for g in found})
                        for (how, found), colour in zip(
                            parts.items(), (BLUE, VERMILLION), strict=True
                        )
                    }
                ),
                "Left: bits per byte of the held-out text, exact for GPTs and a bound for"
                f" BERTs. {sections.PROBED}",
            ),
            sections.section("How evenly tokens are routed", LOADS, _loads(groups)),
            sections.section(
                sections.EQUAL,
                "All read the same rows in the same order, and all but the MLP is the same. On"
                " the same tokens the mixture and the dense model have equal FLOPs but for the"
                " router's, which are counted; the mixture and the wide model have equal"
                " parameters but for the router's. The wide model at equal FLOPs reads fewer"
                " tokens. Seconds compare nothing here: on a CPU an expert's few rows are"
                " multiplied block by block.",
            ),
            sections.limits(
                cells,
                groups,
                "One number of experts, one number that are active and one pair of coefficients"
                " are tried. What experts cost in memory and in moving tokens between devices"
                " is in no number.",
            ),
        ]
        if groups
        else [],
        compared={},
    )


LOADS = (
    "Of the layer that is least even, on validation rows at the end: the busiest expert's"
    " tokens over the mean, and the entropy of the fractions over that of equal ones; 1 and 1"
    " where all experts have as much to do. The balance is the mean over layers of what the"
    " loss asks of each row; 1 is even."
)


def _loads(groups: list[Group]) -> Table | None:
    keys = {"load_max": "busiest / mean", "load_entropy": "entropy", "load_balance": "balance"}
    rows = []
    for group in groups:
        found = [r.get("validation_terms") or {} for r in group.results.values()]
        if all("validation_load_max" in terms for terms in found):
            means = {k: sum(t[f"validation_{k}"] for t in found) / len(found) for k in keys}
            rows.append({"what": _title(group)} | means)
    columns = [Column(key, title, decimals) for key, title in keys.items()]
    caption = "How evenly the experts are used, means over seeds."
    return Table((Column("what", "model"), *columns), rows, caption) if rows else None


def _table(parts: dict[str, list[Group]]) -> Table:
    """A row a group, and how far it lies above the dense model of its objective."""
    rows = []
    for groups in parts.values():
        dense = _named(groups, "dense", "d")
        above = gaps(groups, dense, BITS) if dense else {}
        for group in groups:
            gap = above.get(group.name)
            first = next(iter(group.results.values()))
            rows.append(
                {
                    "what": _title(group),
                    "active": first.get("params_active") or first["params_total"],
                    "seeds": len(group.results),
                    "se": group.seeds_se(BITS.key),
                    "text": group.text_se(BITS),
                    "kind": group.kind,
                    "above": gap and signed(gap, BITS) + ("*" if gap.beyond else ""),
                }
                | {
                    key: group.mean(key)
                    for key in ("params_total", "tokens", "flops", BITS.key)
                }
            )
    columns = (
        Column("what", "model"),
        Column("params_total", "parameters", count),
        Column("active", "active", count),
        Column("tokens", "tokens", count),
        Column("flops", "FLOPs", power),
        Column("seeds", "seeds"),
        Column(BITS.key, "bits per byte ± seeds", decimals, error="se"),
        Column("text", "± text", decimals),
        Column("kind", "which is"),
        Column("above", "above the dense"),
    )
    return Table(
        columns,
        rows,
        "Means over seeds. Active parameters are those that a token passes through. “± seeds”"
        " is the standard error over seeds, “± text” that over held-out documents. “Above the"
        " dense” is the difference to the dense model of the same objective, paired by seed and"
        " by document, with both errors together and an asterisk where its 95% interval leaves"
        " out 0.",
    )


def _answer(groups: list[Group]) -> str:
    """What the mixture is against both dense models of an objective."""
    mixture = _named(groups, "mixture", "d")
    told = []
    for what, other in (
        ("of as many FLOPs", _named(groups, "dense", "d")),
        ("of as many parameters, on as many tokens", _named(groups, "wide", "d")),
        ("of as many parameters and FLOPs", _named(groups, "wide", "f")),
    ):
        if mixture is None or other is None:
            continue
        if gap := gaps(groups, other, BITS).get(mixture.name):
            verdict = "" if gap.beyond else ", not beyond the error,"
            told.append(f"{signed(gap, BITS)}{verdict} against the one {what}")
    if not told or mixture is None:
        return ""
    return f"As a {_who(mixture)}, the mixture lies in bits per byte {'; '.join(told)}."


def _who(group: Group) -> str:
    return next(who for who, objective in OBJECTIVES.values() if objective == group.objective)


def _named(groups: list[Group], model: str, budget: str) -> Group | None:
    """The group of a model on the same tokens (d), or at the same FLOPs (f)."""
    label = MODELS[model][0]
    found = (g for g in groups if g.variant.label == label and g.budget.startswith(budget))
    return next(found, None)


def _label(group: Group) -> str:
    return group.variant.label + (", equal FLOPs" if group.budget.startswith("f") else "")


def _title(group: Group) -> str:
    return f"{_who(group)}, {_label(group)}"


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
