"""Yardstick: encoders and decoders trained on the same bytes, scored in the same unit."""

import os

# XLA's CPU compiler logs an error, a page long, for every program that it takes from its cache
# on the very machine that put it there ("prefer-no-gather is not supported on the host
# machine"). It reads the level when jax is first imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
