"""Token entropies over a whole step."""
