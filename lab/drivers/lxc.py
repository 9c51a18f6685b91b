"""Guests that are real: Debian system containers with their own addresses on a private bridge. Needs root.

Everything of one lab is named after its bridge and lies below its directory. Containers are not children
of the daemon: they go on when it ends, and the next one finds them by what the kernel says, not by what
it remembers. `down` therefore also works after a crash at any moment.

A guest's disk size is remembered but not enforced: that would take a loop device per guest, and the point
of the lab is guests in a second. `df` inside shows the host's file system.
"""

from __future__ import annotations

import ipaddress
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from lab.drivers import DriverSettings
from lab.drivers import lxc_proc as proc
from lab.drivers.base import DriverError, GuestSpec, Interface, Log, Nic, Usage
from lab.drivers.lxc_adopt import nameservers, read_host
from lab.drivers.lxc_config import check, container, limits, with_leases
from lab.drivers.lxc_guest import Guest, Guests, new_layer_name
from lab.drivers.lxc_host import DIES_WITH_CALLER, run, succeeds, why_unusable
from lab.drivers.lxc_inside import read_running, write_running, write_stopped
from lab.drivers.lxc_leases import Leases
from lab.drivers.lxc_meter import Meter
from lab.drivers.lxc_network import Network
from lab.drivers.lxc_rootfs import check_overlay, copy_layer, remove_tree
from lab.drivers.lxc_template import Templates

LOCKS = Path("/run/lxc/lock")  # where liblxc keeps a lock file per container


class LxcDriver:
    """See the module docstring; the methods are those of `lab.drivers.base.Driver`."""

    name = "lxc"

    def __init__(self, settings: DriverSettings) -> None:
        directory = settings.directory.resolve()
        if re.search(r"[\s:,\\]", str(directory)):
            raise DriverError(f"{directory}: the lxc driver's directory must be free of spaces, ':', ',' and '\\'")
        if not re.fullmatch(r"[a-z][a-z0-9]{0,14}", settings.bridge):
            raise DriverError(f"'{settings.bridge}' is no bridge name: up to 15 small letters and digits")
        self._directory = directory
        self._instance = settings.bridge
        self._nameserver = settings.nameserver
        self._network = Network(settings.bridge, ipaddress.IPv4Network(settings.subnet), directory)
        self._guests = Guests(directory / "guests", settings.bridge)
        self._templates = Templates(settings.cache, directory / "images")
        self._leases = Leases(directory / "leases.json", self._network.subnet)
        self._containers = proc.Containers(self._guests.lxcpath)
        self._meter = Meter()
        self._image: Path | None = None  # known after up(), as what is offered
        self._offered: dict[str, int] = {}

    # --- the lab -------------------------------------------------------------------------------

    def up(self, log: Log) -> None:
        reason = why_unusable()
        if reason:
            raise DriverError(f"the lxc driver cannot work here: {reason}")
        self._guests.lxcpath.mkdir(parents=True, exist_ok=True)
        self._directory.chmod(0o700)  # guests' files include their own setuid programs
        check_overlay(self._directory)
        self._network.up(log)
        self._adopt(log)
        self._image = self._templates.ensure(read_host(), log)
        # From here on the lab needs the cache no more: its image is its own, and another checkout may clean up.
        self._offered = {self._templates.name: self._templates.archive.stat().st_size}
        self._templates.remove_unused({self._image, *(Path(guest.record.image) for guest in self._guests.all())})
        if not self._nameservers():
            log("warning: guests cannot resolve names: this host's name servers are on its loopback only")

    def down(self, log: Log) -> None:
        names = rf"{self._instance}-\d+"
        if proc.end_all(names):
            log("killed the running containers")
        proc.remove_cgroups(names)
        self._network.down(log)
        self._unmount()
        self._remove_locks()
        remove_tree(self._directory)
        log(f"removed {self._directory}")

    def templates(self) -> dict[str, int]:
        return dict(self._offered)

    def vmids(self) -> set[int]:
        """The guests there are, running or not."""
        return self._guests.vmids()

    # --- a guest's life ------------------------------------------------------------------------

    def create(self, spec: GuestSpec, template: str | None, log: Log) -> None:
        if template not in (None, self._templates.name):
            raise DriverError(f"template '{template}' does not exist: there is {self._templates.name}")
        image = self._image or self._templates.ensure(read_host(), log)
        with self._new(spec, image) as (guest, settled):
            write_stopped(guest, settled, self._nameservers(), renew=True)
        log(f"made {self._guests.name(spec.vmid)} from {self._templates.name}")

    def destroy(self, vmid: int, log: Log) -> None:
        if self._init(vmid):
            raise DriverError(f"guest {vmid} is running")
        self._leases.give_back(vmid)
        self._guests.remove(vmid)
        self._meter.forget(vmid)

    def configure(self, spec: GuestSpec, log: Log) -> None:
        guest = self._guests.load(spec.vmid)
        settled = self._settle(spec)
        init = self._init(spec.vmid)
        self._leases.give_back(spec.vmid, keep=[nic.mac for nic in spec.nics if nic.address == "dhcp"])
        if init is None:
            guest.saved(spec=settled)
            return
        if [(nic.name, nic.mac) for nic in settled.nics] != [(nic.name, nic.mac) for nic in guest.record.spec.nics]:
            log("interfaces are added and removed at the next start")
            known = {nic.name for nic in guest.record.spec.nics}
            settled = replace(settled, nics=tuple(nic for nic in settled.nics if nic.name in known))
        write_running(guest, init, settled, self._nameservers())
        self._limit(init, settled, log)
        self._announce(settled)

    def start(self, spec: GuestSpec, log: Log) -> None:
        guest = self._guests.load(spec.vmid)
        if self._init(spec.vmid):
            log(f"guest {spec.vmid} is running already")
            return
        self._containers.wait_for_end(guest.name)
        settled = self._settle(spec)
        guest = write_stopped(guest, settled, self._nameservers())
        veths = tuple(self._network.veth(spec.vmid, index) for index in range(len(settled.nics)))
        self._missing_limits(settled, log)
        text = container(settled, guest.rootfs.lxc_path(), self._network.bridge, veths, proc.controllers())
        (guest.directory / "config").write_text(text, encoding="utf-8")
        self._launch(guest)
        self._announce(settled)
        log(f"started {guest.name}")

    def stop(self, vmid: int, log: Log) -> None:
        name = self._guests.load(vmid).name
        self._lxc("stop", name, "--kill")
        if not self._containers.wait_for_end(name):
            proc.end_all(re.escape(name))
        log(f"stopped {name}")

    def shutdown(self, vmid: int, timeout: int, log: Log) -> None:
        name = self._guests.load(vmid).name
        deadline = time.monotonic() + timeout
        while self._containers.init(name) is not None:
            left = int(deadline - time.monotonic())
            if left <= 0:
                raise DriverError(f"guest {vmid} did not shut down within {timeout} seconds")
            # Asked again and again: an init that is just starting does not hear the first time.
            self._lxc("stop", name, "--nokill", "--timeout", str(min(left, 3)))
        self._containers.wait_for_end(name)
        log(f"{name} has shut down")

    def resize(self, vmid: int, disk_mib: int, log: Log) -> None:
        guest = self._guests.load(vmid)
        if disk_mib < guest.record.spec.disk_mib:
            raise DriverError(f"guest {vmid}: a disk cannot shrink from {guest.record.spec.disk_mib} to {disk_mib} MiB")
        guest.saved(spec=replace(guest.record.spec, disk_mib=disk_mib))
        log("the size is remembered; containers of the lab share the host's disk")

    # --- what it is doing ----------------------------------------------------------------------

    def usage(self, vmid: int) -> Usage:
        init = self._init(vmid)
        if init is None or not self._guests.exists(vmid):
            return Usage(running=False)
        guest = self._guests.load(vmid)
        image = self._templates.size(Path(guest.record.image))
        return self._meter.read(guest, init, image)

    def interfaces(self, vmid: int) -> list[Interface]:
        init = self._init(vmid)
        return proc.interfaces(init) if init is not None else []

    def host_keys(self, vmid: int) -> dict[str, str]:
        directory = self._guests.load(vmid).rootfs.upper / "etc/ssh"
        return {file.stem: file.read_text(encoding="ascii").strip() for file in sorted(directory.glob("*_key.pub"))}

    def read_file(self, vmid: int, path: str, limit: int) -> bytes:
        init = self._init(vmid)
        if init is None:
            raise DriverError(f"guest {vmid} does not run")
        return read_running(init, path, limit)

    # --- copies --------------------------------------------------------------------------------

    def snapshot(self, vmid: int, name: str, log: Log) -> None:
        guest = self._guests.load(vmid)
        target = guest.snapshot_path(name)
        if target.exists():
            raise DriverError(f"snapshot '{name}' exists already")
        target.parent.mkdir(exist_ok=True)
        with self._frozen(vmid):
            copy_layer(guest.rootfs.layer, target)

    def rollback(self, vmid: int, name: str, log: Log) -> None:
        guest = self._stopped(vmid)
        source, layer = guest.snapshot(name), new_layer_name()
        copy_layer(source, guest.layer(layer))
        guest.saved(layer=layer, written="", identity="").clear_leftovers()

    def delete_snapshot(self, vmid: int, name: str, log: Log) -> None:
        remove_tree(self._guests.load(vmid).snapshot_path(name))

    def clone(self, vmid: int, snapshot: str | None, spec: GuestSpec, log: Log) -> None:
        source = self._guests.load(vmid)
        layer = source.snapshot(snapshot) if snapshot else source.rootfs.layer
        with self._new(spec, Path(source.record.image)) as (guest, settled):
            remove_tree(guest.rootfs.layer)
            with self._frozen(None if snapshot else vmid):
                copy_layer(layer, guest.rootfs.layer)
            write_stopped(guest, settled, self._nameservers(), renew=True)
        log(f"made {self._guests.name(spec.vmid)} from {source.name}")

    def backup(self, vmid: int, target: Path, log: Log) -> None:
        guest = self._guests.load(vmid)
        if self._init(vmid) is None:
            guest.rootfs.pack(target)
        else:  # packing takes long: the guest only waits for a copy of what it changed
            copy = guest.layer(new_layer_name())
            try:
                with self._frozen(vmid):
                    copy_layer(guest.rootfs.layer, copy)
                guest.rootfs_of(copy).pack(target)
            finally:
                remove_tree(copy)
        log(f"archive file size: {target.stat().st_size / 2**20:.0f}MB")

    def restore(self, spec: GuestSpec, archive: Path, log: Log) -> None:
        image = self._templates.empty_image()
        log(f"restoring from {archive.name}")
        if not self._guests.exists(spec.vmid):
            with self._new(spec, image) as (guest, settled):
                guest.rootfs.unpack(archive)
                write_stopped(guest, settled, self._nameservers())
            return
        old = self._stopped(spec.vmid)
        settled = self._settle(spec)
        guest = Guest(old.directory, replace(old.record, image=str(image), layer=new_layer_name(), written=""))
        guest.rootfs.prepare()
        try:
            guest.rootfs.unpack(archive)
        except DriverError:
            old.clear_leftovers()
            raise
        remove_tree(old.directory / "snapshots")  # they lie over another image
        guest = guest.saved(spec=settled)
        write_stopped(guest, settled, self._nameservers()).clear_leftovers()

    # --- helpers -------------------------------------------------------------------------------

    @contextmanager
    def _new(self, spec: GuestSpec, image: Path) -> Iterator[tuple[Guest, GuestSpec]]:
        """A guest that is there afterwards when nothing failed, and else never was."""
        check(spec)
        guest = self._guests.new(spec, image)
        try:
            yield guest, self._settle(spec)
        except BaseException:
            self._leases.give_back(spec.vmid)
            self._guests.remove(spec.vmid)
            raise

    def _settle(self, spec: GuestSpec) -> GuestSpec:
        check(spec)
        gateway = str(self._network.gateway.ip)
        others = [guest.record.spec for guest in self._guests.all() if guest.record.spec.vmid != spec.vmid]
        taken = [nic.address.split("/")[0] for other in (spec, *others) for nic in other.nics]

        def lease(nic: Nic) -> str:
            return self._leases.take(spec.vmid, nic.mac, [gateway, *taken])

        return with_leases(spec, lease, gateway)

    def _nameservers(self) -> tuple[str, ...]:
        return (self._nameserver,) if self._nameserver else nameservers()

    def _stopped(self, vmid: int) -> Guest:
        if self._init(vmid) is not None:
            raise DriverError(f"guest {vmid} is running")
        return self._guests.load(vmid)

    def _init(self, vmid: int) -> int | None:
        return self._containers.init(self._guests.name(vmid))

    def _lxc(self, command: str, name: str, *options: str) -> bool:
        argv = [f"lxc-{command}", "-P", str(self._guests.lxcpath), "-n", name, *options]
        return succeeds(argv if command == "start" else [*DIES_WITH_CALLER, *argv])

    def _launch(self, guest: Guest) -> None:
        file = guest.directory / "start.log"
        file.unlink(missing_ok=True)
        logging = ("--logpriority", "ERROR", "--logfile", str(file))
        if not self._lxc("start", guest.name, "--daemon", *logging):
            if not self._containers.wait_for_end(guest.name):
                proc.end_all(re.escape(guest.name))
            raise DriverError(f"starting {guest.name} failed: {_first_error(file)}")

    def _limit(self, init: int, spec: GuestSpec, log: Log) -> None:
        controllers = proc.controllers()
        self._missing_limits(spec, log)
        for controller, files in limits(spec, controllers)[0].items():
            directory = proc.cgroup(init, controller if controllers.version == 1 else "")
            for file, value in files.items():
                try:
                    (directory / file).write_text(value)
                except OSError as error:
                    raise DriverError(f"guest {spec.vmid}: setting {file} to {value}: {error.strerror}") from error

    def _missing_limits(self, spec: GuestSpec, log: Log) -> None:
        for controller in limits(spec, proc.controllers())[1]:
            log(f"no limit on {controller}: this host's cgroups lack that controller")

    def _announce(self, spec: GuestSpec) -> None:
        for nic in spec.nics:
            address = ipaddress.ip_interface(nic.address) if "/" in nic.address else None
            if address is not None and address.ip in self._network.subnet:
                self._network.announce(str(address.ip), nic.mac)

    @contextmanager
    def _frozen(self, vmid: int | None) -> Iterator[None]:
        """Hold a running guest still while its files are copied."""
        running = vmid is not None and self._init(vmid) is not None
        name = self._guests.name(vmid) if vmid is not None else ""
        if running and not self._lxc("freeze", name):
            raise DriverError(f"{name} cannot be frozen")
        try:
            yield
        finally:
            if running:
                self._lxc("unfreeze", name)

    def _adopt(self, log: Log) -> None:
        """Take over what an earlier daemon left, also one that was killed."""
        running = 0
        for guest in self._guests.all():
            init = self._containers.init(guest.name)
            if init is None:
                proc.end_all(re.escape(guest.name))  # its monitor was killed: nobody could stop it properly
            else:
                self._lxc("unfreeze", guest.name)
                proc.thaw(init)
                running += 1
        self._guests.clear_leftovers()
        if running:
            log(f"adopted {running} running containers")

    def _remove_locks(self) -> None:
        locks = LOCKS / str(self._guests.lxcpath).lstrip("/")
        remove_tree(locks)
        for parent in locks.parents:
            if parent == LOCKS or not parent.exists() or any(parent.iterdir()):
                break
            parent.rmdir()

    def _unmount(self) -> None:
        """We mount nothing on the host, but a person may have, below a directory that is about to be removed."""
        below = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for path in sorted((path for path in below if path.startswith(f"{self._directory}/")), reverse=True):
            run(["umount", "--lazy", path], f"unmounting {path}")


def _first_error(file: Path) -> str:
    """The first error in lxc's log is the cause; the ones after it only say that something failed."""
    if os.path.exists(file):
        for line in file.read_text(errors="replace").splitlines():
            if " ERROR " in line:
                return line.rpartition(" - ")[2]
    return "lxc-start gave no reason"
