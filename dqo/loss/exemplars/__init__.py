"""Completions that a term learns from by their log-probability."""
