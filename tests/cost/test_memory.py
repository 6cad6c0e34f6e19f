"""Whether a run fits is known before anything is allocated, and none is refused that fits."""

import importlib
import pkgutil
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import experiments
from lm.config import UserError, override
from lm.cost import memory
from lm.cost.memory import ROWS, check, least, machine_memory
from lm.data import Bytes, Chat, Data, open_tokenizer
from lm.distributed import mesh as meshes
from lm.distributed.mesh import Mesh
from lm.example import Batch
from lm.model import Transformer
from lm.objectives import Dpo, Orpo, Preference
from lm.run import Run, validate
from lm.train.step import prepare
from lm.train.train import train_run

RUN = Run(
    data=Data(tokenizer=Bytes(), batch=16, length=128),
    model=Transformer(depth=2, width=32, heads=2),
    mesh=Mesh(fsdp=1),
)


@pytest.fixture
def goes_no_further(monkeypatch):
    """Fails where a run would begin: without the check it is deaf, and eats memory (h13)."""
    monkeypatch.setattr(
        "lm.train.directory.open_tokens", lambda *_: pytest.fail("was not refused")
    )


@pytest.mark.usefixtures("goes_no_further")
@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        (["model.width=400000"], "model.width"),
        (["model.width=200000"], "model.width"),
        (["model.depth=1000000000"], "model.depth"),
        (["data.length=1e9"], "data.length"),
        (["data.batch=1e8"], "data.batch"),
        (["data.corpus.type=hmm", "data.corpus.documents=1e15"], "data.corpus.documents"),
        (["data.batch=99999996", "microbatches=12"], "data.batch"),
    ],
)
def test_oneline_more_than_memory_holds_is_refused_with_what_fits(tmp_path, overrides, field):
    """Fails if an estimate is left to the allocator, or what is named fits no better."""
    run = override(Run(), overrides)
    with pytest.raises(UserError, match=r"^[^\n]* GB of memory at least[^\n]*$") as refused:
        train_run(run, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
    named, largest = re.findall(r"(\S+) may be (\d+) at most$", str(refused.value))[0]
    assert str(refused.value).startswith(f"{named}=") and named == field
    check(validate(override(run, [f"{field}={largest}"])), jax.devices())


@pytest.mark.usefixtures("goes_no_further")
def test_oneline_fields_that_are_all_too_large_are_all_named(tmp_path):
    """Fails if a value is named with which the run would not fit either."""
    run = override(Run(), ["model.width=100000", "data.batch=100000"])
    with pytest.raises(UserError, match=r"take smaller data.batch, data.length, model.depth$"):
        train_run(run, tmp_path / "run")


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        pytest.param(["remat=block", "precision=float32"], marks=pytest.mark.slow),
        pytest.param(["objective.type=masked", "microbatches=4"], marks=pytest.mark.slow),
        pytest.param(
            ["model.mlp=swiglu", "remat=matmuls", "optimizer.type=adafactor"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_oneline_the_least_is_no_more_than_the_compiler_asks_for(overrides):
    """Fails if what a run can do without is counted: it would be refused for nothing."""
    run = validate(override(RUN, overrides))
    mesh = meshes.make(Mesh(fsdp=1), jax.devices()[:1])
    program = prepare(run, open_tokenizer(Bytes()).vocabulary, mesh)
    rows = jax.ShapeDtypeStruct((16, 128), jnp.int32)
    seed = jax.ShapeDtypeStruct((), jnp.uint32)
    lowered = program.update.lower(
        program.abstract, Batch(rows, rows), seed, run.objective, program.beside
    )
    found = lowered.compile().memory_analysis()
    needed = found.argument_size_in_bytes + found.temp_size_in_bytes
    counted = sum(size for part, size in least(run, "cpu").items() if part != ROWS)
    assert 0.04 * needed < counted < needed


def test_derived_channels_take_memory_too():
    """Fails if batches are taken to hold the text's own channels alone."""
    data = Data(corpus=Chat(paths=("a",), use="pair"), packing="whole", length=64, batch=4)
    with_reference, without = (
        least(Run(data=data, objective=Preference(method=method)), "cpu")[ROWS]
        for method in (Dpo(), Orpo())
    )
    assert with_reference - without == 4 * 64 * 4 * 9  # of which 8 are read ahead


def test_oneline_no_study_is_refused_on_the_laptop_that_it_is_for():
    """Fails if a scale named for a small machine needs more than 8 GB."""
    for module in pkgutil.iter_modules(experiments.__path__):
        study = importlib.import_module(f"experiments.{module.name}")
        for scale in {"smoke", "laptop"} & set(getattr(study, "SCALES", ())):
            for name, run in study.runs(scale).items():
                assert sum(least(run, "cpu").values()) < 8e9, (module.name, name)


def test_oneline_what_a_container_grants_counts(tmp_path: Path, monkeypatch):
    """Fails if a job's own limit, or one of a group above it, is not seen."""
    own, root = tmp_path / "cgroup", tmp_path / "root"
    (root / "slurm" / "job").mkdir(parents=True)
    own.write_text("0::/slurm/job\n")
    (root / "slurm" / "memory.max").write_text("5000\n")
    (root / "slurm" / "job" / "memory.max").write_text("max\n")
    assert memory._cgroup_limits(own, root) == [5000]
    (root / "memory" / "docker").mkdir(parents=True)
    own.write_text("3:cpu:/docker\n2:memory:/docker\n")
    (root / "memory" / "docker" / "memory.limit_in_bytes").write_text("7000\n")
    assert memory._cgroup_limits(own, root) == [7000]
    monkeypatch.setattr(memory, "_cgroup_limits", lambda: [9000])
    assert machine_memory() == 9000
