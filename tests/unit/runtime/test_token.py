"""A Ray that is started for a run is not one that lets in whoever comes."""

from __future__ import annotations

import re

import pytest
import ray

from raylora.errors import InputError
from raylora.runtime.cluster.cluster import cluster
from tests.unit.model.tiny import spec_of


@pytest.mark.parametrize("mode", ["disabled", "Disabled", ""])
@pytest.mark.parametrize("address", [None, "local"])
def test_no_ray_is_started_that_asks_for_no_token(monkeypatch: pytest.MonkeyPatch, mode: str, address: str | None):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    said = rf"^RAY_AUTH_MODE: got {re.escape(repr(mode))}; .*unset it .*allowed: token.* set ray\.address"
    with pytest.raises(InputError, match=said), cluster(spec_of("base", ray={"address": address})):
        pass
    assert not ray.is_initialized()
