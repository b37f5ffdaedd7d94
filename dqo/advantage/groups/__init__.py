"""Means and deviations within a group."""
