"""How long does SmolLM2 take over 1,000 BLiMP pairs, beside transformers on the same cores?

    YARDSTICK_ASSETS=... YARDSTICK_TASKS=... \
        python -m experiments.benchmarks.tasks_speed [--other PYTHON]

Both score the same sentences in float32 after one bos token, from text to log-probabilities,
on the first two cores alone: this package as `lm eval` does, transformers without gradients in
batches of 32 sorted by length, as it is fastest. `--other` is a Python that has torch and
transformers, if this one has not; it stays in a process of its own, which waits while the other
works. They take turns after a first round of each, which compiles, loads and is stated apart.
Prints the median of the rounds with the lowest and the highest, how much faster this package
is, and by how much their log-probabilities differ. The machine must be quiet.
"""

import argparse
import json
import os
import statistics
import sys
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from experiments.benchmarks.peers import (
    CORES,
    MODEL,
    another_process,
    answer,
    in_turns,
    take_cores,
)

NAME = "experiments.benchmarks.tasks_speed"
BATCH = 32
Score = Callable[[list[str]], list[float]]
"""Texts to their log-probabilities."""


def main(arguments: list[str] | None = None) -> None:
    """Prints a line of each, and how they compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--other", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    take_cores()
    folder = Path(os.environ["YARDSTICK_ASSETS"]) / MODEL
    texts = sentences(Path(os.environ["YARDSTICK_TASKS"]) / "blimp.tar.xz", given.pairs)
    print(f"{len(texts):,} sentences, {CORES} cores, load {os.getloadavg()[0]:.1f}")
    with another_process(given.other, NAME, str(folder)) as theirs:
        scores: dict[str, Score] = {"yardstick": ours(folder), "transformers": theirs}
        seconds, log_p = in_turns(scores, texts, rounds=given.rounds)
    for name, of in seconds.items():
        print(
            f"{name:<13} {statistics.median(of):8.2f} s ({min(of):.2f} to {max(of):.2f}),"
            f" {len(texts) / statistics.median(of):,.0f} sentences a second"
        )
    ratio = statistics.median(seconds["transformers"]) / statistics.median(seconds["yardstick"])
    apart = max(abs(a - b) for a, b in zip(*log_p.values(), strict=True))
    print(f"yardstick is {ratio:.2f} times as fast; log-probabilities differ by {apart:.1e}")


def sentences(archive: Path, pairs: int) -> list[str]:
    """The sentences of so many pairs, as many of each paradigm as can be."""
    with tarfile.open(archive) as opened:
        paradigms = [
            [json.loads(line) for line in file]
            for member in sorted(opened, key=lambda member: member.name)
            if member.name.endswith(".jsonl") and "published" not in member.name
            if (file := opened.extractfile(member)) is not None
        ]
    mixed = [pair for of in zip(*paradigms, strict=True) for pair in of][:pairs]
    return [pair[f"sentence_{which}"] for pair in mixed for which in ("good", "bad")]


def ours(folder: Path) -> Score:
    """This package, as `lm eval` asks it."""
    from lm.distributed.process import prepare_machine
    from lm.evaluate.tasks.base import Query
    from lm.evaluate.tasks.candidate import ModelCandidate
    from lm.train.load import load_model

    prepare_machine()
    candidate = ModelCandidate.of(load_model(folder, precision="float32"), "chain_rule")

    def score(texts: list[str]) -> list[float]:
        found = candidate.likelihoods([Query("", text) for text in texts])
        return [each.log_p for each in found]

    return score


def transformers_scores(folder: Path) -> Score:
    """transformers, in batches of sentences that are about as long."""
    import torch
    import transformers

    torch.set_num_threads(CORES)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()

    def score(texts: list[str]) -> list[float]:
        encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
        rows = [[tokenizer.bos_token_id, *ids] for ids in encoded]
        order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
        found = [0.0] * len(rows)
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            width = max(len(rows[number]) for number in part)
            tokens = torch.full((len(part), width), tokenizer.pad_token_id)
            used = torch.zeros(len(part), width, dtype=torch.long)
            for place, number in enumerate(part):
                tokens[place, : len(rows[number])] = torch.tensor(rows[number])
                used[place, : len(rows[number])] = 1
            with torch.inference_mode():
                logits = model(input_ids=tokens, attention_mask=used).logits[:, :-1]
                own = logits.gather(2, tokens[:, 1:, None])[..., 0]
                log_p = ((own - logits.logsumexp(2)) * used[:, 1:]).sum(1)
            for number, each in zip(part, log_p.tolist(), strict=True):
                found[number] = each
        return found

    return score


if __name__ == "__main__":
    if sys.argv[1:2] == ["--answer"]:
        answer(partial(transformers_scores, Path(sys.argv[2])))
    else:
        main()
