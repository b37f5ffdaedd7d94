"""What is on the disk: atomic writes, checkpoints, ownership of a run folder."""
