"""How one request goes to S3: as aiobotocore sends it, and not without end.

aiohttp counts silence from where a body has been sent: for leave to send it, and for it to be taken, it waits for ever.
Called by `s3`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiobotocore.httpsession import AIOHTTPSession
from botocore.exceptions import ReadTimeoutError
from typing_extensions import override

READ_TIMEOUT_S = 60.0
"""Of silence in the middle of a request."""

SLOWEST_BYTES_S = 64 << 10
"""Of one body; ten of them may share a line."""


class Session(AIOHTTPSession):  # type: ignore[misc]  # aiobotocore ships no types
    """Gives a request with a body up when no answer has begun in the time that the slowest line would need."""

    @override
    async def send(self, request: Any) -> Any:
        if "Expect" not in request.headers:  # without a body that may be long
            return await super().send(request)
        num_bytes = next((int(request.headers[name]) for name in _LENGTHS if name in request.headers), 0)
        try:
            return await asyncio.wait_for(super().send(request), READ_TIMEOUT_S + num_bytes / SLOWEST_BYTES_S)
        except TimeoutError as error:
            raise ReadTimeoutError(endpoint_url=request.url, error=error) from error


_LENGTHS = ("X-Amz-Decoded-Content-Length", "Content-Length")
"""Of a body that is sent in chunks, and of one that is not."""
