"""Single parameters: types, limits, formats, property strings, with the texts of the real API."""

from __future__ import annotations

from typing import Any

import pytest

from lab.server.schema import load
from lab.server.values import check_value

NET: dict[str, Any] = {
    "name": {"type": "string", "pattern": r"[-_.\w\d]+"},
    "bridge": {"type": "string", "optional": 1},
    "firewall": {"type": "boolean", "optional": 1},
    "ip": {"type": "string", "format": "pve-ipv4-config", "optional": 1},
    "tag": {"type": "integer", "minimum": 1, "maximum": 4094, "optional": 1},
}
CARD: dict[str, Any] = {
    "model": {"type": "string", "default_key": 1, "enum": ["virtio", "e1000"]},
    "macaddr": {"type": "string", "format": "mac-addr", "optional": 1},
    "virtio": {"alias": "macaddr", "keyAlias": "model"},
}


def problem(rule: dict[str, Any], value: Any) -> str | None:
    return check_value(rule, value, "net0")[1]


@pytest.mark.parametrize(("kind", "given", "typed"), [
    ("integer", "12", 12), ("integer", 12, 12), ("number", "1.5", 1.5), ("number", "2", 2), ("boolean", "1", 1),
    ("boolean", True, 1), ("boolean", False, 0), ("string", 5, "5"), ("array", "one", ["one"]),
])  # fmt: skip
def test_values_get_their_type(kind: str, given: Any, typed: Any) -> None:
    assert check_value({"type": kind}, given, "x") == (typed, None)


@pytest.mark.parametrize(("kind", "given"), [
    ("integer", "1.5"), ("integer", "abc"), ("integer", True), ("number", "one"), ("boolean", "yes"), ("boolean", "2"),
])  # fmt: skip
def test_other_values_are_refused(kind: str, given: Any) -> None:
    assert check_value({"type": kind}, given, "x")[1] == f"type check ('{kind}') failed - got '{given}'"


@pytest.mark.parametrize(("text", "expected"), [
    ("name=eth0,bridge=vmbr0,firewall=1", None),
    ("name=eth0,firewall=yes", None),
    ("bridge=vmbr0", "invalid format - format error\nnet0.name: property is missing and it is not optional\n"),
    ("name=eth0,nosuch=1", "invalid format - invalid key in comma-separated list property: nosuch\n"),
    ("name=eth0,name=eth1", "invalid format - duplicate key in comma-separated list property: name\n"),
    ("eth0", "invalid format - value without key, but schema does not define a default key\n"),
    ("name=eth0,tag=5000", "invalid format - format error\nnet0.tag: value must have a maximum value of 4094\n"),
])  # fmt: skip
def test_property_strings(text: str, expected: str | None) -> None:
    assert problem({"type": "string", "format": NET}, text) == expected


def test_a_bad_format_inside_a_property_string_keeps_its_own_line_end() -> None:
    expected = "value does not look like a valid ipv4 network configuration"
    told = problem({"type": "string", "format": NET}, "name=eth0,ip=10.0.0.300/24")
    assert told == f"invalid format - format error\nnet0.ip: invalid format - {expected}\n\n"


@pytest.mark.parametrize("text", ["virtio", "virtio=BC:24:11:00:00:01", "model=e1000,macaddr=BC:24:11:00:00:01"])
def test_the_model_of_a_card_may_carry_its_address(text: str) -> None:
    assert problem({"type": "string", "format": CARD}, text) is None


@pytest.mark.parametrize(("name", "good", "bad"), [
    ("pve-vmid", "100", "99"), ("dns-name", "web-1.lab", "a_b"), ("pve-configid", "before", "1bad"),
    ("pve-storage-id", "local-lvm", "-x"), ("pve-tag-list", "a;b-c", "a;!"), ("ipv4", "10.0.0.1", "10.0.0"),
    ("ipv6", "fe80::1", "10.0.0.1"), ("mac-addr", "BC:24:11:00:00:01", "01:00:5E:00:00:01"),
    ("pve-ipv4-config", "dhcp", "10.0.0.1"), ("disk-size", "8G", "8X"), ("pve-userid", "a@pve", "a"),
    ("pve-tokenid", "a@pve!t1", "a@pve"), ("pve-vmid-list", "100,101", "100,x"), ("email-opt", "", "nobody"),
    ("pve-startup-order", "order=1,up=30", "first"), ("urlencoded", "a%20b", "a%2"),
    ("lxc-ip-with-ll-iface-list", "10.0.0.1 fe80::1%eth0", "nowhere"), ("pve-volume-id", "local:iso/x.iso", "x.iso"),
])  # fmt: skip
def test_formats(name: str, good: str, bad: str) -> None:
    rule = {"type": "string", "format": name}
    assert problem(rule, good) is None
    told = problem(rule, bad)
    assert told is not None
    assert told.startswith("invalid format - ")
    assert told.endswith("\n")


def test_counted_parameters_end_where_the_hardware_does() -> None:
    endpoint = load(9)["POST", "/nodes/{node}/lxc"]
    assert endpoint.rule("net31") is not None
    assert endpoint.rule("net32") is None
    assert endpoint.rule("net01") is None


def test_every_served_endpoint_has_a_schema_in_both_versions() -> None:
    from lab.server.router import routes

    for version in (8, 9):
        known = load(version)
        assert {(route.method, route.path) for route in routes()} == set(known)
