# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Argument spec of a guest's network interfaces; its documentation is the fragment ``nhi.core.guest_network``."""

from __future__ import annotations

from typing import Any

_INTERFACE: dict[str, Any] = {
    "bridge": {"type": "str"},
    "ip": {"type": "str"},
    "range": {"type": "str"},
    "prefix": {"type": "int"},
    "gateway": {"type": "str"},
    "nameserver": {"type": "str"},
    "ip6": {"type": "str"},
    "gateway6": {"type": "str"},
    "tag": {"type": "int"},
    "mtu": {"type": "int"},
    "firewall": {"type": "bool"},
    "mac": {"type": "str", "aliases": ["hwaddr"]},
    "rate": {"type": "float"},
}
NETWORK_ARGS: dict[str, Any] = {
    "network": {"type": "dict", "options": _INTERFACE},
    "networks": {"type": "list", "elements": "dict", "options": _INTERFACE},
    "nameserver": {"type": "str"},
    "searchdomain": {"type": "str"},
}
NETWORK_EXCLUSIVE = [("network", "networks")]
