"""One file, one study, runnable: `python -m experiments.NAME --scale SCALE`."""
