"""`lm reference`: what transformers answers to a few rows, kept beside a model."""

import argparse
import importlib.util
from pathlib import Path
from typing import Any

from lm.config import UserError
from lm.distributed.process import Parser
from lm.output.console import console


def add_arguments(parser: Parser) -> None:
    """The command line."""
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="a Hugging Face folder")


def main(given: argparse.Namespace) -> None:
    """Writes reference.npz into the folder."""
    from lm.hub.folder import HfFolder, is_hf_folder, open_folder
    from lm.hub.parity import REFERENCE, draw_rows

    if not given.folder.is_dir() or not is_hf_folder(given.folder):
        raise UserError(f"{given.folder}: no Hugging Face folder: it has no config.json of one")
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"{package} is not installed, and its answers are wanted: pip install torch"
                " transformers (here or where the folder can be copied to)"
            )
    card, tokenizer, *_ = open_folder(given.folder)
    rows: dict[str, Any] = draw_rows(
        tokenizer.vocabulary,
        length=card.length,
        types=card.model.token_types,
        source=card.model.reads_source,
    )
    import numpy as np
    import torch
    import transformers

    theirs = HfFolder(given.folder)
    name = theirs.family.architecture(theirs.kind, theirs.settings)
    model = getattr(transformers, name).from_pretrained(
        given.folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    )
    model.eval()
    with torch.no_grad():
        output = model(**{name: torch.tensor(array) for name, array in rows.items()})
    what = "logits" if "logits" in output else "last_hidden_state"
    answer = output[what].float().numpy()
    versions = [f"{each.__name__} {each.__version__}" for each in (transformers, torch)]
    np.savez(given.folder / REFERENCE, **rows, **{what: answer}, versions=np.array(versions))
    console().print(f"{given.folder / REFERENCE}: {what} of {name}, {', '.join(versions)}")
