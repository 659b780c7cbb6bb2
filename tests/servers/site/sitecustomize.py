"""What each Python process of the tests' Rays does before its own program: Python imports a module of this name.

Where ``NOTES`` names a folder, a process notes there the environment in which it goes on to import what trains. Where
``FORKS`` names a socket, a worker of Ray's asks `tests.servers.forks` for a process that has imported what it would
import, and stays behind until that one ends.
"""

import json
import os
import signal
import socket
import sys
from contextlib import suppress

WORKER = "default_worker.py"
HOST = ("net", "mnt", "pid", "user")


def begin():
    """Note what is imported, where somebody wants to know."""
    folder = os.environ.get("NOTES")  # now: a worker may forget it before it imports what trains

    def note(event, args):
        if event == "import" and args[0] == "raylora.runtime.job.job":
            path = f"{folder}/{os.getpid()}"
            with open(path, "w") as file:
                json.dump(dict(os.environ), file)
            os.replace(path, path + ".json")  # whoever looks finds it whole

    if folder:
        sys.addaudithook(note)


def host():
    """Namespaces of this process."""
    return [os.readlink(f"/proc/self/ns/{kind}") for kind in HOST]


def be_forked(server, words):
    """Stay behind a process that is this worker, as long as it lives, and return where there is none."""
    asked = {
        "words": words,
        "env": dict(os.environ),
        "path": sys.path,
        "folder": os.getcwd(),
        "host": host(),
        "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
        "pid": os.getpid(),
    }
    with socket.socket(socket.AF_UNIX) as line, suppress(OSError):
        line.connect(server)
        socket.send_fds(line, [json.dumps(asked).encode() + b"\n"], [0, 1, 2])
        if pid := int(line.makefile().readline() or 0):
            signal.signal(signal.SIGTERM, lambda *_: os.kill(pid, signal.SIGTERM))
            with suppress(OSError):
                line.recv(1)  # it says nothing any more, and its end of the line ends with it
            os._exit(0)


if __name__ == "sitecustomize":
    program = sys.orig_argv[1:]
    while program and program[0].startswith("-"):
        program.pop(0)
    if program and os.path.basename(program[0]) == WORKER and os.environ.get("FORKS"):
        be_forked(os.environ["FORKS"], program)
    begin()
