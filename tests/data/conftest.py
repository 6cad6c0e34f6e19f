"""A cache of its own for every test, and a small corpus."""

import random
from pathlib import Path

import pytest

from lm.data import Text


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("LM_CACHE", str(folder))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty files of made-up words, the same every time."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 6))) for _ in range(60)]
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(40):
        lines = [" ".join(draw.choices(words, k=8)) for _ in range(draw.randint(1, 12))]
        (folder / f"{number:02}.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def corpus(folder: Path) -> Text:
    return Text(paths=(f"{folder}/*.txt",))
