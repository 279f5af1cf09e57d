"""Run directories: their files, checkpoints, lock, history and status."""
