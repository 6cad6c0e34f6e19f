"""Several hosts train as one, for real: processes, each with a part of eight devices."""

import json
import random
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import bert_vs_gpt
from lm.config import dump, override, parse
from lm.data import Batches, Bytes, Data, Text, n_rows, open_tokens
from lm.data.digest import chain_text, chained
from lm.distributed import mesh
from lm.evaluate.scoring import Effort
from lm.model import Transformer
from lm.run import Run
from lm.study import runner
from lm.train.checkpoint import Checkpoints, restore
from lm.train.step import Program, prepare
from lm.train.trackers.jsonl import read_metrics
from lm.train.train import train_run
from tests.distributed.processes import TRAIN, Hosts, slurm

pytestmark = pytest.mark.eight_devices


WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> str:
    random_ = random.Random(0)
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(40):
        text = " ".join(random_.choices(WORDS, k=random_.randint(30, 60)))
        (folder / f"{number}.txt").write_text(text)
    return f"{folder}/*.txt"


STUDY = """
import sys
from experiments import bert_vs_gpt
from lm.study import runner
from lm.evaluate.scoring import Effort
bert_vs_gpt.EFFORT = {"smoke": Effort(**%r)}
runner.main(bert_vs_gpt, sys.argv[1:])
"""


TOY = {"rows": 8, "samples": 2, "replicates": 2, "curve_rows": 8, "probe_tokens": 500}


def trained_twice(corpus, tmp_path, patch, number, cell, *overrides):
    """A cell of a study by so many hosts, and by this process on as many devices."""
    text = ["data.corpus.type=text", f'data.corpus.paths=["{corpus}"]']
    arguments = [
        *("--run", cell, *(text if isinstance(corpus, str) else corpus)),
        *("data.validation=0.3", "tokens=3000", "optimizer.type=adamw", "evaluations=1"),
        *overrides,
    ]
    program = STUDY % TOY
    together = Hosts(
        number, tmp_path, program, "--runs", str(tmp_path / "a"), *arguments, environment=slurm
    )
    codes, printed = together.end()
    assert codes == [0] * number, together.said(0) + together.said(1)
    assert "report.html" in printed[0]
    assert printed[1:] == [""] * (number - 1)
    first_line, *_ = together.said(0).splitlines()
    assert first_line == f"{cell}: {number} hosts, 8 devices (cpu)"
    patch.setattr(bert_vs_gpt, "EFFORT", {"smoke": Effort(**TOY)})
    runner.main(bert_vs_gpt, ["--runs", str(tmp_path / "b"), *arguments])
    found = []
    for letter in "ab":
        ((path),) = (tmp_path / letter).glob(f"bert_vs_gpt/*/{cell}")
        records = read_metrics(path)
        found.append((path, records, json.loads((path / "result.json").read_text())))
    return found


def assert_same(a, b):
    """Records and results of two runs agree, the batches in every digit."""
    (path, several, result), (_, alone, expected) = a, b
    assert [r["step"] for r in several] == [r["step"] for r in alone]
    chains = [[r["batches"] for r in records if "batches" in r] for records in (several, alone)]
    assert chains[0] == chains[1] and len(chains[0]) == result["steps"]
    losses = [[r["loss"] for r in records if "loss" in r] for records in (several, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for name in ("validation_loss", "bits_per_byte"):
        assert result[name] == pytest.approx(expected[name], rel=1e-3)
    assert result["batches_digest"] == expected["batches_digest"]
    assert result["predicted_targets"] == expected["predicted_targets"]
    for name, score in expected["scores"].items():
        for kind, value in score.items():
            found = result["scores"][name][kind]
            if isinstance(value, float):
                assert found == pytest.approx(value, rel=1e-3, abs=1e-4), (name, kind)
            else:
                assert found == value, (name, kind)
    environment = json.loads((path / "environment.json").read_text())
    assert environment["devices"].startswith("8 x")


def _cell(kind: str) -> str:
    return next(name for name in bert_vs_gpt.runs("smoke") if name.startswith(kind))


def test_m1_two_tasks_of_slurm_train_and_score_a_study_as_one(corpus, tmp_path, patch):
    """Fails if each trains alone, or reads other rows than it holds, or decides by itself."""
    assert_same(*trained_twice(corpus, tmp_path, patch, 2, _cell("causal")))


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 4])
@pytest.mark.parametrize("shape", [(), ("mesh.replica=2", "mesh.tensor=4", "model.heads=4")])
def test_hosts_of_any_number_and_mesh(corpus, tmp_path, patch, number, shape):
    """The same for masked models, four hosts, and matrices that are split between hosts."""
    assert_same(*trained_twice(corpus, tmp_path, patch, number, _cell("any"), *shape))


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 4])
def test_hosts_of_any_number_read_one_mixture(corpus, tmp_path, patch, number):
    """Fails if whose turn it is, or which row that is, depends on who asks."""
    component = {"weight": 2, "corpus": {"type": "text", "paths": [corpus]}}
    mixed = [component | {"name": "a"}, component | {"name": "b", "weight": 1, "epochs": 1.5}]
    text = ["data.corpus.type=mixture", f"data.corpus.components={json.dumps(mixed)}"]
    several, alone = trained_twice(text, tmp_path, patch, number, _cell("any"))
    assert_same(several, alone)
    assert several[2]["components"] == alone[2]["components"]
    assert several[2]["by_component"].keys() == {"a", "b"}


GPT3 = {"crawl": 60, "webtext2": 22, "books1": 8, "books2": 8, "wikipedia": 3}


@pytest.mark.slow
def test_hosts_of_any_number_and_kills_read_gpt3s_mixture(tmp_path):
    """Fails if a row, or whose turn it is, depends on how many hosts there are or were.

    Two hosts begin and one is killed; four go on and one is killed; then one goes on alone.
    """
    for name, each in zip(GPT3, (410, 90, 60, 90, 6), strict=True):
        (tmp_path / name).mkdir()
        for number in range(9):
            (tmp_path / name / f"{number}.txt").write_text(f"{name}, {number}. " * each)
    components = [
        {"name": name, "weight": weight, "corpus": {"type": "text", "paths": [paths]}}
        for name, weight in GPT3.items()
        if (paths := f"{tmp_path}/{name}/*.txt")
    ]
    settings = tmp_path / "gpt3.json"
    mixture = {"corpus": {"type": "mixture", "components": components}}
    more = {"tokenizer": {"type": "bytes"}, "length": 16, "batch": 32, "validation": 0.3}
    model = {"type": "transformer", "depth": 1, "width": 16, "heads": 2}
    asked = {"data": mixture | more, "model": model, "tokens": 16 * 32 * 80}
    asked |= {"precision": "float32", "evaluations": 1, "checkpoints": {"steps": 2}}
    settings.write_text(json.dumps(asked))
    run = parse(Run, settings.read_bytes(), "gpt3.json")
    directory = tmp_path / "run"
    for hosts, killed in ((2, 1), (4, 3)):
        together = started(tmp_path, run, directory, steps=5, number=hosts)
        together.processes[killed].kill()
        assert together.end()[0][killed] == -9
    last = ("--dir", str(directory), "checkpoints.steps=80")
    alone = Hosts(1, tmp_path, TRAIN, "train", str(settings), *last)
    assert alone.end()[0] == [0], alone.said(0)

    tokens = open_tokens(run.data)
    batches, chain, digest = tokens.batches(run.data, run.seed), [], np.zeros(2, np.uint32)
    for step in range(80):
        digest = chained(digest, batches(step))
        chain.append(chain_text(digest))
    assert [r["batches"] for r in read_metrics(directory) if "loss" in r] == chain
    result = json.loads((directory / "result.json").read_text())
    assert result["batches_digest"] == chain[-1]
    rows = 80 * 32
    for (name, weight), part in zip(GPT3.items(), tokens.train.parts, strict=True):
        read = result["components"][name]
        assert abs(read["tokens"] / 16 - rows * weight / 101) < 1
        assert read["epochs"] == read["tokens"] / 16 / n_rows(part, 16)
    assert (
        result["components"]["wikipedia"]["epochs"]
        > 1
        > (result["components"]["crawl"]["epochs"])
    )


@pytest.fixture(scope="module")
def endless(corpus) -> Run:
    """A run that does not end by itself while a test lasts."""
    return Run(
        data=Data(
            corpus=Text(paths=(corpus,)), tokenizer=Bytes(), length=16, batch=8, validation=0.2
        ),
        model=Transformer(depth=1, width=16, heads=2),
        tokens=10**8,
        precision="float32",
        evaluations=1,
    )


def started(folder: Path, run: Run, directory: Path, *, steps: int, number: int = 2) -> Hosts:
    """Hosts that train the run, when they have recorded so many more steps."""
    settings = folder / "run.json"
    settings.write_text(dump(run))
    begun = len(read_metrics(directory))
    together = Hosts(number, folder, TRAIN, "train", str(settings), "--dir", str(directory))
    deadline = time.monotonic() + 600
    while len(read_metrics(directory)) < begun + steps:
        alive = [process.poll() is None for process in together.processes]
        assert all(alive) and time.monotonic() < deadline, together.said(0) + together.said(1)
        time.sleep(0.05)
    return together


def checkpoints(directory: Path) -> list[int]:
    """The finished ones: a host that is killed leaves what it was writing, as `2.orbax-...`."""
    names = [path.name for path in (directory / "checkpoints").iterdir()]
    return sorted(int(name) for name in names if name.isdecimal())


def test_a_lost_host_ends_the_others_and_a_stop_of_one_stops_all(endless, tmp_path):
    """Fails if a host waits for one that is gone, or saves another step than the others.

    Then one process goes on from what two have saved.
    """
    directory = tmp_path / "run"
    saving = override(endless, ["checkpoints.steps=2"])
    together = started(tmp_path, saving, directory, steps=4)
    together.processes[1].kill()
    codes, _ = together.end()
    assert codes == [75, -9], together.said(0)
    assert "lm: host 1 of 2 is gone" in together.said(0).splitlines()[-1]
    kept = max(checkpoints(directory), default=0)  # none, if the first was still being written

    together = started(tmp_path, endless, directory, steps=3)
    together.processes[1].terminate()
    codes, _ = together.end()
    assert codes == [75, 75], together.said(0) + together.said(1)
    saved = checkpoints(directory)[-1]
    assert saved > kept
    for host in (0, 1):
        assert f"stopped and saved at step {saved} of" in together.said(host)

    made, batches = program(endless)
    found = restore(str(directory / "checkpoints"), made.abstract)
    assert found.step == saved
    state, chain = made.init(), []
    for step in range(saved):
        state, metrics = made.step(state, made.place(batches(step)))
        chain.append(chain_text(metrics["batches"]))
    assert chain == [r["batches"] for r in read_metrics(directory)]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        found.state.params,
        state.params,
    )


def program(run: Run) -> tuple[Program, Batches]:
    """What this process needs to train the run."""
    tokens, data = open_tokens(run.data), run.data
    vocabulary = tokens.tokenizer.vocabulary
    batches = Batches(tokens.train, vocabulary, data.length, data.batch, run.seed)
    return prepare(run, vocabulary, mesh.make(run.mesh)), batches


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["skip", "roll_back"])
def test_hosts_agree_on_what_is_wrong(endless, tmp_path, policy):
    """Fails if one host gives up, or returns to another checkpoint, before the others."""
    wild = ["optimizer.learning_rate=1e30", "optimizer.clip=none", "faults.most=2"]
    settings = tmp_path / "run.json"
    settings.write_text(dump(override(endless, [*wild, f"faults.policy={policy}"])))
    together = Hosts(2, tmp_path, TRAIN, "train", str(settings), "--dir", str(tmp_path / "run"))
    assert together.end()[0] == [2, 2], together.said(0) + together.said(1)
    for host in (0, 1):
        assert "lower optimizer.learning_rate" in together.said(host).splitlines()[-1]


@pytest.mark.slow
def test_what_one_process_saved_goes_on_on_two_hosts(endless, tmp_path):
    """Fails if a checkpoint needs as many processes as wrote it."""
    directory = tmp_path / "run"
    saving = override(endless, ["checkpoints.steps=2"])

    class Enough(Exception):
        pass

    original = Checkpoints.save

    def save(self, step, *rest):
        original(self, step, *rest)
        self.wait()
        if step == 4:
            raise Enough

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Enough):
        patch.setattr(Checkpoints, "save", save)
        train_run(saving, directory)
    together = started(tmp_path, saving, directory, steps=4)
    together.processes[0].terminate()
    assert together.end()[0] == [75, 75]
    made, batches = program(endless)
    state = made.init()
    for record in read_metrics(directory):
        state, metrics = made.step(state, made.place(batches(record["step"] - 1)))
        assert chain_text(metrics["batches"]) == record["batches"]
        assert float(metrics["loss"]) == pytest.approx(record["loss"], rel=1e-4)
