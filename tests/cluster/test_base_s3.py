"""A base in a bucket is resolved through a real S3 server."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylora.errors import ModelError
from raylora.model.source import base_config, resolve_base
from raylora.store.blob import open_store
from tests.servers.s3 import S3Server
from tests.unit.model.tiny import save_tiny, spec_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]


def test_a_base_in_a_bucket(s3_env: S3Server, tmp_path: Path) -> None:
    save_tiny(tmp_path / "local", max_shard_size="20KB")
    store = open_store(s3_env.uri("models/tiny-llama"))
    for path in (tmp_path / "local").iterdir():
        store.upload(path, path.name)
    base = resolve_base(spec_of(store.uri), tmp_path / "cache")
    assert base.name == "tiny-llama"
    assert base.digest == resolve_base(spec_of(tmp_path / "local"), tmp_path / "cache").digest
    assert base_config(spec_of(store.uri)).hidden_size == 32
    with pytest.raises(ModelError, match=r"s3://raylora/models/absent has no config\.json"):
        resolve_base(spec_of("s3://raylora/models/absent"), tmp_path / "cache")
