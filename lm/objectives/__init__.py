"""What is hidden and what must be predicted. A new objective: one file, one line here.

An objective is a frozen value. Called with `(tokens_BL, segments_BL, vocabulary, key)` it
returns the `Example` to train on, on device, inside the jitted step; `slots(length)` is its P.
"""

from lm.objectives.any_order import AnyOrder
from lm.objectives.causal import Causal
from lm.objectives.masked import Masked

Objective = Causal | Masked | AnyOrder

__all__ = ["AnyOrder", "Causal", "Masked", "Objective"]
