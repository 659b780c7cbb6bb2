"""Bytes and small state in a folder or a bucket: objects, manifests, checkpoints and the records of runs."""
