"""Do plans hold? The floor of a training step beside the time that others published for it.

Every row is a run whose settings and pace are public, with the address where both are read.
The floor is the plan's: the ledger's FLOPs, memory's traffic and collectives, each at the speed
that the maker of the chip prints (`lm/cost/chips.py`), the others hidden behind the slowest.

    python -m experiments.benchmarks.published_runs

Nothing is compiled, so that the traffic and the collectives are the least that such a run can
do: each pass reads each weight once, AdamW's state is read and written once, weights are
gathered and gradients summed in two bytes a number. Attention is counted for a kernel that
keeps no scores and leaves out what is not causal. What a run does beyond that is in its notes.
"""

import argparse
import functools
import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

from msgspec.structs import replace

from lm.cost import ledger
from lm.cost.chips import parse_slice
from lm.data import Data, SentencePiece, vocabulary_size
from lm.model import Remat, Transformer
from lm.model.layers import LayerNorm
from lm.model.positions import Learned
from lm.model.presets import presets
from lm.plan.found import Found, Moved
from lm.plan.hlo import Collective
from lm.plan.machine import Machine, machine_of_slice
from lm.plan.network import DevicePlace, seconds_of
from lm.run import Run

GITHUB = "https://github.com"
MAXTEXT = f"{GITHUB}/AI-Hypercomputer/maxtext/blob/main/src/maxtext/configs/tpu"
LLM_C = f"{GITHUB}/karpathy/llm.c/blob/master/scripts"
TORCHTITAN = (
    f"{GITHUB}/pytorch/torchtitan/blob/main/benchmarks/llama3_h100_202412_torchtitan.md"
)
FOUNDRY = f"{GITHUB}/mosaicml/llm-foundry/blob/main/scripts/train/benchmarking/README.md"
MARIN = f"{GITHUB}/marin-community/marin/blob/main/experiments/speedrun/adamw_llama_scaling"
NANOCHAT = f"{GITHUB}/tucan9389/nanochat-jax/blob/main/dev/LEADERBOARD.md"


class PublishedRun(NamedTuple):
    """A run that somebody published, and how long its step took."""

    name: str
    slice: str
    run: Run
    seconds: float
    """Of a training step, as published or as it follows from what is."""
    source: str
    """Where settings and pace are read."""
    pace: str
    """What is printed there."""
    slices: int = 1
    tensor: int = 1
    """Parts of each matrix; the weights of a part are gathered along the other devices."""
    gathers: int = 2
    """How often a step gathers all weights: 1 where each device keeps them whole."""
    attended: float = 1.0
    """Fraction of the causal pairs that windows leave."""
    unlike: str = ""
    """What this run does that the floor leaves out, beside what it leaves out of all."""

    @property
    def machine(self) -> Machine:
        """The devices, by their maker's numbers."""
        return machine_of_slice(self.slice, self.slices)

    @property
    def floor(self) -> float:
        """Seconds that a step takes at least, by the plan."""
        return self.machine.seconds(self.found)

    @property
    def found(self) -> Found:
        """What a device does in a step, at least."""
        return _found(self)

    def counted(self) -> Found:
        """The same, counted anew."""
        run, machine = replace(self.run, attention="cudnn"), self.machine
        vocabulary = vocabulary_size(run.data.tokenizer)
        # The least that any kernel does is what cuDNN's is counted for.
        kernels = ledger.kernel_flops(run, run.objective, "gpu")
        flops = ledger.program_flops(run, run.objective, vocabulary, "gpu")
        flops -= round((1 - self.attended) * kernels)
        counted = ledger.parameters(run, vocabulary)
        passes = (3 if run.remat == "block" else 2) * run.microbatches
        weights = 2 * counted.matmul / self.tensor
        shards = machine.devices / (machine.slices if machine.decides else 1)
        return Found(
            mesh={},
            flops=flops / machine.devices,
            bytes=passes * weights + 2 * 4 * 3 * counted.total / shards,
            collectives=list(self._collectives(int(weights))),
        )

    def _collectives(self, weights: int) -> Iterator[Moved]:
        """Weights gathered, gradients summed within a slice, then between slices."""
        places = _places(self.slice, self.slices)
        within = tuple(range(len(places) // (self.slices if self.machine.decides else 1)))
        across = tuple(range(0, len(places), len(within)))
        wanted = [
            ("all-gather", weights, within, self.gathers),
            ("reduce-scatter", weights, within, 1),
            ("all-reduce", weights * self.tensor // len(within), across, 1),
        ]
        for kind, size, members, times in wanted:
            if len(members) > 1:
                moved = Collective(kind, size, members, times)
                ici, dcn = seconds_of(moved, places, self.slice)
                received = times * moved.received
                yield Moved(kind, "fsdp", times, received, times * ici, times * dcn)


@functools.cache
def _found(published: PublishedRun) -> Found:
    return published.counted()


def _places(slice_: str, slices: int) -> list[DevicePlace]:
    """Where each device is; of GPUs, in which machine."""
    named = parse_slice(slice_)
    if named.chip.platform == "gpu":
        return [DevicePlace(n // named.together, ()) for n in range(named.chips)]
    corners = itertools.product(*map(range, named.topology))
    inside = [tuple(at) for at in corners for _ in range(named.chip.devices)]
    return [DevicePlace(number, at) for number in range(slices) for at in inside]


def _run(model: Transformer, vocabulary: int, length: int, rows: int, **changes: object) -> Run:
    tokenizer = SentencePiece(size=vocabulary)
    data = Data(length=length, batch=rows, tokenizer=tokenizer)
    return replace(Run(data=data, model=model), **changes)


def _maxtext(
    billions: int,
    slice_: str,
    tflops: float,
    each: int,
    *,
    slices: int = 1,
    tensor: int = 1,
    remat: Remat = "block",
    unlike: str = "",
) -> PublishedRun:
    """A run of MaxText, whose pace is in FLOP/s of its own count.

    `global_parameter_scale` multiplies width, heads, MLP and depth by powers of two (its
    get_individual_scales). Its count, until July 2025, took causal attention in full.
    """
    thirds, rest = divmod(round(math.log2(billions)), 3)
    wide = 2 ** (thirds + (rest > 0))
    model = Transformer(
        depth=16 * 2**thirds,
        width=2048 * 2 ** (thirds + (rest > 1)),
        heads=16 * wide,
        head_width=128,
        mlp="swiglu",
        mlp_width=7168 * wide,
        embedding="untied",
    )
    length, vocabulary = 2048, 32_000
    devices = machine_of_slice(slice_, slices).devices
    run = _run(model, vocabulary, length, each * devices, remat=remat)
    matmul = ledger.parameters(run, vocabulary).matmul
    pairs = 2 * model.depth * model.heads * model.head_size * length
    counted = 6 * (matmul + pairs) * each * length
    return PublishedRun(
        f"MaxText {billions}B",
        slice_,
        run,
        counted / (tflops * 1e12),
        f"{MAXTEXT}/{slice_.partition('-')[0]}/README.md",
        f"{tflops:g} TFLOP/s a chip",
        slices=slices,
        tensor=tensor,
        unlike=unlike,
    )


def _llm_c(
    preset: str,
    slice_: str,
    seconds: float,
    script: str,
    *,
    tokens: int = 2**19,
    parts: int = 1,
) -> PublishedRun:
    """A run of llm.c: GPT-2 with its table filled up to 50,304 rows, optimizer sharded."""
    found = presets()[preset]
    rows = tokens // found.length
    run = _run(found.model, 50_304, found.length, rows, microbatches=parts)
    return PublishedRun(
        f"llm.c {preset}",
        slice_,
        run,
        seconds,
        f"{LLM_C}/{script}",
        f"{seconds:g} s a step",
        gathers=1,
    )


def _foundry(
    name: str,
    size: tuple[int, int, int],
    slice_: str,
    rows: int,
    parts: int,
    pace: int,
    *,
    remat: Remat = "none",
) -> PublishedRun:
    """A run of LLM Foundry: MPT with learned positions, rows of 2048, weights sharded."""
    depth, width, heads = size
    model = Transformer(
        depth=depth,
        width=width,
        heads=heads,
        norm=LayerNorm(),
        positions=Learned(length=2048),
        attention_bias="all",
        mlp_bias="all",
    )
    run = _run(model, 50_368, 2048, rows, microbatches=parts, remat=remat)
    return PublishedRun(
        f"LLM Foundry MPT-{name}",
        slice_,
        run,
        rows * 2048 / pace,
        FOUNDRY,
        f"{pace:,} tokens/s",
        gathers=2 * parts,
    )


def _torchtitan(slice_: str, rows: int, pace: int) -> PublishedRun:
    """Llama 3 8B with rows of 8192 (llama3_8b.toml), torch.compile, bfloat16."""
    llama = presets()["llama3-8b"]
    devices = machine_of_slice(slice_).devices
    return PublishedRun(
        "torchtitan Llama 3 8B",
        slice_,
        _run(llama.model, llama.vocabulary, 8192, rows),
        rows * 8192 / (pace * devices),
        TORCHTITAN,
        f"{pace:,} tokens/s a GPU",
        unlike="some layers' parts computed again; H100s of 500 W and 2.4 TB/s",
    )


def _marin(
    name: str,
    size: tuple[int, int, int, int, int],
    rows: int,
    seconds: float,
    steps: int,
    source: str,
) -> PublishedRun:
    """A speedrun of Marin, by Levanter: Llama with rows of 4096, each layer computed again."""
    depth, width, heads, kv_heads, mlp_width = size
    model = Transformer(
        depth=depth,
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        mlp="swiglu",
        mlp_width=mlp_width,
        embedding="untied",
    )
    return PublishedRun(
        f"Levanter Llama {name}",
        "v5p-32",
        _run(model, 128_256, 4096, rows, remat="block"),
        seconds / steps,
        f"{MARIN}/{source}/speedrun_results.json",
        f"{seconds:,.0f} s for {steps:,} steps",
    )


def _nanochat() -> PublishedRun:
    """24 layers of width 1536; three of four layers see 512 positions back, 2048 the others."""
    model = Transformer(depth=24, width=1536, heads=12, mlp="relu", embedding="untied")
    length, window = 2048, 513
    near = window * length - window * (window - 1) // 2
    every = length * (length + 1) // 2
    return PublishedRun(
        "nanochat-jax d24",
        "v6e-8",
        _run(model, 32_768, length, 2**19 // length, microbatches=16),
        1.39,
        NANOCHAT,
        "1.39 to 1.44 s a step",
        gathers=1,
        attended=(1 + 3 * near / every) / 4,
        unlike="gradients of 12 more tables as products with one-hot rows, and the logits, in"
        " float32",
    )


def published_runs() -> list[PublishedRun]:
    """All runs of the table."""
    offloaded = "what is computed again; queries, keys and values moved to the host and back"
    gpt2, h100, a100 = "run_gpt2_{}M.sh", "h100-8", "a100-8"
    return [
        _maxtext(16, "v5e-256", 120, 6),
        _maxtext(16, "v5e-256", 108, 6, slices=32),
        _maxtext(32, "v5e-256", 132, 4),
        _maxtext(64, "v5e-256", 118, 2),
        _maxtext(128, "v5e-256", 110, 1, tensor=16, remat="none", unlike=offloaded),
        _maxtext(32, "v5p-128", 328, 6, tensor=4, remat="matmuls"),
        _maxtext(64, "v5p-128", 323, 3, tensor=4, remat="matmuls"),
        _maxtext(128, "v5p-256", 315, 1, tensor=8, remat="matmuls"),
        _maxtext(256, "v5p-1024", 308, 1, tensor=8, remat="matmuls"),
        _maxtext(512, "v5p-1024", 294, 2, tensor=8),
        _maxtext(1024, "v5p-4096", 297, 2, tensor=16),
        _marin("300M", (12, 768, 12, 12, 2688), 128, 5250.400686581957, 11_444, "300m"),
        _marin("1.4B", (16, 2048, 16, 8, 7168), 256, 54527.10330390734, 22_888, "1_2b"),
        _nanochat(),
        _llm_c("gpt2", a100, 0.3, gpt2.format(124)),
        _llm_c("gpt2-medium", a100, 0.82, gpt2.format(350)),
        _llm_c("gpt2-large", a100, 1.7, gpt2.format(774), parts=2),
        _llm_c("gpt2-xl", h100, 2.8, gpt2.format(1558), tokens=2**20, parts=8),
        _torchtitan(h100, 16, 6667),
        _torchtitan("h100-128", 256, 6514),
        _foundry("1b", (24, 2048, 16), h100, 112, 1, 363_645),
        _foundry("7b", (32, 4096, 32), h100, 48, 1, 85_144),
        _foundry("13b", (40, 5120, 40), "h100-64", 128, 1, 307_209),
        _foundry("30b", (48, 7168, 56), "h100-32", 1344, 3, 73_860, remat="block"),
        _foundry("1b", (24, 2048, 16), a100, 448, 4, 164_109),
        _foundry("7b", (32, 4096, 32), a100, 96, 2, 37_130),
    ]


def doubted_runs() -> list[PublishedRun]:
    """What is printed too and lies below its floor, so that it cannot have been so."""
    return [_llm_c("gpt3-small", "a100-8", 0.15, "run_gpt3_125M.sh")]


def markdown(runs: list[PublishedRun]) -> str:
    """The runs as a table of Markdown: floors beside what was published."""
    lines = [
        "| run | on | printed there | step, s | floor, s | floor / step"
        " | memory, interconnect, network, s |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in runs:
        many = f"{each.slices} x " if each.slices > 1 else ""
        others = list(each.machine.floors(each.found).values())[1:]
        cells = [
            f"[{each.name}]({each.source})",
            many + each.slice,
            each.pace,
            f"{each.seconds:.3g}",
            f"{each.floor:.3g}",
            f"{each.floor / each.seconds:.2f}",
            ", ".join(f"{seconds:.2g}" if seconds else "-" for seconds in others),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Prints the table, and what the floor of a run leaves out where that is its own."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.published_runs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(arguments)
    runs = published_runs()
    print(markdown(runs))
    print("\nBelow its floor, so printed in error:\n\n" + markdown(doubted_runs()))
    notes = {each.unlike: f"- {each.name}" for each in runs if each.unlike}
    print("\nLeft out of a floor, beside what is left out of all:\n")
    print("\n".join(f"{name}: {what}" for what, name in notes.items()))


if __name__ == "__main__":
    main()
