# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from ansible_collections.nhi.core.plugins.module_utils.allocation import (
    AddressPool,
    next_address,
    next_vmid,
    parse_interface,
    parse_pool,
    parse_vmid_range,
)
from ansible_collections.nhi.core.plugins.module_utils.errors import AllocationError, PreflightError
from hypothesis import given
from hypothesis import strategies as st

vmids = st.integers(100, 140)


@given(first=vmids, last=vmids, taken=st.frozensets(vmids), excluded=st.frozensets(vmids), hint=st.none() | vmids)
def test_a_vmid_is_in_range_and_free_and_found_whenever_there_is_one(
    first: int, last: int, taken: frozenset[int], excluded: frozenset[int], hint: int | None
) -> None:
    wanted = range(min(first, last), max(first, last) + 1)
    free = set(wanted) - taken - excluded
    if not free:
        with pytest.raises(AllocationError, match=f"all {len(wanted)} are taken"):
            next_vmid(wanted, taken, excluded=excluded, hint=hint)
        return
    found = next_vmid(wanted, taken, excluded=excluded, hint=hint)
    assert found in free
    if hint in free:
        assert found == hint


offsets = st.integers(0, 63)


@given(
    first=offsets, last=offsets, gateway=st.none() | offsets,
    taken=st.frozensets(offsets), reserved=st.frozensets(offsets), hint=st.none() | st.integers(0, 300),
)  # fmt: skip
def test_an_address_is_usable_and_free_and_found_whenever_there_is_one(
    first: int, last: int, gateway: int | None, taken: frozenset[int], reserved: frozenset[int], hint: int | None
) -> None:
    network = IPv4Network("10.0.0.0/26")
    first, last = min(first, last), max(first, last)
    pool = AddressPool(network, network[first], network[last], None if gateway is None else network[gateway])
    free = set(range(first, last + 1)) - taken - reserved - {0, 63} - {gateway}
    if not free:
        with pytest.raises(AllocationError, match=f"all {last - first + 1} are taken"):
            next_address(pool, [network[n] for n in taken], reserved=[network[n] for n in reserved], hint=hint)
        return
    found = next_address(pool, [network[n] for n in taken], reserved=[network[n] for n in reserved], hint=hint)
    assert int(found) - int(network[0]) in free
    if hint in free:
        assert found == network[hint]


def test_vmid_ranges() -> None:
    assert parse_vmid_range("105-199") == range(105, 200)
    assert parse_vmid_range(" 150 ") == range(150, 151)


@pytest.mark.parametrize("text", ["", "a-b", "199-105", "99-200", "105..199", "105-1000000000"])
def test_a_wrong_vmid_range_is_refused(text: str) -> None:
    with pytest.raises(PreflightError, match="105-199"):
        parse_vmid_range(text)


def test_pools() -> None:
    pool = parse_pool("10.86.0.105-10.86.0.199", 24, "10.86.0.1")
    assert (pool.first, pool.last, pool.size) == (IPv4Address("10.86.0.105"), IPv4Address("10.86.0.199"), 95)
    assert pool.interface(pool.first) == "10.86.0.105/24"
    assert parse_pool("10.86.0.0/24").size == 256
    block = parse_pool("10.86.0.128/25", 24)
    assert (block.network, block.first) == (IPv4Network("10.86.0.0/24"), IPv4Address("10.86.0.128"))


@pytest.mark.parametrize(
    ("text", "prefix", "gateway"),
    [
        ("10.0.0.9-10.0.0.5", 24, None), ("10.0.0.5-10.0.1.9", 24, None), ("10.0.0.5-10.0.0.9", None, None),
        ("10.0.0.5-x", 24, None), ("fe80::/64", None, None), ("10.0.0.0/33", None, None), ("10.0.0.0/24", None, "x"),
    ],
)  # fmt: skip
def test_a_wrong_pool_is_refused(text: str, prefix: int | None, gateway: str | None) -> None:
    with pytest.raises(PreflightError):
        parse_pool(text, prefix, gateway)


def test_network_and_broadcast_addresses_are_for_nobody() -> None:
    for text in ("10.0.0.0/24", "10.0.0.255/24"):
        with pytest.raises(PreflightError, match="broadcast"):
            parse_interface(text)
    assert str(parse_interface("10.0.0.0/31")) == "10.0.0.0/31"
    assert str(parse_interface("10.0.0.5", 24)) == "10.0.0.5/24"
    with pytest.raises(PreflightError, match="prefix"):
        parse_interface("10.0.0.5")
