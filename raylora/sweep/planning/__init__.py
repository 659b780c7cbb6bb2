"""A sweep before it starts: packs, width, memory, time."""
