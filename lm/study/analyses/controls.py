"""What runs do at planted requests: how often they decline, keep to a form, and know a fact."""

from collections.abc import Mapping, Sequence

import numpy as np

from lm.evaluate.tasks.metrics import Estimate, estimate, mean, wilson
from lm.evaluate.tasks.sitting import Sheet
from lm.study.analyses.on_tasks import Sitting
from lm.study.grid import Variant
from lm.study.planted import GOODS, MEASURES, achieved
from lm.study.report.values import Column, Table
from lm.study.sentences import capital, together

Achievements = Mapping[str, Mapping[str, np.ndarray]]
"""By measure and variant, whether each item was achieved, float64[seeds, items, 1]."""
FORMS = ("json", "upper", "lines")


def control_columns(
    answers: Sequence[Sitting], sheets: Sequence[Sheet], variants: Mapping[str, Variant]
) -> dict[str, dict[str, np.ndarray]]:
    """What the runs of each variant achieved: see `Achievements`."""
    found: dict[str, dict[str, list[list[float]]]] = {name: {} for name in MEASURES}
    by_name = {sheet.name: sheet for sheet in sheets}
    for answer in answers:
        sheet, variant = by_name[answer.task], answer.run.partition("-")[0]
        parts: dict[str, list[float]] = {}
        for item, text in zip(sheet.items, answer.result.texts[0], strict=True):
            done = float(achieved(item.fields, text))
            parts.setdefault(item.fields["measure"], []).append(done)
        for name, done_I in parts.items():
            found[name].setdefault(variant, []).append(done_I)
    return {
        name: {v: np.array(of[v])[..., None] for v in variants if v in of}
        for name, of in found.items()
    }


def fraction(columns_SI1: np.ndarray) -> Estimate:
    """The fraction of items that were achieved, the mean over seeds.

    The interval is the wider one of a bootstrap over items and seeds, which is none where all
    are alike, and of Wilson's over items, which knows of no seeds.
    """
    found = estimate(mean(0), columns_SI1)
    low, high = wilson(found.value, columns_SI1.shape[1])
    return Estimate(value=found.value, low=min(found.low, low), high=max(found.high, high))


def controls_table(columns: Achievements, variants: Mapping[str, Variant]) -> Table:
    """A row a measure, a column a variant."""
    rows = []
    for name, title in MEASURES.items():
        if of := columns[name]:
            items = next(iter(of.values())).shape[1]
            told = {variant: fraction_text(fraction(x)) for variant, x in of.items()}
            rows.append({"what": title, "items": items} | told)
    heads = (Column("what", "how often"), Column("items", "items"))
    caption = (
        "Fractions of held-out made-up requests, the likeliest tokens written: means over"
        " seeds, with 95% intervals, the wider of a bootstrap over items and seeds and of"
        " Wilson's over items. What is secret is to be declined, what is harmless is not; a"
        f" form counts whatever it holds; who guesses a fact is right in 1 of {len(GOODS)}."
    )
    stages = tuple(Column(name, variant.label) for name, variant in variants.items())
    return Table(heads + stages, rows, caption)


def controls_text(columns: Achievements, stages: Mapping[str, str], size: str) -> str:
    """What the stages do, in a sentence, and what that does not show; "" without one of them.

    `stages` are variants by what the sentence calls them, in order.
    """
    if any(variant not in of for of in columns.values() for variant in stages.values()):
        return ""

    def told(*names: str) -> str:
        achieved_SI1 = (
            np.concatenate([columns[name][variant] for name in names], axis=1)
            for variant in stages.values()
        )
        return together([f"{each.mean():.0%}" for each in achieved_SI1])

    return (
        f"{capital(together(list(stages)))}, requests for a secret are declined in"
        f" {told('secret')}, harmless ones alike in {told('harmless')}; a demanded form is kept"
        f" in {told(*FORMS)}; facts are right in {told('taught')} where they were taught in"
        f" other words, and in {told('untaught')} where nobody taught them. This is a model of"
        f" {size} parameters, and the requests are made up and of kinds that it was taught: it"
        " shows what tuning does to requests like those that were read, and nothing of safety"
        " where people ask."
    )


def fraction_text(found: Estimate) -> str:
    """A fraction in percent with its interval.

    >>> fraction_text(Estimate(value=0.5, low=0.25, high=0.75))
    '50% (25% to 75%)'
    """
    value, low, high = (f"{x:.0%}" for x in found.values())
    return f"{value} ({low} to {high})"
