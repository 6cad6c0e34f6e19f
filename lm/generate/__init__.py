"""What a model generates: a text goes on (`generate`), a source is answered (`answer`), blanks
are filled (`fill`), and which tokens are likeliest at a place (`likeliest`).

All take the module, its parameters and ids, and know no run and no file. `Engine` is what texts
go on by, for whoever takes tokens as they come, and `Written` makes text of them. A model that
keeps no cache fills blanks and ranks tokens; that it does not generate is one line.
"""

from lm.generate.beams import beam_search
from lm.generate.continuation import answer, generate
from lm.generate.engine import Emitted, Engine, Request
from lm.generate.filling import Filled, fill, fill_blanks, likeliest
from lm.generate.sampling import Sampling
from lm.generate.text import Written

__all__ = [
    "Emitted",
    "Engine",
    "Filled",
    "Request",
    "Sampling",
    "Written",
    "answer",
    "beam_search",
    "fill",
    "fill_blanks",
    "generate",
    "likeliest",
]
