"""A group of files that is whole or absent: the files first, then ``manifest.json`` with each one's digest.

In come files, out comes one prefix of a store. A group without its manifest was interrupted and does not exist; one
whose files differ from it is corrupt. Of two that write one group, the one that began last goes on: it leaves its mark
before its files, and the other looks for its own before each of its own. What is on its way between a look and its
arrival can still tear a group: then its digests differ, or its manifest is gone. Called by `checkpoint`, and by
whatever stores an adapter or a base model.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from raylora.errors import CorruptObjectError, ExistingObjectError, InputError, MissingObjectError
from raylora.store.contract import Store, checked_key
from raylora.store.signature import check_signature, signed

MANIFEST = "manifest.json"
WRITER = ".writer"
"""Beside the files: a text that differs with every writer. Names that begin with a dot are nobody's files."""
FORMAT = 1


@dataclass(frozen=True)
class FileDigest:
    """What one file must be.

    Args:
        sha256: Hexadecimal SHA-256 of its bytes.
        size_bytes: Its length.
    """

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Manifest:
    """What a group of files consists of.

    Args:
        files: Digest by name, relative to the group's prefix.
        about: What the writer wanted to say about the group, as JSON.
    """

    files: Mapping[str, FileDigest]
    about: Mapping[str, Any]


def publish(store: Store, prefix: str, files: Mapping[str, bytes | Path], about: Mapping[str, Any]) -> str:
    """Store a group of files so that readers see all of it or nothing.

    Args:
        store: Where to.
        prefix: Folder of the group; a group that is there already stops existing until this one is whole.
        files: Bytes or a local file by name.
        about: Anything JSON can hold, to be kept in the manifest.

    Returns:
        The URI of the group.

    Raises:
        ExistingObjectError: Another writer has begun the group since.
        StoreError: The store refused.
    """
    turn = _Turn(store, prefix)
    digests = {}
    for name, content in files.items():
        key = f"{prefix}/{checked_key(name)}"
        digests[name] = _digest(content)
        turn.check()
        if isinstance(content, Path):
            store.upload(content, key)
        else:
            store.write(key, content)
    turn.end(_document(digests, about))
    return store.uri_of(prefix)


def manifest_of(files: Mapping[str, bytes | Path], about: Mapping[str, Any]) -> bytes:
    """Make the manifest of a group that becomes whole in another way, as a folder does that appears by a rename.

    Args:
        files: As of `publish`.
        about: As of `publish`.

    Returns:
        The text of the group's ``manifest.json``.
    """
    return _document({checked_key(name): _digest(content) for name, content in files.items()}, about)


def discard(store: Store, prefix: str) -> None:
    """Delete a group; its manifest goes first, so that no reader takes what is left for a whole group.

    Who writes it finds the own mark gone, and writes no more.

    Args:
        store: Where the group lies.
        prefix: Folder of the group.
    """
    store.delete(f"{prefix}/{MANIFEST}")
    store.delete(prefix)


class _Turn:
    """The right to write a group, until another writer takes it; what was there before is discarded.

    Args:
        store: Where to.
        prefix: Folder of the group.
    """

    def __init__(self, store: Store, prefix: str) -> None:
        self._store, self._prefix, self._manifest = store, prefix, f"{prefix}/{MANIFEST}"
        self._key, self._mark = f"{prefix}/{WRITER}", secrets.token_hex(16).encode()
        store.write(self._key, self._mark)  # first: whoever deletes or writes from here on is told
        before = set(store.keys(prefix)) - {self._key}
        for key in sorted(before, key=lambda key: key != self._manifest):  # it goes first, as in `discard`
            self.check()
            store.delete(key)

    def check(self) -> None:
        """Find out that nobody has taken it.

        Raises:
            ExistingObjectError: Somebody has.
        """
        try:
            found = self._store.read(self._key)
        except MissingObjectError:
            found = b""
        if found != self._mark:
            raise ExistingObjectError(
                f"{self._store.uri_of(self._prefix)}: another writer has begun or deleted it meanwhile; see to it that "
                "one command alone writes there"
            )

    def end(self, manifest: bytes) -> None:
        """Create the manifest; one that a writer before this one had on its way makes room for it.

        That writer looks once more and finds its mark gone: were this one refused as well, the group would be nobody's.

        Args:
            manifest: All of it.

        Raises:
            ExistingObjectError: Another writer has begun the group since.
        """
        self.check()
        while not self._create(manifest):
            self.check()
            self._store.delete(self._manifest)
            self.check()
        self.check()

    def _create(self, manifest: bytes) -> bool:
        try:
            self._store.create(self._manifest, manifest)
        except ExistingObjectError:
            return False
        return True


def read_manifest(store: Store, prefix: str) -> Manifest:
    """Return what a group must consist of.

    Args:
        store: Where the group lies.
        prefix: Folder of the group.

    Raises:
        MissingObjectError: There is no whole group at `prefix`.
        CorruptObjectError: The manifest is not one of ours, or not signed with our key.
    """
    key = f"{prefix}/{MANIFEST}"
    text = store.read(key)
    try:
        document = json.loads(text)
        if document["format"] != FORMAT:
            raise CorruptObjectError(
                f"{store.uri_of(key)}: format {document['format']!r}, this raylora reads {FORMAT}; use a newer raylora"
            )
        check_signature(document, store.uri_of(key))
        files = {_file_name(name): FileDigest(**digest) for name, digest in document["files"].items()}
        return Manifest(files, dict(document["about"]))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, InputError) as error:
        raise CorruptObjectError(f"{store.uri_of(key)}: not a manifest of raylora ({error!r})") from error


def read_verified(store: Store, prefix: str, name: str, manifest: Manifest) -> bytes:
    """Return one file of a group after checking it against the manifest.

    Args:
        store: Where the group lies.
        prefix: Folder of the group.
        name: Of the file, relative to the prefix.
        manifest: What `read_manifest` returned.

    Raises:
        CorruptObjectError: It is missing, from the store or from the manifest, or differs.
    """
    try:
        data = store.read(f"{prefix}/{name}")
    except MissingObjectError as error:
        raise CorruptObjectError(f"{store.uri_of(prefix)}: {name} is gone, though the manifest is there") from error
    _verify(store, prefix, name, _digest(data), manifest)
    return data


def fetch(store: Store, prefix: str, local: Path) -> Manifest:
    """Copy a group into a local folder and check every file.

    Args:
        store: Where from.
        prefix: Folder of the group in the store.
        local: Folder for the files; made where it is missing. The manifest itself is not copied.

    Raises:
        MissingObjectError: There is no whole group at `prefix`.
        CorruptObjectError: A file is missing or differs; it is not left in `local`.
    """
    manifest = read_manifest(store, prefix)
    for name in manifest.files:
        path = local / name
        try:
            store.download(f"{prefix}/{name}", path)
        except MissingObjectError as error:
            raise CorruptObjectError(f"{store.uri_of(prefix)}: {name} is gone, though the manifest is there") from error
        try:
            _verify(store, prefix, name, _digest(path), manifest)
        except CorruptObjectError:
            path.unlink()
            raise
    return manifest


def _document(digests: Mapping[str, FileDigest], about: Mapping[str, Any]) -> bytes:
    document = {"format": FORMAT, "about": about, "files": {name: asdict(digest) for name, digest in digests.items()}}
    return json.dumps(signed(document), indent=1).encode()


def _file_name(name: str) -> str:
    name.encode()  # JSON can spell half a character, which no file and no object is called by: a ValueError
    return checked_key(name)


def _digest(content: bytes | Path) -> FileDigest:
    if isinstance(content, Path):
        with content.open("rb") as file:
            return FileDigest(hashlib.file_digest(file, "sha256").hexdigest(), content.stat().st_size)
    return FileDigest(hashlib.sha256(content).hexdigest(), len(content))


def _verify(store: Store, prefix: str, name: str, got: FileDigest, manifest: Manifest) -> None:
    expected = manifest.files.get(name)
    if got != expected:
        raise CorruptObjectError(
            f"{store.uri_of(prefix)}: {name} is not what was written: expected {expected}, got {got}; "
            "delete this group or restore it from a copy"
        )
