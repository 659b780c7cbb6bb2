"""`base_model` in any of its forms becomes a folder on this machine, with a digest."""
