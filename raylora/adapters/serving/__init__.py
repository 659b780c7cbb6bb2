"""An adapter as `servers` load it: what was `asked`, `served_folder` and its `served_files`, a `card`, `gguf_file`."""
