"""How fast does a text become a token store, and how does that grow with cores?

    python -m experiments.benchmarks.tokenizing [--megabytes 100] [--cores 1,2] [--tokenizer D]

The text is Python's own sources, over and over. It is read, encoded and written as a run does
it when it finds no store: by bytes, by 2,048 tokens of SentencePiece, and by the tokenizer of a
Hugging Face folder, where one is given. Each time a new process has so many cores, and no
others. Prints tokens and bytes a second of the clock, how often that is as fast as on the first
number of cores, and the seconds of processors that all processes used.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from msgspec.structs import replace

from lm.config import dump, parse
from lm.data import (
    Bytes,
    Data,
    SentencePiece,
    Stdlib,
    TokenizerConfig,
    corpus_digest,
    open_tokens,
    tokenizer_of,
)
from lm.data.sources import Shards
from lm.data.tokenizers import from_hf_folder
from lm.distributed.process import usable_cores


def main(arguments: list[str] | None = None) -> None:
    """Prints a line for each tokenizer and number of cores."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = range(1, len(usable_cores()) + 1)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--cores", default=",".join(map(str, every)), metavar="N,N,...")
    parser.add_argument("--tokenizer", type=Path, metavar="D")
    parser.add_argument("--build", metavar="DATA", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.build:
        print(json.dumps(build(parse(Data, Path(given.build).read_bytes(), given.build))))
        return
    kinds: dict[str, TokenizerConfig] = {"bytes": Bytes(), "sentencepiece": SentencePiece()}
    if given.tokenizer:
        size = json.loads((given.tokenizer / "config.json").read_bytes())["vocab_size"]
        _, kind = from_hf_folder(given.tokenizer, size=size)
        kinds[given.tokenizer.name] = replace(kind, path=str(given.tokenizer))
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["LM_CACHE"] = f"{temporary}/cache"
        path = Path(temporary) / "text.jsonl"
        size = write(path, given.megabytes * 10**6)
        for name, config in kinds.items():
            data = Data(corpus=Shards(paths=(str(path),)), tokenizer=config)
            tokenizer_of(data, corpus_digest(data))  # read once, and learnt
            settings = path.with_name("data.json")
            settings.write_text(dump(data))
            first = 0.0
            for cores in map(int, given.cores.split(",")):
                found = measured(cores, settings)
                rate = found["tokens"] / found["seconds"]
                first = first or rate
                print(
                    f"{name:<14} {cores:>3} cores: {rate:>12,.0f} tokens/s,"
                    f" {size / found['seconds'] / 1e6:>7.1f} MB/s, x{rate / first:.2f};"
                    f" {found['processor']:,.0f} s of processors,"
                    f" load {os.getloadavg()[0]:.1f}",
                    flush=True,
                )


def write(path: Path, size: int) -> int:
    """Writes documents of about so many bytes; returns how many."""
    documents, written, times = list(Stdlib().read()), 0, 0
    with path.open("w") as file:
        while written < size:
            for document in documents:
                text = f"{times}\n{document.text}"  # no two are equal
                written += len(text.encode())
                file.write(json.dumps({"text": text}) + "\n")
                if written >= size:
                    break
            times += 1
    return written


def measured(cores: int, settings: Path) -> dict[str, float]:
    """What `build` finds in a new process on so many cores."""
    chosen = usable_cores()[:cores]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.benchmarks.tokenizing", "--build", str(settings)],
        preexec_fn=lambda: os.sched_setaffinity(0, chosen),
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


def build(data: Data) -> dict[str, float]:
    """Tokens of the text, and seconds to make its store, after which it is deleted."""
    cache = Path(os.environ["LM_CACHE"])
    begin = time.perf_counter()
    tokens = open_tokens(data)
    seconds = time.perf_counter() - begin
    for path in sorted((cache / "tokens").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "tokens": tokens.train.size + tokens.validation.size,
        "seconds": seconds,
        "processor": sum(each.ru_utime + each.ru_stime for each in used),
    }


if __name__ == "__main__":
    main()
