"""The objectives that stand by themselves: mixtures and curricula are made of these.

A new objective: its file beside this one, and its name in the union here; one that has a head
of its own cannot be mixed, and goes into `Objective` (`__init__.py`).
"""

from lm.objectives.any_order import AnyOrder
from lm.objectives.causal import Causal
from lm.objectives.diffusion import Diffusion
from lm.objectives.masked import Masked
from lm.objectives.prefix import Prefix
from lm.objectives.shifted import Shifted
from lm.objectives.spans import Spans

Plain = Causal | Masked | AnyOrder | Diffusion | Shifted | Prefix | Spans
