"""Tokens by the covariance of advantage and log-probability."""
