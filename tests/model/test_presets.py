"""Published models have the published numbers of parameters."""

import json
from pathlib import Path

import msgspec
import pytest

from lm.config import UserError, override
from lm.model import EncoderDecoder
from lm.model.presets import presets
from lm.run import Run

PUBLISHED = json.loads(
    (Path(__file__).parents[1] / "golden/hub/published_sizes.json").read_text()
)
NAMES = {
    "bert-base-uncased": "bert-base",
    "bert-large-uncased": "bert-large",
}
COUNTED = {
    NAMES.get(name, name): facts
    for name, facts in PUBLISHED.items()
    if "parameters" in facts and not name.endswith("-bare")
}


@pytest.mark.parametrize("name", COUNTED)
def test_counts_are_the_published_ones(name):
    """Fails if a size, a bias, a norm or a table is another than the published model's."""
    preset, facts = presets()[name], COUNTED[name]
    assert preset.model.check() is None
    assert preset.vocabulary == facts["config"]["vocab_size"]
    assert sum(preset.model.parameters(preset.vocabulary).values()) == facts["parameters"]


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("gpt3")])
def test_gpt3_is_as_its_table_prints_it(name):
    """Fails if a row of table 2.1 is another, or its size is far from what is printed."""
    preset, facts = presets()[name], PUBLISHED[name]
    model = preset.model
    assert (model.depth, model.width, model.heads, model.head_size, model.mlp_size) == (
        facts["layers"],
        facts["width"],
        facts["heads"],
        facts["head_size"],
        facts["mlp_width"],
    )
    assert (preset.vocabulary, preset.length) == (facts["vocabulary"], facts["context"])
    printed = facts["parameters_as_printed"]
    about = float(printed[:-1]) * {"M": 1e6, "B": 1e9}[printed[-1]]
    count = sum(model.parameters(preset.vocabulary).values())
    # XL's heads are wider together than the model, so it is larger than what is printed.
    assert count == pytest.approx(about, rel=0.2 if name == "gpt3-xl" else 0.03)


def test_all_published_sizes_are_there_and_no_other_is():
    """Fails if a preset has no published count, or a published size has no preset."""
    known = {NAMES.get(name, name) for name in PUBLISHED} - {"versions", "sources"}
    known = {name for name in known if not name.endswith("-bare")}
    small = {f"bert-{size}" for size in ("tiny", "mini", "small", "medium")}
    assert set(presets()) - known == small
    assert known <= set(presets())
    assert isinstance(presets()["t5-small"].model, EncoderDecoder)


def test_a_run_takes_a_published_model_by_its_name():
    """Fails if fields cannot be changed beside the name, or a wrong one is not told."""
    run = override(Run(), ["model.depth=2", "model=qwen3-0.6b"])
    assert run.model == msgspec.structs.replace(presets()["qwen3-0.6b"].model, depth=2)
    with pytest.raises(UserError, match=r"model=gpt-2: .* model=, .*gpt2"):
        override(Run(), ["model=gpt-2"])
    assert override(Run(), ["model=t5-small"]).model == presets()["t5-small"].model
