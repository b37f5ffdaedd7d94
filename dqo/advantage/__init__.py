"""Advantages: one file per option of ``conf/advantage``; helpers are one folder down."""
