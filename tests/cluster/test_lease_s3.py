"""Who may work on a run, on a bucket."""

from __future__ import annotations

import uuid

import pytest

from raylora.store.blob import Store, open_store
from tests.contract.lease_suite import LeaseSuite
from tests.servers.s3 import S3Server

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]


@pytest.fixture
def store(s3_env: S3Server) -> Store:
    return open_store(s3_env.uri(f"leases/{uuid.uuid4().hex}"))


class TestBucket(LeaseSuite):
    pass
