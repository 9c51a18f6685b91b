"""Named string formats of the parameter schema: each checker raises ValueError with the API's text."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

Checker = Callable[[str], None]

CONFIG_ID = re.compile(r"[a-z][a-z0-9_-]+", re.IGNORECASE)
STORAGE_ID = re.compile(r"[a-z][a-z0-9\-_.]*[a-z0-9]", re.IGNORECASE)
POOL_ID = re.compile(r"[A-Za-z0-9.\-_]+(?:/[A-Za-z0-9.\-_]+){0,2}")
USER_ID = re.compile(r"[^\s:/]+@[A-Za-z][A-Za-z0-9.\-_]+")
TOKEN_ID = re.compile(r"[^\s:/]+@[A-Za-z][A-Za-z0-9.\-_]+![A-Za-z][A-Za-z0-9.\-_]+")
TAG = re.compile(r"[a-z0-9_][a-z0-9_\-+.]*", re.IGNORECASE)
VOLUME_ID = re.compile(r"[a-z][a-z0-9\-_.]*[a-z0-9]:.+", re.IGNORECASE)
DISK_SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGT])?")
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9\-]{0,61}[a-zA-Z0-9])?"
DNS_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
MAC = re.compile(r"[0-9a-f][02468ace](?::[0-9a-f]{2}){5}", re.IGNORECASE)
CONTENT_TYPES = frozenset({"backup", "images", "import", "iso", "none", "rootdir", "snippets", "vztmpl"})

IPCONFIG: dict[str, Any] = {
    "ip": {"type": "string", "format": "pve-ipv4-config", "optional": 1},
    "gw": {"type": "string", "format": "ipv4", "optional": 1},
    "ip6": {"type": "string", "format": "pve-ipv6-config", "optional": 1},
    "gw6": {"type": "string", "format": "ipv6", "optional": 1},
}


def _matches(pattern: re.Pattern[str] | str, text: str) -> Checker:
    """A checker by regular expression; `{}` in the text becomes the value."""
    compiled = re.compile(pattern)

    def check(value: str) -> None:
        if not compiled.fullmatch(value):
            raise ValueError(text.replace("{}", value))

    return check


def _one_of(allowed: frozenset[str], text: str) -> Checker:
    def check(value: str) -> None:
        if value not in allowed:
            raise ValueError(text.replace("{}", value))

    return check


def _address(version: int) -> Checker:
    def check(value: str) -> None:
        try:
            ipaddress.IPv4Address(value) if version == 4 else ipaddress.IPv6Address(value)
        except ValueError:
            raise ValueError(f"value does not look like a valid IPv{version} address") from None

    return check


def _any_address(value: str) -> None:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        raise ValueError("value does not look like a valid IP address") from None


def _address_or_name(value: str) -> None:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        if not DNS_NAME.fullmatch(value):
            raise ValueError("value does not look like a valid address: " + value) from None


def _interface_config(version: int, words: frozenset[str]) -> Checker:
    def check(value: str) -> None:
        if value in words:
            return
        try:
            if "/" not in value:
                raise ValueError
            ipaddress.IPv4Interface(value) if version == 4 else ipaddress.IPv6Interface(value)
        except ValueError:
            raise ValueError(f"value does not look like a valid ipv{version} network configuration") from None

    return check


def _cidr(value: str) -> None:
    try:
        if "/" not in value:
            raise ValueError
        ipaddress.ip_interface(value)
    except ValueError:
        raise ValueError("value does not look like a valid IP address in CIDR notation") from None


def _resolver(value: str) -> None:
    if value != "host":
        _any_address(value.partition("%")[0])


def _lxc_volume(value: str) -> None:
    if not value or any(ord(c) < 32 for c in value):
        raise ValueError("invalid volume")


def _urlencoded(value: str) -> None:
    if re.search(r"%(?![0-9a-fA-F]{2})", value) or "\n" in value:
        raise ValueError("value is not a valid urlencoded string")
    unquote(value, errors="strict")


CHECKERS: dict[str, Checker] = {
    "pve-vmid": _matches(r"[1-9][0-9]{2,8}", "value does not look like a valid VM ID"),
    "pve-node": _matches(_LABEL, "value does not look like a valid node name"),
    "dns-name": _matches(DNS_NAME, "value does not look like a valid DNS name"),
    "pve-configid": _matches(CONFIG_ID, "invalid configuration ID '{}'"),
    "pve-storage-id": _matches(STORAGE_ID, "storage ID '{}' contains illegal characters"),
    "pve-poolid": _matches(POOL_ID, "pool name '{}' contains invalid characters"),
    "pve-roleid": _matches(r"[A-Za-z0-9.\-_]+", "role name '{}' contains invalid characters"),
    "pve-groupid": _matches(r"[A-Za-z0-9.\-_]+", "group name '{}' contains invalid characters"),
    "pve-userid": _matches(USER_ID, "value '{}' does not look like a valid user name"),
    "pve-tokenid": _matches(TOKEN_ID, "value '{}' does not look like a valid token ID"),
    "pve-realm": _matches(r"[A-Za-z][A-Za-z0-9.\-_]+", "value does not look like a valid realm"),
    "email": _matches(r"[^\s@]+@[^\s@]+", "value does not look like a valid email address"),
    "pve-tag": _matches(TAG, "invalid characters in tag"),
    "ipv4": _address(4),
    "ipv6": _address(6),
    "ip": _any_address,
    "CIDR": _cidr,
    "address": _address_or_name,
    "pve-ipv4-config": _interface_config(4, frozenset({"dhcp", "manual"})),
    "pve-ipv6-config": _interface_config(6, frozenset({"auto", "dhcp", "manual"})),
    "lxc-ip-with-ll-iface": _resolver,
    "mac-addr": _matches(MAC, "value does not look like a valid unicast MAC address"),
    "disk-size": _matches(DISK_SIZE, "value does not look like a valid disk size: {}"),
    "pve-bridge-id": _matches(r"[-_.\w]+", "invalid bridge ID '{}'"),
    "pve-iface": _matches(r"[a-zA-Z][a-zA-Z0-9_]{1,20}(?:[:.]\d+)?", "invalid network interface name '{}'"),
    "pve-lxc-mp-string": _lxc_volume,
    "pve-lxc-dev-string": _matches(r"/dev/.+", "path has to be in /dev/"),
    "pve-volume-id": _matches(VOLUME_ID, "unable to parse volume ID '{}'"),
    "pve-startup-order": _matches(
        r"(?:(?:order=)?\d+|(?:up|down)=\d+)(?:,(?:(?:order=)?\d+|(?:up|down)=\d+))*", "unable to parse startup options"
    ),
    "pve-storage-content": _one_of(CONTENT_TYPES, "invalid content type '{}'"),
    "pve-task-status-type": _one_of(
        frozenset({"unknown", "ok", "warning", "error"}), "value '{}' is not a valid task status type"
    ),
    "pve-fw-protocol-spec": _matches(r"[A-Za-z0-9\-]+", "invalid characters in protocol"),
    "pve-fw-sport-spec": _matches(r"[A-Za-z0-9\-]+(?:[:,][A-Za-z0-9\-]+)*", "invalid port '{}'"),
    "pve-fw-dport-spec": _matches(r"[A-Za-z0-9\-]+(?:[:,][A-Za-z0-9\-]+)*", "invalid port '{}'"),
    "pve-fw-addr-spec": _matches(r"[+A-Za-z0-9.:/,\-_]+", "invalid address '{}'"),
    "urlencoded": _urlencoded,
}

PROPERTY_STRINGS: dict[str, dict[str, Any]] = {"pve-qm-ipconfig": IPCONFIG}


def check_format(name: str, value: str) -> None:
    """Check a value against a named format; `-list` and `-opt` are derived from the plain one."""
    checker = CHECKERS.get(name)
    if checker is not None:
        checker(value)
    elif name.endswith("-list"):
        for item in filter(None, re.split(r"[,;\0\s]+", value)):
            check_format(name.removesuffix("-list"), item)
    elif name.endswith("-opt") and value:
        check_format(name.removesuffix("-opt"), value)
