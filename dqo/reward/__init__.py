"""Rewards: one file per option of ``conf/reward``. No imports here: the sandbox loads this package without torch."""
