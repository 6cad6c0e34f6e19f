"""Gets a slice, runs a study on it, survives preemption; imports neither jax nor lm."""
