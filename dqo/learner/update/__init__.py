"""What all learners share: log-probabilities, packing, the loss of a step, LoRA, the reference, saved state."""
