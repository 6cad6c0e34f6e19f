"""What every host runs: install a commit, run the study until it is done, keep its runs.

The runs are on the first host's disk and, a few minutes behind, in the bucket, from where the
next one goes on if this one is taken away.
"""

import hashlib
import re
import shlex
from pathlib import Path
from typing import Literal, NamedTuple

from tpu.errors import UserError
from tpu.study import Study

Told = Literal["all", "first"]
"""Who is told that a host shuts down: all processes, or the first, which tells the study."""


class Place(NamedTuple):
    """Where in Cloud Storage a study's runs, states, logs and source are."""

    bucket: str
    folder: str
    """The study's own, as a host removes from the bucket what it removed from its disk."""

    @property
    def runs(self) -> str:
        """The folder that is a copy of `--runs`."""
        return f"{self.folder}/runs"

    def url(self, path: str) -> str:
        return f"gs://{self.bucket}/{path}"


def place(bucket: str, study: Study) -> Place:
    """The places under `gs://bucket` or `gs://bucket/folder`.

    >>> place("gs://ours/lm", Study("bert_vs_gpt", "smoke", ())).folder
    'lm/launches/yardstick-bert-vs-gpt-smoke'
    """
    found = re.fullmatch(
        r"gs://([a-z0-9][a-z0-9_.-]{1,61}[a-z0-9])((?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*)/?",
        bucket,
    )
    if not found or "google" in found[1] or found[1].startswith("goog"):
        raise UserError(
            f"--bucket {bucket}: not a bucket; write gs://NAME or gs://NAME/FOLDER, the name in"
            " 3 to 63 small letters, digits, - _ and ."
        )
    above = (found[2].lstrip("/") or "yardstick") + "/"
    return Place(found[1], f"{above}launches/{study.name}")


def script(study: Study, commit: str, where: Place, *, hosts: int, told: Told) -> str:
    """The script for a commit of a study; hosts run it as it is, whichever they are.

    Several hosts share no disk: each writes its part of a checkpoint to the bucket.
    """
    arguments = study.arguments("../runs")
    if hosts > 1:
        arguments.append(f"checkpoints.directory={where.url(where.folder)}/checkpoints")
    settings = {
        "launch": launch_id(study, commit),
        "commit": commit,
        "bucket": where.bucket,
        "folder": where.folder,
        "told": told,
    }
    lines = ["#!/bin/bash", f"# {study.name} at commit {commit[:12]}."]
    lines += [f"{name}={shlex.quote(value)}" for name, value in settings.items()]
    lines += [f"arguments=({shlex.join(arguments)})", ""]
    return "\n".join(lines) + Path(__file__).with_name("startup.sh").read_text()


def launch_id(study: Study, commit: str) -> str:
    """Twelve digits by which a host says what it runs, so that older news is not believed."""
    text = "\n".join([commit, study.study, study.scale, *study.overrides])
    return hashlib.sha256(text.encode()).hexdigest()[:12]
