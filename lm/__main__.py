"""`python -m lm` is `lm`."""

from lm.cli import main

main()
