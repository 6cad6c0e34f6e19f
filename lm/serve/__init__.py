"""A server of models by OpenAI's protocol: `lm serve`.

`protocol` says what may be asked, `app` which path answers it, `batching` has the thread that
all models compute on, `writing` makes text and log-probabilities of its tokens, and `limits` is
about who may ask how much. What is computed is that of `lm.generate` and `lm.evaluate`.
"""
