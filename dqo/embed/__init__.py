"""Encoders: one file per option of ``conf/embed``."""
