"""Tiny adapters made with PEFT, and what it answers: tests/golden/hub/adapters.

`python -m tests.hub.make_golden_adapters` makes them anew, on the golden models of the same
names. It needs peft, torch and transformers, which nothing else here does.
"""

import json
import shutil
from importlib.metadata import version
from typing import Any

from tests.hub.make_golden import FOLDER, SEED, answer, write_json

TARGETS = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "bert": ["query", "value", "output.dense"],  # the last is of attention, and of the MLP
}


def main() -> None:
    """Makes one folder for each model."""
    for name, targets in TARGETS.items():
        make(name, targets)


def make(name: str, targets: list[str]) -> None:
    """Writes one golden folder; raises if an adapter changes no answer."""
    import peft
    import torch
    import transformers

    torch.set_num_threads(1)
    reference = json.loads((FOLDER / name / "reference.json").read_text())
    inputs = {
        key: torch.tensor(value)
        for key, value in reference.items()
        if key in ("input_ids", "attention_mask", "token_type_ids")
    }
    model: Any = getattr(transformers, reference["model"]).from_pretrained(
        FOLDER / name, attn_implementation="eager", dtype=torch.float32
    )
    _, before = answer(model.eval(), inputs)
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=targets)
    adapted = peft.get_peft_model(model, config).eval()
    torch.manual_seed(SEED)
    with torch.no_grad():
        for key, parameter in adapted.named_parameters():
            if "lora_" in key:  # B is 0 at first
                parameter.normal_(0, 0.2)
    config.base_model_name_or_path = name  # and not where it lies on this machine
    folder = FOLDER / "adapters" / name
    shutil.rmtree(folder, ignore_errors=True)
    adapted.save_pretrained(folder)
    (folder / "README.md").unlink()
    _, after = answer(adapted, inputs)
    pairs = zip(before, after, strict=True)
    assert all(float((a - b).abs().max()) > 0.1 for a, b in pairs), name
    found = {
        "versions": {p: version(p) for p in ("peft", "torch", "transformers")},
        "seed": SEED,
        "logits": [[[float(f"{x:.7g}") for x in at] for at in row.tolist()] for row in after],
    }
    write_json(folder / "reference.json", found)


if __name__ == "__main__":
    main()
