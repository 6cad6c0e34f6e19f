"""Predictors without a neural network: what a model must beat on the same text.

`table.py` gives bits per byte under counts of tokens and compressors (`compressors.py`), among
them PPM, which may have read the training text (`ppm.py`); `ngram.py` is a Kneser-Ney
n-gram model of token ids, the best of what came before networks.
"""

from lm.evaluate.baselines.compressors import gzip_size, xz_size
from lm.evaluate.baselines.ngram import NGram
from lm.evaluate.baselines.ppm import MOST_TRAINING, has_ppm
from lm.evaluate.baselines.table import baselines, window_contents
