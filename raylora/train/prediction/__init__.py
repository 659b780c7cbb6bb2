"""Bytes and seconds of a run or a pack, predicted without weights."""
