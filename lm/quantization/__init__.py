"""Weights in few bits: which, how they are rounded, and how files hold them."""

from lm.quantization.nearest import round_to_nearest
from lm.quantization.scheme import Quantization, Storage

__all__ = ["Quantization", "Storage", "round_to_nearest"]
