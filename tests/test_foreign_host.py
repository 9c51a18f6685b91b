"""A host on the wire that is nobody's guest and drops everything: its address is found to be in use all the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import COLLECTIONS

ADDRESS, OTHER = "10.86.67.5", "10.86.67.6"
NAMESPACE, HERE, THERE = "nhi67foreign", "nhi67a", "nhi67b"
IS_USED = """
import sys
from ipaddress import IPv4Address
from ansible_collections.nhi.core.plugins.module_utils.neighbours import is_used
print(is_used(IPv4Address(sys.argv[1])))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.lxc,
    pytest.mark.skipif(os.geteuid() != 0, reason="making a network namespace needs root"),
    pytest.mark.skipif(not shutil.which("iptables"), reason="iptables lets a host drop everything"),
]


def ip(*args: str, check: bool = True) -> None:
    subprocess.run(["ip", *args], check=check, capture_output=True)


def inside(*args: str) -> None:
    ip("netns", "exec", NAMESPACE, *args)


def is_used(address: str) -> bool:
    """As a run of nhi_vm would find out, with what the kernel of this host knows."""
    done = subprocess.run(
        [sys.executable, "-c", IS_USED, address],
        env={**os.environ, "PYTHONPATH": str(COLLECTIONS)}, text=True, capture_output=True, check=True,
    )  # fmt: skip
    return done.stdout.strip() == "True"


@pytest.fixture
def silent_host() -> Iterator[Callable[[], None]]:
    """A neighbour that answers ARP and drops every packet; calling it takes the neighbour away."""

    def clear() -> None:
        ip("link", "del", HERE, check=False)
        ip("netns", "del", NAMESPACE, check=False)

    clear()
    try:
        ip("netns", "add", NAMESPACE)
        ip("link", "add", HERE, "type", "veth", "peer", "name", THERE, "netns", NAMESPACE)
        ip("addr", "add", "10.86.67.1/28", "dev", HERE)
        ip("link", "set", HERE, "up")
        inside("ip", "addr", "add", f"{ADDRESS}/28", "dev", THERE)
        inside("ip", "link", "set", THERE, "up")
        inside("iptables", "-A", "INPUT", "-j", "DROP")
        yield lambda: inside("ip", "addr", "flush", "dev", THERE)
    finally:
        clear()


def test_a_host_that_drops_everything_is_found_and_forgotten_when_it_is_gone(
    silent_host: Callable[[], None],
) -> None:
    assert not is_used(OTHER)
    assert is_used(ADDRESS)
    silent_host()
    assert f"{HERE}\n" in Path("/proc/net/arp").read_text(), "the kernel has forgotten it: nothing would be shown"
    assert not is_used(ADDRESS)
