"""The table of families, and what is asked of all of them."""

import msgspec

from lm.config import UserError
from lm.hub.base import Family
from lm.hub.bert import Bert
from lm.hub.gpt2 import Gpt2
from lm.hub.llama import Llama
from lm.hub.modernbert import ModernBert
from lm.hub.t5 import T5
from lm.model import EncoderDecoder, Transformer

FAMILIES: tuple[Family, ...] = (Llama(), Gpt2(), Bert(), ModernBert(), T5())
KINDS: dict[str, Family] = {kind: family for family in FAMILIES for kind in family.kinds}
"""The family of each `model_type`."""


def family_of(kind: str, where: str) -> Family:
    """The family of a `model_type`; raises UserError for one that is not known."""
    if kind not in KINDS:
        raise UserError(
            f"{where}: model_type={kind} is no family that is known here; one of"
            f" {', '.join(KINDS)}"
        )
    return KINDS[kind]


def spelled_out(model: Transformer) -> Transformer:
    """The model with its sizes written down, and without what only training needs.

    Two that compute the same are then equal, if they say it with other fields.
    """
    local = model.local
    if local is not None:
        rotary = None if local.rotary == model.positions else local.rotary
        local = msgspec.structs.replace(local, rotary=rotary)
    if isinstance(model, EncoderDecoder):
        model = msgspec.structs.replace(model, encoder_depth=model.encoder.depth)
    return msgspec.structs.replace(
        model,
        kv_heads=model.groups,
        head_width=model.head_size,
        mlp_width=model.mlp_size,
        dropout=0.0,
        local=local,
    )
