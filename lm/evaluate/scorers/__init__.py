"""How well a model predicts text, in bits per byte, by every scorer that is valid for it.

Functions of (params, body, rows). A new scorer: one class in `likelihood.py`.
"""
