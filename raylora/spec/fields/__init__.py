"""The fields of a run and of a sweep, by topic, each right by itself."""
