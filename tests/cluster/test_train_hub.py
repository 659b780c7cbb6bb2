"""`raylora train` with a base and rows of a hub: fetched by the driver, found by the workers, trained on by ZeRO-1."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from raylora.model.source.digest import base_digest
from raylora.spec.reading.load import load_spec
from raylora.store.blob import open_store
from raylora.store.manifest import read_manifest
from tests.cluster.alone import SHORT, ended_as_alone
from tests.cluster.command import Command, overrides
from tests.servers.hub import Hub
from tests.servers.ray import RayHead
from tests.unit.train.tiny_run import save_base, write_chats

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def test_a_base_and_rows_of_the_hub(
    workplace: Path, ray_head: RayHead, hub_server: Hub, new_home: Callable[[], Path], tmp_path: Path
):
    save_base(tmp_path / "newer", initializer_range=0.2)
    (tmp_path / "chats" / "data").mkdir(parents=True)
    write_chats(tmp_path / "chats" / "data" / "train.jsonl", 40)
    tagged = hub_server.commit("models/owner/tiny-llama", workplace / "base", "v1")
    hub_server.commit("models/owner/tiny-llama", tmp_path / "newer", "main")
    hub_server.commit("datasets/owner/chats", tmp_path / "chats", "main")

    client = {**ray_head.env, **hub_server.env, "HF_HOME": str(tmp_path / "hf")}
    of_hub = ["base_model=owner/tiny-llama", "base_model_revision=v1", "datasets.0.path=owner/chats"]
    zero1 = ["distributed.strategy=deepspeed", "distributed.zero_stage=1", *SHORT]
    command = Command(tmp_path, new_home(), client)
    ended = command.run("train", str(workplace / "run.yaml"), "--json", *overrides(*of_hub, *zero1))
    assert ended.code == 0, ended.err
    assert "owner/chats: 40 of 40 rows" in ended.err
    local = [f"base_model={workplace / 'base'}", f"datasets.0.path={tmp_path / 'chats' / 'data' / 'train.jsonl'}"]
    ended_as_alone(ended.json, load_spec(workplace / "run.yaml", [*local, *zero1]).spec, tmp_path / "cache")

    adapter = Path(ended.json["adapter_uri"])
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("owner/tiny-llama", tagged)
    about = read_manifest(open_store(str(adapter.parent)), adapter.name).about
    assert about["base_digest"] == base_digest(workplace / "base", tmp_path / "cache")
    fetched = [request for request in hub_server.asked if request.startswith("GET") and "safetensors" in request]
    assert fetched == [f"GET /owner/tiny-llama/resolve/{tagged}/model.safetensors"], "once, for all processes"
