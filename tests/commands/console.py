"""What commands print, and how they refuse."""

from pathlib import Path

import pytest

from lm.cli import main


def said(capsys, *arguments: str) -> str:
    """What a command prints."""
    capsys.readouterr()
    main(list(arguments))
    return capsys.readouterr().out


def refused(capsys, *arguments: str) -> str:
    """The one line with which a command is refused; nothing may be written."""
    there = sorted(Path.cwd().rglob("*"))
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main(list(arguments))
    out, err = capsys.readouterr()
    assert exit_.value.code == 2
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("lm: ")
    assert sorted(Path.cwd().rglob("*")) == there
    return line
