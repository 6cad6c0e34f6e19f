"""The page of a cleaned text: sources, what was removed by which rule and why, samples."""

import json
from collections.abc import Iterator

from lm.data.cleaning import Manifest
from lm.data.cleaning.tally import Removal, Shown, StepRecord, total_of
from lm.output.numbers import percent
from lm.study.report.figures import BLUE, VERMILLION, panels, styled
from lm.study.report.values import (
    Column,
    Content,
    Excerpts,
    Plot,
    Quote,
    Report,
    Row,
    Section,
    Table,
)


def report_of(manifest: Manifest) -> Report:
    """All that a manifest says, as a page."""
    sources = manifest.sources.values()
    documents, kept = sum(s.documents for s in sources), sum(s.kept_documents for s in sources)
    size, left = sum(s.bytes for s in sources), sum(s.kept_bytes for s in sources)
    return Report(
        title="What cleaning left",
        question=f"What was removed from {documents:,} documents of {_names(manifest)},"
        " by which rule, and why?",
        answer=f"{kept:,} of {documents:,} documents are left ({_of(kept, documents)}), and"
        f" {megabytes(left)} of {megabytes(size)} MB ({_of(left, size)}).{_most(manifest)}",
        details=(_split_sentence(manifest),),
        table=_sources(manifest),
        rows=(),
        warnings=tuple(_warnings(manifest)),
        sections=(
            Section("What each rule removed", tuple(_removed(manifest))),
            *_duplicates(manifest),
            Section("Samples", tuple(_samples(manifest))),
            Section("Files", (_files(manifest),)),
            *_rules(manifest),
        ),
        made={
            "steps": "; ".join(_settings(step) for step in manifest.recipe["steps"]) or "none",
            "seed": str(manifest.recipe["seed"]),
            "files read": manifest.read[:16],
        },
    )


def megabytes(size: float) -> str:
    """Bytes in units of 1e6.

    >>> megabytes(12_345_678), megabytes(1_234)
    ('12.3', '0.001')
    """
    return f"{size / 1e6:,.1f}" if abs(size) >= 1e5 or not size else f"{size / 1e6:.3f}"


def _of(part: float, whole: float) -> str:
    return percent(part / whole) if whole else "none"


def _names(manifest: Manifest) -> str:
    names = list(manifest.sources)
    if len(names) > 4:
        return f"{len(names)} sources"
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def _title(manifest: Manifest, number: int) -> str:
    """A step as the page calls it: with its number where two are of a kind."""
    step = manifest.steps[number]
    settings = manifest.recipe["steps"][number]
    if step.type == "exact":
        return f"exact, by {settings['by']}"
    same = [n for n, each in enumerate(manifest.steps) if each.type == step.type]
    return f"{step.type} ({number + 1})" if len(same) > 1 else step.type


def _each_rule(manifest: Manifest) -> Iterator[tuple[int, StepRecord, str, Removal]]:
    for number, step in enumerate(manifest.steps):
        for rule in step.about:
            yield number, step, rule, total_of(step.tally.rules.get(rule, {}))


def _most(manifest: Manifest) -> str:
    rules = [(total.documents, n, rule) for n, _, rule, total in _each_rule(manifest)]
    documents, number, rule = max(rules, default=(0, 0, ""))
    if not documents:
        return ""
    return (
        f" The rule that removed most is “{rule}” of {_title(manifest, number)}: {documents:,}."
    )


def _split_sentence(manifest: Manifest) -> str:
    sources = manifest.sources.values()
    documents, size = sum(s.held_documents for s in sources), sum(s.held_bytes for s in sources)
    return (
        f"Split by the hash of each text as it is now, {manifest.recipe['validation']:.0%} for"
        f" validation: {documents:,} documents and {megabytes(size)} MB are held out."
    )


def _warnings(manifest: Manifest) -> Iterator[str]:
    for name, source in manifest.sources.items():
        if source.damaged:
            yield (
                f"{name}: {source.damaged:,} places held no document and were skipped; the"
                f" first is {source.first_damaged}"
            )
        if source.documents and not source.kept_documents:
            yield f"{name}: nothing is left of it"
    for number, step in enumerate(manifest.steps):
        for note in step.notes:
            yield f"{_title(manifest, number)}: {note}"
    if lost := manifest.unaccounted():
        yield f"{lost:,} bytes are neither left nor counted as removed: this page is wrong"


def _sources(manifest: Manifest) -> Table:
    rows: list[Row] = [
        {
            "source": name,
            "documents": source.documents,
            "kept": source.kept_documents,
            "fraction": source.kept_documents / max(source.documents, 1),
            "bytes": source.bytes,
            "left": source.kept_bytes,
            "of_bytes": source.kept_bytes / max(source.bytes, 1),
        }
        for name, source in manifest.sources.items()
    ]
    columns = (
        Column("source", "source"),
        Column("documents", "documents", "{:,}".format),
        Column("kept", "left", "{:,}".format),
        Column("fraction", "of them", percent),
        Column("bytes", "MB", megabytes),
        Column("left", "left", megabytes),
        Column("of_bytes", "of them", percent),
    )
    return Table(columns, rows, "What was read of each source, and what is left.")


def _removed(manifest: Manifest) -> Iterator[Content]:
    """The rules that found something: as bars, as numbers, and by source."""
    found = [
        {
            "step": _title(manifest, number),
            "rule": rule,
            "documents": total.documents or None,
            "bytes": total.bytes or None,
            "changed": total.changed or None,
            "changes": total.changes or None,
        }
        for number, _, rule, total in _each_rule(manifest)
        if total.documents or total.changed
    ]
    if not found:
        yield "No rule removed anything."
        return
    yield _bars(found)
    columns = (
        Column("step", "step"),
        Column("rule", "rule"),
        Column("documents", "documents removed", "{:,}".format),
        Column("bytes", "MB of them", megabytes),
        Column("changed", "documents changed", "{:,}".format),
        Column("changes", "changes", "{:,}".format),
    )
    cut = [
        f"{_title(manifest, number)} {megabytes(step.tally.cut)} MB"
        for number, step in enumerate(manifest.steps)
        if step.tally.cut
    ]
    caption = (
        "By rule, in the order of the steps. A document is removed by the first rule that it"
        " breaks; one that is changed may count under several."
    )
    if cut:
        caption += f" Cut from documents that stay: {', '.join(cut)}"
        caption += " (less than 0 where masks are longer)." if "-" in "".join(cut) else "."
    yield Table(columns, found, caption)
    if len(manifest.sources) > 1:
        yield _by_source(manifest)
    quiet = [
        f"{rule} ({_title(manifest, number)})"
        for number, _, rule, total in _each_rule(manifest)
        if not (total.documents or total.changed)
    ]
    if quiet:
        yield f"These found nothing: {', '.join(quiet)}."


def _by_source(manifest: Manifest) -> Table:
    """How much of each source each rule removed."""
    rows: list[Row] = []
    for number, step, rule, total in _each_rule(manifest):
        if total.documents:
            by_source = step.tally.rules[rule]
            fractions = {
                name: by_source[name].documents / source.documents
                if name in by_source
                else None
                for name, source in manifest.sources.items()
                if source.documents
            }
            rows.append({"step": _title(manifest, number), "rule": rule, **fractions})
    columns = [Column(name, name, percent) for name in manifest.sources]
    return Table(
        (Column("step", "step"), Column("rule", "rule"), *columns),
        rows,
        "Of each source's documents, those that a rule removed.",
    )


@styled()
def _bars(found: list[dict]) -> Plot:
    """Documents by rule: removed, or changed and kept."""
    figure, (axes,) = panels(height=0.7 + 0.19 * len(found))
    for place, row in enumerate(found):
        axes.barh(place, row["documents"] or 0, color=VERMILLION, height=0.62)
        axes.barh(
            place, row["changed"] or 0, left=row["documents"] or 0, color=BLUE, height=0.62
        )
    axes.set_yticks(range(len(found)), [f"{row['step']}: {row['rule']}" for row in found])
    axes.invert_yaxis()
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("documents")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    caption = (
        "Documents by rule: removed (vermillion), or changed and left in (blue), in the order"
        " of the steps."
    )
    return Plot("rules", figure, caption)


def _duplicates(manifest: Manifest) -> Iterator[Section]:
    """Whose duplicates were found in whose, and how many lay across the splits."""
    rows: list[Row] = []
    for number, step in enumerate(manifest.steps):
        for rule, by_source in step.tally.rules.items():
            for source, removal in by_source.items():
                for twin, count in sorted(removal.twins.items()):
                    rows.append(
                        {
                            "step": _title(manifest, number),
                            "rule": rule,
                            "source": source,
                            "twin": twin,
                            "count": count,
                        }
                    )
    if not any(step.type in ("exact", "near") for step in manifest.steps):
        yield Section("Duplicates", ("No step looked for duplicates.",))
        return
    if not rows:
        yield Section("Duplicates", ("None were found.",))
        return
    across = [
        (number, rule, total) for number, _, rule, total in _each_rule(manifest) if total.twins
    ]
    sentences = "; ".join(
        f"{_title(manifest, number)}, {rule}: {total.across:,} of"
        f" {sum(total.twins.values()):,} documents"
        for number, rule, total in across
    )
    columns = (
        Column("step", "step"),
        Column("rule", "rule"),
        Column("source", "duplicates in"),
        Column("twin", "of documents in"),
        Column("count", "documents", "{:,}".format),
    )
    yield Section(
        "Duplicates",
        (
            "Across the splits, that is in validation while its like is in training or the"
            f" other way round, as the texts were when they were compared: {sentences}. Without"
            " these steps a model would have been asked for what it had seen.",
            Table(columns, rows, "Whose documents, or parts of them, stood in whose before."),
        ),
    )


def _samples(manifest: Manifest) -> Iterator[Content]:
    """A few documents of each rule, chosen by a hash of their names."""
    yield (
        "Chosen by a hash of their names, and shown from their beginning; of documents that"
        " were changed, what was taken from them. Addresses and keys are masked here, whether"
        " or not they are in the files."
    )
    for number, step in enumerate(manifest.steps):
        for rule in step.about:
            if shown := step.tally.examples.get(rule):
                yield Excerpts(f"{_title(manifest, number)}: {rule}", _excerpts(shown))
    if manifest.kept:
        yield Excerpts("Left", _excerpts(manifest.kept))


def _excerpts(shown: list[Shown]) -> tuple[Quote, ...]:
    return tuple(
        Quote(
            f"{each.source}: {each.id}",
            ", ".join(filter(None, (each.why, each.twin and f"{each.twin} stays"))),
            each.text,
        )
        for each in shown
    )


def _rules(manifest: Manifest) -> Iterator[Section]:
    about = [
        {"step": _title(manifest, number), "rule": rule, "about": step.about[rule]}
        for number, step, rule, _ in _each_rule(manifest)
    ]
    if about:
        columns = (
            Column("step", "step"),
            Column("rule", "rule"),
            Column("about", "what it is"),
        )
        table = Table(columns, about, "All rules that were applied, with where they are from.")
        yield Section("The rules", (table,))


def _files(manifest: Manifest) -> Table:
    rows: list[Row] = [
        {
            "name": shard.name,
            "documents": shard.documents,
            "bytes": shard.bytes,
            "sha256": shard.sha256[:16],
        }
        for shard in manifest.shards
    ]
    columns = (
        Column("name", "file"),
        Column("documents", "documents", "{:,}".format),
        Column("bytes", "MB of text", megabytes),
        Column("sha256", "SHA-256 (its beginning)"),
    )
    return Table(columns, rows, "The cleaned text.")


def _settings(step: dict) -> str:
    """A step as the recipe has it, without what is long."""
    plain = {key: value for key, value in step.items() if key not in ("type", "against")}
    return f"{step['type']} {json.dumps(plain)}"
