"""What a proof found, in words and in a picture of what one row's predictions depend on."""

from dataclasses import dataclass
from typing import NamedTuple

import msgspec
from rich.text import Text

from lm.config import UserError
from lm.objectives import Base


class Picture(NamedTuple):
    """What the predictions of one row were found to depend on."""

    shown: str
    labels: tuple[str, ...]
    cells: tuple[str, ...]
    """A character for each position, of those in `LEGEND`."""


@dataclass(frozen=True)
class Proof:
    """What was checked, and what was found to be wrong."""

    objective: Base
    modules: int
    keys: int
    targets: int
    """Targets that count, over keys and rows."""
    pairs: int
    """Pairs of a target and a position that were held against what is allowed."""
    kept: int
    """Targets that are shown on purpose: exempt from the question whether they see it."""
    indirect: int
    """Pairs that are allowed through other positions only: 0 if the mask is transitive."""
    violations: tuple[str, ...]
    picture: Picture

    def raise_if_leaky(self) -> None:
        """Raises UserError with the first violations in one line."""
        if self.violations:
            more = len(self.violations) - 3
            raise UserError(
                f"{title(self.objective)}: {'; '.join(self.violations[:3])}"
                + (f"; and {more} more" if more > 0 else "")
            )


LEGEND = {
    "■": ("allowed and found", "green"),
    "·": ("neither", "dim"),
    "◆": ("its own target, kept on purpose", "cyan"),
    "✗": ("forbidden, but found", "bold red"),
    "○": ("allowed, but not found", "bold yellow"),
}


def draw(proof: Proof) -> Text:
    """A proof in a sentence, and a picture of one row with its legend."""
    text = Text()
    verdict = (
        ("proven", "bold green")
        if not proof.violations
        else (f"{len(proof.violations)} violations", "bold red")
    )
    text.append(f"\n{title(proof.objective)}: ", "bold").append(*verdict)
    text.append(
        f"  {proof.targets} targets of {proof.keys} keys, {proof.pairs:,} pairs of a target and"
        " a position"
    )
    if proof.kept:
        text.append(f", {proof.kept} targets exempt: their token is shown on purpose")
    picture = proof.picture
    if not proof.pairs or not picture.labels:
        return text
    margin = max(map(len, picture.labels)) + 3
    text.append("\n" + "sees ".rjust(margin) + " ".join(picture.shown), "bold")
    for label, cells in zip(picture.labels, picture.cells, strict=True):
        text.append("\n" + f"{label}  ".rjust(margin))
        for cell in cells:
            text.append(f"{cell} ", LEGEND[cell][1])
    text.append("\n" + " " * margin)
    there = set("".join(picture.cells))
    for cell, (meaning, style) in LEGEND.items():
        if cell in there:
            text.append(cell, style).append(f" {meaning}   ")
    return text.append("\n" + " " * margin + "^ begin  $ end  _ mask  0-9 sentinels  - padding")


def title(objective: Base) -> str:
    """An objective as one would ask for it, without what is as usual.

    >>> from lm.objectives import Masked
    >>> title(Masked(rate=0.3, select="word"))
    'masked rate=0.3 select=word'
    """
    words = [str(objective.__struct_config__.tag)]
    for field in msgspec.structs.fields(objective):
        value = getattr(objective, field.name)
        if value != field.default:
            plain = value if isinstance(value, str) else msgspec.json.encode(value).decode()
            words.append(f"{field.name}={plain}")
    return " ".join(words)


def interest(picture: Picture) -> tuple[int, ...]:
    """How much a picture has to show: what is wrong, then what is kept, then the rest."""
    cells = "".join(picture.cells)
    wrong, kept = cells.count("✗") + cells.count("○"), "◆" in cells
    # Then several documents and padding, and as many targets as there are.
    return wrong, kept, picture.shown.count("^") == 2, "-" in picture.shown, len(picture.labels)
