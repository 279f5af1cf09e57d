"""A run as it is on disk: its files, checkpoints, process and state."""
