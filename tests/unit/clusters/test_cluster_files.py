"""Every file of `clusters/` is tested by one of the rooms beside this one, and is in the table of its README."""

from __future__ import annotations

from pathlib import Path

from tests.unit.clusters.cluster_files import CLUSTERS, by_reader


def names(folder: Path) -> dict[str, list[str]]:
    return {reader: [path.name for path in paths] for reader, paths in by_reader(folder).items()}


def test_every_file_is_tested_by_somebody():
    found = names(CLUSTERS)
    assert found["nobody"] == []
    assert {"ray-aws.yaml", "ray-on-premise.yaml"} <= set(found["ray up"])
    assert "kuberay-rayjob.yaml" in found["KubeRay"]


def test_every_file_is_in_the_table():
    readme = (CLUSTERS / "README.md").read_text(encoding="utf-8")
    assert [path.name for paths in by_reader().values() for path in paths if f"]({path.name})" not in readme] == []


def test_a_new_file_is_found(tmp_path: Path):
    (tmp_path / "gcp.yml").write_text("cluster_name: raylora\n")
    (tmp_path / "job.yaml").write_text("kind: ConfigMap\n---\nkind: RayJob\n")
    (tmp_path / "service.yaml").write_text("kind: RayService\n")
    assert names(tmp_path) == {"ray up": ["gcp.yml"], "KubeRay": ["job.yaml"], "nobody": ["service.yaml"]}
