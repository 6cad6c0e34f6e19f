"""What do 8 and 4 bits a weight cost two published models, to nearest and by GPTQ?

    YARDSTICK_ASSETS=... python -m experiments.benchmarks.quantized --text FILE --calibrate FILE

SmolLM2's bits per byte are of the first bytes of --text, in windows of 512 tokens after a bos
token. Its weights were made of 4-bit ones, so what 4 bits cost it proves nothing, and is not
asked; 8 are. MiniLM's are the cosines of all pairs of lines of the same text, of mean states:
how far they move, and how well they keep their order (Spearman). GPTQ reads --calibrate. Prints
a line a way, in float32 throughout.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy.stats

from lm.evaluate.given_text import score_text
from lm.quantization import Quantization
from lm.quantization.scheme import Method
from lm.train.load import LoadedModel, load_model
from lm.train.quantize import quantize, storage_text, text_rows

METHODS: tuple[Method, ...] = ("nearest", "gptq")
EIGHT = (Quantization(bits=8),)
FOUR = tuple(
    Quantization(bits=4, group=group, method=method)
    for group in (32, 128)
    for method in METHODS
)


def main(arguments: list[str] | None = None) -> None:
    """Prints a line of each way to keep each model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--calibrate", type=Path, required=True)
    parser.add_argument("--bytes", type=int, default=20_000, help="of the text that are scored")
    parser.add_argument("--lines", type=int, default=200, help="whose cosines are compared")
    given = parser.parse_args(arguments)
    assets = Path(os.environ["YARDSTICK_ASSETS"])
    scored = given.text.read_bytes()[: given.bytes].decode(errors="ignore")
    calibrate = given.calibrate.read_text()
    lines = [line.strip() for line in given.text.read_text().splitlines()]
    lines = [line for line in lines if len(line) > 40][: given.lines]

    model = load_model(assets / "smollm2-135m-instruct", precision="float32")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.txt"
        path.write_text(scored)
        whole = _bits(model, path)
        print(f"SmolLM2 {whole:.6f} bits per byte in float32", flush=True)
        for way in EIGHT:
            small, seconds = _timed(model, way, calibrate)
            found = _bits(small, path)
            print(
                f"SmolLM2 {found:.6f} bits per byte, {found / whole - 1:+.3%}; made in"
                f" {seconds:.0f} s; {storage_text(small)}",
                flush=True,
            )
    model = load_model(assets / "minilm", precision="float32")
    exact = _cosines(model, lines)
    for way in (*EIGHT, *FOUR):
        small, seconds = _timed(model, way, calibrate)
        found_P = _cosines(small, lines)
        off_P = np.abs(found_P - exact)
        order = scipy.stats.spearmanr(found_P, exact).statistic
        print(
            f"MiniLM  cosines of {len(exact):,} pairs off by {off_P.mean():.4f} in the mean,"
            f" {off_P.max():.4f} at most, order {order:.4f}; made in {seconds:.0f} s;"
            f" {storage_text(small)}",
            flush=True,
        )


def _timed(model: LoadedModel, way: Quantization, text: str) -> tuple[LoadedModel, float]:
    start = time.monotonic()
    rows = text_rows(model, [text]) if way.method == "gptq" else None
    return quantize(model, way, rows), time.monotonic() - start


def _bits(model: LoadedModel, path: Path) -> float:
    return score_text(model, [path], length=512)["chain_rule"].bits_per_byte


def _cosines(model: LoadedModel, lines: list[str]) -> np.ndarray:
    """The cosine of each pair of lines, float[pairs]."""
    vocabulary, most = model.tokenizer.vocabulary, 128
    ids = [model.tokenizer.encode(line)[: most - 2].tolist() for line in lines]
    rows_BL = np.full((len(ids), most), vocabulary.pad, np.int32)
    segments_BL = np.zeros_like(rows_BL)
    for row, one in enumerate(ids):
        whole = [vocabulary.bos, *one, vocabulary.eos]
        rows_BL[row, : len(whole)], segments_BL[row, : len(whole)] = whole, 1
    states_BLD = model.hidden(rows_BL, segments_BL)
    mean_BD = (states_BLD * segments_BL[..., None]).sum(1) / segments_BL.sum(1)[:, None]
    mean_BD /= np.linalg.norm(mean_BD, axis=1, keepdims=True)
    cosines: np.ndarray = (mean_BD @ mean_BD.T)[np.triu_indices(len(ids), 1)]
    return cosines


if __name__ == "__main__":
    main()
