"""After training: stored adapters are read, merged, combined, exported and talked to, in one process, without Ray."""
