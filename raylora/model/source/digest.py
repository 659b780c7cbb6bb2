"""One digest for a base, however its tensors are cut into files.

A folder of safetensors enters; a SHA-256 over names, dtypes, shapes and bytes leaves. Large bases take minutes, so a
digest is remembered in the cache under the files' sizes and times. Called by `source` and `convert`.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raylora.errors import ModelError
from raylora.model.base.folder import weight_files
from raylora.store.files import kind_of

CHUNK_BYTES = 8 << 20


@dataclass(frozen=True)
class TensorBytes:
    """Where one tensor lies: `num_bytes` bytes from `start` in `file`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    num_bytes: int


def base_digest(folder: Path, cache: Path) -> str:
    """Digest the weights of a base: equal for equal tensors, whatever the files and their order.

    Args:
        folder: Local folder of safetensors.
        cache: Where digests are remembered.

    Raises:
        ModelError: A file is no safetensors file or ends early.
        UnusableStoreError: The cache's disk is full or read-only.
        StoreError: The cache cannot be written.
    """
    files = weight_files(folder)
    return _remembered(files, cache, lambda: _digest_tensors([entry for file in files for entry in tensors_in(file)]))


def file_digest(file: Path, cache: Path) -> str:
    """SHA-256 of one file's bytes, remembered as `base_digest` is.

    Args:
        file: Any file.
        cache: Where digests are remembered.

    Raises:
        UnusableStoreError: The cache's disk is full or read-only.
        StoreError: The cache cannot be written.
    """
    return _remembered([file], cache, lambda: _sha256(file, 0, file.stat().st_size))


def tensors_in(file: Path) -> list[TensorBytes]:
    """Read the header of a safetensors file.

    Args:
        file: A ``.safetensors`` file: eight bytes of header length, the header as JSON, the tensors' bytes.

    Raises:
        ModelError: The header cannot be read, or the file is shorter than it says.
    """
    size_bytes = file.stat().st_size
    with file.open("rb") as stream:
        (header_bytes,) = struct.unpack("<Q", stream.read(8).ljust(8, b"\xff"))
        try:
            header: dict[str, Any] = json.loads(stream.read(header_bytes if header_bytes < size_bytes else 0))
            header.pop("__metadata__", None)
            offset = 8 + header_bytes
            entries = [
                TensorBytes(name, at["dtype"], tuple(at["shape"]), file, offset + start, end - start)
                for name, at in header.items()
                for start, end in [at["data_offsets"]]
            ]
        except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
            raise ModelError(f"base_model: {file} is no safetensors file. Copy the model's folder again.") from error
    if any(entry.start + entry.num_bytes > size_bytes for entry in entries):
        raise ModelError(f"base_model: {file} ends early, at {size_bytes} bytes. Copy the model's folder again.")
    return entries


def _digest_tensors(entries: Sequence[TensorBytes]) -> str:
    # hashlib lets go of the interpreter's lock, so threads use all cores; each holds one chunk.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests = pool.map(lambda entry: _sha256(entry.file, entry.start, entry.num_bytes), entries)
        rows = [(e.name, e.dtype, e.shape, digest) for e, digest in zip(entries, digests, strict=True)]
    return hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()


def _sha256(file: Path, start: int, num_bytes: int) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        stream.seek(start)
        while num_bytes > 0 and (chunk := stream.read(min(CHUNK_BYTES, num_bytes))):
            digest.update(chunk)
            num_bytes -= len(chunk)
    return digest.hexdigest()


def _remembered(files: Sequence[Path], cache: Path, compute: Callable[[], str]) -> str:
    seen = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    note = cache / "digests" / hashlib.sha256(json.dumps(seen).encode()).hexdigest()
    if note.is_file():
        return note.read_text(encoding="ascii")
    digest = compute()
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        # Written aside and renamed: another process never reads half a digest.
        with tempfile.NamedTemporaryFile("w", encoding="ascii", dir=note.parent, delete=False) as partial:
            partial.write(digest)
        os.replace(partial.name, note)
    except OSError as error:
        raise kind_of(error)(
            f"cache: {note} cannot be written ({error}). Check the free space and the rights of that disk, or set "
            "RAYLORA_HOME to a folder on another."
        ) from error
    return digest
