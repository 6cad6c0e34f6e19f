"""How much is spent on asking a trained model."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """How much is spent on scoring; the defaults take a small model a minute on a laptop."""

    rows: int | None = None
    """Validation windows scored, evenly spaced; None: all."""
    samples: int = 4
    """Mask draws of one any-order estimate, stratified over the number masked."""
    replicates: int = 2
    """Independent estimates, whose spread is `mc_se`."""
    mc_se: float | None = None
    """More are drawn until it is at most this; a UserError if that takes too many."""
    curve_rows: int = 128
    """Windows for each point of the error against the fraction masked, and
    pseudo-likelihood.
    """
    probe_tokens: int = 20_000
    orders: int | None = None
    """Windows scored by the exact likelihood of each decoding order; None: not scored."""
    block: int | None = None
    """Tokens that an order unmasks at once; None: so many that a row takes 32 passes."""


USUAL = Effort()
