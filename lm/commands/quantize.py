"""`lm quantize`: a model with the matrices of its layers in 8 bits or 4."""

import argparse
from pathlib import Path

from lm.config import UserError
from lm.distributed.process import Parser, prepare_machine
from lm.output.console import console

GROUP = 32
"""Inputs that share a scale where weights have four bits, unless another number is asked."""


def add_arguments(parser: Parser) -> None:
    """The command line."""
    parser.description = (
        "Tables, norms and biases stay as they are. Products are of the model's precision: a"
        " matrix is made of its whole numbers where it is used, so what is saved is memory."
    )
    parser.add_argument(
        "model", metavar="MODEL", type=Path, help="RUN_DIR, an artifact, a Hugging Face folder"
    )
    parser.add_argument("folder", metavar="OUT", type=Path, help="made; must not hold anything")
    parser.add_argument("--bits", type=int, choices=(8, 4), required=True, help="of a weight")
    parser.add_argument(
        "--group",
        type=int,
        metavar="N",
        help=f"inputs of an output that share a scale, at most (8 bits: all; 4 bits: {GROUP})",
    )
    parser.add_argument(
        "--method",
        choices=("nearest", "gptq"),
        default="nearest",
        help="round each weight to the nearest number, or so that errors make up for each"
        " other on --text (GPTQ)",
    )
    parser.add_argument(
        "--text", metavar="FILE", type=Path, nargs="+", default=[], help="gptq: to calibrate by"
    )


def main(given: argparse.Namespace) -> None:
    """Writes the artifact and says what it takes."""
    from lm.artifact import check_folder, is_artifact, load_card
    from lm.distributed import hosts
    from lm.quantization import Quantization
    from lm.train.load import load_model, save_model, settings_of
    from lm.train.quantize import check_quantizable, quantize, storage_text, text_rows

    if given.group is not None and given.group < 2:
        raise UserError(f"--group {given.group}: must be at least 2")
    if given.text and given.method != "gptq":
        raise UserError("--text: --method nearest reads none; leave it out, or take gptq")
    check_folder(given.folder)
    group = GROUP if given.group is None and given.bits == 4 else given.group
    quantization = Quantization(bits=given.bits, group=group, method=given.method)
    settings = settings_of(given.model)
    already = load_card(given.model).quantization if is_artifact(given.model) else None
    check_quantizable(settings, quantization, given=bool(given.text), already=already)
    texts = [_read(path) for path in given.text]
    prepare_machine()
    model = load_model(given.model)
    found = quantize(model, quantization, text_rows(model, texts) if texts else None)
    if hosts.is_first():
        save_model(found, given.folder)
    console().print(f"{given.folder}: {storage_text(found)}", soft_wrap=True)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"--text {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"--text {path}: not UTF-8: {error}") from None
