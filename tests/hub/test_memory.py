"""Memory while a folder of shards is read onto many devices: near one copy of the numbers."""

import json
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

CHILD = """
import resource, sys
from pathlib import Path
import jax
jax.config.update("jax_num_cpu_devices", 8)
from lm.train.load import load_model
small, large = map(Path, sys.argv[1:])
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
load_model(small)
before = peak()
model = load_model(large)
arrays = jax.tree.leaves(model.params)
size = sum(array.nbytes for array in arrays)
spread = min(len(array.sharding.device_set) for array in arrays)
print(size, peak() - before, spread)
"""


def shards(folder, *, layers, width):
    """A Llama of random bfloat16 numbers, a file for each layer and one for the rest."""
    folder.mkdir()
    options = {
        "model_type": "llama",
        "vocab_size": 1024,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 8,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e4,
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(options))
    draw = np.random.default_rng(0)

    def random(*shape):
        return draw.standard_normal(shape, np.float32).astype(ml_dtypes.bfloat16)

    where = {}
    for layer in range(-1, layers):
        block = f"model.layers.{layer}."
        if layer < 0:
            tensors = {"model.embed_tokens.weight": random(1024, width)}
            tensors |= {"model.norm.weight": random(width)}
        else:
            square = dict.fromkeys(
                [f"self_attn.{name}_proj" for name in "qkvo"], (width, width)
            )
            wide = dict.fromkeys(("mlp.gate_proj", "mlp.up_proj"), (2 * width, width))
            shapes = {**square, **wide, "mlp.down_proj": (width, 2 * width)}
            shapes |= {"input_layernorm": (width,), "post_attention_layernorm": (width,)}
            tensors = {f"{block}{n}.weight": random(*shape) for n, shape in shapes.items()}
        file = f"model-{layer + 2:05}-of-{layers + 1:05}.safetensors"
        save_file(tensors, folder / file)
        where |= dict.fromkeys(tensors, file)
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize(
    "width", [512, pytest.param(1600, marks=pytest.mark.slow)], ids=["200MB", "2GB"]
)
def test_forty_shards_are_read_onto_eight_devices_in_little_more_than_their_size(
    width, tmp_path
):
    """Fails if a second copy is made, files stay mapped, or all devices read in one go."""
    small = shards(tmp_path / "small", layers=39, width=64)
    large = shards(tmp_path / "large", layers=39, width=width)
    command = [sys.executable, "-c", CHILD, str(small), str(large)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    size, grown, spread = map(int, ran.stdout.split())
    assert spread == 8
    assert grown <= 1.3 * size, grown / size
