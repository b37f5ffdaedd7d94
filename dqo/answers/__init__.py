"""Reads answers that people and models write: where a text has its answer, one notation for it, numbers. Pure text:
``task`` and ``reward`` share it, and the process that compares answers imports it, so it imports no torch or sympy."""
