"""Rewards, advantages and returns of single tokens."""
