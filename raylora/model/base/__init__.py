"""The frozen base: its files, its modules, how its weights are held and multiplied."""
