"""The functions behind the endpoints; importing this package registers them."""

from __future__ import annotations

from lab.api import (
    access,
    access_change,
    backup,
    cluster,
    firewall,
    guest_config,
    guest_copy,
    guest_list,
    guest_snapshot,
    guest_status,
    lxc_create,
    metrics,
    node_power,
    nodes,
    pools,
    qemu_create,
    storage,
    tasks,
)

__all__ = [
    "access",
    "access_change",
    "backup",
    "cluster",
    "firewall",
    "guest_config",
    "guest_copy",
    "guest_list",
    "guest_snapshot",
    "guest_status",
    "lxc_create",
    "metrics",
    "node_power",
    "nodes",
    "pools",
    "qemu_create",
    "storage",
    "tasks",
]
