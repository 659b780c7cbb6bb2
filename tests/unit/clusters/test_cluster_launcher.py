"""The files for `ray up`, through Ray's own preparation and schema; no host and no cloud is asked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.dashboard.modules.job.job_supervisor import JobSupervisor

from raylora.sweep.steering.drive import PAUSE_PATIENCE_S
from tests.unit.clusters.cluster_files import CLUSTERS, by_reader

DEFAULT_S = JobSupervisor.DEFAULT_RAY_JOB_STOP_WAIT_TIME_S
ON_PREMISE = CLUSTERS / "ray-on-premise.yaml"
AWS = CLUSTERS / "ray-aws.yaml"
EACH = pytest.mark.parametrize("path", by_reader()["ray up"], ids=lambda path: path.stem)


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@EACH
def test_ray_accepts_it(path: Path):
    prepared = prepare_config(load(path))
    validate_config(prepared)
    assert prepared["cluster_name"] == load(path)["cluster_name"]


@EACH
def test_ray_refuses_an_unknown_key(path: Path):
    prepared = prepare_config({**load(path), "head_start_commands": []})
    with pytest.raises(ValidationError, match="head_start_commands"):
        validate_config(prepared)


@EACH
def test_every_node_starts_with_the_token(path: Path):
    prepared = prepare_config(load(path))
    assert prepared["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for part in ("head", "worker"):
        starts = [line for line in prepared[f"{part}_start_ray_commands"] if "ray start" in line]
        assert len(starts) == 1
        assert "RAY_AUTH_MODE=token ray start" in starts[0]


@EACH
def test_a_stopped_job_has_time_to_save(path: Path):
    """The head runs the commands of jobs, and hands on what it was started with."""
    [head] = [line for line in prepare_config(load(path))["head_start_ray_commands"] if "ray start" in line]
    [wait_s] = re.findall(r"RAY_JOB_STOP_WAIT_TIME_S=(\d+) (?:\w+=\S+ )*ray start --head", head)
    assert int(wait_s) > PAUSE_PATIENCE_S > DEFAULT_S


@EACH
def test_the_dashboard_is_not_public(path: Path):
    [head] = [line for line in prepare_config(load(path))["head_start_ray_commands"] if "ray start" in line]
    assert re.findall(r"--dashboard-host[= ](\S+)", head) == ["127.0.0.1"]


@EACH
def test_raylora_is_installed_at_the_pins(path: Path):
    prepared = prepare_config(load(path))
    for part in ("head", "worker"):
        [install] = [line for line in prepared[f"{part}_setup_commands"] if "raylora-*.whl" in line]
        assert "-c ~/raylora/constraints.txt" in install


@EACH
def test_the_head_has_the_dashboard_that_ray_shows(path: Path):
    prepared = prepare_config(load(path))
    installs = [line for line in prepared["head_setup_commands"] if "pip install" in line]
    raylora, dashboard = installs
    assert "raylora-*.whl" in raylora
    assert "-c ~/raylora/constraints.txt 'ray[default]'" in dashboard, "at the version that is there already"
    assert "ray[default]" not in " ".join(prepared["worker_setup_commands"])


def test_on_premise_counts_its_hosts():
    asked = load(ON_PREMISE)
    node_type = prepare_config(asked)["available_node_types"]["local.cluster.node"]
    assert node_type["min_workers"] == node_type["max_workers"] == len(asked["provider"]["worker_ips"])


def test_aws_workers_are_spot_and_come_on_demand():
    prepared = prepare_config(load(AWS))
    worker = prepared["available_node_types"]["gpu"]
    assert worker["min_workers"] == 0
    assert 0 < worker["max_workers"] <= prepared["max_workers"]
    assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in prepared["available_node_types"]["head"]["node_config"]


def test_aws_opens_no_port_of_ray():
    assert "security_group" not in load(AWS)["provider"]  # Ray's own lets in SSH and the cluster itself
