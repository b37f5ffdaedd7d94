"""Arithmetic of ``task=countdown``: reading expressions, their modes, and puzzles with all of their solutions."""
