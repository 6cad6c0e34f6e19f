"""What a model generates: a text goes on (`generate`), blanks are filled (`fill`), and which
tokens are likeliest at a place (`likeliest`).

All take the module, its parameters and ids, and know no run, no tokenizer and no file. A model
that keeps no cache fills blanks and ranks tokens; that it does not generate is one line.
"""

from lm.generate.filling import fill, likeliest
from lm.generate.sampling import answer, generate

__all__ = ["answer", "fill", "generate", "likeliest"]
