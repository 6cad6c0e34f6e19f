"""Models in few bits: made, saved, loaded, used and refused."""

import json
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest

from lm.artifact import by_name, load_artifact, load_card
from lm.cli import main
from lm.config import UserError
from lm.example import Batch
from lm.model import Convolution, EncoderDecoder, Lstm, Transformer
from lm.model.apart import take_apart
from lm.model.experts import Experts
from lm.model.positions import Learned
from lm.numerics import Einsum, Factor, Quantized
from lm.objectives import Causal, Masked, Spans
from lm.output.tensors import LazyArray, read_arrays, write_arrays
from lm.quantization import Quantization
from lm.quantization.gptq import gptq
from lm.quantization.nearest import groups_of, matrix_of
from lm.train.load import load_model, save_model
from lm.train.quantize import quantize, text_rows
from tests import makers

SIZE = {"depth": 2, "width": 16, "heads": 2}
MODELS = {
    "gpt": (Causal(), Transformer(**SIZE, mlp="swiglu", mlp_width=20, kv_heads=1)),
    "bert": (
        Masked(),
        Transformer(
            **SIZE,
            **{"positions": Learned(length=32), "token_types": 2, "embedding_norm": "norm"},
            **{"attention_bias": "all", "norm_placement": "after"},
        ),
    ),
    "convolution": (Causal(), Convolution(depth=2, width=16)),
    "spans": (Spans(stack="encoder_decoder"), EncoderDecoder(**SIZE)),
}
EIGHT, FOUR = Quantization(bits=8), Quantization(bits=4, group=8)
TOKENS_BL = np.random.default_rng(0).integers(10, 200, (8, 32)).astype(np.int32)
ROWS = Batch(TOKENS_BL, np.ones_like(TOKENS_BL))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder of untrained models, by name."""
    made = tmp_path_factory.mktemp("models")
    for name, (objective, model) in MODELS.items():
        makers.save_untrained(made / name, objective, model, length=32)
    return made


def logits(model) -> np.ndarray:
    source = {"source_BM": TOKENS_BL} if model.run.model.reads_source else {}
    return model.logits(TOKENS_BL, **source)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("quantization", [EIGHT, FOUR], ids=["8", "4"])
def test_a_quantized_model_is_its_dequantized_self(folder, tmp_path, name, quantization):
    """Fails if a scale is put on another block, a matrix is left out, or a file loses a bit."""
    model = load_model(folder / name)
    made = quantize(model, quantization)
    save_model(made, tmp_path / "made")
    there = load_model(tmp_path / "made")
    floats = there.dequantized()
    assert np.abs(logits(there) - logits(floats)).max() < 1e-5
    assert there.digest == floats.digest == made.digest != model.digest
    assert load_artifact(tmp_path / "made").digest == there.digest
    assert there.quantization == quantization and floats.quantization is None
    kinds = {path for path, x in by_name(there.params).items() if isinstance(x, Quantized)}
    assert kinds == set(quantization.chosen(model.run.model)) and len(kinds) >= 5
    assert all(isinstance(x, jax.Array) for x in by_name(floats.params).values())
    step = {8: 0.01, 4: 0.3}[quantization.bits]
    for path, array in by_name(model.params).items():
        off = np.abs(np.asarray(by_name(floats.params)[path]) - np.asarray(array)).max()
        assert (0 < off < step * np.abs(array).max()) if path in kinds else off == 0


def test_files_hold_so_many_bits(folder, tmp_path):
    """Fails if int4 takes a byte each, or what is said of the size is not what is written."""
    for quantization in (EIGHT, FOUR):
        made = quantize(load_model(folder / "gpt"), quantization)
        save_model(made, tmp_path / str(quantization.bits))
        arrays = read_arrays(tmp_path / str(quantization.bits))
        shapes = {name: array.shape for name, array in by_name(made.params).items()}
        storage = quantization.storage(made.run.model, shapes)
        assert sum(array.nbytes for array in arrays.values()) == storage.bytes
        codes, scale = arrays["layers/up.codes"], arrays["layers/up.scale"]
        assert codes.dtype == (np.int8 if quantization is EIGHT else np.uint8)
        assert scale.dtype == ml_dtypes.bfloat16
        assert codes.nbytes == 2 * 16 * 20 * quantization.bits // 8
        card = load_card(tmp_path / str(quantization.bits))
        assert card.quantization == quantization


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_generates_as_its_dequantized_self(folder, precision):
    """Fails if what is laid out for generation rounds whole numbers, or mixes up layers."""
    made = quantize(load_model(folder / "gpt", precision=precision), FOUR)
    prompts = [[2, 70, 80, 90], [2, 100]]
    for given in (prompts, prompts[:1]):  # one row is laid out in another way
        found = made.generate(given, count=8, temperature=0)
        assert found == made.dequantized().generate(given, count=8, temperature=0)


class Watched(Factor):
    """A matrix that keeps what it is multiplied with."""

    def __init__(self, weight) -> None:
        self.weight, self.shape = weight, weight.shape

    def product(self, einsum, equation, left):
        self.left = np.asarray(left)
        return einsum(equation, left, self.weight)


@pytest.mark.parametrize("name", ["gpt", "bert"])
def test_gptq_rounds_by_what_rounding_before_it_left(folder, name):
    """Fails if a matrix is rounded by what another is given, or by inputs of a model that is
    not rounded yet.
    """
    model = load_model(folder / name)
    quantization = replace_method(FOUR)
    made = quantize(model, quantization, ROWS)
    config, vocabulary = made.run.model, model.tokenizer.vocabulary
    assert isinstance(config, Transformer)
    axes, einsum = config.axes(), Einsum("float32")
    floats = jax.tree.map(jax.numpy.asarray, made.dequantized().params)
    apart = take_apart(config, floats, einsum=einsum, rows=2)
    names = [path.removeprefix("layers/") for path in quantization.chosen(config)]
    for number in range(config.depth):
        layer = apart[f"layers_{number}"]
        apart[f"layers_{number}"] = layer | {n: Watched(layer[n]) for n in names}
    module = config.build(vocabulary.size, mesh=None, precision="float32").clone(apart=True)
    rows = jax.tree.map(jax.numpy.asarray, ROWS)
    example = model.run.objective(rows, vocabulary, jax.random.key(0))
    module.apply({"params": apart}, example)
    before = by_name(jax.tree.map(np.asarray, model.params))
    for number in range(config.depth):
        for n in names:
            path, watched = f"layers/{n}", apart[f"layers_{number}"][n]
            weight_IO = matrix_of(before[path][number], axes[path])
            x_SI = watched.left.reshape(-1, len(weight_IO))
            blocks = quantization.blocks(axes[path], before[path].shape)
            codes, _ = gptq(weight_IO, x_SI.T @ x_SI, groups_of(blocks, axes[path]), 4)
            mine = np.asarray(by_name(made.params)[path].codes[number]).astype(int)
            assert (mine.reshape(codes.shape) == codes).mean() > 0.995, (number, n)


def replace_method(quantization: Quantization) -> Quantization:
    return Quantization(bits=quantization.bits, group=quantization.group, method="gptq")


def test_the_command_writes_and_score_says_what_it_takes(folder, tmp_path, capsys):
    """Fails if options are lost on the way, or the size is not said."""
    text = tmp_path / "text.txt"
    text.write_text("some words that are no others, " * 40)
    options = ["--bits", "4", "--group", "8", "--method", "gptq", "--text", str(text)]
    main(["quantize", str(folder / "gpt"), str(tmp_path / "out"), *options])
    told = capsys.readouterr().out
    assert "int4 in groups of at most 8, by GPTQ" in told and "6.22 bits a weight" in told
    assert load_card(tmp_path / "out").quantization == replace_method(FOUR)
    main(["score", str(tmp_path / "out"), "--text", str(text), "--rows", "2"])
    assert "6.22 bits a weight" in capsys.readouterr().out
    main(["score", str(tmp_path / "out"), "--text", str(text), "--rows", "2", "--json"])
    found = json.loads(capsys.readouterr().out)["storage"]
    assert found["bits_per_weight"] == pytest.approx(4 + 16 * 480 / 3456)
    main(["quantize", str(folder / "bert"), str(tmp_path / "eight"), "--bits", "8"])
    assert load_card(tmp_path / "eight").quantization == EIGHT
    main(["export", str(tmp_path / "out"), str(tmp_path / "copy")])
    assert load_model(tmp_path / "copy").digest == load_model(tmp_path / "out").digest


def test_oneline_what_cannot_be_quantized(folder, tmp_path):
    """Fails if a model is half rounded, or asked for what it has not, without a word."""
    makers.save_untrained(tmp_path / "lstm", Causal(), Lstm(depth=1, width=8), length=16)
    experts = Transformer(**SIZE, experts=Experts(count=2, active=1))
    makers.save_untrained(tmp_path / "experts", Causal(), experts, length=16)
    save_model(quantize(load_model(folder / "gpt"), FOUR), tmp_path / "four")
    text = tmp_path / "text.txt"
    text.write_text("short")
    gptq_ = ["--method", "gptq", "--text", str(text)]
    for model, options, why in (
        (tmp_path / "lstm", [], "layers/mixer/recurrent: model.type=lstm has a matrix"),
        (tmp_path / "experts", [], "several experts"),
        (tmp_path / "four", [], "quantized already"),
        (folder / "convolution", gptq_, "model.type=convolution does not run layer by layer"),
        (folder / "spans", gptq_, "encoder_decoder does not run layer by layer"),
        (folder / "gpt", gptq_[:2], "by what a text makes of the layers"),
        (folder / "gpt", gptq_, "no text has the"),
        (folder / "gpt", gptq_[2:], "--method nearest reads none"),
        (folder / "gpt", ["--group", "1"], "must be at least 2"),
        (folder / "gpt", [*gptq_[:3], str(tmp_path / "no")], "No such file"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["quantize", str(model), str(tmp_path / "out"), "--bits", "4", *options])
        assert stopped.value.code == 2, why
        assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="quantized already, to int4"):
        quantize(load_model(tmp_path / "four"), EIGHT)


def test_oneline_a_damaged_file(folder, tmp_path):
    """Fails if whole numbers of another type or shape are taken for others."""
    save_model(quantize(load_model(folder / "gpt"), FOUR), tmp_path / "four")
    arrays = read_arrays(tmp_path / "four")
    whole = {name: LazyArray.of(array.whole()) for name, array in arrays.items()}
    codes = whole["layers/up.codes"]
    for changed, why in (
        (codes.astype(np.int8), "up.codes is of int8, and must be of uint8"),
        (None, "parameter layers/up.codes is missing"),
    ):
        others = {n: a for n, a in whole.items() if n != "layers/up.codes"}
        write_arrays(
            tmp_path / "four", others | ({"layers/up.codes": changed} if changed else {})
        )
        with pytest.raises(UserError, match=f"^[^\n]*damaged: [^\n]*{why}[^\n]*$"):
            load_model(tmp_path / "four")


def test_rows_are_whole_and_of_text(folder):
    """Fails if padding is calibrated by, or an encoder is shown no end."""
    gpt, bert = load_model(folder / "gpt"), load_model(folder / "bert")
    for model, last in ((gpt, None), (bert, bert.tokenizer.vocabulary.eos)):
        rows = text_rows(model, ["a" * 100, "b" * 10])
        assert rows.tokens_BL.shape == (3, 32) and rows.segments_BL.all()
        assert (rows.tokens_BL[:, 0] == model.tokenizer.vocabulary.bos).all()
        if last is not None:
            assert (rows.tokens_BL[:, -1] == last).all()
