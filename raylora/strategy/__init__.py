"""How the frozen base is placed on ranks: one contract, three backends."""
