"""``python -m raylora``: the command, for an environment that is not on PATH."""

from raylora.cli.app import main

main()
