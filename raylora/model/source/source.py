"""`base_model` in any of its forms -> one local folder with a name, a revision and a digest.

A spec enters: hub id, local folder, `.gguf` file, `package:<package>/<file>` or `s3://` folder. What leaves is always
the same: config.json, safetensors and tokenizer files on this machine. Called on the driver and, for its own node, on
every worker: what one process fetched or converted the next finds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import PretrainedConfig

from raylora.errors import ModelError
from raylora.model.base.folder import FILES, check_config, check_folder, logical_name
from raylora.model.base.meta import read_config
from raylora.model.source.convert import gguf_config, gguf_folder
from raylora.model.source.digest import base_digest
from raylora.model.source.local import local_path
from raylora.model.source.remote import bucket_config, bucket_folder, hub_folder
from raylora.spec.run import RunSpec


@dataclass(frozen=True)
class BaseFolder:
    """A base model on this machine.

    Args:
        path: Absolute path of a folder with config.json, safetensors and tokenizer files.
        name: What other tools know it by, such as ``HuggingFaceTB/SmolLM2-135M-Instruct``; never a path.
        revision: Commit of a hub id, ``None`` for what has no commits.
        digest: SHA-256 over its tensors, whatever the files.
    """

    path: Path
    name: str
    revision: str | None
    digest: str


def resolve_base(spec: RunSpec, cache: Path) -> BaseFolder:
    """Bring the base model of a run to this machine.

    Args:
        spec: The run; `base_model`, `base_model_revision` and `task_type` count.
        cache: Folder for what is converted or downloaded; safe for many processes at once.

    Raises:
        ModelError: Nothing is there or can be read, or what is there cannot be the base of a run.
        StoreError: The cache cannot be written.
    """
    path, name, revision = _locate(spec, cache)
    check_folder(path, spec.task_type)
    return BaseFolder(path, name or logical_name(path, path.name), revision, base_digest(path, cache))


def base_config(spec: RunSpec) -> PretrainedConfig:
    """Read the config of a run's base model without fetching or converting its weights.

    Args:
        spec: The run; `base_model`, `base_model_revision` and `task_type` count.

    Raises:
        ModelError: Nothing is there or can be read, or what is there cannot be the base of a run.
        StoreError: The disk for temporary files is full.
    """
    asked = spec.base_model
    if asked.startswith("s3://"):
        config = bucket_config(asked)
    elif (path := local_path(asked)) is None:
        config = read_config(hub_folder(asked, spec.base_model_revision, ["config.json"]))
    else:
        config = read_config(path) if path.is_dir() else gguf_config(path)
    check_config(config, asked, spec.task_type)
    return config


def base_commit(spec: RunSpec) -> str | None:
    """Find the commit of a run's base model without fetching its weights; ``None`` for what has no commits.

    Args:
        spec: The run; `base_model` and `base_model_revision` count.

    Raises:
        ModelError: Nothing is there.
        UnusableStoreError: The disk of the hub's cache is full or read-only.
    """
    if spec.base_model.startswith("s3://") or local_path(spec.base_model) is not None:
        return None
    return hub_folder(spec.base_model, spec.base_model_revision, ["config.json"]).name


def _locate(spec: RunSpec, cache: Path) -> tuple[Path, str | None, str | None]:
    """Folder, name where the form itself tells it, commit where there is one."""
    asked, revision = spec.base_model, spec.base_model_revision
    path = None if asked.startswith("s3://") else local_path(asked)
    if path is None and not asked.startswith("s3://"):
        snapshot = hub_folder(asked, revision, FILES)
        return snapshot, asked, snapshot.name
    if revision is not None:
        raise ModelError(
            f"base_model_revision: got {revision!r} for {asked}, which has no revisions. "
            "Allowed: a commit, tag or branch of a hub id. Remove it."
        )
    if path is None:
        folder = bucket_folder(asked, cache, spec.task_type)
        return folder, logical_name(folder, asked.rstrip("/").rpartition("/")[2]), None
    if path.is_file():
        return gguf_folder(path, cache), None, None
    # A snapshot in the hub's cache, given as a folder, still says what it is.
    repository = path.parent.parent.name
    if path.parent.name == "snapshots" and repository.startswith("models--"):
        return path, repository.removeprefix("models--").replace("--", "/"), path.name
    return path, None, None
