"""Learners: one file per option of ``conf/learner``; what they share is in ``update/``."""
