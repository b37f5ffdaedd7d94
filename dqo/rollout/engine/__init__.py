"""Checks and guards around a third-party inference engine."""
