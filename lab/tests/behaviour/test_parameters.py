"""Measured behaviour, section 4: every text of a 400, and that all of them come together."""

from __future__ import annotations

from typing import Any

import pytest

from lab.tests.behaviour.client import expect
from lab.tests.behaviour.world import MISSING, NODE, World, ct

UNKNOWN = "property is not defined in schema and the schema does not allow additional properties"
UNKNOWN_KEY = "invalid key in comma-separated list property"
ABSENT = "property is missing and it is not optional"
CONTAINERS = f"/nodes/{NODE}/lxc"
VALID = {"vmid": MISSING, "ostemplate": "local:vztmpl/any.tar.zst"}

CASES: list[tuple[str, str, str, dict[str, Any], dict[str, str]]] = [
    ("unknown, body", "POST", CONTAINERS, {**VALID, "nosuch": 1}, {"nosuch": UNKNOWN}),
    ("unknown, query of GET", "GET", "/version", {"nosuch": 1}, {"nosuch": UNKNOWN}),
    ("unknown, query of DELETE", "DELETE", f"{CONTAINERS}/{MISSING}", {"nosuch": 1}, {"nosuch": UNKNOWN}),
    ("missing, one", "POST", CONTAINERS, {"vmid": MISSING}, {"ostemplate": ABSENT}),
    ("missing, all", "POST", CONTAINERS, {}, {"ostemplate": ABSENT, "vmid": ABSENT}),
    ("type", "POST", CONTAINERS, {**VALID, "cores": "abc"}, {"cores": "type check ('integer') failed - got 'abc'"}),
    (
        "type, number",
        "POST",
        CONTAINERS,
        {**VALID, "cpulimit": "abc"},
        {"cpulimit": "type check ('number') failed - got 'abc'"},
    ),
    (
        "type, boolean",
        "POST",
        CONTAINERS,
        {**VALID, "onboot": "yes"},
        {"onboot": "type check ('boolean') failed - got 'yes'"},
    ),
    ("minimum", "POST", CONTAINERS, {**VALID, "memory": 15}, {"memory": "value must have a minimum value of 16"}),
    ("maximum", "POST", CONTAINERS, {**VALID, "cores": 8193}, {"cores": "value must have a maximum value of 8192"}),
    (
        "minimum length",
        "POST",
        CONTAINERS,
        {**VALID, "password": "1234"},
        {"password": "value must be at least 5 characters long"},
    ),
    (
        "enumeration",
        "GET",
        "/cluster/resources",
        {"type": "ct"},
        {"type": "value 'ct' does not have a value in the enumeration 'vm, storage, node, sdn'"},
    ),
    (
        "vmid too small, body",
        "POST",
        CONTAINERS,
        {**VALID, "vmid": 99},
        {"vmid": "invalid format - value does not look like a valid VM ID\n"},
    ),
    (
        "vmid too large, body",
        "POST",
        CONTAINERS,
        {**VALID, "vmid": 1000000000},
        {"vmid": "invalid format - value does not look like a valid VM ID\n"},
    ),
    (
        "vmid too small, path",
        "GET",
        f"{CONTAINERS}/99/config",
        {},
        {"vmid": "invalid format - value does not look like a valid VM ID\n"},
    ),
    (
        "vmid too large, path",
        "GET",
        f"{CONTAINERS}/1000000000/config",
        {},
        {"vmid": "invalid format - value does not look like a valid VM ID\n"},
    ),
    (
        "vmid too small, query",
        "GET",
        "/cluster/nextid",
        {"vmid": 99},
        {"vmid": "invalid format - value does not look like a valid VM ID\n"},
    ),
    (
        "hostname",
        "POST",
        CONTAINERS,
        {**VALID, "hostname": "a_b"},
        {"hostname": "invalid format - value does not look like a valid DNS name\n"},
    ),
    (
        "net0 without name",
        "POST",
        CONTAINERS,
        {**VALID, "net0": "bridge=vmbr0"},
        {"net0": "invalid format - format error\nnet0.name: property is missing and it is not optional\n"},
    ),
    (
        "snapshot name",
        "POST",
        f"{CONTAINERS}/{MISSING}/snapshot",
        {"snapname": "1bad"},
        {"snapname": "invalid format - invalid configuration ID '1bad'\n"},
    ),
    (
        "all together",
        "POST",
        CONTAINERS,
        {"vmid": 99, "cores": "abc", "memory": 1, "nosuch": 1},
        {
            "ostemplate": ABSENT,
            "vmid": "invalid format - value does not look like a valid VM ID\n",
            "cores": "type check ('integer') failed - got 'abc'",
            "memory": "value must have a minimum value of 16",
            "nosuch": UNKNOWN,
        },
    ),
]


@pytest.mark.parametrize(("method", "path", "params", "errors"), [pytest.param(*c[1:], id=c[0]) for c in CASES])
def test_texts(world: World, method: str, path: str, params: dict[str, Any], errors: dict[str, str]) -> None:
    answer = world.root.call(method, path, params)
    assert answer.errors == errors
    expect(answer, "400 Parameter verification failed.")


# Parameter lists of section 10: what each call takes, with its limits

LIMITS: list[tuple[str, str, dict[str, Any], str]] = [
    ("POST", CONTAINERS, {"arch": "vax"}, "value 'vax' does not have a value in the enumeration"),
    ("POST", CONTAINERS, {"cmode": "x"}, "value 'x' does not have a value in the enumeration 'shell, console, tty'"),
    ("POST", CONTAINERS, {"cores": 0}, "value must have a minimum value of 1"),
    ("POST", CONTAINERS, {"cpulimit": 8193}, "value must have a maximum value of 8192"),
    ("POST", CONTAINERS, {"cpuunits": 500001}, "value must have a maximum value of 500000"),
    ("POST", CONTAINERS, {"description": "d" * 8193}, "value may only be 8192 characters long"),
    ("POST", CONTAINERS, {"hostname": "a." * 128 + "b"}, "value may only be 255 characters long"),
    ("POST", CONTAINERS, {"lock": "mine"}, "value 'mine' does not have a value in the enumeration"),
    ("POST", CONTAINERS, {"nameserver": "not an address"}, "invalid format"),
    ("POST", CONTAINERS, {"parent": "s1"}, UNKNOWN),
    ("POST", CONTAINERS, {"snaptime": 1}, UNKNOWN),
    ("POST", CONTAINERS, {"net32": "name=eth0"}, UNKNOWN),
    ("POST", CONTAINERS, {"mp256": "local:1,mp=/a"}, UNKNOWN),
    ("POST", CONTAINERS, {"net0": "name=eth0,nosuch=1"}, f"invalid format - {UNKNOWN_KEY}: nosuch\n"),
    ("POST", CONTAINERS, {"ostemplate": "o" * 256}, "value may only be 255 characters long"),
    ("POST", CONTAINERS, {"ostype": "plan9"}, "value 'plan9' does not have a value in the enumeration"),
    ("POST", CONTAINERS, {"pool": "not a pool"}, "invalid format"),
    ("POST", CONTAINERS, {"startup": "sometimes"}, "invalid format"),
    ("POST", CONTAINERS, {"storage": "1!"}, "invalid format"),
    ("POST", CONTAINERS, {"swap": -1}, "value must have a minimum value of 0"),
    ("POST", CONTAINERS, {"tags": "no spaces, please!"}, "invalid format"),
    ("POST", CONTAINERS, {"tty": 7}, "value must have a maximum value of 6"),
    ("POST", f"{CONTAINERS}/{MISSING}/status/stop", {"timeout": 5}, UNKNOWN),
    ("POST", f"{CONTAINERS}/{MISSING}/status/shutdown", {"timeout": -1}, "value must have a minimum value of 0"),
    ("POST", f"{CONTAINERS}/{MISSING}/status/shutdown", {"forceStop": "x"}, "type check ('boolean') failed - got 'x'"),
    ("POST", f"{CONTAINERS}/{MISSING}/snapshot", {"snapname": "s" * 41}, "value may only be 40 characters long"),
    ("PUT", f"{CONTAINERS}/{MISSING}/resize", {"disk": "mp256", "size": "1G"}, "value 'mp256' does not have a"),
    ("POST", f"{CONTAINERS}/{MISSING}/clone", {"newid": "abc"}, "type check ('integer') failed - got 'abc'"),
    ("POST", f"{CONTAINERS}/{MISSING}/clone", {"newid": 99998, "target": "not a node"}, "invalid format"),
    ("GET", f"/nodes/{NODE}/tasks", {"limit": -1}, "value must have a minimum value of 0"),
    ("GET", f"/nodes/{NODE}/tasks", {"source": "x"}, "value 'x' does not have a value in the enumeration"),
    ("GET", f"/nodes/{NODE}/tasks", {"statusfilter": "nosuch"}, "invalid format"),
    ("GET", f"/nodes/{NODE}/storage", {"content": "no such!"}, "invalid format"),
    ("GET", f"/nodes/{NODE}/storage/local/content", {"vmid": "abc"}, "type check ('integer') failed - got 'abc'"),
]


@pytest.mark.parametrize(
    ("method", "path", "params", "text"),
    [pytest.param(*row, id=f"{row[1].removeprefix(f'/nodes/{NODE}')} {next(iter(row[2]))}") for row in LIMITS],
)
def test_limits(world: World, method: str, path: str, params: dict[str, Any], text: str) -> None:
    required = VALID if path == CONTAINERS else {}
    errors = world.root.call(method, path, {**required, **params}).errors
    [name] = errors
    assert name in params
    assert errors[name].startswith(text)


def test_unique_requires_restore(world: World) -> None:
    errors = world.root.post(CONTAINERS, **VALID, unique=1).errors
    assert errors == {"restore": "missing property - 'unique' requires this property"}


# Outside of the schema


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/nodes/nosuch/lxc"),
        ("GET", "/nodes/nosuch/tasks"),
        ("POST", "/nodes/nosuch/lxc"),
        ("GET", f"/nodes/nosuch/lxc/{MISSING}/config"),
    ],
)
def test_unknown_node(world: World, method: str, path: str) -> None:
    params = VALID if method == "POST" else {}
    expect(
        world.root.call(method, path, params),
        "500 hostname lookup 'nosuch' failed - failed to get address info for: nosuch: Name or service not known",
    )


def test_unknown_path(world: World) -> None:
    assert world.root.get("/nosuch").line == "501 Method 'GET /nosuch' not implemented"


def test_skiplock_by_somebody_else(world: World) -> None:
    answer = world.operator.post(ct(MISSING, "/status/start"), skiplock=1)
    assert answer.errors == {"skiplock": "Only root may use this option."}
