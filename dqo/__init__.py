"""dqo: post-train language models for answers that are good and different from one another."""

__version__ = "0.1.0"
