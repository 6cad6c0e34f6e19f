"""What commands print with."""

import json

from lm.output.console import print_json, print_notes, print_table, table


def test_a_number_is_never_cut(capsys, monkeypatch):
    """Fails if a table is as wide as the terminal and not as its numbers."""
    monkeypatch.setenv("COLUMNS", "20")
    made = table("run", "first", "second", right=("first", "second"))
    made.add_row("a" * 100, "1.23456789", "9.87654321")
    print_table(made)
    title, row = capsys.readouterr().out.splitlines()
    assert row.split() == ["a" * 100, "1.23456789", "9.87654321"]
    assert title.split() == ["run", "first", "second"]


def test_text_is_printed_as_it_is(capsys):
    """Fails if brackets of a path are taken for markup, or a long note is broken."""
    note = "runs/[bold]x[/bold] " * 20
    print_notes([note], ["[red]"])
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"note: {note}" and second == "warning: [red]"


def test_json_has_lists_of_numbers_on_a_line_and_no_nan(capsys):
    """Fails if a bootstrap's draws are a line each, or what is printed is no JSON."""
    value = {"draws": [1.5, -2e-9, 3], "names": ["a", "b"], "ends": [[1, 2], None]}
    print_json(value)
    out = capsys.readouterr().out
    assert json.loads(out) == value and '"draws": [ 1.5, -2e-09, 3 ]' in out
    print_json({"loss": float("nan"), "bits": [float("inf"), 1.0]})
    assert json.loads(capsys.readouterr().out) == {"loss": None, "bits": [None, 1.0]}
