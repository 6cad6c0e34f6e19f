"""Sections that reports have in common, and the report of a study as a whole."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lm.data import Hmm, Stdlib, Tfds
from lm.evaluate.baselines.ppm import AFTER_TRAINING, WITHOUT
from lm.output.numbers import count, decimals, percent, power
from lm.study.checks import (
    RunsByGroup,
    made,
    missing,
    mixed,
    seed_rows,
    variant_rows,
    violations,
)
from lm.study.figures import Lines, fractions_figure, probe_figure
from lm.study.grid import StudyRun, Variant, size_text, variant_of
from lm.study.groups import BITS, Group, all_results, by_size, of_variant
from lm.study.laws import Trials
from lm.study.report.values import (
    Column,
    Content,
    Guesses,
    Place,
    Plot,
    Report,
    Section,
    Table,
)
from lm.study.sentences import together, value_text
from lm.study.tables import components_table, equal_table, spent_table, trials_table

BARS = (
    "Bars are one standard error: that over seeds and that over held-out documents, together."
    " The documents are the same for all variants, so that differences are known better than"
    " the bars say; the table has them paired."
)
"""What captions of figures say of their bars."""
PROBED = (
    "Right: the fraction of tokens whose role the probe finds, with nothing masked. " + BARS
)
"""What captions say of the probe's panel, which stands beside that of bits per byte."""
EQUAL = "What was held equal, and what was not"


def section(heading: str, *blocks: Content | None) -> Section | None:
    """A section of the blocks that there are; None if there are none."""
    found = tuple(block for block in blocks if block is not None)
    return Section(heading, found) if found else None


def figure_section(
    heading: str, name: str, figure: Figure | None, caption: str, *blocks: Content | None
) -> Section | None:
    """A section of a figure and what stands before it; None if there is none to draw."""
    return section(heading, *blocks, Plot(name, figure, caption)) if figure else None


def report_of(
    study: ModuleType,
    cells: Sequence[StudyRun],
    groups: Sequence[Group] = (),
    *,
    title: str,
    answer: str,
    details: Sequence[str] | None = None,
    table: Table,
    sections: Sequence[Section | None],
    compared: RunsByGroup | None = None,
    varied: Collection[str] = (),
    warnings: Sequence[str] = (),
) -> Report:
    """The report of a study, with what is missing, mixed or not equal at its top.

    `compared` are those runs that were to be equal in all but the objective and the settings
    that are `varied`; where it is not given, those of the same size and seed among the groups.
    `details` say by default what stands after ±.
    """
    compared = seed_rows(groups) if compared is None else compared
    return Report(
        title=title,
        question=(study.__doc__ or "").splitlines()[0],
        answer=answer,
        details=errors_text(groups) if details is None else tuple(details),
        table=table,
        rows=[{"run": c.name, "objective": variant_of(c), **(c.result or {})} for c in cells],
        # What it does not show comes last.
        sections=tuple(
            each
            for each in (
                *sections[:-1],
                _components(cells),
                lost_to_ppm(groups),
                *sections[-1:],
            )
            if each is not None
        ),
        warnings=(*missing(cells), *mixed(cells), *violations(compared, varied), *warnings),
        made=made(Path(study.__file__ or "").stem, cells),
    )


def _components(cells: Sequence[StudyRun]) -> Section | None:
    """What was read of each component, if the text of any run was a mixture."""
    table = components_table(cells)
    return Section("What was read of each component", (table,)) if table.rows else None


def errors_text(groups: Sequence[Group]) -> tuple[str, ...]:
    """What stands after ±, as a paragraph."""
    if not groups:
        return ()
    return (
        "After ± stands one standard error, over seeds and held-out documents together; a"
        " difference is called beyond the error where its 95% interval leaves out 0.",
    )


def equal_section(groups: Sequence[Group], reference: Group, *blocks: str | Table) -> Section:
    """What was held equal, and what was not."""
    table = equal_table(seed_rows(groups), "between the variants of a size and seed")
    return Section(EQUAL, (table, spent_table(groups, reference), *blocks))


def same_rows_section(
    cells: Sequence[StudyRun], groups: Sequence[Group], between: str, *more: str
) -> Section:
    """What was held equal where variants have the same tokens, checked where these are most."""
    most = max((group.tokens, -group.unique) for group in groups)
    largest = [c for c in cells if (c.run.tokens, -(c.run.data.unique or 0)) == most]
    return Section(
        EQUAL,
        (
            equal_table(variant_rows(largest), between),
            "At each number of tokens, and of different ones, the variants read the same rows"
            " in the same order, from the same initial values, with one learning rate. How many"
            " targets they predict follows from the objective, and is in the table of runs.",
            *more,
        ),
    )


def equal_flops_text(groups: Sequence[Group], reference: Variant) -> str:
    """How equal the FLOPs are to those of a variant."""
    first = of_variant(groups, reference)
    if not first or not (flops := first[0].mean("flops")):
        return f"FLOPs cannot be compared: {reference.name} is not finished."
    spent = [(group.mean("flops") or 0.0, group.mean("steps") or 1.0) for group in groups]
    apart = max(abs(each / flops - 1) for each, _ in spent)
    step = max(each / count for each, count in spent) / flops
    return (
        f"At equal FLOPs, all variants lie within {apart:.2%} of the {power(flops)} of"
        f" {reference.name}; a step is up to {step:.2%} of them. Variants that need more steps"
        " for that have read more text."
    )


def limits(cells: Sequence[StudyRun], groups: Sequence[Group], *more: str) -> Section:
    """What the result does and does not show, from what was trained."""
    sizes = together([size_text(size) for size in by_size(groups)])
    seeds = sorted({len(group.results) for group in groups})
    results = all_results(groups)
    tokens = sorted(result["tokens"] for result in results)
    span = " to ".join(dict.fromkeys((count(tokens[0]), count(tokens[-1]))))
    documents = len(results[0].get("document_bytes") or ())
    match cells[0].run.data.corpus:
        case Stdlib():
            corpus = "Python's standard library"
        case Tfds(name=name):
            corpus = name
        case Hmm():
            corpus = "a hidden Markov source"
        case _:
            corpus = "the given text"
    few = (
        "With one seed, how much trainings differ among themselves is in none of the errors."
        if seeds == [1]
        else f"With {' or '.join(map(str, seeds))} seeds of each variant, the errors over seeds"
        " are rough, and of many differences one in twenty is beyond the error by chance."
    )
    return Section(
        "What this does and does not show",
        (
            f"It shows what these objectives do to models of {sizes} parameters (without the"
            f" embedding) after {span} training tokens of {corpus}, scored on {documents}"
            " held-out documents, with one learning rate for all variants of a size, tuned for"
            " none. An order of variants at this scale is not their order at another: what is"
            " behind after few tokens may only be slower. A difference that is not beyond the"
            f" error is not shown to be zero. {few}",
            "The probe reads the role of a token in Python source off frozen states. It is no"
            " fine-tuning on a language task, which is what the papers measure."
            if any(result.get("probe") for result in results)
            else "The text has no labels, so nothing is said of what the models represent.",
            *more,
        ),
    )


def fractions_section(
    lines: Lines,
    *blocks: str,
    heading: str = "The error at fixed fractions masked",
    caption: str = "",
    floors: Mapping[str, float] = {},
    trained_at: float | None = None,
    truth: bool = False,
) -> Section | None:
    """The error at fixed fractions masked, if there is any."""
    figure = fractions_figure(lines, floors=floors, trained_at=trained_at, truth=truth)
    if figure is None:
        return None
    caption = caption or (
        "Bits per byte of the masked tokens when a fraction of the row is masked, means over"
        " seeds. The any-order bound is the mean of such a curve over all fractions. Bars are"
        " one standard error: that over seeds and that of the masks drawn, together."
    )
    text, *more = blocks
    return Section(heading, (text, Plot("by_fraction", figure, caption), *more))


def baselines_of(groups: Sequence[Group], *names: str) -> dict[str, float]:
    """What predictors without a network need, or some; the text is the same for all runs."""
    found = [r["baselines"] for r in all_results(groups) if r.get("baselines")]
    known = dict(found[0]) if found else {}
    return {name: known[name] for name in names or known if name in known}


def windows_of(groups: Sequence[Group]) -> dict[str, float]:
    """What compressors need for the same windows."""
    return baselines_of(groups, "gzip, by window", "xz, by window")


def compressors_of(groups: Sequence[Group]) -> dict[str, float]:
    """The same, and what they need for whole documents."""
    documents = baselines_of(groups, "gzip, by document", "xz, by document")
    return documents | windows_of(groups)


def compressors_section(groups: Sequence[Group], group: Group) -> Section | None:
    """How far a group lies from predictors without a network."""
    # Its own, as PPM has read what its runs have.
    baselines, bits = baselines_of([group]), group.mean("bits_per_byte")
    if not baselines or bits is None:
        return None
    found = sorted(baselines.items(), key=lambda item: -item[1])
    gaps = {
        name: f"{abs(bits - value):.3f} {'below' if bits < value else 'above'}"
        for name, value in found
    }
    names = [name for name in (*compressors_of(groups), AFTER_TRAINING) if name in gaps]
    said = [f"{gaps[name]} {name.replace(',', '')}" for name in names]
    columns = (
        Column("name", "predictor"),
        Column("bits", "bits per byte", decimals),
        Column("gap", f"{group.label}, lies"),
    )
    return Section(
        "What the numbers mean: gzip, xz and PPM",
        (
            f"The {group.variant.label} of {size_text(group.size)} parameters, at"
            f" {decimals(bits)} bits per byte, lies {together(said)}. Windows are the fair"
            " comparison, as the model sees no further; on whole documents a compressor may"
            " refer back to all that came before. What a model has learnt from the training"
            " text has no counterpart in either. PPM after the training text has read the same"
            " rows, once: it is what a model must beat."
            + ("" if AFTER_TRAINING in baselines else f" It was {WITHOUT}."),
            Table(
                columns,
                [{"name": name, "bits": value, "gap": gaps[name]} for name, value in found],
                "Predictors without a network on the same held-out text: all tokens alike,"
                " tokens by their frequency in training, and compressors (level 9, without file"
                " headers) on the whole text, by document, and by windows as long as the"
                " models' context; PPM of order 5 also behind the training text.",
            ),
        ),
    )


def ppm_of(group: Group) -> float | None:
    """Bits per byte of PPM after the rows that the group's runs read; None: not measured."""
    found = [result.get("baselines") or {} for result in all_results([group])]
    known = [each[AFTER_TRAINING] for each in found if AFTER_TRAINING in each]
    return float(np.mean(known)) if known else None


def lost_to_ppm(groups: Sequence[Group]) -> Section | None:
    """The models of an exact number that are behind PPM, which read as much; None: none is."""
    asked = [
        (group, bits, theirs)
        for group in groups
        if (bits := group.mean("bits_per_byte")) is not None and group.kind == "exact"
        if (theirs := ppm_of(group)) is not None
    ]
    lost = [each for each in asked if each[1] > each[2]]
    if not lost:
        return None
    columns = (
        Column("model", "model"),
        Column("tokens", "tokens", count),
        Column("unique", "different", count),
        Column("bits", "bits per byte"),
        Column("ppm", "PPM", decimals),
        Column("gap", "above it"),
    )
    rows = [
        {
            "model": group.label,
            "tokens": group.tokens,
            "unique": group.unique,
            "bits": value_text(group, BITS),
            "ppm": theirs,
            "gap": f"{bits - theirs:.3f}",
        }
        for group, bits, theirs in lost
    ]
    which = "the model" if len(asked) == 1 else f"{len(lost)} of {len(asked)} models"
    return Section(
        "Where a model loses to PPM",
        (
            "PPM of order 5, a compressor that counts contexts of bytes, needs fewer bits per"
            f" byte than {which} whose number is exact. It has read the rows that the model was"
            " trained on, once and at most 16 MiB of them, and each stretch of the same windows"
            " is coded behind these. A model that loses to it has learnt less from its text"
            " than counting does.",
            Table(columns, rows, "After ± stands the model's standard error."),
        ),
    )


def trials_section(heading: str, trials: Sequence[Trials], caption: str) -> Section | None:
    """What the trials of a setting say, if there are any."""
    if not trials:
        return None
    verdicts = " ".join(each.verdict for each in trials)
    return Section(heading, (verdicts, trials_table(trials, caption)))


def probe_section(heading: str, groups: Sequence[Group], size: int) -> Section:
    """Roles of tokens that the probe finds, by size, and by role at one size."""
    probed = [group for group in groups if group.mean("probe_accuracy") is not None]
    if not probed:
        why = "The held-out text has no labels, as it is not Python: so nothing was probed."
        return Section(heading, (why,))
    first = all_results(probed)[0]["probe"]
    text = (
        "A linear classifier reads the role of each token (keyword, called name,"
        " parameter, attribute ...), as Python's own parser gives it, off the frozen"
        " states of the last layer, with nothing masked. All variants are asked for the same"
        " tokens. Always naming the most frequent role is right in"
        f" {percent(first['majority_accuracy'])} of them, naming each token's most"
        f" frequent role in {percent(first['token_accuracy'])}: what lies above that was"
        " read off the context. A GPT's state knows only the left of it, and was trained"
        " to say what comes next rather than what is there."
    )
    caption = (
        "Left: fraction of tokens whose role the probe finds, by size; bars are one standard"
        " error over documents. Right: the fraction found by role, at"
        f" {size_text(size)} parameters."
    )
    return Section(heading, (text, Plot("probe", probe_figure(probed, size), caption)))


def at_work_section(groups: Sequence[Group]) -> Section | None:
    """What the largest finished model of each variant says of a held-out passage."""
    largest = {group.variant: group for group in sorted(groups, key=lambda group: group.size)}
    blocks: dict[tuple[tuple[Place, ...], str], dict[str, Any]] = {}
    document = ""
    for variant in dict.fromkeys(group.variant for group in groups):
        says = all_results([largest[variant]])[0].get("says")
        if not says or not says["tokens"]:
            continue
        document = says["document"]
        places = tuple(Place(token["before"], token["truth"]) for token in says["tokens"])
        blocks.setdefault((places, says["after"]), {})[largest[variant].label] = [
            [(text, fraction) for text, fraction in token["likeliest"]]
            for token in says["tokens"]
        ]
    if not blocks:
        return None
    return Section(
        "The models at work",
        (
            f"A held-out passage from {document}. The GPT sees what stands before a numbered"
            " token and names the five likeliest to come next; a BERT sees the passage with"
            " all numbered tokens masked and names the five likeliest fillers. The true token"
            " is set in bold where it is among them; ␣ is a space, ↵ a line's end.",
            *(Guesses(places, after, said) for (places, after), said in blocks.items()),
        ),
    )
