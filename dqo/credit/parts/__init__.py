"""What completions consist of: n-grams, equations."""
