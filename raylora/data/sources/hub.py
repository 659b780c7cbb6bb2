"""A dataset of the Hugging Face hub becomes raw rows.

Enters: a dataset's specification with a hub id. Leaves: the commit it resolves to and its rows, streamed from the
Arrow files that `datasets` keeps. Whoever wrote the repository is not trusted: files of plain rows are read, and
nothing is unpacked. Called by source.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import datasets
from datasets.utils.extract import Extractor
from datasets.utils.py_utils import NestedDataStructure
from typing_extensions import override

from raylora.data.sources.formats import RawRow, drop_nones, to_json
from raylora.errors import DataError
from raylora.spec.fields.data import DatasetSpec
from raylora.spec.text.secrets import without_secret
from raylora.store.given import copied

KNOCK_TIMEOUT_S = 4.0

READERS = "datasets.packaged_modules."
KINDS = ("json", "csv", "parquet", "arrow", "text", "cache")
"""Modules of these that read plain rows; the last takes what was read before."""


@dataclass(frozen=True)
class HubRows:
    """One split of a hub dataset at one commit.

    Args:
        commit: Commit that the revision resolved to.
        spec: What was asked for.
        builder: What downloads it.
    """

    commit: str
    spec: DatasetSpec
    builder: datasets.DatasetBuilder

    def read(self) -> Iterator[RawRow]:
        """Download the split unless it is there, and yield its rows.

        Raises:
            DataError: No such split, or the download failed.
            UnusableStoreError: The disk of the hub's cache is full or read-only.
        """
        try:
            with copied(self.spec.path):
                self.builder.download_and_prepare(dl_manager=_as_they_are(self.builder))
            rows = self.builder.as_dataset(split=self.spec.split)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise DataError(f"{self.spec.path}, split {self.spec.split!r}: {error}") from error
        for name, feature in rows.features.items():
            if isinstance(feature, datasets.Image | datasets.Audio):
                rows = rows.cast_column(name, type(feature)(decode=False))  # the bytes: JSON holds no pixels
        for number, row in enumerate(rows, start=1):
            yield number, to_json(drop_nones(row))


def open_hub(spec: DatasetSpec) -> HubRows:
    """Resolve a hub id to a commit.

    Raises:
        DataError: The hub has no such dataset, or cannot be reached and nothing is cached.
        UnusableStoreError: The disk of the hub's cache is full or read-only.
    """
    silence = _silence()
    try:
        with copied(spec.path), _offline() if silence else nullcontext():
            builder = datasets.load_dataset_builder(spec.path, spec.name, revision=spec.revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        said = f"the hub cannot be reached: {silence}" if silence else f"{type(error).__name__}: {error}"
        raise DataError(
            f"{spec.path}: no file or folder here, and no dataset of the hub ({said}); "
            "check the spelling, the network and HF_TOKEN, or give a path with its ending, such as rows.jsonl"
        ) from error
    _check_kind(spec, builder)
    return HubRows(builder.hash, spec, builder)


def _check_kind(spec: DatasetSpec, builder: datasets.DatasetBuilder) -> None:
    """Refuse files that are no plain rows.

    Raises:
        DataError: They are read by something else than `KINDS`.
    """
    kind = next(each.__module__ for each in type(builder).__mro__ if each.__module__.startswith(READERS))
    if (kind := kind.rpartition(".")[2]) not in KINDS:
        raise DataError(
            f"{spec.path}: `datasets` reads its files as {kind}. Allowed: JSON lines, JSON, CSV, Parquet, Arrow and "
            "text. Make files of one of these kinds of it, and give their path"
        )


class _AsTheyAre(datasets.DownloadManager):  # type: ignore[misc]  # datasets ships no types
    """Downloads files, and unpacks none: of what is packed nobody knows how large it becomes."""

    @override
    def extract(self, path_or_paths: Any) -> Any:
        for path in NestedDataStructure(path_or_paths).flatten():
            if kind := Extractor.infer_extractor_format(path):
                raise DataError(
                    f"{path.get_origin()}: is packed ({kind}). Allowed: files as they are, since what is packed may be "
                    "of any size. Unpack it here, and give the path"
                )
        return path_or_paths


def _as_they_are(builder: datasets.DatasetBuilder) -> _AsTheyAre:
    """What `download_and_prepare` makes for itself, but for what is packed."""
    how = datasets.DownloadConfig(use_etag=False, token=builder.token, storage_options=builder.storage_options)
    return _AsTheyAre(builder.dataset_name, download_config=how, base_path=builder.base_path, record_checksums=False)


def _silence() -> str:
    """Why the hub does not answer, empty where it does: known in seconds, while `datasets` tries for half a minute."""
    if datasets.config.HF_HUB_OFFLINE:
        return ""  # nobody will ask it
    endpoint = datasets.config.HF_ENDPOINT
    try:
        urlopen(Request(endpoint, method="HEAD"), timeout=KNOCK_TIMEOUT_S).close()
    except HTTPError:
        return ""  # an answer
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        return "" if isinstance(reason, ssl.SSLError) else f"{without_secret(endpoint)}: {reason}"
    return ""


@contextmanager
def _offline() -> Iterator[None]:
    """Let `datasets` look into its cache alone."""
    datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = False
