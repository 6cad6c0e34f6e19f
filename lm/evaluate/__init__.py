"""What a trained model is asked, and what its answers are held to.

`evaluate.py` asks everything at the end of a run, `evaluators/` something at each validation.
`scoring.py` gives bits per byte: by a scorer (`scorers/`), of held-out windows (`windows.py`),
with errors (`bits.py`) and what the layout costs (`layout.py`). Beside it stand the probe
(`probe/`), predictors without a network (`baselines/`), a known source in the place of a
model (`truth.py`, `oracle.py`), a model at work (`passage.py`) and text from outside
(`given_text.py`).
"""
