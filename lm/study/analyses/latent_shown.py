"""What a report shows of a narrow code: its widths, its space, what comes back, neighbours."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from lm.data.sources.digits import GREYS, SIDE, image_of_text
from lm.evaluate.tasks.metrics import Estimate, estimate, mean
from lm.study.analyses.latent import (
    GRID,
    CodeFamily,
    Latent,
    nearest_documents,
    pixels,
    principal,
    same_class,
)
from lm.study.report.figures import INK, PAPER, RULE, panels, reference_lines, styled
from lm.study.report.values import Column, Table

COLUMNS = 10
"""Images in a row."""


@styled()
def widths_figure(found: Sequence[CodeFamily]) -> Figure | None:
    """Bits per byte given the code and with it, by its width; None if there is nothing.

    What a model without a code needs is a line.
    """
    shown = list(dict.fromkeys(family.documents for family in found if any(family.by_width)))
    if not shown:
        return None
    figure, axes = panels(len(shown))
    for panel, documents in zip(axes, shown, strict=True):
        mine = [family for family in found if family.documents == documents]
        ticks: set[int] = set()
        for family in mine:
            if any(family.by_width):
                ticks |= set(family.by_width)
                _draw_widths(panel, family)
        panel.set_xscale("log", base=2)
        panel.set_xticks(sorted(ticks), [str(tick) for tick in sorted(ticks)])
        panel.minorticks_off()
        panel.set(title=documents.title, xlabel="numbers of the code", ylabel=documents.unit)
        panel.set_ylim(0, 1.05 * panel.get_ylim()[1])
        without = {
            family.kind.label: family.bits(0).value for family in mine if 0 in family.by_width
        }
        reference_lines(panel, without)
    axes[0].legend(loc="best")
    return figure


def _draw_widths(panel: Axes, family: CodeFamily) -> None:
    widths, colour = sorted(family.by_width), family.kind.colour
    given = [family.bits(width) for width in widths]
    panel.errorbar(
        widths,
        [each.value for each in given],
        [
            [max(each.value - each.low, 0) for each in given],
            [max(each.high - each.value, 0) for each in given],
        ],
        color=colour,
        marker="o",
        elinewidth=1,
        label=f"{family.kind.label}, given the code",
    )
    panel.plot(
        widths,
        [family.paid(width)[1].value for width in widths],
        color=colour,
        marker="o",
        markerfacecolor=PAPER,
        linestyle=(0, (4, 2)),
        linewidth=1,
        label=f"{family.kind.label}, the code paid for",
    )


@styled()
def space_figure(shown: Mapping[str, Latent]) -> Figure | None:
    """Where held-out documents lie, by their class, in a panel for each code."""
    if not shown:
        return None
    figure, axes = panels(len(shown), height=7.4 / len(shown) + 0.2)
    colours = matplotlib.colormaps["tab10"]
    for panel, (title, latent) in zip(axes, shown.items(), strict=True):
        places_N2 = principal(np.array(latent.codes))
        labels_N = np.array(latent.labels)
        for label in sorted(set(latent.labels)):
            mine_N2 = places_N2[labels_N == label]
            panel.scatter(
                mine_N2[:, 0], mine_N2[:, 1], s=5, color=colours(label), alpha=0.5, linewidths=0
            )
            across, up = np.median(mine_N2, axis=0).tolist()
            panel.text(
                across,
                up,
                str(label),
                color=colours(label),
                fontsize=11,
                fontweight="bold",
                ha="center",
                va="center",
                path_effects=[_halo()],
            )
        panel.set(title=title)
        panel.set_box_aspect(1)
    return figure


def _halo() -> "matplotlib.patheffects.withStroke":
    from matplotlib import patheffects

    return patheffects.withStroke(linewidth=2, foreground=PAPER)


@styled()
def plane_figure(shown: Mapping[str, Latent]) -> Figure | None:
    """What comes of codes of two numbers on a grid, in a panel for each decoder."""
    if not shown:
        return None
    figure, axes = panels(len(shown), height=7.4 / len(shown))
    for panel, (title, latent) in zip(axes, shown.items(), strict=True):
        grid = np.array([_padded(text) for text in latent.plane])
        size = SIDE + 1
        whole = grid.reshape(GRID, GRID, size, size).swapaxes(1, 2).reshape(GRID * size, -1)
        _draw(panel, whole)
        (left, right), (bottom, top) = latent.ends
        panel.set_xticks([0, whole.shape[1] - 1], _ends(left, right))
        panel.set_yticks([0, whole.shape[0] - 1], _ends(top, bottom))
        panel.set(title=title, xlabel="first number", ylabel="second number")
    return figure


@styled()
def images_figure(lines: Mapping[str, Sequence[str]]) -> Figure | None:
    """Lines of images, each with what stands at its left."""
    if not lines:
        return None
    count = max(map(len, lines.values()))
    figure = Figure(
        figsize=(7.4, 0.55 * len(lines) + 0.1), layout=ConstrainedLayoutEngine(w_pad=0.05)
    )
    axes = figure.subplots(len(lines), count, squeeze=False)
    for row, (label, texts) in zip(axes, lines.items(), strict=True):
        for place, panel in enumerate(row):
            if place < len(texts):
                _draw(panel, image_of_text(texts[place]))
            panel.set_xticks([])
            panel.set_yticks([])
            if place >= len(texts):
                panel.axis("off")
        row[0].set_ylabel(label, rotation=0, ha="right", va="center")
    return figure


def spaces(images: Sequence[CodeFamily]) -> dict[str, Latent]:
    """Of each decoder a code of two numbers, and the last one's widest, by their titles."""
    found = {
        f"2 numbers:\n{family.kind.label}": family.by_width[2][0]
        for family in images
        if 2 in family.by_width
    }
    if images and (most := images[-1].widest[0]) > 2:
        found[f"{most} numbers:\n{images[-1].kind.label}"] = images[-1].widest[1]
    return found


def planes(images: Sequence[CodeFamily]) -> dict[str, Latent]:
    """Of each decoder what comes of two numbers, by its title."""
    return {
        family.kind.label: family.by_width[2][0] for family in images if 2 in family.by_width
    }


def lines_back(images: Sequence[CodeFamily]) -> dict[str, Sequence[str]]:
    """Some images, and what comes of their codes by decoder and width."""
    lines: dict[str, Sequence[str]] = {}
    for family in images:
        for width, (first, *_) in sorted(family.by_width.items()):
            lines.setdefault("image", first.texts[:COLUMNS])
            lines[f"{family.kind.label}, {width}"] = first.said[:COLUMNS]
    return lines


def lines_near(images: Sequence[CodeFamily], count: int = 6) -> dict[str, Sequence[str]]:
    """An image of each class, and the nearest others by the last decoder's widest code."""
    if not images:
        return {}
    _, latent = images[-1].widest
    first = {label: number for number, label in reversed(list(enumerate(latent.labels)))}
    asked = [first[label] for label in sorted(first)]
    near = nearest_documents(np.array(latent.codes), count)
    lines: dict[str, Sequence[str]] = {"image": [latent.texts[number] for number in asked]}
    for rank in range(near.shape[1]):
        lines[str(rank + 1)] = [latent.texts[near[number, rank]] for number in asked]
    return lines


def nearness(images: Sequence[CodeFamily]) -> str | None:
    """How often neighbours are of one class, by codes and by the pixels themselves."""
    if not images:
        return None
    _, widest = images[-1].widest
    by_pixels = same_class(widest.labels, pixels(widest.texts))
    by_codes = [
        f"by the decoder that {family.kind.label}, "
        + ", ".join(
            f"{_percent(alike)} by {width}"
            for width in sorted(family.by_width)
            if (alike := family.alike(width)) is not None
        )
        for family in images
    ]
    return (
        "How often the nearest other held-out image is of the same digit, by numbers of the"
        f" code: {'; '.join(by_codes)}; and {_percent(estimate(mean(0), by_pixels[None]))} by"
        " the pixels themselves."
    )


def answers(found: Sequence[CodeFamily]) -> str:
    """What each kind of documents costs from a narrow and from a wide code, and without one."""
    sentences = []
    for documents in dict.fromkeys(family.documents for family in found):
        told = []
        for family in found:
            if family.documents != documents:
                continue
            if 0 in family.by_width:
                told.append(
                    f"a {family.kind.label} without a code needs {_text(family.bits(0))}"
                )
                continue
            least, most = min(family.by_width), family.widest[0]
            given = {width: _text(family.bits(width)) for width in (least, most)}
            bits, paid = family.paid(most)
            told.append(
                f"a decoder that {family.kind.label} needs"
                f" {' and '.join(f'{text} from {width}' for width, text in given.items())}"
                f" numbers, and {_text(paid)} if these are paid for with {bits} bits each"
            )
        sentences.append(f"{documents.title}, in {documents.unit}: {'; '.join(told)}.")
    return " ".join(sentences)


def latent_table(found: Sequence[CodeFamily]) -> Table:
    """A row a family and width."""
    rows = []
    for family in found:
        for width in sorted(family.by_width):
            row: dict[str, Any] = {
                "documents": family.documents.title,
                "decoder": family.kind.label,
                "width": width or None,
                "bits": _text(family.bits(width)),
            }
            if width:
                bits, paid = family.paid(width)
                alike = family.alike(width)
                row |= {
                    "paid": f"{_text(paid)}, {bits}",
                    "right": _percent(family.right(width)),
                    "alike": alike and _percent(alike),
                }
            rows.append(row)
    columns = (
        Column("documents", ""),
        Column("decoder", "decoder"),
        Column("width", "numbers"),
        Column("bits", "bits per byte given the code"),
        Column("paid", "with the code, bits a number"),
        Column("right", "letters that come back"),
        Column("alike", "nearest of the same digit"),
    )
    return Table(
        columns,
        rows,
        "Means over seeds with 95% intervals over documents and seeds. A pixel is a byte."
        " Letters that come back are those of the first held-out documents that the likeliest"
        " tokens have at their place. Nearest is the held-out image with the nearest code.",
    )


def texts_table(texts: Sequence[CodeFamily], count: int = 5) -> Table | None:
    """What comes back of some texts at the widest code, and whose code is nearest."""
    rows = []
    for family in texts:
        width, first = family.widest
        near = nearest_documents(np.array(first.codes), 1)[:, 0]
        for number in range(min(count, len(first.said))):
            rows.append(
                {
                    "decoder": f"{family.kind.label}, {width}",
                    "text": first.texts[number],
                    "said": first.said[number],
                    "near": first.texts[near[number]],
                }
            )
    columns = (
        Column("decoder", "decoder, numbers"),
        Column("text", "held-out text"),
        Column("said", "what comes of its code"),
        Column("near", "nearest other by code"),
    )
    caption = "The likeliest tokens, at the widest code. One seed."
    return Table(columns, rows, caption) if rows else None


def _text(found: Estimate) -> str:
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def _percent(found: Estimate) -> str:
    return f"{found.value:.0%} ({found.low:.0%} to {found.high:.0%})"


def _ends(first: float, last: float) -> list[str]:
    return [f"{value:.2f}".replace("-", "−") for value in (first, last)]


def _padded(text: str) -> np.ndarray:
    """An image with a line of nothing below it and at its right."""
    image_HW = image_of_text(text).astype(float)
    return np.pad(image_HW, ((0, 1), (0, 1)), constant_values=np.nan)


def _draw(panel: Axes, image_HW: np.ndarray) -> None:
    """Ink on paper; what is no grey level is a colour of its own."""
    inks = matplotlib.colormaps["gray_r"].with_extremes(under="#d55e00", bad=RULE)
    panel.imshow(image_HW, cmap=inks, vmin=0, vmax=len(GREYS) - 1, interpolation="nearest")
    panel.grid(visible=False)
    for side in panel.spines.values():
        side.set(visible=True, color=INK, linewidth=0.4)
