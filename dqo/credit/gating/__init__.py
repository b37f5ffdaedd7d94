"""Which completions take part in a credit."""
