"""Examples become tokens, masks and values, once, into a cache."""
