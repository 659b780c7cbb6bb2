"""Sweeps: many runs from one specification, and what they say together. The only room that imports ray.tune."""
