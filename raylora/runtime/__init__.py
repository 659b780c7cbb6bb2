"""Runs a spec on Ray: the only room that imports ray.train."""
