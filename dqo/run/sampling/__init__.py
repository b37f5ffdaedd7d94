"""``dqo-sample``: where prompts come from, groups of completions, and which of them are chosen."""
