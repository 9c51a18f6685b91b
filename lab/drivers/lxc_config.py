"""What a guest is told: the text of its container configuration and of the files inside it. No side effects."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lab.drivers.base import DriverError, GuestSpec, Nic
from lab.drivers.lxc_rootfs import OVERLAY_OPTIONS

# The distribution's own: device rules, seccomp filter, dropped capabilities, lxcfs where it runs.
COMMON = Path("/usr/share/lxc/config/common.conf")
MIB = 1024 * 1024
PERIOD = 100_000  # microseconds of the CPU quota

_MAC = re.compile(r"([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,62}")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")


@dataclass(frozen=True)
class Controllers:
    """What this host's cgroups can limit: version 2 has one tree, version 1 one per controller."""

    version: int
    names: frozenset[str]


def check(spec: GuestSpec) -> None:
    """Refuse what would end up malformed in a configuration file."""
    if not _NAME.fullmatch(spec.hostname):
        raise DriverError(f"guest {spec.vmid}: '{spec.hostname}' is no host name")
    if spec.kind == "qemu" and not _USER.fullmatch(spec.user):
        raise DriverError(f"guest {spec.vmid}: '{spec.user}' is no user name")
    for nic in spec.nics:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{1,14}", nic.name) or not _MAC.fullmatch(nic.mac):
            raise DriverError(f"guest {spec.vmid}: '{nic.name}' with MAC '{nic.mac}' is no interface")
        try:
            if "/" in nic.address:
                ipaddress.ip_interface(nic.address)
            if "/" in nic.address6:
                ipaddress.IPv6Interface(nic.address6)
            for gateway in filter(None, (nic.gateway, nic.gateway6)):
                ipaddress.ip_address(gateway)
        except ValueError as error:
            raise DriverError(f"guest {spec.vmid}: {nic.name}: {error}") from error


def with_leases(spec: GuestSpec, lease: Callable[[Nic], str], gateway: str) -> GuestSpec:
    """Replace each "dhcp" by the address it gets."""
    nics = tuple(
        replace(nic, address=lease(nic), gateway=nic.gateway or gateway) if nic.address == "dhcp" else nic
        for nic in spec.nics
    )
    return replace(spec, nics=nics)


def limits(spec: GuestSpec, controllers: Controllers) -> tuple[dict[str, dict[str, str]], list[str]]:
    """What to write to which controller's files, and the controllers that are missing for it."""
    quota = spec.cores * PERIOD
    wanted: dict[str, dict[str, str]] = {}
    if controllers.version == 2:
        wanted["memory"] = {"memory.max": str(spec.memory_mib * MIB)}
        wanted["cpu"] = {"cpu.max": f"{quota or 'max'} {PERIOD}"}
    else:
        wanted["memory"] = {"memory.limit_in_bytes": str(spec.memory_mib * MIB)}
        wanted["cpu"] = {"cpu.cfs_period_us": str(PERIOD), "cpu.cfs_quota_us": str(quota or -1)}
    present = {name: files for name, files in wanted.items() if name in controllers.names}
    return present, sorted(set(wanted) - set(present))


def container(
    spec: GuestSpec,
    rootfs_path: str,
    bridge: str,
    veths: tuple[str, ...],
    controllers: Controllers,
    common: Path = COMMON,
) -> str:
    """The container's configuration; everything but the name of the host's end of its interfaces is in `spec`."""
    lines = [f"lxc.include = {common}"] if common.exists() else ["lxc.mount.auto = proc:mixed sys:mixed cgroup:mixed"]
    lines += [
        f"lxc.uts.name = {spec.hostname}",
        f"lxc.rootfs.path = {rootfs_path}",
        f"lxc.rootfs.options = {OVERLAY_OPTIONS}",
        "lxc.apparmor.profile = unconfined",
        "lxc.signal.halt = SIGRTMIN+3",
        "lxc.tty.max = 0",
    ]
    for index, (nic, veth) in enumerate(zip(spec.nics, veths, strict=True)):
        values = {
            "type": "veth", "link": bridge, "flags": "up", "name": nic.name, "veth.pair": veth, "hwaddr": nic.mac
        }  # fmt: skip
        values.update(_early_address(nic))
        lines += [f"lxc.net.{index}.{key} = {value}" for key, value in values.items()]
    if _has_feature(spec, "nesting"):
        lines += ["lxc.mount.entry = proc dev/.lxc/proc proc create=dir,optional 0 0"]
        lines += ["lxc.mount.entry = sys dev/.lxc/sys sysfs create=dir,optional 0 0"]
    if _has_feature(spec, "fuse"):
        lines += ["lxc.mount.entry = /dev/fuse dev/fuse none bind,create=file,optional 0 0"]
    if not spec.nics:
        lines.append("lxc.net.0.type = empty")
    prefix = "lxc.cgroup2." if controllers.version == 2 else "lxc.cgroup."
    for files in limits(spec, controllers)[0].values():
        lines += [f"{prefix}{key} = {value}" for key, value in files.items() if value != "-1"]
    return "\n".join(lines) + "\n"


def guest_files(spec: GuestSpec, nameservers: tuple[str, ...]) -> dict[str, str]:
    """Path inside the guest to content: host name, name servers, one file per interface."""
    servers = tuple(spec.nameserver.replace(",", " ").split()) or nameservers
    files = {
        "etc/hostname": f"{spec.hostname}\n",
        "etc/hosts": _hosts(spec),
        "etc/resolv.conf": "".join(f"nameserver {server}\n" for server in servers),
    }
    for nic in spec.nics:
        files[f"etc/systemd/network/50-lab-{nic.name}.network"] = _network(nic)
    return files


def identity_files(spec: GuestSpec) -> dict[str, str]:
    """What the first start of a cloud image would be told; none of it stays in the guest in this form."""
    files = {}
    if spec.ssh_keys.strip():
        files[".lab/authorized_keys"] = spec.ssh_keys.strip() + "\n"
    if spec.password:
        files[".lab/password"] = spec.password
    return files


def digest(files: Mapping[str, str]) -> str:
    """Tells whether anything changed since files were written."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _has_feature(spec: GuestSpec, name: str) -> bool:
    return bool({name, f"{name}=1"} & set(spec.features))


def _early_address(nic: Nic) -> dict[str, str]:
    """lxc sets the address before init begins, so nobody has to wait for an answer to his first ARP."""
    if "/" not in nic.address:
        return {}
    address = ipaddress.ip_interface(nic.address)
    family = f"ipv{address.version}"
    values = {f"{family}.address": str(address)}
    if address.version == 4:  # lxc gets the broadcast address wrong on its own
        values["ipv4.address"] += f" {address.network.broadcast_address}"
    if nic.gateway and ipaddress.ip_address(nic.gateway) in address.network:
        values[f"{family}.gateway"] = nic.gateway
    return values


def _hosts(spec: GuestSpec) -> str:
    address = next((nic.address.split("/")[0] for nic in spec.nics if "/" in nic.address), "127.0.1.1")
    return f"127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n{address} {spec.hostname}\n"


def _network(nic: Nic) -> str:
    lines = ["[Match]", f"Name={nic.name}", "", "[Network]", "DHCP=no", "IPv6AcceptRA=no"]
    if "/" in nic.address:
        lines.append(f"Address={nic.address}")
        if nic.gateway:
            lines.append(f"Gateway={nic.gateway}")
    if "/" in nic.address6:
        lines.append(f"Address={nic.address6}")
        if nic.gateway6:
            lines.append(f"Gateway={nic.gateway6}")
    return "\n".join(lines) + "\n"
