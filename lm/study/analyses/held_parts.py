"""The headline taken apart: what a run needs for each part of its held-out documents."""

import math
from collections.abc import Mapping, Sequence

from lm.study.grid import StudyRun


def with_parts(cells: Sequence[StudyRun], documents: Mapping[str, int]) -> list[StudyRun]:
    """The runs, with the bits per byte of each part among their results.

    The first so many held-out documents are the first part, and so on; `parts.asked("bits_P")`
    is that of part P. Raises ValueError where a run was scored on another number of documents.
    """
    found = []
    for cell in cells:
        result, more, start = cell.result, dict[str, object](), 0
        if result is not None:
            nats, sizes = result["document_nats"], result["document_bytes"]
            if len(sizes) != sum(documents.values()):
                raise ValueError(f"{cell.name}: scored on {len(sizes)} documents")
            for part, count in documents.items():
                here = slice(start, start := start + count)
                sums = [*nats[here]], [*sizes[here]]
                more[f"bits_{part}"] = sum(sums[0]) / math.log(2) / sum(sums[1])
                more[f"bits_{part}_documents"] = sums
            result = {**result, **more}
        found.append(cell._replace(result=result))
    return found
