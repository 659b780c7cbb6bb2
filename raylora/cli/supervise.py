"""The command ``supervise``: watches over a store, and goes on with what lost its command or its cluster."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from raylora.cli.output import Json, err, print_json, say

MAX_CONCURRENT = 4
"""Commands at once where nobody says how many: each is a process here, and where it names no cluster a Ray as well."""

LOOK_S = 10.0
"""Seconds between two looks at the store."""


def supervise(
    store: Annotated[str | None, typer.Option(help="Store to watch; raylora's home where absent.")] = None,
    max_concurrent: Annotated[
        int, typer.Option(min=1, help="Runs and sweeps resumed at once; others wait.")
    ] = MAX_CONCURRENT,
    json_: Json = False,
) -> None:
    """Resume runs and sweeps whose command or cluster was lost, until stopped (Ctrl-C); what it resumed goes on then.

    Each in the folder that it was started in. What somebody stopped, or what failed by itself, is left alone.
    """
    from raylora.service.supervisor import Supervisor
    from raylora.store.before_start import before_start
    from raylora.store.blob import open_store
    from raylora.store.home import default_store_uri, log_path

    with before_start():
        opened = open_store(store or default_store_uri())
        if store:  # raylora's own home may still be without one
            opened.check_there()

    def resume(name: str, folder: Path | None) -> subprocess.Popen[bytes]:
        return _resume(name, opened.uri, log_path(name), folder)

    supervisor = Supervisor(opened, resume, max_concurrent)
    say(f"watching {opened.uri}; what is resumed writes to {log_path('NAME')}", err)
    try:
        while True:
            supervisor.look()
            time.sleep(LOOK_S)
    except KeyboardInterrupt:
        at_work = supervisor.at_work
    for name, pid in at_work.items():
        say(f"{name}: process {pid} goes on without this one", err)
    if json_:
        print_json({"at_work": at_work})


def _resume(name: str, store_uri: str, log: Path, folder: Path | None) -> subprocess.Popen[bytes]:
    from raylora.store.home import home

    log.parent.mkdir(parents=True, exist_ok=True)
    # Without -P Python would import what lies in the folder, which the record names: whoever writes to the store.
    words = [sys.executable, "-P", "-m", "raylora", "resume", name, "--store", store_uri]
    env = os.environ | {"RAYLORA_HOME": str(home())}  # which may be named from this folder
    with log.open("ab") as file:
        # A session of its own: what ends the supervisor, at a terminal or by its group, is not to stop training.
        return subprocess.Popen(
            words, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
