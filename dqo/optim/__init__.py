"""Optimizers and their schedules: one file per option of ``conf/optim``."""
