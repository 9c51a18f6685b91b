"""A host on the wire that is nobody's guest and drops everything: its addresses are found to be in use all the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import COLLECTIONS

ADDRESS, OTHER = "10.86.67.5", "10.86.67.6"
SIX, OTHER_SIX = "fd86:67::5", "fd86:67::6"
NAMESPACE, HERE, THERE = "nhi67foreign", "nhi67a", "nhi67b"
# As an ordinary user nothing may be asked on the wire: only what the kernel found out counts.
IS_USED = """
import os, sys
from ipaddress import ip_address
from ansible_collections.nhi.core.plugins.module_utils.neighbours import is_used
if sys.argv[2:]:
    os.setuid(int(sys.argv[2]))
print(is_used(ip_address(sys.argv[1])))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.lxc,
    pytest.mark.skipif(os.geteuid() != 0, reason="making a network namespace needs root"),
    pytest.mark.skipif(not shutil.which("ip6tables"), reason="iptables lets a host drop everything"),
]


def ip(*args: str, check: bool = True) -> None:
    subprocess.run(["ip", *args], check=check, capture_output=True)


def inside(*args: str) -> None:
    ip("netns", "exec", NAMESPACE, *args)


def is_used(address: str, *user: str) -> bool:
    """As a run of nhi_vm would find out, with what the kernel of this host knows."""
    done = subprocess.run(
        [sys.executable, "-c", IS_USED, address, *user],
        env={**os.environ, "PYTHONPATH": str(COLLECTIONS)}, text=True, capture_output=True, check=True,
    )  # fmt: skip
    return done.stdout.strip() == "True"


def wait_for_link_local() -> None:
    """Until duplicate address detection is done no address of the link may be used."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        shown = subprocess.run(["ip", "-6", "addr", "show", "dev", HERE], text=True, capture_output=True, check=True)
        if "fe80::" in shown.stdout and "tentative" not in shown.stdout:
            return
        time.sleep(0.1)
    raise AssertionError(f"{HERE} has no link-local address: {shown.stdout}")


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
        ip("addr", "add", "fd86:67::1/64", "dev", HERE, "nodad")
        ip("link", "set", HERE, "up")
        inside("ip", "addr", "add", f"{ADDRESS}/28", "dev", THERE)
        inside("ip", "addr", "add", f"{SIX}/64", "dev", THERE, "nodad")
        inside("ip", "link", "set", THERE, "up")
        inside("iptables", "-A", "INPUT", "-j", "DROP")
        # Without these nobody could reach it at all.
        inside("ip6tables", "-A", "INPUT", "-p", "icmpv6", "--icmpv6-type", "135", "-j", "ACCEPT")
        inside("ip6tables", "-A", "INPUT", "-p", "icmpv6", "--icmpv6-type", "136", "-j", "ACCEPT")
        inside("ip6tables", "-A", "INPUT", "-j", "DROP")
        wait_for_link_local()
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


def test_a_host_that_drops_everything_is_found_by_ipv6_and_forgotten_when_it_is_gone(
    silent_host: Callable[[], None],
) -> None:
    assert not is_used(OTHER_SIX)
    assert is_used(SIX)
    silent_host()
    shown = subprocess.run(["ip", "-6", "neigh", "show", SIX], text=True, capture_output=True, check=True)
    assert "lladdr" in shown.stdout, "the kernel has forgotten it: nothing would be shown"
    assert not is_used(SIX)


def test_a_host_that_drops_everything_is_found_by_ipv6_without_root(silent_host: Callable[[], None]) -> None:
    assert is_used(SIX, "65534")
    assert not is_used(OTHER_SIX, "65534")


def test_the_own_address_of_this_host_is_in_use(silent_host: Callable[[], None]) -> None:
    assert is_used("fd86:67::1")
