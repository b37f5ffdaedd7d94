"""How similar the completions of a group are."""
