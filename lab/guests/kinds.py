"""Containers and machines: the words in which the API speaks of each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    name: str
    label: str
    task_prefix: str
    config_directory: str
    lock_file: str
    name_option: str

    def config_path(self, node: str, vmid: int) -> str:
        return f"nodes/{node}/{self.config_directory}/{vmid}.conf"


LXC = Kind("lxc", "CT", "vz", "lxc", "/run/lock/lxc/pve-config-{}.lock", "hostname")
QEMU = Kind("qemu", "VM", "qm", "qemu-server", "/var/lock/qemu-server/lock-{}.conf", "name")
KINDS = {kind.name: kind for kind in (LXC, QEMU)}
