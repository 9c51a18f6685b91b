"""What the lxc driver keeps of each guest: one directory, found again by any later daemon.

A guest exists when its directory holds `guest.json`, which is written last and removed first, and always
whole. It names the layer in use, so that a rollback is one rename. All else in the directory is what a
crash left, and is cleared away at the next start of the daemon.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lab.drivers.base import DriverError, GuestSpec, Nic
from lab.drivers.lxc_rootfs import Rootfs, remove_tree

RECORD = "guest.json"


@dataclass(frozen=True)
class Record:
    """The content of guest.json."""

    spec: GuestSpec  # as last applied: addresses instead of "dhcp", no password
    image: str
    layer: str
    written: str = ""  # digest of the files last written into the guest
    identity: str = ""  # digest of user, keys and password last written


@dataclass(frozen=True)
class Guest:
    """A guest's directory and record; changing it means saving another one."""

    directory: Path
    record: Record

    @property
    def name(self) -> str:
        """What lxc calls the container."""
        return self.directory.name

    @property
    def rootfs(self) -> Rootfs:
        """The files as they are now."""
        return self.rootfs_of(self.layer(self.record.layer))

    def rootfs_of(self, layer: Path) -> Rootfs:
        """The files with another layer, a snapshot's for instance."""
        return Rootfs(Path(self.record.image), layer, self.directory / "rootfs")

    def layer(self, name: str) -> Path:
        """Where a layer is."""
        return self.directory / "layers" / name

    def snapshot(self, name: str) -> Path:
        """Where the layer of an existing snapshot is."""
        path = self.snapshot_path(name)
        if not path.exists():
            raise DriverError(f"snapshot '{name}' does not exist")
        return path

    def snapshot_path(self, name: str) -> Path:
        """Where a snapshot's layer is or would be."""
        if not name.replace("-", "").replace("_", "").isalnum():
            raise DriverError(f"'{name}' is no name for a snapshot")
        return self.directory / "snapshots" / name

    def saved(self, **changes: object) -> Guest:
        """Write the record with changes and return the guest that has them."""
        record = replace(self.record, **changes)  # type: ignore[arg-type]
        record = replace(record, spec=replace(record.spec, password=""))
        partial = self.directory / f"{RECORD}.partial"
        partial.write_text(json.dumps(asdict(record), indent=2, sort_keys=True) + "\n", encoding="utf-8")
        os.replace(partial, self.directory / RECORD)
        return replace(self, record=record)

    def clear_leftovers(self) -> None:
        """Remove layers and half-made snapshots that a crash left."""
        layers = self.directory / "layers"
        for path in layers.iterdir() if layers.exists() else ():
            if path.name != self.record.layer:
                remove_tree(path)
        for path in (self.directory / "snapshots").glob("*.partial"):
            remove_tree(path)


class Guests:
    """All guests of one lab; names carry the lab's bridge, so that no two labs have the same."""

    def __init__(self, lxcpath: Path, instance: str) -> None:
        self.lxcpath = lxcpath
        self.instance = instance

    def name(self, vmid: int) -> str:
        """What lxc calls the guest's container."""
        return f"{self.instance}-{vmid}"

    def directory(self, vmid: int) -> Path:
        """Where a guest is or would be."""
        return self.lxcpath / self.name(vmid)

    def exists(self, vmid: int) -> bool:
        """Tell whether there is such a guest."""
        return (self.directory(vmid) / RECORD).exists()

    def load(self, vmid: int) -> Guest:
        """Read a guest that must exist."""
        file = self.directory(vmid) / RECORD
        try:
            return Guest(file.parent, _record(file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise DriverError(f"guest {vmid} does not exist in the lxc driver") from None
        except (ValueError, TypeError, KeyError) as error:
            raise DriverError(f"{file} is damaged ({error}): destroy the guest") from error

    def all(self) -> Iterator[Guest]:
        """Every readable guest, by VMID."""
        for vmid in sorted(self.vmids()):
            try:
                yield self.load(vmid)
            except DriverError:  # damaged or just destroyed: whoever asks for it by VMID is told
                continue

    def vmids(self) -> set[int]:
        """The VMIDs of all directories that hold a guest."""
        suffixes = (path.parent.name.removeprefix(f"{self.instance}-") for path in self.lxcpath.glob(f"*/{RECORD}"))
        return {int(suffix) for suffix in suffixes if suffix.isdigit()}

    def new(self, spec: GuestSpec, image: Path) -> Guest:
        """Make the directories of a guest; it exists once it is saved."""
        if self.exists(spec.vmid):
            raise DriverError(f"guest {spec.vmid} already exists in the lxc driver")
        directory = self.directory(spec.vmid)
        remove_tree(directory)
        guest = Guest(directory, Record(replace(spec, password=""), str(image), new_layer_name()))
        guest.rootfs.prepare()
        return guest

    def remove(self, vmid: int) -> None:
        """Remove a guest, record first, so that half a guest is never taken for one."""
        directory = self.directory(vmid)
        (directory / RECORD).unlink(missing_ok=True)
        remove_tree(directory)

    def clear_leftovers(self) -> None:
        """Remove what a crash left: directories without a record, layers that no record names."""
        known = {self.name(vmid) for vmid in self.vmids()}
        for path in self.lxcpath.iterdir() if self.lxcpath.exists() else ():
            if path.name not in known:
                remove_tree(path)
        for guest in self.all():
            guest.clear_leftovers()


def new_layer_name() -> str:
    """A name no layer had before."""
    return secrets.token_hex(4)


def _record(text: str) -> Record:
    document = json.loads(text)
    spec = document["spec"]
    nics = tuple(Nic(**nic) for nic in spec["nics"])
    spec = GuestSpec(**{**spec, "nics": nics, "features": tuple(spec["features"])})
    return Record(**{**document, "spec": spec})
