"""Predictors without a neural network, in the same unit as models."""

from lm.evaluate.baselines.compressors import gzip_size, xz_size
from lm.evaluate.baselines.table import baselines, window_contents
