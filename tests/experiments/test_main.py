"""`python -m experiments`, as a process."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_study_is_listed_with_its_question_and_scales():
    """Fails if a study is left out, or its scales cannot be read off its source."""
    listed = subprocess.run(
        [sys.executable, "-m", "experiments"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    studies = {path.stem for path in (ROOT / "experiments").glob("[!_]*.py")}
    assert {line.split()[0] for line in listed} == studies
    assert all("?" in line and "[smoke, " in line for line in listed)


def test_a_list_that_nobody_reads_to_its_end_is_no_traceback():
    """Fails if `python -m experiments | head -1` prints one where the pipe is closed."""
    read, write = os.pipe()
    os.close(read)
    try:
        command = [sys.executable, "-u", "-m", "experiments"]
        ended = subprocess.run(
            command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True
        )
    finally:
        os.close(write)
    assert ended.stderr == ""
