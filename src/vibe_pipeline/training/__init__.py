"""Training an adapter: the loop, its checkpoints, its records."""
