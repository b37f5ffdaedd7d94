"""Correction of the difference between the sampler's and the learner's log-probabilities."""
