"""A base that lies elsewhere -> a local folder, fetched once: from a model hub, or from a bucket.

Only config, safetensors and tokenizer files are fetched (`folder.FILES`); code and pickles stay where they are.
Called by `source`.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import PretrainedConfig

from raylora.errors import ModelError
from raylora.model.base.folder import FILES, check_listing
from raylora.model.base.meta import NO_CONFIG, read_config
from raylora.spec.fields.task import TaskType
from raylora.store.blob import open_store
from raylora.store.given import copied, given
from raylora.store.once import build_once

SUBFOLDERS = ["*/*"]
"""Files there are the same weights in other formats."""


def hub_folder(hub_id: str, revision: str | None, files: Sequence[str]) -> Path:
    """Download a model from the hub into the hub's own cache, or find it there.

    Args:
        hub_id: ``owner/name`` or ``name``.
        revision: Commit, tag or branch; the default branch where ``None``.
        files: Patterns of the files that are wanted, such as `folder.FILES`.

    Returns:
        The snapshot's folder; its name is the commit.

    Raises:
        ModelError: Unknown, gated, not reachable and not cached.
        UnusableStoreError: The disk of the hub's cache is full or read-only.
    """
    try:
        with copied(f"base_model: {hub_id}"):
            found = snapshot_download(hub_id, revision=revision, allow_patterns=list(files), ignore_patterns=SUBFOLDERS)
    except (OSError, ValueError) as error:
        raise ModelError(f"base_model: {_what_failed(hub_id, revision, error)}") from error
    return Path(found)


def bucket_folder(uri: str, cache: Path, task: TaskType = "causal_lm") -> Path:
    """Download a model's folder from object storage into the cache.

    Args:
        uri: ``s3://bucket/prefix`` of a folder with config.json, safetensors and tokenizer files.
        cache: Where it is kept, one folder for each version of what lies there.
        task: What is to be learned.

    Raises:
        ModelError: The bucket cannot be read, or what lies there is no usable base.
        StoreError: The cache cannot be written.
    """
    with given(ModelError, f"base_model: {uri}"):
        store = open_store(uri)
        names = [key for key in store.keys("") if "/" not in key]
        check_listing(names, uri, task)
        wanted = [name for name in names if any(fnmatch(name, pattern) for pattern in FILES)]
        versions = {name: store.version(name) for name in wanted}
    version = hashlib.sha256(json.dumps([store.uri, versions]).encode()).hexdigest()

    def download(empty: Path) -> None:
        with given(ModelError, f"base_model: {uri}"):
            for name in wanted:
                store.download(name, empty / name)

    return build_once(cache / "bases" / f"s3-{version[:32]}", f"downloaded {uri}", download)


def bucket_config(uri: str) -> PretrainedConfig:
    """Read the config of a model in object storage, and nothing else of it.

    Args:
        uri: As of `bucket_folder`.

    Raises:
        ModelError: There is none, or none that can be read.
        StoreError: The disk for temporary files is full.
    """
    store = open_store(uri)
    with given(ModelError, f"base_model: {uri}"), tempfile.TemporaryDirectory() as folder:
        if store.exists("config.json"):
            store.download("config.json", Path(folder) / "config.json")
            return read_config(Path(folder))
    raise ModelError(NO_CONFIG.format(uri))


def _what_failed(hub_id: str, revision: str | None, error: Exception) -> str:
    if isinstance(error, GatedRepoError):
        return f"{hub_id} asks for its terms to be accepted. Accept them on its page and set HF_TOKEN."
    if isinstance(error, RevisionNotFoundError):
        return f"{hub_id} has no revision {revision!r}. Give base_model_revision a commit, tag or branch of it."
    if isinstance(error, RepositoryNotFoundError):
        return f"{hub_id} is not on the hub, or is private. Check the name; set HF_TOKEN for a private model."
    if isinstance(error, LocalEntryNotFoundError):
        return (
            f"{hub_id} is no local folder, and the hub cannot be reached and has no copy of it in its cache here. "
            "Give a local folder, a .gguf file, package:<package>/<file> or an s3:// folder, or go online."
        )
    return f"{hub_id} cannot be fetched from the hub ({error}). Allowed: owner/name of a model. Try again or check it."
