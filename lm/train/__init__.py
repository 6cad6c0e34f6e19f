"""How parameters come to be: the state, the step, the loop, the checkpoints."""
