"""An adapter's folder, ours or PEFT's own, read whole and checked.

The URI of a folder enters; tensors, config and what is known of their origin leave. Called by whatever works with an
adapter after training.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import torch
from torch import Tensor

from raylora.errors import CorruptObjectError, MissingObjectError, ModelError
from raylora.store.blob import open_store
from raylora.store.contract import Store
from raylora.store.manifest import read_manifest, read_verified
from raylora.store.tensors import read_tensors

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
MODEL_CONFIG = "config.json"

TEXTS = ("base_model_name_or_path", "revision", "peft_type", "task_type")
"""Fields of a config that are text, where they are there; the first two say what the base is."""

SAVED = "modules_to_save"
"""A field that lists names."""


@dataclass(frozen=True)
class StoredAdapter:
    """One adapter as it lies in storage.

    Args:
        uri: Its folder.
        tensors: By the names of ``adapter_model.safetensors``.
        config: The fields of ``adapter_config.json``.
        about: Lineage out of the manifest; empty where another tool wrote the folder.
        digest: SHA-256 of ``adapter_model.safetensors``; ``None`` for one that was read from nowhere.
    """

    uri: str
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]
    about: Mapping[str, Any]
    digest: str | None = None

    @property
    def base_name(self) -> str | None:
        """Logical id of the base that it was trained on."""
        return self.config.get("base_model_name_or_path")

    @property
    def base_revision(self) -> str | None:
        """Commit of the base, where it has commits."""
        return self.config.get("revision")

    @property
    def base_digest(self) -> str | None:
        """Digest of the base, ``None`` where nobody wrote it down."""
        return self.about.get("base_digest")

    @property
    def is_of_quantized_base(self) -> bool:
        """Whether it has what quantization took from its base, as LoftQ does: over the whole base that is there twice.

        Manifests of before this was written down do not say it.
        """
        return self.about.get("init_lora_weights") == "loftq"


def read_adapter(uri: str) -> StoredAdapter:
    """Read an adapter, against its manifest where it has one.

    Args:
        uri: Folder with ``adapter_config.json`` and ``adapter_model.safetensors``: local, ``file://`` or ``s3://``.

    Raises:
        ModelError: There is no adapter, only a pickle of one or a whole model, or its files are none.
        CorruptObjectError: A file is not what its manifest says.
        StoreError: Storage cannot be read.
    """
    store, name = place_of(uri)
    try:
        manifest = read_manifest(store, name)
    except MissingObjectError:
        config, tensors, about = _read(store, uri, name, CONFIG), _read(store, uri, name, TENSORS), {}
    else:
        if CONFIG not in manifest.files and MODEL_CONFIG in manifest.files:
            raise _whole_model(uri)
        config, tensors = (read_verified(store, name, file, manifest) for file in (CONFIG, TENSORS))
        about = dict(manifest.about)
    digest = hashlib.sha256(tensors).hexdigest()
    return StoredAdapter(uri, _tensors(uri, tensors), _config(uri, config), about, digest)


def place_of(uri: str) -> tuple[Store, str]:
    """The store that an adapter's folder is in, and its name there.

    Args:
        uri: Of the folder.

    Raises:
        InputError: It names no known kind of storage.
    """
    if (folder := local_folder(uri)) is not None:
        whole = Path(os.path.abspath(folder))
        return open_store(str(whole.parent)), whole.name
    place, slash, name = uri.rstrip("/").rpartition("/")
    return open_store(place + slash), name


def local_folder(uri: str) -> Path | None:
    """The folder of this machine that a URI names, ``None`` where it names other storage.

    Args:
        uri: Of an adapter's folder.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return Path(uri).expanduser()
    return Path(unquote(rest)) if scheme == "file" and rest.startswith("/") else None


def _read(store: Store, uri: str, name: str, file: str) -> bytes:
    try:
        return store.read(f"{name}/{file}")
    except MissingObjectError as error:
        if store.exists(f"{name}/{MODEL_CONFIG}"):
            raise _whole_model(uri) from error
        if store.exists(f"{name}/{PICKLE}"):
            raise ModelError(
                f"adapter: {uri} has {PICKLE}. Allowed: {TENSORS}, since reading a pickle can run code. Load it with "
                "PEFT where you trust it, and save_pretrained it"
            ) from error
        raise ModelError(
            f"adapter: {uri} has no {file}. Expected: the folder of an adapter, with {CONFIG} and {TENSORS}; "
            "run `raylora runs` for the places of yours"
        ) from error


def _whole_model(uri: str) -> ModelError:
    return ModelError(
        f"adapter: {uri} is a whole model, as `adapter: full` and `raylora merge` leave one. Expected: the folder of "
        "an adapter. Use it as base_model"
    )


def _config(uri: str, text: bytes) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"adapter: {CONFIG} in {uri} is no JSON ({error}). Copy the folder again") from error
    if not isinstance(config, dict):
        raise ModelError(
            f"adapter: {CONFIG} in {uri} is no JSON object but {type(config).__name__}. Copy the folder again"
        )
    for field in TEXTS:
        if not isinstance(config.get(field), str | None):
            raise ModelError(
                f"adapter: {field} in {CONFIG} of {uri}: got {config[field]!r}. Allowed: text or null. Correct it"
            )
    saved = config.get(SAVED)
    if not (saved is None or (isinstance(saved, list) and all(isinstance(name, str) for name in saved))):
        raise ModelError(
            f"adapter: {SAVED} in {CONFIG} of {uri}: got {saved!r}. Allowed: a list of names or null. Correct it"
        )
    return config


def _tensors(uri: str, data: bytes) -> dict[str, Tensor]:
    try:
        tensors = read_tensors(data)
    except ValueError as error:
        raise CorruptObjectError(
            f"adapter: {TENSORS} in {uri} cannot be read ({error}); copy the folder again"
        ) from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.itemsize < 2:  # torch does not reckon with these
            raise ModelError(
                f"adapter: {name} in {uri} is of {str(tensor.dtype).removeprefix('torch.')}. Allowed: float32, "
                "bfloat16, float16, float64. Convert the adapter"
            )
    broken = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if broken or not tensors:
        raise ModelError(
            f"adapter: {uri} has no tensors, or such as are not finite: {', '.join(broken[:5]) or 'none'}. Copy the "
            "folder again, or train it again with a lower learning_rate"
        )
    return tensors
