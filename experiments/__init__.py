"""One file, one study, runnable: `python -m experiments.NAME --scale SCALE`."""

import sys

from lm.distributed import signals

if sys.argv[0] == "-m":  # so it is called while Python looks for the module that it shall run
    signals.listen()
