"""One thing is added in one place: ten files and ten lines, and all of them work together.

The files are those that docs/extending*.md show, and the lines those that its table names.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("extending*.md"))

ADDITIONS = {
    "source": ("lm/data/sources/lines.py", "Lines", "Corpus = "),
    "tokenizer": ("lm/data/tokenizers/indents.py", "Indents", "TokenizerConfig = "),
    "objective": ("lm/objectives/late.py", "Late", "Plain = "),
    "model": ("lm/model/pairs.py", "Pairs", "Model = "),
    "optimizer": ("lm/optimizer/sgd.py", "Sgd", "Optimizer = "),
    "tracker": ("lm/train/trackers/last.py", "Last", '"last": Last'),
    "scorer": ("lm/evaluate/scorers/smoothed.py", "Smoothed", '"smoothed": Smoothed()'),
    "task": ("lm/evaluate/tasks/colours.py", "colours", '"colours": colours.TASK'),
    "law": ("lm/scaling/logarithm.py", "Logarithm", "(Parametric, "),
    "study": ("experiments/prefixes.py", "", ""),
}
"""The file of each kind, what it defines, and what its line is in."""

LINES = {
    "source": "lm/data/sources/__init__.py",
    "tokenizer": "lm/data/tokenizers/__init__.py",
    "objective": "lm/objectives/plain.py",
    "model": "lm/model/__init__.py",
    "optimizer": "lm/optimizer/__init__.py",
    "tracker": "lm/train/trackers/__init__.py",
    "scorer": "lm/evaluate/scorers/__init__.py",
    "task": "lm/evaluate/tasks/__init__.py",
    "law": "lm/scaling/catalog.py",
}


def examples() -> dict[str, str]:
    """The whole file that the docs show of each kind."""
    found = {}
    for page in PAGES:
        sections = re.split(r"^## An? ", page.read_text(), flags=re.MULTILINE)[1:]
        for section in sections:
            kind = section.partition("\n")[0].strip()
            (code,) = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
            found[kind] = code
    return found


def extend(tree: Path) -> None:
    """Adds all ten to a copy of the package: a file each, and one line in what lists them."""
    code = examples()
    assert code.keys() == ADDITIONS.keys()
    for kind, (file, name, within) in ADDITIONS.items():
        (tree / file).write_text(code[kind])
        if kind not in LINES:
            continue
        listing = tree / LINES[kind]
        module = file.removesuffix(".py").replace("/", ".")
        text = listing.read_text()
        (line,) = [each for each in text.splitlines() if within_or_table(each, within)]
        match kind:
            case "tracker":
                new = line.replace("{", f"{{{within}, ", 1)
            case "scorer" | "task":
                new = f"{line}\n    {within},"
            case "law":
                new = line.replace("(Parametric, ", f"(Parametric, {name}, ")
            case _:
                new = f"{line} | {name}"
        text = text.replace(line, new)
        # What the line names must be imported; it is a part of the line.
        first = text.index("\nfrom lm.")
        imported = module if name[0].isupper() else module.rpartition(".")[0]
        listing.write_text(f"{text[:first]}\nfrom {imported} import {name}{text[first:]}")


def within_or_table(line: str, within: str) -> bool:
    if within.startswith('"last"'):
        return line.startswith("TRACKERS: ")
    if within.startswith('"smoothed"'):
        return line.startswith("SCORERS: ")
    if within.startswith('"colours"'):
        return line.startswith("TASKS: ")
    return within in line and not line.startswith(('"', "    from", "#"))


PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np
import lm
from lm.cli import main
from lm.config import override
from lm.run import Run
from lm.data.sources.lines import Lines
from lm.scaling.catalog import law_of
from lm.scaling.table import Runs

here = Path(sys.argv[1])
(here / "text.txt").write_text("".join(f"    the {n} lines\\n" for n in range(400)))
settings = [
    "data.corpus.type=lines", f"data.corpus.path={here}/text.txt",
    "data.tokenizer.type=indents", "data.length=32", "data.batch=8",
    "objective.type=late", "model.type=pairs", "optimizer.type=sgd",
    'trackers=["last"]', "tokens=4096", "evaluations=1", "precision=float32",
]
main(["train", "-", "--dir", str(here / "run"), *settings, "--json"])
main(["score", str(here / "run"), "--scorer", "smoothed", "--json"])
(here / "colours").mkdir()
(here / "colours" / "test.jsonl").write_text(
    '{"thing": "grass", "colour": "green"}\\n{"thing": "sky", "colour": "blue"}\\n'
)
main(["eval", str(here / "run"), "--tasks", "colours", "--data", str(here), "--json"])
main(["prove", "-", "objective.type=late", "model.type=pairs"])
runs = Runs(*(np.array(x) for x in ([3.0, 2.5, 2.0], [1e3, 1e4, 1e5], [1e5, 1e5, 1e5],
                                    [1e9, 1e10, 1e11])))
fit = law_of("logarithm").fit(runs, bootstrap=0, seed=0)
print(json.dumps({"n": fit.parameters["n"]}))
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    tree = tmp_path_factory.mktemp("extended")
    for name in ("lm", "experiments"):
        # What studies found is not needed; lm/results is.
        left_out = ("results",) if name == "experiments" else ()
        ignore = shutil.ignore_patterns("__pycache__", *left_out)
        shutil.copytree(ROOT / name, tree / name, ignore=ignore)
    extend(tree)
    return tree


def run(tree: Path, *command: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(tree), "JAX_NUM_CPU_DEVICES": "1"}
    ran = subprocess.run(
        [sys.executable, *command],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout


def test_ten_additions_of_a_file_and_a_line_work_together(tree, tmp_path):
    """Fails if anything of a kind must be named anywhere but in its file and its line."""
    out = run(tree, "-c", PROGRAM, str(tmp_path))
    record = json.loads((tmp_path / "run" / "last.json").read_text())
    assert record["step"] == 16  # 4096 tokens in batches of 8 rows of 32
    assert '"smoothed"' in out and '"exact"' in out and '"colours": [' in out
    assert json.loads(out.splitlines()[-1])["n"] == pytest.approx(0.5 / 2.302585, rel=1e-5)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["params_total"] == 261 * 64 + 2 * 64 * 256
    assert result["predicted_targets"] < result["tokens"] / 1.9


def test_a_study_is_found_by_its_file_alone(tree, tmp_path):
    """Fails if a study must be listed somewhere."""
    assert "Does a prefix that is read in both directions" in run(tree, "-m", "experiments")
    options = "--scale", "smoke", "--runs", str(tmp_path / "runs")
    first = "causal-12k-d8.2k-seed0"
    out = run(tree, "-m", "experiments.prefixes", *options, "--run", first)
    assert "report.html" in out
