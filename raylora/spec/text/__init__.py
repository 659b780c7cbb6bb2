"""Text in and out: YAML with its lines, words of messages, patterns that somebody wrote."""
