"""Addresses for interfaces that ask for one: the upper part of the subnet, remembered until given back."""

from __future__ import annotations

import ipaddress
import json
import os
import threading
from collections.abc import Iterable
from pathlib import Path

from lab.drivers.base import DriverError


class Leases:
    """One JSON file of `<vmid>/<MAC>` to address; safe between threads of the one daemon that owns it."""

    def __init__(self, file: Path, subnet: ipaddress.IPv4Network) -> None:
        self._file = file
        self._subnet = subnet
        self._lock = threading.Lock()

    def take(self, vmid: int, mac: str, taken: Iterable[str]) -> str:
        """Give the interface its address (CIDR): the one it has, or the first that is neither leased nor taken."""
        key = f"{vmid}/{mac.upper()}"
        with self._lock:
            leases = self._read()
            if key not in leases:
                leases[key] = self._free({*leases.values(), *taken})
                self._write(leases)
        return f"{leases[key]}/{self._subnet.prefixlen}"

    def give_back(self, vmid: int, keep: Iterable[str] = ()) -> None:
        """Forget the guest's leases but those of the MACs in `keep`."""
        kept = {f"{vmid}/{mac.upper()}" for mac in keep}
        with self._lock:
            leases = self._read()
            left = {key: value for key, value in leases.items() if key in kept or not key.startswith(f"{vmid}/")}
            if left != leases:
                self._write(left)

    def _free(self, taken: set[str]) -> str:
        for address in pool(self._subnet):
            if str(address) not in taken:
                return str(address)
        raise DriverError(f"no free address for dhcp in {self._subnet}")

    def _read(self) -> dict[str, str]:
        try:
            leases: dict[str, str] = json.loads(self._file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return leases

    def _write(self, leases: dict[str, str]) -> None:
        partial = self._file.with_name(self._file.name + ".partial")
        partial.write_text(json.dumps(leases, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        os.replace(partial, self._file)


def pool(subnet: ipaddress.IPv4Network) -> list[ipaddress.IPv4Address]:
    """The addresses that are leased: the last quarter, without the broadcast address and the gateway."""
    size = subnet.num_addresses
    first = max(2, size - size // 4)
    return [subnet[offset] for offset in range(first, size - 1)]
