"""The files of `clusters/` by what reads them, so that one added later is tested as those before it."""

from __future__ import annotations

from pathlib import Path

import yaml

CLUSTERS = Path(__file__).resolve().parents[3] / "clusters"


def by_reader(folder: Path = CLUSTERS) -> dict[str, list[Path]]:
    """Files for ``ray up``, for KubeRay, and those that are for neither."""
    found: dict[str, list[Path]] = {"ray up": [], "KubeRay": [], "nobody": []}
    for path in sorted(folder.glob("*.y*ml")):
        documents = [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]
        is_job = any(document.get("kind") == "RayJob" for document in documents)
        is_launched = any("cluster_name" in document for document in documents)
        reader = "KubeRay" if is_job else "ray up" if is_launched else "nobody"
        found[reader].append(path)
    return found
