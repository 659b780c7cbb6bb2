"""Rows of text become masked token batches in a deterministic, resumable order."""
