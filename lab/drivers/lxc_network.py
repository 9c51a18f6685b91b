"""The lab's network on the host: one bridge with the gateway's address, forwarding and NAT.

All of it carries the instance's name (the bridge), so that exactly this lab's part can be found and removed.
"""

from __future__ import annotations

import fcntl
import hashlib
import ipaddress
import json
import os
import shlex
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab.drivers.base import DriverError, Log
from lab.drivers.lxc_host import run, succeeds

OWNER = "nhi-lab:"  # begins the comment of every rule and the alias of every bridge of any lab
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
# What forwarding was before the first lab of this host; gone after a reboot, like what it remembers.
REMEMBERED = Path("/run/nhi-lab.ip_forward")


@dataclass(frozen=True)
class Network:
    """Bridge and NAT of one lab; `directory` says whose the bridge is."""

    bridge: str
    subnet: ipaddress.IPv4Network
    directory: Path

    @property
    def gateway(self) -> ipaddress.IPv4Interface:
        """The host's address on the bridge: the first of the subnet."""
        return ipaddress.IPv4Interface(f"{next(self.subnet.hosts())}/{self.subnet.prefixlen}")

    @property
    def veth_prefix(self) -> str:
        """What the host's ends of all veth pairs of this lab begin with."""
        return "nl" + hashlib.sha256(self.bridge.encode()).hexdigest()[:5]

    def veth(self, vmid: int, index: int) -> str:
        """Name of the host's end of a guest's interface; at most 15 characters."""
        return self.veth_prefix + hashlib.sha256(f"{vmid}/{index}".encode()).hexdigest()[:7]

    def up(self, log: Log) -> None:
        """Make bridge, forwarding and NAT; what is there already is kept."""
        self._make_bridge(log)
        with _shared():
            _remember_and_forward()
            for table, chain, match in self._rules():
                rule = [chain, *match, "-m", "comment", "--comment", OWNER + self.bridge]
                if not succeeds(["iptables", "-w", "-t", table, "-C", *rule]):
                    run(["iptables", "-w", "-t", table, "-I", *rule], f"adding a NAT rule for {self.bridge}")

    def down(self, log: Log) -> None:
        """Remove every rule and link of this lab; forwarding as it was when no other lab is left."""
        bridge = self._find_bridge()
        if bridge is not None and not self._is_ours(bridge):
            log(f"bridge {self.bridge} is not this lab's: left alone")
            return
        with _shared():
            for table in ("nat", "filter"):
                self._drop_rules(table)
            _forget_forwarding()
        for link in _links():
            if link["ifname"].startswith(self.veth_prefix) or link.get("master") == self.bridge:
                succeeds(["ip", "link", "delete", link["ifname"]])  # it may vanish with its container meanwhile
        if bridge is not None:
            run(["ip", "link", "delete", self.bridge], f"removing bridge {self.bridge}")
            log(f"removed bridge {self.bridge}")

    def announce(self, address: str, mac: str) -> None:
        """Tell everybody on the bridge who has an address now: it may have been another guest's a second ago."""
        succeeds(["ip", "neigh", "flush", "to", address, "dev", self.bridge])
        source = bytes.fromhex(self._mac().replace(":", ""))
        hardware, protocol = bytes.fromhex(mac.replace(":", "")), socket.inet_aton(address)
        arp = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, hardware, protocol, b"\0" * 6, protocol)
        try:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
                raw.bind((self.bridge, 0))
                raw.send(b"\xff" * 6 + source + struct.pack("!H", 0x0806) + arp)
        except OSError as error:
            raise DriverError(f"announcing {address} on {self.bridge} failed: {error.strerror}") from error

    def _mac(self) -> str:
        """A fixed one: a bridge otherwise takes a port's, which changes as guests come and go."""
        digest = hashlib.sha256(self.bridge.encode()).digest()
        return ":".join(f"{byte:02x}" for byte in (0xBE, *digest[:5]))

    def _is_ours(self, link: dict[str, str]) -> bool:
        """By its alias; one without was left half-made by us when it has our address."""
        alias = link.get("ifalias", "")
        return alias == f"{OWNER}{self.directory}" or (not alias and link["address"] == self._mac())

    def _find_bridge(self) -> dict[str, str] | None:
        return next((link for link in _links() if link["ifname"] == self.bridge), None)

    def _make_bridge(self, log: Log) -> None:
        link = self._find_bridge()
        if link is not None and not self._is_ours(link):
            owner = link.get("ifalias", "").removeprefix(OWNER) or "something else"
            raise DriverError(f"bridge {self.bridge} belongs to {owner}: choose another name")
        if link is None:
            self._refuse_overlap()
            run(
                ["ip", "link", "add", self.bridge, "address", self._mac(), "type", "bridge", "forward_delay", "0"],
                f"making bridge {self.bridge}",
            )
            log(f"made bridge {self.bridge} with {self.gateway}")
        what = f"setting up bridge {self.bridge}"
        run(["ip", "link", "set", self.bridge, "alias", f"{OWNER}{self.directory}", "up"], what)
        run(["ip", "address", "replace", str(self.gateway), "dev", self.bridge], what)

    def _refuse_overlap(self) -> None:
        for route in json.loads(run(["ip", "-4", "-j", "route", "show"], "reading routes")):
            if route["dst"] == "default":
                continue
            if ipaddress.IPv4Network(route["dst"], strict=False).overlaps(self.subnet):
                raise DriverError(f"subnet {self.subnet} is in use by {route['dev']} ({route['dst']}): choose another")

    def _rules(self) -> tuple[tuple[str, str, list[str]], ...]:
        subnet = str(self.subnet)
        return (
            ("nat", "POSTROUTING", ["-s", subnet, "!", "-d", subnet, "-j", "MASQUERADE"]),
            ("filter", "FORWARD", ["-i", self.bridge, "-j", "ACCEPT"]),
            ("filter", "FORWARD", ["-o", self.bridge, "-j", "ACCEPT"]),
        )

    def _drop_rules(self, table: str) -> None:
        for rule in _lab_rules(table):
            if OWNER + self.bridge in rule:
                run(["iptables", "-w", "-t", table, "-D", *rule[1:]], f"removing a NAT rule of {self.bridge}")


@contextmanager
def _shared() -> Iterator[None]:
    """One lab at a time looks at what the labs of this host share."""
    directory = os.open(REMEMBERED.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _remember_and_forward() -> None:
    if not REMEMBERED.exists():
        REMEMBERED.write_text(FORWARDING.read_text())
    FORWARDING.write_text("1\n")


def _forget_forwarding() -> None:
    if _lab_rules("nat") or not REMEMBERED.exists():
        return
    FORWARDING.write_text(REMEMBERED.read_text())
    REMEMBERED.unlink()


def _lab_rules(table: str) -> list[list[str]]:
    """The rules of all labs, as arguments: ["-A", "FORWARD", ...]."""
    listed = run(["iptables", "-w", "-t", table, "-S"], "reading NAT rules")
    rules = [shlex.split(line) for line in listed.splitlines() if OWNER in line]
    return [rule for rule in rules if any(word.startswith(OWNER) for word in rule)]


def _links() -> list[dict[str, str]]:
    links: list[dict[str, str]] = json.loads(run(["ip", "-j", "link", "show"], "reading network links"))
    return links
