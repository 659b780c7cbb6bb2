"""Records of what was started: one small JSON object each, under a name that sorts by time.

A kind of record (`runs.py`, `sweeps.py`) names its folder and its class; in come records, out come the same records.
Keys: ``<folder>/<id>/<file>``, beside whatever else that run or sweep keeps there.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from raylora import __version__
from raylora.errors import CorruptObjectError, InputError, MissingObjectError
from raylora.log import get_logger
from raylora.store.contract import Store
from raylora.store.lease import is_deserted

Status = Literal["running", "finished", "failed", "interrupted"]
StatusNow = Literal["running", "finished", "failed", "interrupted", "lost"]
"""A status, or `lost`: it says `running`, but its driver is gone."""

_log = get_logger(__name__)


class Record(BaseModel):
    """What every kind of record holds beside its name."""

    model_config = ConfigDict(frozen=True, extra="ignore")  # a newer raylora may have written more

    status: Status
    """How it stands; what was left by a driver that was killed stays `running`."""

    created: datetime
    """When it was first started."""

    updated: datetime
    """When this record was last written."""

    spec: dict[str, Any]
    """The resolved specification as JSON."""

    result: dict[str, Any] | None = None
    """What it ended with."""

    error: str | None = None
    """Why it ended without a result."""

    lost_cluster: bool = False
    """Whether it failed, where it did, for the loss of its cluster alone: then it can go on."""

    folder: str | None = None
    """Folder of the machine that it was started in, or went on in last: where its relative paths begin."""

    raylora: str = __version__
    """Version that started it."""


R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Records(Generic[R]):
    """All records of one kind in a store. One driver at a time writes a record.

    Args:
        kind: Class of the records.
        noun: What one is called in messages; its name is in the field ``<noun>_id``.
        folder: Folder of the store that holds them.
        file: Name of the object in the folder of each.
        hint: What to do where one is not found.
    """

    kind: type[R]
    noun: str
    folder: str
    file: str
    hint: str

    def begin(self, **fields: Any) -> R:
        """Return a new record, which has its name from now on; nothing is written yet.

        Args:
            fields: Fields of the record that have no default, but for its name, status and times.
        """
        now = datetime.now(UTC)
        named = {f"{self.noun}_id": f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"}
        begun = {"status": "running", "created": now, "updated": now, "folder": os.getcwd()}
        return self.kind.model_validate(named | begun | fields)

    def write(self, store: Store, record: R) -> R:
        """Write a record with the present time, and return it.

        Args:
            store: The store of all records.
            record: As it is to be from now on.
        """
        record = record.model_copy(update={"updated": datetime.now(UTC)})
        store.write(self._key(self.id_of(record)), record.model_dump_json(indent=1).encode())
        return record

    def update(self, store: Store, name: str, **changes: Any) -> R:
        """Change fields of a record and return it.

        Args:
            store: The store of all records.
            name: Of the record.
            changes: New values by field.

        Raises:
            TypeError: The record has no such field.
        """
        if unknown := changes.keys() - self.kind.model_fields.keys():
            raise TypeError(f"a {self.noun}'s record has no {sorted(unknown)}")
        fields = self.read(store, name).model_dump() | changes
        return self.write(store, self.kind.model_validate(fields))

    def read(self, store: Store, name: str) -> R:
        """Return a record.

        Args:
            store: The store of all records.
            name: Of the record.

        Raises:
            InputError: There is none of that name.
            CorruptObjectError: It cannot be read, or is the record of another.
        """
        key = self._key(name)
        try:
            record = self.kind.model_validate_json(store.read(key))
        except MissingObjectError as error:
            newest = ", ".join(self._names(store)[:3]) or f"no {self.folder}"
            raise InputError(f"{self.noun} '{name}' is not in {store.uri}; there: {newest}; {self.hint}") from error
        except ValidationError as error:
            raise CorruptObjectError(f"{store.uri_of(key)}: not the record of a {self.noun} ({error})") from error
        if self.id_of(record) != name:
            # A record's name becomes folders and commands: one that nobody asked for is not to choose them.
            raise CorruptObjectError(
                f"{store.uri_of(key)}: the record of {self.noun} {self.id_of(record)!r}, expected that of {name!r}; "
                "delete it or restore it from a copy"
            )
        return record

    def has(self, store: Store, name: str) -> bool:
        """Return whether there is a record of a name, readable or not.

        Args:
            store: The store of all records.
            name: Of the record.

        Raises:
            InputError: No record can have that name.
        """
        return store.exists(self._key(name))

    def all(self, store: Store) -> list[R]:
        """Return all records, newest first; those that cannot be read are passed over with a warning."""
        records = []
        for name in self._names(store):
            try:
                records.append(self.read(store, name))
            except CorruptObjectError as error:
                _log.warning("%s", error)
        return records

    def status_now(self, store: Store, record: R) -> StatusNow:
        """Return how a record stands, its driver looked for.

        Args:
            store: The store of all records.
            record: As it was read.

        Raises:
            StoreError: The store does not answer.
        """
        name = self.id_of(record)
        if record.status != "running" or not is_deserted(self.place(store, name)):
            return record.status
        now = self.read(store, name).status  # it may have ended since it was read
        return "lost" if now == "running" else now

    def place(self, store: Store, name: str) -> Store:
        """Return the store of what lies beside a record.

        Args:
            store: The store of all records.
            name: Of the record.
        """
        return store.child(f"{self.folder}/{name}")

    def id_of(self, record: R) -> str:
        """Return a record's name."""
        return str(getattr(record, f"{self.noun}_id"))

    def _names(self, store: Store) -> list[str]:
        paths = (key.split("/") for key in store.keys(self.folder))
        return sorted((path[1] for path in paths if len(path) == 3 and path[2] == self.file), reverse=True)

    def _key(self, name: str) -> str:
        return f"{self.folder}/{name}/{self.file}"
