"""A worker process for code that may hang or crash. What the worker imports must not import torch."""
