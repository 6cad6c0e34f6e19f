"""Scaling laws: their closed forms, robust fits with error bars, comparisons and figures."""
