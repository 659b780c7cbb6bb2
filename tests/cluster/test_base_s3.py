"""A base in a bucket is resolved through a real S3 server."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylora.errors import ModelError
from raylora.model.source.source import base_config, resolve_base
from raylora.store.blob import Store, open_store
from tests.servers.s3 import S3Server
from tests.unit.model.tiny import save_tiny, spec_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]


def upload(folder: Path, store: Store) -> None:
    for path in folder.iterdir():
        store.upload(path, path.name)


def test_a_base_in_a_bucket(s3_env: S3Server, tmp_path: Path) -> None:
    save_tiny(tmp_path / "local", max_shard_size="20KB")
    store = open_store(s3_env.uri("models/tiny-llama"))
    upload(tmp_path / "local", store)
    base = resolve_base(spec_of(store.uri), tmp_path / "cache")
    assert base.name == "tiny-llama"
    assert base.digest == resolve_base(spec_of(tmp_path / "local"), tmp_path / "cache").digest
    assert base_config(spec_of(store.uri)).hidden_size == 32
    with pytest.raises(ModelError, match=r"s3://raylora/models/absent has no config\.json"):
        resolve_base(spec_of("s3://raylora/models/absent"), tmp_path / "cache")


def test_new_weights_under_the_old_name_are_a_new_base(s3_env: S3Server, tmp_path: Path) -> None:
    store = open_store(s3_env.uri("models/replaced"))
    bases = []
    for seed in (0, 1, 1):
        save_tiny(tmp_path / f"seed-{seed}", seed=seed)
        upload(tmp_path / f"seed-{seed}", store)
        bases.append(resolve_base(spec_of(store.uri), tmp_path / "cache"))
    assert bases[1].digest == resolve_base(spec_of(tmp_path / "seed-1"), tmp_path / "cache").digest
    assert bases[0].digest != bases[1].digest == bases[2].digest
    assert bases[0].path != bases[1].path == bases[2].path, "equal content is not fetched again"
