"""How well, how fast and in how much memory is MiniLM tuned on SST-2, in each of three ways?

    YARDSTICK_ASSETS=... YARDSTICK_TASKS=... \
        python -m experiments.benchmarks.sst2 [--ways full lora head] [--seeds 0 1 2]

All parameters, LoRA, or the head alone are trained with the same budget of SST-2's training
file, in rows of whole sentences, on the first two cores. Each way has one learning rate, a
usual one: none was searched for (`--rate` takes another). LoRA is of rank 8 on all matrices of
the layers, as on queries and values alone it came less far on what a run holds out. Training
ends with its budget, and the last parameters are scored: once, on the 872 sentences of the dev
file, by which nothing is chosen. Prints a line a run: accuracy on dev, and on what the run held
out; seconds of training, and those of the cores until its end, with compilation, which grow
little with the machine's load; the peak of the process's memory; what is trained; and the mean
over seeds, with an interval over items and seeds. Each run is a process of its own; what is
finished in `--runs` is not done again.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

MODEL = "minilm"
CORES = 2
RATES = {"full": 2e-4, "lora": 2e-3, "head": 1e-2}
"""Learning rates of AdamW."""


def main(arguments: list[str] | None = None) -> None:
    """Prints a line of each run and of each way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ways", nargs="+", choices=RATES, default=list(RATES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--tokens", type=int, default=200_000, help="budget of each run")
    parser.add_argument("--rate", type=float, help="another learning rate")
    parser.add_argument("--runs", type=Path, default=Path("runs/sst2"), metavar="DIR")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one:
        print(json.dumps(one(given)))
        return
    found = {way: [_apart(way, seed, given) for seed in given.seeds] for way in given.ways}
    print(f"{'':5} {'dev':>6} {'95% over items and seeds':>25}")
    for way, results in found.items():
        value, low, high = _mean(results)
        print(f"{way:5} {value:6.4f} {low:17.4f}-{high:.4f}")


def one(given: argparse.Namespace) -> dict[str, object]:
    """Trains and scores one run in this process."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    os.environ["JAX_PLATFORMS"] = "cpu"
    from lm.data import Data
    from lm.evaluate.glue import SETS
    from lm.evaluate.labels import label_scores
    from lm.optimizer import Adamw, Lora, WarmupStableDecay
    from lm.run import CheckpointSettings, Run, Start
    from lm.train.load import load_model
    from lm.train.train import train_run

    (way,), (seed,) = given.ways, given.seeds
    task = SETS["sst2"]
    rate = RATES[way] if given.rate is None else given.rate
    run = Run(
        start=Start(path=str(Path(os.environ["YARDSTICK_ASSETS"]) / MODEL)),
        data=Data(corpus=task.train, length=128, batch=4, validation=0.01, packing="whole"),
        objective=task.objective,
        optimizer=Adamw(learning_rate=rate),
        schedule=WarmupStableDecay(warmup=0.1, decay=0.9, shape="linear"),
        adapter=Lora(alpha=16, targets=("layers/*",)) if way == "lora" else None,
        trainable=("head_*",) if way == "head" else None,
        tokens=given.tokens,
        precision="float32",
        evaluations=1,
        seed=seed,
        checkpoints=CheckpointSettings(seconds=3600),
        trackers=(),
    )
    directory = given.runs / f"{way}-{rate:g}-{given.tokens}-{seed}"
    kept = directory / "sst2.json"
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    load = os.getloadavg()[0]
    result = train_run(run, directory)
    used = resource.getrusage(resource.RUSAGE_SELF)
    scores = label_scores(load_model(directory), task.scored)
    found = {
        "dev": scores.values["accuracy"],
        "held_out": result["validation_terms"]["validation_accuracy"],
        "seconds": result["device_seconds"],
        "load": [load, os.getloadavg()[0]],
        "core_seconds": used.ru_utime + used.ru_stime,
        "peak_bytes": used.ru_maxrss * 1024,
        "trainable": result["params_trainable"] or result["params_total"],
        "total": result["params_total"],
        "steps": result["steps"],
        "sentences": result["predicted_targets"],
        "columns": scores.columns.tolist(),
    }
    kept.write_text(json.dumps(found))
    return found


def _apart(way: str, seed: int, given: argparse.Namespace) -> dict[str, object]:
    """The same in a process of its own, and its line."""
    options = ["--one", "--ways", way, "--seeds", str(seed), "--tokens", str(given.tokens)]
    options += ["--runs", str(given.runs)]
    options += [] if given.rate is None else ["--rate", str(given.rate)]
    command = [sys.executable, "-m", "experiments.benchmarks.sst2", *options]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    fraction = found["trainable"] / found["total"]
    print(
        f"{way:5} seed {seed}: dev {found['dev']:.4f}, held out {found['held_out']:.4f},"
        f" {found['seconds']:.0f} s (load {found['load'][0]:.1f} to {found['load'][1]:.1f}),"
        f" {found['core_seconds']:.0f} s of cores, peak {found['peak_bytes'] / 2**20:,.0f} MiB,"
        f" {found['trainable']:,} parameters trained ({fraction:.2%}), {found['steps']} steps"
        f" of {found['sentences'] / found['steps']:.0f} sentences",
        flush=True,
    )
    return dict(found)


def _mean(results: list[dict[str, object]]) -> tuple[float, float, float]:
    import numpy as np

    from lm.evaluate.tasks.metrics import estimate, mean

    columns_SIK = np.array([each["columns"] for each in results])
    found = estimate(mean(2), columns_SIK)
    return found.value, found.low, found.high


if __name__ == "__main__":
    main()
