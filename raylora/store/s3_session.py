"""How one request goes to S3: as aiobotocore sends it, and given up where nothing moves, however long the whole takes.

aiohttp counts silence from where it has handed a body to the system. What comes before is counted here: from the head
of a request until S3 gives leave to send its body, by a clock; while the body is on its way, by the system, which
knows when bytes were last taken. A request that waits for a free connection is not silent. Called by `s3`.
"""

from __future__ import annotations

import asyncio
import socket
from contextvars import ContextVar
from typing import Any

import aiohttp
from aiobotocore.httpsession import AIOHTTPSession
from botocore.exceptions import ReadTimeoutError
from typing_extensions import override

READ_TIMEOUT_S = 60.0
"""Of silence in the middle of a request."""

UNSENT_BYTES = 128 << 10
"""Of a body, at most, that the system has taken and not sent: aiohttp begins to count when it has taken all."""


class Session(AIOHTTPSession):  # type: ignore[misc]  # aiobotocore ships no types
    """Gives a request up whose body S3 gives no leave to send."""

    @override
    async def send(self, request: Any) -> Any:
        if "Expect" not in request.headers:
            return await super().send(request)
        patience = asyncio.timeout(None)
        token = _patience.set(patience)
        try:
            async with patience:
                return await super().send(request)
        except TimeoutError as error:
            raise ReadTimeoutError(endpoint_url=request.url, error=error) from error
        finally:
            _patience.reset(token)

    @override
    async def _get_session(self, proxy_url: str | None) -> aiohttp.ClientSession:
        session: aiohttp.ClientSession = await super()._get_session(proxy_url)
        if _told not in session.trace_configs:
            session.trace_configs.append(_told)
        return session


def open_socket(address: tuple[Any, ...]) -> socket.socket:
    """Make a socket that breaks when nothing of what it is to send is taken for as long as silence may last.

    A system other than Linux may not know how; there such a body is waited for without end.

    Args:
        address: Family, type and protocol come first, as in what `socket.getaddrinfo` returns.
    """
    made = socket.socket(*address[:3])
    for option, value in (("TCP_USER_TIMEOUT", round(1000 * READ_TIMEOUT_S)), ("TCP_NOTSENT_LOWAT", UNSENT_BYTES)):
        if hasattr(socket, option):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return made


_patience: ContextVar[asyncio.Timeout] = ContextVar("_patience")
"""Of the request with a body that this task sends."""


async def _on_head_sent(session: aiohttp.ClientSession, context: object, params: object) -> None:
    if patience := _patience.get(None):
        patience.reschedule(asyncio.get_running_loop().time() + READ_TIMEOUT_S)


async def _on_body_begun(session: aiohttp.ClientSession, context: object, params: object) -> None:
    if patience := _patience.get(None):
        patience.reschedule(None)


def _tracing() -> aiohttp.TraceConfig:
    config = aiohttp.TraceConfig()
    config.on_request_headers_sent.append(_on_head_sent)
    config.on_request_chunk_sent.append(_on_body_begun)
    config.freeze()
    return config


_told = _tracing()
"""How aiohttp tells how far a request is."""
