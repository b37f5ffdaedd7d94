"""What terms say of a step's token entropies."""
