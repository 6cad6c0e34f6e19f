"""Yardstick: encoders and decoders trained on the same bytes, scored in the same unit."""
