"""Every study, traced at full size; and one in small, from the command to the report."""

import csv
import hashlib
import importlib
import json
import os
import pkgutil
import random
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from msgspec.structs import replace

import experiments
from lm.config import override
from lm.cost import ledger
from lm.data import Data, vocabulary_size
from lm.distributed import mesh
from lm.evaluate.scoring import Effort
from lm.example import Batch, Vocabulary
from lm.results import read_result
from lm.run import Run, channels_of, steps, validate
from lm.study import checks, jobs, runner
from lm.study.report.values import LEADING
from lm.train.directory import environments
from lm.train.lock import only_writer
from lm.train.step import prepare

STUDIES = {
    module.name: found
    for module in pkgutil.iter_modules(experiments.__path__)
    if hasattr(found := importlib.import_module(f"experiments.{module.name}"), "runs")
}


@pytest.fixture(scope="module", autouse=True)
def _leave_no_trace():
    """Commands set up the process that they are, and the process is pytest's."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    yield
    jax.config.update(name, before)


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_is_complete_at_every_scale(name):
    """Fails if a study asks no question, has no toy scale, or names runs alike or as paths."""
    module = STUDIES[name]
    question = (module.__doc__ or "").splitlines()[0]
    assert question.endswith("?")
    assert f"python -m experiments.{name}" in module.__doc__
    assert module.SCALES[0] == "smoke"
    assert set(module.EFFORT) <= set(module.SCALES)
    for scale in module.SCALES:
        assert scale in module.__doc__
        runs = module.runs(scale)
        for cell, run in runs.items():
            assert validate(run) == run
            assert re.fullmatch(r"\w[\w.-]*", cell)
        assert len({cell.casefold() for cell in runs}) == len(runs)
        assert len({repr(run) for run in runs.values()}) == len(runs)


def full_size() -> list[Any]:
    """The programs of each study's largest scale: of a kind of objective, the widest.

    All but the largest model of a study, and the first of a kind of objective, are `slow`, as
    is what another study has.
    """
    found: dict[tuple[str, str], Any] = {}
    studies, kinds, programs = set(), set(), set()
    for name, module in STUDIES.items():
        runs = module.runs(module.SCALES[-1])
        for cell in sorted(runs, key=lambda cell: _size(runs[cell]), reverse=True):
            run, kind = runs[cell], type(runs[cell].objective).__name__
            what = repr((run.model, kind, run.data, run.optimizer, run.precision))
            # Neither the text nor the budget is in the shapes.
            text = replace(run.data, corpus=Data().corpus, unique=None)
            program = repr((replace(run, data=text, tokens=1, seed=0), channels_of(run)))
            known = (name in studies and kind in kinds) or program in programs
            marks = [pytest.mark.slow] if known else []
            studies.add(name)
            kinds.add(kind)
            programs.add(program)
            # What a run asks may be another of the study, which is not there yet.
            asked = jobs.asked_models(run, runs)
            found.setdefault(
                (name, what), pytest.param(run, asked, id=f"{name}-{cell}", marks=marks)
            )
    return list(found.values())


def _size(run: Run) -> tuple[int, int]:
    return run.model.width, run.objective.target_count(LONG)


LONG = 512


@pytest.mark.eight_devices
@pytest.mark.parametrize(("run", "asked"), full_size())
def test_a_study_traces_a_step_at_full_size(run, asked):
    """Fails if a size, batch or optimizer of the largest scale does not fit its model or mesh.

    Nothing is allocated: the state is shapes, and the vocabulary is made up.
    """
    size = vocabulary_size(run.data.tokenizer)
    ordinary = 4 + run.data.tokenizer.sentinels
    vocabulary = Vocabulary(
        size=size, pad=0, mask=1, bos=2, eos=3, first_ordinary=ordinary,
        begins_word=(True,) * size, sentinels=tuple(range(4, ordinary)),
    )  # fmt: skip
    program = prepare(run, vocabulary, mesh.make(run.mesh), asked)
    rows = jax.ShapeDtypeStruct((run.data.batch, run.data.length), jnp.int32)
    channels = {
        channel.name: jax.ShapeDtypeStruct((*rows.shape, *channel.shape), channel.dtype)
        for channel in channels_of(run)
    }
    batch = Batch(rows, rows, channels)
    for objective in run.objective.parts(steps(run), run.seed):
        state, metrics = jax.eval_shape(
            partial(program.step, objective=objective), program.abstract, batch
        )
        jax.tree.map(lambda new, old: _same(new, old), state, program.abstract)
        assert metrics["loss"].shape == ()


def _same(new: jax.ShapeDtypeStruct, old: jax.ShapeDtypeStruct) -> None:
    assert (new.shape, new.dtype) == (old.shape, old.dtype)


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> tuple[ModuleType, list[str]]:
    """The study in its toy scale on made-up text, and its command line without the runs."""
    random_ = random.Random(0)
    folder = tmp_path_factory.mktemp("toy")
    for number in range(24):
        text = " ".join(random_.choices(("one", "two", "three"), k=random_.randint(40, 60)))
        (folder / f"{number}.txt").write_text(text)
    overrides = [
        "data.corpus.type=text",
        f'data.corpus.paths=["{folder}/*.txt"]',
        "data.validation=0.3",
        "tokens=3000",
        "optimizer.type=adamw",
        "evaluations=1",
    ]
    return STUDIES["bert_vs_gpt"], ["--runs", str(folder / "runs"), "--jobs=1", *overrides]


@pytest.fixture(scope="module")
def stopped(toy) -> tuple[Path, str]:
    """The toy study after its first run, as if it had been stopped there."""
    module, arguments = toy
    first = next(iter(module.runs("smoke")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "EFFORT", {"smoke": TOY})
        runner.main(module, [*arguments, "--run", first])
    # Changed settings have a directory of their own.
    (directory,) = (Path(arguments[1]) / "bert_vs_gpt").glob("smoke*")
    return directory, first


TOY = Effort(rows=8, samples=2, replicates=2, curve_rows=8, probe_tokens=500)


def test_a_stopped_study_has_a_report_that_says_what_is_missing(stopped, capsys, toy):
    """Fails if there is no report before all is done, or it passes for the whole."""
    directory, first = stopped
    assert [path.parent.name for path in directory.glob("*/result.json")] == [first]
    page = (directory / "report.html").read_text()
    assert "Not finished" in page
    assert "5 of 6 runs" in page


def test_a_study_goes_on_where_it_stopped_and_skips_what_is_finished(
    stopped, toy, capsys, patch
):
    """Fails if a finished run is trained again, or columns of results.csv are missing."""
    module, arguments = toy
    directory, first = stopped
    # One run was evaluated for real; this is about the study.
    found = read_result(directory / first / "result.json").evaluation
    patch.setattr(jobs, "evaluate", lambda _, effort: found)
    before = (directory / first / "result.json").stat().st_mtime_ns
    third = list(module.runs("smoke"))[2]
    runner.main(module, [*arguments, "--run", first, "--run", third])
    assert (directory / first / "result.json").stat().st_mtime_ns == before
    assert {path.parent.name for path in directory.glob("*/result.json")} == {first, third}

    with (directory / "results.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert tuple(header[:18]) == LEADING == ISSUE
    results = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    written = json.loads((directory / third / "result.json").read_text())
    assert results[third]["objective"] == "any_order"
    assert float(results[third]["bits_per_byte"]) == written["bits_per_byte"]
    assert results[third]["batches_digest"] == results[first]["batches_digest"] != ""

    out = capsys.readouterr().out
    assert str(directory / "report.html") in out.splitlines()
    assert f"{written['bits_per_byte']:.3f}" in out


ISSUE = (
    "run", "objective", "params_total", "params_non_embedding", "tokens",
    "predicted_targets", "flops", "device_seconds", "bits_per_byte", "layout_bits", "mc_se",
    "text_se", "scorer", "probe_accuracy", "validation_loss", "seed", "corpus_digest",
    "batches_digest",
)  # fmt: skip


def test_a_report_is_drawn_again_from_files_alone(stopped, toy, patch, capsys):
    """Fails if drawing trains or evaluates, or depends on when it is done."""
    module, arguments = toy
    directory, _ = stopped
    patch.setattr(jobs, "train", None)
    patch.setattr(jobs, "evaluate", None)
    drawn = {}
    for attempt in range(2):
        runner.main(module, [*arguments, "--report"])
        names = ("report.html", "results.csv")
        drawn[attempt] = [(directory / name).read_bytes() for name in names]
        for name in names:
            (directory / name).unlink()
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--run", "causal-12k"], "run causal-12k: not in this study; nearest: causal-12k-"),
        (["--report"], "no finished run"),
        (["--scale", "smok"], "invalid choice: 'smok'"),
        (["model.dept=3"], "did you mean model.depth?"),
        (["model.heads=5"], "model.heads=5 does not divide"),
        (["--run", "\udcff"], "not UTF-8"),
        (["--cost", "v5e"], "v5e: no such slice; nearest: v5e-16"),
        (["--cost", "v5e-8", "--slices", "0"], "--slices 0: must be >= 1"),
        (["--cost", "v5e-8", "objective.type=masked"], "objective: the study's runs"),
        (["--cost", "v5e-8", "data.batch=7", "mesh.fsdp=8"], "data.batch=7 is not a multiple"),
        (["--cost", "v5e-4", "--slices", "3", "mesh.fsdp=8"], "8, but there are 12 devices"),
        (["--cost", "h100-8", "attention=splash"], "attention=splash is for the platform tpu"),
    ],
)
def test_what_a_study_cannot_do_is_refused_in_one_line(arguments, part, tmp_path, capsys):
    """Fails if settings are checked after something is written, or runs when it is trained."""
    runs = tmp_path / "runs"
    with pytest.raises(SystemExit) as exit_:
        runner.main(STUDIES["bert_vs_gpt"], ["--runs", str(runs), *arguments])
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lm: ")
    assert part in line
    assert not runs.exists()


def test_what_a_study_would_cost_is_said_before_it_is_run(tmp_path, capsys):
    """Fails if it trains, leaves runs out, or hours do not follow the FLOPs."""
    module = STUDIES["bert_vs_gpt"]
    runs = module.runs("v5e-8")
    runner.main(
        module, ["--scale", "v5e-8", "--cost", "v5e-8", "--runs", str(tmp_path / "runs")]
    )
    (line,) = capsys.readouterr().out.splitlines()
    flops = sum(
        ledger.cost(run, vocabulary_size(run.data.tokenizer)).flops for run in runs.values()
    )
    assert line.startswith(f"{len(runs)} runs: {flops:.2g} FLOPs, ")
    assert f"{flops / (0.4 * 8 * 197e12) / 3600:.2g} hours on v5e-8" in line
    assert f"{flops / (0.4 * 16 * 197e12) / 3600:.2g} hours on 2 x v5e-8" in runner.cost(
        runs, "v5e-8", slices=2
    )
    assert not (tmp_path / "runs").exists()


def test_the_studies_are_listed_with_their_questions():
    """Fails if a study is not found, a benchmark is taken for one, or any is imported."""
    listing = (
        "import sys, runpy; runpy.run_module('experiments', run_name='__main__');"
        "print(*{'jax', 'numpy', 'matplotlib', 'lm.run'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", listing],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    *listed, imported = done.stdout.splitlines()
    assert not imported
    lines = {line.split()[0]: line for line in listed}
    assert set(lines) == set(STUDIES)
    for name, module in STUDIES.items():
        assert module.__doc__.splitlines()[0] in lines[name]
        assert f"[{', '.join(module.SCALES)}]" in lines[name]


def test_r3_a_second_process_of_a_study_is_refused(stopped, toy, capsys):
    """Fails if two train the same runs, or runs cannot be trained side by side."""
    module, arguments = toy
    directory, first = stopped
    with only_writer(directory), pytest.raises(SystemExit) as exit_:
        runner.main(module, [*arguments, "--run", first])
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"lm: {directory} is being trained in by process {os.getpid()} on ")
    with only_writer(directory, shared=True):
        runner.main(module, [*arguments, "--run", first])
        with pytest.raises(SystemExit):
            runner.main(module, arguments)
    assert "is being trained in" in capsys.readouterr().err


def test_r1_a_study_leaves_out_a_result_of_another_run(stopped, toy, tmp_path, capsys):
    """Fails if config.json alone is asked whose result it is, or its lack ends the study."""
    directory, first = stopped
    runs = toy_runs(toy)
    second = list(runs)[1]
    shutil.copytree(directory, tmp_path / "study", ignore=shutil.ignore_patterns("*check*"))
    (tmp_path / "study" / first / "config.json").unlink()
    shutil.copytree(tmp_path / "study" / first, tmp_path / "study" / second)
    cells = {cell.name: cell for cell in runner.results(runs, tmp_path / "study")}
    assert cells[first].result is not None and cells[second].result is None
    line = capsys.readouterr().err
    assert f"{second} is left out, it is of another run: objective differ" in line


def test_r5_a_report_lists_all_that_made_its_cells_and_warns(stopped, toy, tmp_path):
    """Fails if the first run's code, device or text is said to be that of all."""
    directory, first = stopped
    runs = toy_runs(toy)
    names = list(runs)[:2]
    cells = []
    for number, name in enumerate(names):
        folder = tmp_path / "smoke" / name
        shutil.copytree(directory / first, folder, ignore=shutil.ignore_patterns("*check*"))
        result = json.loads((folder / "result.json").read_text())
        if number:
            environment = json.loads((folder / "environment.json").read_text())
            earlier = environment | {"commit": "aaaa", "devices": "8 x TPU v5e", "step": 0}
            later = environment | {"commit": "bbbb", "step": 4, "earlier": [earlier]}
            later["checkpoints"] = "gs://ours/second"  # each run has its own, by design
            (folder / "environment.json").write_text(json.dumps(later))
            result["corpus_digest"] = "0" * 64
        cells.append(runner.StudyRun(name, runs[name], result, folder))
    (ours,) = {each["commit"] for each in environments(tmp_path / "smoke" / names[0])}
    made = checks.made("bert_vs_gpt", cells)
    commits = f"{ours} ({names[0]}); aaaa ({names[1]}); bbbb ({names[1]})"
    assert made["commit"] == commits
    assert made["devices"] == f"1 x cpu ({', '.join(names)}); 8 x TPU v5e ({names[1]})"
    assert made["jax"] == jax.__version__ and not {"step", "earlier", "checkpoints"} & {*made}
    warnings = checks.mixed(cells)
    assert f"Not the same for all runs: commit: {commits}." in warnings
    assert len(warnings) == 3 and any("text of Text(" in warning for warning in warnings)
    assert set(warnings) <= set(STUDIES["bert_vs_gpt"].report(cells).warnings)
    assert checks.mixed(cells[:1]) == ()


def toy_runs(toy: tuple[ModuleType, list[str]]) -> dict[str, Run]:
    module, arguments = toy
    return {
        name: validate(override(run, arguments[3:]))
        for name, run in module.runs("smoke").items()
    }


def test_changed_settings_are_named_by_what_is_not_as_by_default():
    """Fails if it is by all fields: one that settings gain later would orphan every folder."""

    def digest(value: object) -> str:
        return hashlib.sha256(json.dumps(value).encode()).hexdigest()

    planned, runs = {"a": Run(), "b": Run(seed=1)}, {"a": Run(), "b": Run(seed=2)}
    expected = digest([{}, {"seed": digest(2)[:16]}])[:6]
    assert runner._variant("smoke", planned, runs) == f"smoke-{expected}"
    assert runner._variant("smoke", planned, planned) == "smoke"


def test_h11_no_cells_that_are_one_run(capsys, tmp_path):
    """Fails when seed=3 makes one run of all seeds, whose error is then none."""
    module, arguments = STUDIES["repeated_data"], ["--scale", "laptop", "--cost", "v5e-8"]
    where = ["--runs", str(tmp_path)]
    for change in ("seed=3", "tokens=4096"):
        with pytest.raises(SystemExit, match=r"^2$"):
            runner.main(module, [*arguments, *where, change])
        assert "would be the same run: the study varies" in capsys.readouterr().err
    runner.main(module, [*arguments, *where, "data.batch=16"])
    assert "hours on v5e-8" in (said := capsys.readouterr().out) and "float32" not in said
    runner.main(module, [*arguments, *where, "precision=float32"])
    assert "in bfloat16: float32 takes several times as long" in capsys.readouterr().out


def test_h12_a_cell_that_is_not_there_is_said_by_report_too(capsys, tmp_path):
    """Fails when --report --run of a mistyped name draws a report."""
    options = ["--report", "--run", "nosuch", "--runs", str(tmp_path)]
    with pytest.raises(SystemExit, match=r"^2$"):
        runner.main(STUDIES["repeated_data"], options)
    assert "run nosuch: not in this study" in capsys.readouterr().err
