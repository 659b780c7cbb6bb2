"""A loopback proxy before a real HTTP server that does to some requests what networks and servers do.

Requests come in, and leave for the server one connection each, unless a fault strikes them. Faults are chosen by method
and path, and strike so and so often.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

Kind = Literal["busy", "expired", "reset", "lost answer", "cut answer", "stall", "hold"]

ANSWERS = {
    "busy": ("503 Slow Down", "SlowDown"),
    "expired": ("400 Bad Request", "ExpiredToken"),
    "locked": ("401 Unauthorized\r\nWWW-Authenticate: Basic", "Unauthorized"),
}
"""Status and code that are answered, in S3's words."""

PATIENCE_S = 120.0

GO_ON, END_OF_HEAD = b"HTTP/1.1 100 Continue", b"\r\n\r\n"

Answer = Callable[[socket.socket, socket.socket], object]
"""What becomes of a server's answer: passes it on to the client, or not."""


@dataclass
class Fault:
    """Something that strikes requests.

    Args:
        kind: ``busy`` (503 SlowDown), ``expired`` (400 ExpiredToken), ``reset`` (the connection is reset when some of
            the body has come), ``lost answer`` (the server does as asked, and nobody hears of it), ``cut answer`` (the
            connection is closed after half of the answer's body), ``stall`` (silence for ``seconds``, then a closed
            connection), ``hold`` (the request waits until it is let go).
        method: Of the requests that it strikes.
        text: Part of their path or query.
        times: How often it strikes.
        seconds: How long a stalled request is silent.
        struck: Paths that were struck.
        met: Set when the first was.
        go: Set to let held requests go.
    """

    kind: Kind
    method: str
    text: str
    times: int = 1
    seconds: float = 0.0
    struck: list[str] = field(default_factory=list)
    met: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)

    def strikes(self, method: str, path: str) -> bool:
        """Whether a request is one to be struck, and one more may be."""
        if method != self.method or self.text not in path or len(self.struck) >= self.times:
            return False
        self.struck.append(path)
        self.met.set()
        return True


class FaultProxy:
    """Passes requests on to a server.

    Args:
        endpoint: URL of the server, of which host and port count.
        login: User and password without which nobody gets through, as by HTTP basic authentication; none where absent.
    """

    def __init__(self, endpoint: str, login: tuple[str, str] | None = None) -> None:
        self._bearing = b"" if login is None else b"Basic " + b64encode(":".join(login).encode())
        address = urlsplit(endpoint)
        self._server = (address.hostname or "127.0.0.1", address.port or 80)
        self._faults: list[Fault] = []
        self.unserved: list[str] = []
        """First lines of requests that came while the server was not there."""
        self._choosing, self._is_closed = threading.Lock(), False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, name="fault-proxy", daemon=True).start()

    def strike(self, fault: Fault) -> Fault:
        """Let a fault strike from now on."""
        with self._choosing:
            self._faults.append(fault)
        return fault

    def close(self) -> None:
        """Take no more connections, and drop what is held."""
        self._is_closed = True
        for fault in self._faults:
            fault.go.set()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            client.settimeout(PATIENCE_S)
            head, body = _head(client)
            if not head:
                return
            if self._bearing not in head:
                client.sendall(_answer(*ANSWERS["locked"]))
                return
            method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
            with self._choosing:
                fault = next((fault for fault in self._faults if fault.strikes(method, path)), None)
            match fault.kind if fault else None:
                case "busy" | "expired" as kind:
                    client.sendall(_answer(*ANSWERS[kind], has_body=method != "HEAD"))
                case "reset":
                    if b"100-continue" in head.lower():
                        client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                        client.recv(1)
                    _reset(client)
                case "stall":
                    assert fault is not None
                    time.sleep(fault.seconds)
                case "hold":
                    assert fault is not None
                    # A request that nobody waits for any more is not passed on.
                    if fault.go.wait(PATIENCE_S) and not self._is_closed:
                        self._pass_on(client, head, body, _pump)
                case "lost answer":
                    self._pass_on(client, head, body, _swallow)
                case "cut answer":
                    self._pass_on(client, head, body, _halve)
                case None:
                    self._pass_on(client, head, body, _pump)

    def _pass_on(self, client: socket.socket, head: bytes, body: bytes, answer: Answer) -> None:
        # One request a connection: whatever follows the head goes through unread.
        first, rest = head.split(b"\r\n", 1)
        with self._connected(first) as server:
            server.sendall(first + b"\r\nConnection: close\r\n" + rest + body)
            up = threading.Thread(target=_pump, args=(client, server), daemon=True)
            up.start()
            answer(server, client)
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            up.join(PATIENCE_S)

    def _connected(self, first: bytes) -> socket.socket:
        try:
            return socket.create_connection(self._server, PATIENCE_S)
        except OSError:
            self.unserved.append(first.decode())
            raise


@contextmanager
def fault_proxy(endpoint: str, login: tuple[str, str] | None = None) -> Iterator[FaultProxy]:
    """A proxy before a server, for as long as it is needed."""
    proxy = FaultProxy(endpoint, login)
    try:
        yield proxy
    finally:
        proxy.close()


def _head(client: socket.socket) -> tuple[bytes, bytes]:
    """The head of a request without `Connection`, which is set anew, and what came of its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = client.recv(1 << 16)
        if not more:
            return b"", b""
        data += more
    head, body = data.split(b"\r\n\r\n", 1)
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
    return b"\r\n".join(lines) + b"\r\n\r\n", body


def _answer(status: str, code: str, has_body: bool = True) -> bytes:
    """An answer with S3's document; to HEAD it has none, and thus no code."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
    kind = f"Content-Type: application/xml\r\nContent-Length: {len(body)}"
    return f"HTTP/1.1 {status}\r\n{kind}\r\nConnection: close\r\n\r\n{body if has_body else ''}".encode()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)


def _swallow(server: socket.socket, client: socket.socket) -> bytes:
    """Read an answer to its end and return it; the client hears no more of it than that it may send its body."""
    answer = b""
    with suppress(OSError):
        while data := server.recv(1 << 16):
            answer += data
            if answer.startswith(GO_ON) and answer.endswith(END_OF_HEAD):
                client.sendall(GO_ON + END_OF_HEAD)
                answer = b""
    return answer


def _halve(server: socket.socket, client: socket.socket) -> None:
    """Pass on the head of an answer and half of the body that it promises."""
    head, end, body = _swallow(server, client).partition(END_OF_HEAD)
    client.sendall(head + end + body[: len(body) // 2])


def _reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
