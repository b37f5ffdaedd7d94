"""Figures as Vega-Lite or Vega specifications: pure functions of what was read."""
