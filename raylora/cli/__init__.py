"""A person's words -> calls: the command line."""
