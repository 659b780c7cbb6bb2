"""Adapters that answer over one base, which is loaded once: `opening` fills its slots, a `session` answers."""
