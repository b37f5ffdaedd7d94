"""Packages that generate problems, each called in a process of its own. What runs there must not import torch."""
