"""Fields of a run that must fit together."""
