"""What must survive a restart, even `kill -9`: records in memory, each change written through to the database."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import asdict
from pathlib import Path
from typing import Generic, TypeVar

from lab.database import Database
from lab.model import Acl, Backup, Guest, Pool, Role, Storage, TaskRecord, Token, User

Key = TypeVar("Key", int, str)
Record = TypeVar("Record")


class Table(MutableMapping[Key, Record], Generic[Key, Record]):
    """A dict of records; call save() after changing one in place."""

    def __init__(self, database: Database, kind: str, record: Callable[..., Record], key: Callable[[str], Key]) -> None:
        self._database = database
        self._kind = kind
        self.revision = 0  # moves with every change, for those who keep something derived
        self._records: dict[Key, Record] = {key(k): record(**value) for k, value in database.load(kind)}

    def __getitem__(self, key: Key) -> Record:
        return self._records[key]

    def __setitem__(self, key: Key, record: Record) -> None:
        self._records[key] = record
        self.save(key)

    def __delitem__(self, key: Key) -> None:
        del self._records[key]
        self.revision += 1
        self._database.delete(self._kind, str(key))

    def __iter__(self) -> Iterator[Key]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def save(self, key: Key) -> None:
        self.revision += 1
        self._database.put(self._kind, str(key), asdict(self._records[key]))  # type: ignore[call-overload]


class Store:
    """All tables of one lab. Use it from the event loop's thread only."""

    def __init__(self, path: Path) -> None:
        self.database = Database(path)
        self.guests: Table[int, Guest] = Table(self.database, "guest", Guest.load, int)
        self.users: Table[str, User] = Table(self.database, "user", User, str)
        self.tokens: Table[str, Token] = Table(self.database, "token", Token, str)
        self.roles: Table[str, Role] = Table(self.database, "role", Role, str)
        self.acl: Table[str, Acl] = Table(self.database, "acl", Acl, str)
        self.pools: Table[str, Pool] = Table(self.database, "pool", Pool, str)
        self.storages: Table[str, Storage] = Table(self.database, "storage", Storage, str)
        self.backups: Table[str, Backup] = Table(self.database, "backup", Backup, str)
        self.tasks: Table[str, TaskRecord] = Table(self.database, "task", TaskRecord, str)
        self._meta = {key: str(value) for key, value in self.database.load("meta")}

    def meta(self, key: str, default: str = "") -> str:
        return self._meta.get(key, default)

    def set_meta(self, key: str, value: str) -> None:
        self._meta[key] = value
        self.database.put("meta", key, value)

    def remove_guest(self, vmid: int) -> None:
        """Forget a guest and the grants on its path, together."""
        with self.database.transaction():
            for key in [k for k, acl in self.acl.items() if acl.path == f"/vms/{vmid}"]:
                del self.acl[key]
            del self.guests[vmid]

    def close(self) -> None:
        self.database.close()
