"""Losses: one file per option of ``conf/loss``; helpers are one folder down."""
