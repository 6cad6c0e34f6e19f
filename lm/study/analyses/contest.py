"""The GPT against BERTs of its size: who predicts, who represents, what a bound says."""

from collections.abc import Sequence

from lm.output.numbers import decimals, with_error
from lm.study.grid import BERT, GPT
from lm.study.groups import (
    BITS,
    PROBE,
    Group,
    Measure,
    best_of,
    by_size,
    gaps,
    of_variant,
)
from lm.study.report.values import Section
from lm.study.sections import baselines_of, fractions_section
from lm.study.sentences import capital, value_text


def largest(groups: Sequence[Group]) -> list[Group]:
    """The groups of the largest size with a GPT and a BERT, else of that with most variants."""
    sizes = list(by_size(groups).values())
    whole = [found for found in sizes if found[1:] and of_variant(found, GPT)]
    return whole[-1] if whole else max(sizes, key=len, default=[])


def contest_answer(best: Sequence[Group]) -> str:
    """Who predicts better and who represents better, at one size."""
    gpts, berts = of_variant(best, GPT), [group for group in best if group.variant != GPT]
    if not best:
        return "There is no answer yet: no run is finished."
    if not (gpts and berts):
        return "There is no answer yet: no size has both a GPT and a BERT that is finished."
    return " ".join(_compare(gpts[0], berts, measure) for measure in (BITS, PROBE)).strip()


def _compare(gpt: Group, berts: Sequence[Group], measure: Measure) -> str:
    """Who is better by a measure, the GPT or the best of the BERTs; "" if that is not known."""
    ranked = best_of(berts, measure)
    gap = ranked and gaps(berts, gpt, measure).get(ranked[0].name)
    if not (ranked and gap):
        return ""
    name, verb = ranked[0].variant.name, "predicts" if measure is BITS else "represents"
    ours, theirs = value_text(gpt, measure), value_text(ranked[0], measure)
    if gap.error is not None and not gap.beyond:
        said = f"Neither {verb} better beyond the error"
    elif gap.value * measure.better > 0:
        said = f"{capital(name)} {verb} better"
    else:
        far = ", as far as a BERT can be measured" if measure is BITS else ""
        said = f"The GPT {verb} better{far}"
    if measure is PROBE:
        return (
            f"{said}: a linear probe reads the role of {ours} of the tokens off the GPT's"
            f" states, and of {theirs} off those of {name}."
        )
    apart = with_error(abs(gap.value), gap.error)
    return (
        f"{said}: the GPT needs {ours} bits per byte of held-out text, {name} at most {theirs},"
        f" {apart} {'more' if gap.value > 0 else 'fewer'} on the same documents."
    )


def bound_section(groups: Sequence[Group], best: Sequence[Group]) -> Section | None:
    """The error by fraction masked, and what it says of the bound of the BERT at 15%."""
    floors = baselines_of(groups, "uniform", "unigram")
    fixed = [group for group in of_variant(best, BERT) if group.error_by_fraction()]
    return fractions_section(
        {group.label: (group.variant.colour, group) for group in groups},
        "The any-order bound is a mean over all fractions of masked tokens, from one token to"
        " the whole row, each as likely. A BERT trained at 15% has seen one of them. Its"
        " bound is valid: nobody who codes the text with this model in random orders needs"
        " more, given where documents begin and end, which a BERT sees and a GPT must predict"
        " (a few bits a document, in the BERT's favour). But it speaks of the model as a"
        " predictor of whole texts, a use that it was never trained for, and not of what it"
        " does at 15%, nor of what it represents. A high bound does not prove that the model"
        " cannot predict; another order, or a mixture of them, may do better.",
        *(_fixed_rate(group, floors.get("uniform")) for group in fixed),
        heading="What a fixed-rate BERT's bound says, and what it does not",
        floors=floors,
        trained_at=0.15,
    )


def _fixed_rate(group: Group, uniform: float | None) -> str:
    by_fraction = group.error_by_fraction()
    near, far = min(by_fraction, key=lambda fraction: abs(fraction - 0.15)), max(by_fraction)
    text = (
        f"The BERT trained at 15% needs {decimals(by_fraction[near])} bits per byte of the"
        f" masked tokens when {near:.0%} are masked, and {decimals(by_fraction[far])} when"
        f" {far:.0%} are"
    )
    if uniform is not None:
        relation = "worse" if by_fraction[far] > uniform else "still better"
        text += f", {relation} than guessing all tokens alike ({decimals(uniform)})"
    bound, layout = (group.mean(key) or 0.0 for key in ("bits_per_byte", "layout_bits"))
    text += f"; over all fractions that makes its bound of {decimals(bound)}"
    text += f", with {decimals(layout)} for where documents end."
    if (pseudo := group.score("pseudo")) is not None:
        text += (
            f" Its pseudo-likelihood, each token given all the others, is {decimals(pseudo)}"
            " bits per byte. That is no likelihood: each token is predicted by a model that has"
            " been shown what it is asked to code next, so the sum bounds nothing and may lie"
            " below the entropy of the text."
        )
    return text
