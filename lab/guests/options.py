"""What each option of a guest needs, and how it is written down."""

from __future__ import annotations

import re
from typing import Any

from lab.guests.networks import complete
from lab.model import Config
from lab.server.call import Call
from lab.server.errors import ApiError, forbidden
from lab.server.properties import loose

_LXC = (
    (r"cores|cpu\w+", "VM.Config.CPU"),
    (r"rootfs|mp\d+|unused\d+", "VM.Config.Disk"),
    (r"memory|swap", "VM.Config.Memory"),
    (r"net\d+|nameserver|searchdomain|hostname", "VM.Config.Network"),
)
_QEMU = (
    (r"cores|cpu\w*|sockets|smp|vcpus|numa\d*|affinity", "VM.Config.CPU"),
    (r"(?:ide|sata|scsi|virtio)\d+|efidisk0|tpmstate0|unused\d+|vmstatestorage", "VM.Config.Disk"),
    (r"memory|balloon|shares|hugepages|keephugepages|allow-ksm", "VM.Config.Memory"),
    (r"net\d+|ipconfig\d+|nameserver|searchdomain", "VM.Config.Network"),
    (r"ciuser|cipassword|sshkeys|citype|cicustom|ciupgrade", "VM.Config.Cloudinit"),
    (r"cdrom", "VM.Config.CDROM"),
    (
        r"acpi|bios|boot|bootdisk|keyboard|kvm|machine|scsihw|serial\d+|parallel\d+|tablet|vga|watchdog|audio0|rng0",
        "VM.Config.HWType",
    ),
)
_QEMU_NETWORK_OR_CLOUDINIT = re.compile(r"ipconfig\d+|nameserver|searchdomain")
_ROOT_ONLY = {"hookscript": "hookscript", "args": "args", "lock": "lock"}


# Parameters of POST that say how to make a guest, not what it is.
_HOW_TO_MAKE = {
    "archive", "bwlimit", "force", "ha-managed", "ignore-unpack-errors", "import-working-storage", "live-restore",
    "ostemplate", "password", "pool", "restore", "ssh-public-keys", "start", "storage", "unique", "vmid",
}  # fmt: skip


def configuration(call: Call) -> dict[str, Any]:
    """The parameters of a create or restore that are options of the guest."""
    left_out = _HOW_TO_MAKE | ({"unprivileged"} if call.kind == "lxc" else set())
    return {name: value for name, value in call.options.items() if name not in left_out}


def privilege_of(kind: str, option: str) -> str:
    """The privilege that setting or deleting an option takes."""
    for pattern, privilege in _LXC if kind == "lxc" else _QEMU:
        if re.fullmatch(pattern, option):
            return privilege
    return "VM.Config.Options"


def check_options(call: Call, vmid: int, pool: str, options: dict[str, Any], *, unprivileged: bool = True) -> None:
    """403 for the first option that the caller may not set; a new guest's pool counts."""
    for option, value in options.items():
        if call.is_root:
            return
        _check_root_only(option, str(value), unprivileged)
        if option == "ha-managed":
            call.require("/", "Sys.Console")
            continue
        wanted = [privilege_of(call.kind, option)]
        if call.kind == "qemu" and _QEMU_NETWORK_OR_CLOUDINIT.fullmatch(option):
            wanted.append("VM.Config.Cloudinit")
        if option == "features" and call.kind == "lxc":
            wanted = ["VM.Allocate"]
        require_on_guest(call, vmid, pool, *wanted)


def require_on_guest(call: Call, vmid: int, pool: str, *any_of: str) -> None:
    """On the guest's path, or for a new one on that of the pool it will be in."""
    if pool and call.has(f"/pool/{pool}", *any_of):
        return
    if not call.has(f"/vms/{vmid}", *any_of):
        raise forbidden(f"/vms/{vmid}, {'|'.join(any_of)}")


def _check_root_only(option: str, value: str, unprivileged: bool) -> None:
    if option == "features":
        on = {name for name, setting in loose(value).items() if setting != "0"}
        if on - {"nesting"}:
            raise forbidden("changing feature flags (except nesting) is only allowed for root@pam")
        if on and not unprivileged:
            raise forbidden("changing feature flags for privileged container is only allowed for root@pam")
    elif re.fullmatch(r"mp\d+|rootfs", option) and loose(value).get("volume", "").startswith("/"):
        raise forbidden("mount point type bind is only allowed for root@pam")
    elif re.fullmatch(r"dev\d+", option):
        raise forbidden("configuring device passthrough is only allowed for root@pam")
    elif option in _ROOT_ONLY:
        raise ApiError(500, f"only root can set '{option}' config")


def normalize(kind: str, options: dict[str, Any]) -> Config:
    """Options as the configuration file keeps them."""
    written: Config = {}
    for option, value in options.items():
        if re.fullmatch(r"net\d+", option):
            value = complete(kind, str(value))
        elif option == "tags":
            value = normalize_tags(str(value))
        elif option == "description" and value and not str(value).endswith("\n"):
            value = f"{value}\n" if kind == "lxc" else value
        written[option] = value
    return {option: value for option, value in written.items() if not (option == "tags" and not value)}


def normalize_tags(text: str) -> str:
    """Lower case, each once, sorted."""
    return ";".join(sorted({tag.lower() for tag in re.split(r"[,; ]+", text) if tag}))
