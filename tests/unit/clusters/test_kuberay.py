"""Each RayJob against KubeRay's own resource definition, and the run in it against raylora's spec."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from raylora.spec.run import RunSpec
from raylora.sweep.steering.drive import PAUSE_PATIENCE_S
from tests.unit.clusters.cluster_files import by_reader

REPOSITORY = Path(__file__).resolve().parents[3]
DEFINITION = REPOSITORY.parent / "shared" / "schemas" / "kuberay" / "ray.io_rayjobs.yaml"

Json = dict[str, Any]


@pytest.fixture(params=by_reader()["KubeRay"], ids=lambda path: path.stem)
def documents(request: pytest.FixtureRequest) -> dict[str, Json]:
    return {document["kind"]: document for document in yaml.safe_load_all(request.param.read_text(encoding="utf-8"))}


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    if not DEFINITION.exists():
        pytest.skip(f"KubeRay's resource definitions are not on this machine ({DEFINITION})")
    definition = yaml.safe_load(DEFINITION.read_text(encoding="utf-8"))
    [version] = [version for version in definition["spec"]["versions"] if version["name"] == "v1"]
    schema = as_json_schema(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}  # Kubernetes checks it, the definition leaves it open
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def as_json_schema(node: Any) -> Any:
    """A Kubernetes OpenAPI schema as JSON schema that refuses the fields it does not know."""
    if isinstance(node, list):
        return [as_json_schema(item) for item in node]
    if not isinstance(node, dict):
        return node
    schema = {key: as_json_schema(value) for key, value in node.items() if key != "nullable"}
    if node.get("nullable") is True:
        return {"anyOf": [schema, {"type": "null"}]}
    is_open = node.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in node
    if node.get("type") == "object" and "properties" in node and not is_open:
        schema["additionalProperties"] = False
    return schema


def test_kuberay_accepts_it(documents: dict[str, Json], validator: Draft202012Validator):
    assert documents["RayJob"]["apiVersion"] == "ray.io/v1"
    assert [error.message for error in validator.iter_errors(documents["RayJob"])] == []


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda spec: spec.update(entryPoint="x"), "'entryPoint' was unexpected"),
        (lambda spec: spec["rayClusterSpec"]["headGroupSpec"].update(replicas=1), "'replicas' was unexpected"),
        (lambda spec: spec["rayClusterSpec"]["authOptions"].update(mode="secret"), "'secret' is not one of"),
        (lambda spec: spec["rayClusterSpec"]["workerGroupSpecs"][0].update(replicas="2"), "not of type 'integer'"),
        (lambda spec: spec["rayClusterSpec"]["workerGroupSpecs"][0].pop("groupName"), "'groupName' is a required"),
        (lambda spec: containers(spec)[0].update(envfrom=[]), "'envfrom' was unexpected"),
    ],
)
def test_kuberay_refuses(
    documents: dict[str, Json], validator: Draft202012Validator, break_it: Callable[[Json], Any], words: str
):
    broken = copy.deepcopy(documents["RayJob"])
    break_it(broken["spec"])
    [error] = validator.iter_errors(broken)
    assert words in error.message


def containers(spec: Json) -> list[Json]:
    cluster = spec["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [container for group in groups for container in group["template"]["spec"]["containers"]]


def test_only_token_holders_reach_it(documents: dict[str, Json]):
    cluster = documents["RayJob"]["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert cluster["headGroupSpec"]["enableIngress"] is False


def test_credentials_come_from_the_secret_only(documents: dict[str, Json]):
    assert "Secret" not in documents
    for container in containers(documents["RayJob"]["spec"]):
        assert container["envFrom"] == [{"secretRef": {"name": "raylora-credentials"}}]
        assert {each["name"] for each in container.get("env", ())} <= {"RAY_JOB_STOP_WAIT_TIME_S"}


def test_a_stopped_run_has_time_to_save(documents: dict[str, Json]):
    """The head runs the command, and hands on what its container has."""
    head, *_ = containers(documents["RayJob"]["spec"])
    [wait] = [each for each in head["env"] if each["name"] == "RAY_JOB_STOP_WAIT_TIME_S"]
    assert int(wait["value"]) > PAUSE_PATIENCE_S


def test_the_run_is_mounted_where_the_entrypoint_reads_it(documents: dict[str, Json]):
    spec, run = documents["RayJob"]["spec"], documents["ConfigMap"]
    head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert head["volumes"][0]["configMap"]["name"] == run["metadata"]["name"]
    mounted = Path(head["containers"][0]["volumeMounts"][0]["mountPath"])
    assert f"raylora train {mounted / next(iter(run['data']))}" in spec["entrypoint"]


def test_the_run_is_valid_and_fits_the_workers(documents: dict[str, Json]):
    run = RunSpec.model_validate(yaml.safe_load(documents["ConfigMap"]["data"]["run.yaml"]))
    [group] = documents["RayJob"]["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert run.distributed.num_workers == group["replicas"] * limits["nvidia.com/gpu"]
    assert run.distributed.cpus_per_worker <= int(limits["cpu"])


def test_ray_has_the_pinned_version(documents: dict[str, Json]):
    pins = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"ray=={documents['RayJob']['spec']['rayClusterSpec']['rayVersion']}" in pins
