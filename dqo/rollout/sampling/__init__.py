"""What all engines share: the sampling keys, choosing tokens from logits, the record of finished groups."""
