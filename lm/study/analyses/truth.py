"""Runs on a source whose truth is known: how far above it they lie, and how that is shown."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator

from lm.data import Hmm
from lm.output.numbers import count, decimals, percent, with_error
from lm.study.figures import draw_variants, lines_of, ticks
from lm.study.grid import size_text
from lm.study.groups import PROBE, DocumentSums, Group, Measure
from lm.study.report.figures import panels, reference_lines, styled
from lm.study.report.values import Column, Plot, Row, Section, Table
from lm.study.sections import fractions_section, section
from lm.study.sentences import NO_ANSWER


def with_truth(result: Row | None) -> Row | None:
    """A result with the numbers of its source beside its own, and the gap."""
    if not result or not result.get("truth"):
        return result
    truth = result["truth"]
    return {
        **result,
        "truth_bits_per_byte": truth["bits_per_byte"],
        "truth_probe_accuracy": truth["probe_accuracy"],
        "entropy_rate": truth["entropy_rate"],
        "above_truth": result["bits_per_byte"] - truth["bits_per_byte"],
    }


def _excess(result: Row) -> DocumentSums | None:
    if "above_truth" not in result:
        return None
    nats = [np.array(found["document_nats"]) for found in (result, result["truth"])]
    return ((nats[0] - nats[1]) / math.log(2)).tolist(), result["document_bytes"]


ABOVE = Measure("above_truth", _excess, -1, decimals)


def truth_table(groups: Sequence[Group], *, layout: bool = False) -> Table:
    """A row a group; with what the layout costs in the place of the probe, where asked for."""
    rows = [
        {"size": group.size, "variant": group.variant.label, "kind": group.kind}
        | {"seeds": len(group.results), "seeds_se": group.seeds_se("above_truth")}
        | {"text_se": group.text_se(ABOVE)}
        | {column.key: group.mean(column.key) for column in (*_MEANS, *_LAYOUT, *_STATES)}
        for group in sorted(groups, key=lambda g: (g.size, g.tokens))
    ]
    tokens, bits, truth, above = _MEANS
    columns = (
        Column("size", "size", size_text),
        Column("variant", "trained as"),
        tokens,
        Column("seeds", "seeds"),
        bits,
        Column("kind", "which is"),
        *(_LAYOUT if layout else ()),
        truth,
        above,
        Column("seeds_se", "± seeds", decimals),
        Column("text_se", "± text", decimals),
        *(() if layout else _STATES),
    )
    more = (
        " “Of it layout” is what the length model pays for the ends of documents that a"
        " BERT is shown; a GPT predicts them itself."
        if layout
        else " “States found” is the probe's fraction of hidden states, “can be known” what the"
        " best guess from the same context gets: the text so far for the GPT, all of it for"
        " a BERT."
    )
    return Table(
        columns,
        rows,
        "Means over seeds. The truth is what the source needs for the same documents; “above”"
        f" is the difference, whose error over documents is paired with it.{more}",
    )


_MEANS = (
    Column("tokens", "tokens", count),
    Column("bits_per_byte", "bits per byte", decimals),
    Column("truth_bits_per_byte", "truth", decimals),
    Column("above_truth", "above", decimals),
)
_LAYOUT = (Column("layout_bits", "of it layout", decimals),)
_STATES = (
    Column("probe_accuracy", "states found", percent),
    Column("truth_probe_accuracy", "can be known", percent),
)


@styled()
def gap_figure(groups: Sequence[Group]) -> Figure:
    """Bits above the truth by tokens and by size."""
    figure, (left, right) = panels(2, height=3.2, sharey=True)
    size, tokens = max(g.size for g in groups), max(g.tokens for g in groups)
    # Below the truth, where no honest score lies, there are no logarithms.
    above = all(mean is None or mean > 0 for mean in (g.mean(ABOVE.key) for g in groups))
    for axes, found, against, show in (
        (left, [g for g in groups if g.size == size], lambda g: g.mean("tokens"), count),
        (right, [g for g in groups if g.tokens == tokens], lambda g: g.size, size_text),
    ):
        draw_variants(axes, found, against, ABOVE)
        axes.set(xscale="log", yscale="log" if above else "linear")
        ticks(axes.xaxis, FixedLocator(sorted({against(group) for group in found})), show)
        if above:
            ticks(axes.yaxis, LogLocator(subs=(1, 2, 5)), "{:g}".format)
    left.set(
        title=f"As data grow, {size_text(size)}",
        xlabel="training tokens",
        ylabel="bits per byte above the truth",
    )
    right.set(title=f"As models grow, {count(tokens)} tokens", xlabel="parameters")
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


@styled()
def states_figure(groups: Sequence[Group]) -> Figure:
    """States found by tokens, and what can be known."""
    figure, (axes,) = panels(1, height=3.2)
    draw_variants(axes, groups, lambda group: group.mean("tokens") or 0.0, PROBE, 100)
    ceilings = {
        "given the text so far" if group.kind == "exact" else "given all the text": 100
        * (group.mean("truth_probe_accuracy") or 0.0)
        for group in groups
    }
    axes.set(xscale="log", xlabel="training tokens", ylabel="% of states found")
    places = {group.mean("tokens") or 0.0 for group in groups}
    ticks(axes.xaxis, FixedLocator(sorted(places)), count)
    axes.set_ylim(axes.get_ylim()[0], 101)
    reference_lines(axes, ceilings)
    figure.legend(loc="outside upper left", ncols=3)
    return figure


def truth_answer(groups: Sequence[Group], best: Sequence[Group]) -> str:
    """How far the best groups lie above the truth, and who of all lies below it."""
    known = [group for group in best if group.mean("above_truth") is not None]
    if not known:
        return NO_ANSWER
    parts = [
        f"{g.variant.name} {with_error(g.mean('above_truth') or 0.0, g.error(ABOVE))}"
        for g in known
    ]
    below = [
        group.name
        for group in groups
        if (group.mean("above_truth") or 0.0) < -2 * (group.error(ABOVE) or 0.0)
    ]
    verdict = "No model, at any size, lies below the truth by more than twice its error."
    if below:
        verdict = (
            "Below the truth by more than twice their error, which no honest scorer allows:"
            f" {', '.join(below)}."
        )
    return (
        f"At {size_text(known[0].size)} parameters and {count(known[0].tokens)} tokens,"
        f" above the {decimals(known[0].mean('truth_bits_per_byte') or 0.0)} bits per byte"
        f" that the source needs, lie: {', '.join(parts)}. {verdict}"
    )


def truth_sections(groups: Sequence[Group], best: Sequence[Group]) -> list[Section | None]:
    """Bits, masked tokens and hidden states beside the least or best that is possible."""
    return [
        section(
            "From above, and how near",
            "The truth is what the source itself needs for the same documents, by the forward"
            " algorithm. For the source all orders of unmasking a text agree, so the least"
            " any-order bound is the same number, and both kinds of model are held to it.",
            Plot(
                "above_truth",
                gap_figure(groups),
                "Bits per byte above the truth: left by training tokens, at the largest size;"
                " right by size, at the most tokens. Bars are one standard error, over seeds"
                " and over documents (paired with the truth) together.",
            ),
        ),
        fractions_section(
            lines_of(best),
            "What is masked in part of a row can be foretold by forward-backward, with the"
            " other masked tokens summed out. No model does better, under the same masks.",
            heading="At every fraction masked",
            caption="Bits per byte of the masked tokens when a fraction of the row is masked,"
            " at the largest size, mean over seeds; in black what the source needs.",
            truth=True,
        ),
        _states_section(groups, best),
    ]


def _states_section(groups: Sequence[Group], best: Sequence[Group]) -> Section | None:
    known = [group for group in best if group.mean("probe_accuracy") is not None]
    if not known:
        return None
    found = [
        f"{group.variant.name} {percent(group.mean('probe_accuracy') or 0.0)} of at most"
        f" {percent(group.mean('truth_probe_accuracy') or 0.0)}"
        for group in known
    ]
    return section(
        "The hidden states",
        "A linear probe reads the source's hidden state off the frozen states of the last"
        f" layer, with nothing masked: {', '.join(found)}. A GPT sees less, so less can be"
        " known at its place; what it lacks of that is its own.",
        Plot(
            "states",
            states_figure([group for group in groups if group.size == best[0].size]),
            "Hidden states found by the probe, by training tokens at the largest size; dashed"
            " lines are what the best guess from the same context finds.",
        ),
    )


def lengths_section(groups: Sequence[Group]) -> Section | None:
    """What models of documents of random lengths need, with what the layout costs."""
    source = groups[0].run.data.corpus if groups else None
    if not isinstance(source, Hmm):
        return None
    return section(
        "Documents of random lengths",
        f"The same tables, but a document ends after each symbol with probability 1 in"
        f" {source.length}, and rows cut documents where they end. The truth is then that of"
        " the text in each window, and of where its documents end. Were the places that a BERT"
        " is shown given to it for nothing, its numbers could fall below the truth.",
        truth_table(groups, layout=True),
    )
