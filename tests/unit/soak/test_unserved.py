"""A proxy counts requests that find no server: by that the soak knows that a server was missed while it was gone."""

from __future__ import annotations

import urllib.request

import pytest

from tests.servers.fault_proxy import fault_proxy
from tests.servers.process import free_ports


def test_requests_that_find_no_server_are_counted():
    (port,) = free_ports(1)
    with fault_proxy(f"http://127.0.0.1:{port}") as proxy:
        assert proxy.unserved == []
        with pytest.raises(OSError):
            urllib.request.urlopen(f"{proxy.endpoint}/bucket/key", timeout=10)
        assert proxy.unserved == ["GET /bucket/key HTTP/1.1"]
