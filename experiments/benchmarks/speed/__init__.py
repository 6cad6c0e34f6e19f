"""How fast this codebase is on the machine at hand: what is measured, a file a subject."""
