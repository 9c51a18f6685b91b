"""The functions behind the endpoints; importing this package registers them."""

from __future__ import annotations

from lab.api import access, cluster, guest_config, guest_list, guest_status, lxc_create, nodes, pools, storage, tasks

__all__ = [
    "access",
    "cluster",
    "guest_config",
    "guest_list",
    "guest_status",
    "lxc_create",
    "nodes",
    "pools",
    "storage",
    "tasks",
]
