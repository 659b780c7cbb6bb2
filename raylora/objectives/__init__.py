"""Logits and targets in, losses out; a new objective is a new file."""
