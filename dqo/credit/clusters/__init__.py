"""Which completions of a group are the same."""
