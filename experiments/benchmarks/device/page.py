"""What was found on a device, as a page that stands alone."""

from collections.abc import Mapping
from typing import Any

from experiments.benchmarks.device.parts import ATTENTION, CELL, CPU_CELL
from lm.output.numbers import count, percent
from lm.study.report.page import page_of
from lm.study.report.values import Column, Report, Section, Table


def page(content: Mapping[str, Any]) -> str:
    """The page of a file of results, whatever is in it by now."""
    machine, parts = content["machine"], content["parts"]
    found = {name: part["found"] for name, part in parts.items() if "found" in part}
    trained = [
        _speed_row(each)
        for each in found.values()
        if isinstance(each, dict) and "peak_fraction" in each
    ]
    wrong = [f"{name}: {part['error']}" for name, part in parts.items() if "error" in part]
    left = [name for name, part in parts.items() if "left_out" in part]
    if left:
        wrong.append(f"left out, as the time was over: {'; '.join(left)}")
    speed = Table(
        (
            Column("what", "step"),
            Column("attention", "attention"),
            Column("speed", "tokens/s", lambda value: f"{value:,.0f}"),
            Column("fraction", "of the peak", percent),
            Column("memory", "GB", lambda value: f"{value / 1e9:.1f}"),
            Column("compiled", "s to compile", lambda value: f"{value:.0f}"),
        ),
        trained,
        "Training steps on packed rows, PyTorch's on whole ones; the ledger's FLOPs.",
    )
    return page_of(
        Report(
            title=f"This package on {machine.get('device', 'a device')}",
            question="Does it do there what it does on a CPU, and how fast?",
            answer=answer(content),
            table=speed,
            rows=trained,
            sections=tuple(_sections(found)),
            warnings=tuple(wrong),
            made={name: str(value) for name, value in (content["made"] | machine).items()},
        ),
        {},
    )


def answer(content: Mapping[str, Any]) -> str:
    """What the checks found, in a sentence.

    >>> answer({"checks": {"attention, cudnn": True, "a run": False}})
    'Checked: attention, cudnn: right; a run: WRONG.'
    """
    checks = content["checks"].items()
    said = [f"{name}: {'right' if well else 'WRONG'}" for name, well in checks]
    return f"Checked: {'; '.join(said)}." if said else "Nothing has been checked yet."


def _speed_row(found: Mapping[str, Any]) -> dict[str, Any]:
    seconds = found["seconds"]["median"]
    return {
        "what": f"{count(found['parameters'])}, {found['objective']}, rows of"
        f" {found['length']:,}",
        "attention": found["attention"],
        "speed": found["tokens"] / seconds,
        "fraction": found["peak_fraction"]["median"],
        "memory": found["peak_bytes"],
        "compiled": found.get("compile_seconds"),
    }


def _sections(found: Mapping[str, Any]) -> list[Section]:
    checked = [
        row | {"well": row.get("error") or ("right" if row["right"] else "WRONG")}
        for name, rows in found.items()
        if name.startswith(ATTENTION)
        for row in rows
    ]
    sections = []
    columns: tuple[Column, ...]
    if checked:
        columns = (
            Column("backend", "attention"),
            Column("mask", "mask"),
            Column("keys", "key heads of 4"),
            Column("precision", "precision"),
            Column("worst", "off by at most", lambda value: f"{value:.1e}"),
            Column("well", ""),
        )
        about = (
            "Values and gradients beside XLA's form on the CPU, as fractions of the largest."
        )
        sections.append(Section("Kernels", (Table(columns, checked, about),)))
    cells = [found[name] for name in (CPU_CELL, CELL) if name in found]
    if cells:
        columns = (
            Column("device", "device"),
            Column("run", "run"),
            Column("loss", "loss, nats a token", lambda value: f"{value:.5f}"),
            Column("batches", "rows read", lambda value: value[:12]),
        )
        about = "A run of known_truth's smoke scale, in float32."
        sections.append(Section("A run here and there", (Table(columns, cells, about),)))
    if "floors" in found:
        products = found["floors"]["matmuls"]
        rows = [
            {"what": f"product, {name}", "rate": of["flops"] / of["seconds"]["median"] / 1e12}
            for name, of in products.items()
        ]
        memory = found["floors"]["memory"]
        rate = memory["bytes"] / memory["seconds"]["median"] / 1e12
        rows.append({"what": "memory, read and written, TB/s", "rate": rate})
        columns = (
            Column("what", "what"),
            Column("rate", "TFLOP/s", lambda value: f"{value:,.3g}"),
        )
        sections.append(Section("What the device can do", (Table(columns, rows),)))
    if "generation" in found:
        rows = [
            row | {"speed": row["batch"] / row["seconds"]["median"]}
            for row in found["generation"]["rows"]
        ]
        columns = (
            Column("batch", "texts together"),
            Column("there", "tokens there"),
            Column("speed", "tokens/s", lambda value: f"{value:,.0f}"),
        )
        sections.append(Section("Generation", (Table(columns, rows),)))
    if "study" in found:
        study = found["study"]
        sections.append(
            Section(
                "A study",
                (
                    f"{study['finished']} of {study['runs']} runs of {study['command']} are"
                    f" finished; the same command goes on from there. {study['said']}",
                ),
            )
        )
    return sections
