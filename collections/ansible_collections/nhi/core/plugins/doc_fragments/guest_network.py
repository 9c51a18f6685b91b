# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of a guest's network interfaces (``NETWORK_ARGS`` in module_utils/_network_args.py)."""

from __future__ import annotations


class ModuleDocFragment:
    """Fragment ``nhi.core.guest_network``."""

    DOCUMENTATION = r"""
options:
  network:
    description:
      - The guest's first network interface. A new guest gets one on V(vmbr0) with an address by DHCP if not specified.
      - Of an interface that is there, only what is given is compared and corrected.
      - Mutually exclusive with O(networks).
    type: dict
    suboptions: &interface
      bridge:
        description: Bridge of the node.
        type: str
      ip:
        description:
          - An IPv4 address, with its prefix length or with C(prefix) beside it.
          - V(dhcp) leaves the choice to a DHCP server.
          - V(auto) chooses a free address of C(range). It is assumed when that is set. An interface that has an IPv4
            address already keeps it, also one by DHCP, whether in C(range) or not.
          - V(manual) gives no IPv4 address.
        type: str
      range:
        description: Where addresses are chosen from, as V(192.0.2.105-192.0.2.199) or V(192.0.2.0/24).
        type: str
      prefix:
        description: Prefix length of the subnet, when C(ip) and C(range) do not say it.
        type: int
      gateway:
        description: Default gateway. It is never given to a guest.
        type: str
      nameserver:
        description: Another place for O(nameserver), at the first interface.
        type: str
      ip6:
        description:
          - An IPv6 address with its prefix length.
          - V(auto) leaves the choice to the router's advertisements (SLAAC), V(dhcp) to a DHCP server.
          - V(manual) gives no IPv6 address.
        type: str
        version_added: 0.2.0
      gateway6:
        description: Default gateway for IPv6.
        type: str
        version_added: 0.2.0
      tag:
        description: VLAN of the interface. V(0) means none.
        type: int
        version_added: 0.2.0
      mtu:
        description: Largest packet in bytes.
        type: int
        version_added: 0.2.0
      firewall:
        description: Whether the firewall of Proxmox VE guards the interface.
        type: bool
        version_added: 0.2.0
      mac:
        description: MAC address. Proxmox VE chooses one if not specified.
        type: str
        aliases: [hwaddr]
        version_added: 0.2.0
      rate:
        description: Most megabytes per second that the interface may send.
        type: float
        version_added: 0.2.0
  networks:
    description:
      - All network interfaces that are cared for, in the order of their numbers; the first is C(net0).
      - Each may have an address chosen with V(auto), of a C(range) of its own or of the same one.
      - Interfaces that a guest has beyond these are left alone.
    type: list
    elements: dict
    version_added: 0.2.0
    suboptions: *interface
  nameserver:
    description:
      - Addresses of DNS servers, separated by spaces. The node's own are used if not specified. An empty text removes
        those that are set.
    type: str
    version_added: 0.2.0
  searchdomain:
    description: DNS search domains, separated by spaces. The node's own are used if not specified.
    type: str
    version_added: 0.2.0
"""
