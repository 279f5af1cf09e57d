"""A run directory: its files, its checkpoints, the process that trains in it."""
