"""How a base is placed on ranks: one contract, three backends."""
