"""An S3 on loopback that gives one answer to everything: a refusal, an object, thanks for one, or none at all.

For what a real server cannot be brought to say, or only in minutes.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

PIECE_BYTES = 64 << 10
"""About as much lies between a client and a server that takes pieces."""


@contextmanager
def s3_that_says(status: int, body: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Let S3 be a server that answers each request alike, to any key.

    Args:
        status: Of HTTP.
        body: Of an object, or a refusal in S3's words (`refusal`).
        monkeypatch: Sets the environment that clients read.

    Yields:
        Method and path of each request.
    """
    asked: list[str] = []

    class Answers(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(f"{self.command} {self.path}")
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"1"')
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        _name(server.server_port, monkeypatch)
        yield asked
        server.shutdown()


@contextmanager
def s3_that_takes(monkeypatch: pytest.MonkeyPatch, wait: Callable[[], object]) -> Iterator[list[int]]:
    """Let S3 be a server that takes every object, a piece at a time.

    Args:
        monkeypatch: Sets the environment that clients read.
        wait: Called once S3 has given leave to send a body, before each piece of it.

    Yields:
        Bytes of each object that it has whole.
    """
    whole: list[int] = []

    class Takes(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # which gives leave

        def do_PUT(self) -> None:
            num_bytes = int(self.headers["Content-Length"])
            for start in range(0, num_bytes, PIECE_BYTES):
                wait()
                self.rfile.read(min(PIECE_BYTES, num_bytes - start))
            whole.append(num_bytes)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.send_header("ETag", '"1"')
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Takes) as server:
        server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE_BYTES)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        _name(server.server_port, monkeypatch)
        yield whole
        server.shutdown()


def refusal(code: str) -> bytes:
    """A refusal as S3 words it; one of a HEAD has no words.

    Args:
        code: Such as ``AccessDenied``.
    """
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()


@contextmanager
def s3_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[socket.socket]]:
    """Let S3 be a socket that takes every connection and says nothing.

    Args:
        monkeypatch: Sets the environment that clients read.

    Yields:
        The connections that it took.
    """
    taken: list[socket.socket] = []

    def take() -> None:
        while True:
            try:
                taken.append(listener.accept()[0])
            except OSError:  # closed
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=take, daemon=True).start()
        _name(listener.getsockname()[1], monkeypatch)
        yield taken
        listener.shutdown(socket.SHUT_RDWR)  # a thread in accept() is not woken by close()
    for each in taken:
        each.close()


def _name(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-nobody-may-print")
