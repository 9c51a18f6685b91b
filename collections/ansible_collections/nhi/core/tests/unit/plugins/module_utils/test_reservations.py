# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import errno
import json
import multiprocessing
import os
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from ansible_collections.nhi.core.plugins.module_utils import files
from ansible_collections.nhi.core.plugins.module_utils.allocation import next_address, next_vmid, parse_pool
from ansible_collections.nhi.core.plugins.module_utils.errors import PreflightError, StateError
from ansible_collections.nhi.core.plugins.module_utils.reservations import (
    FILE_NAME,
    AppearedMeanwhileError,
    Choice,
    Held,
    Reservations,
)

POOL = parse_pool("10.99.0.105-10.99.0.199", 24)
MAC = "bc:24:11:00:00:01"
ADDRESS = IPv4Address("10.99.0.105")
HERE = Choice(105, {0: ADDRESS})


def four(held: Held) -> set[IPv4Address]:
    return {address for address in held.addresses if isinstance(address, IPv4Address)}


def choose(held: Held) -> Choice:
    return Choice(next_vmid(range(105, 200), held.vmids), {0: next_address(POOL, four(held))})


def now() -> datetime:
    return datetime.now(UTC)


def reserve_many(directory: Path, worker: int, barrier: Barrier) -> None:
    for n in range(5):
        Reservations(directory).reserve(f"op-{worker}-{n}", f"guest-{worker}-{n}", now(), choose)
    barrier.wait(60)  # what the dead reserved is free again


def reserve_and_die(directory: Path, name: str) -> None:
    Reservations(directory).reserve("op-dead", name, now(), choose)
    os._exit(9)


def made(ledger: Reservations, operation: str, name: str) -> None:
    ledger.reserve(operation, name, now(), lambda _: HERE)
    ledger.keep(operation, "lxc", [MAC.upper()])


def age(directory: Path, **by: float) -> None:
    """Let all lines be older."""
    document = json.loads((directory / FILE_NAME).read_text())
    for line in document["reservations"]:
        for time in ("at", "until"):
            if line[time]:
                line[time] = (datetime.fromisoformat(line[time]) - timedelta(**by)).isoformat()
    (directory / FILE_NAME).write_text(json.dumps(document))


def run(target: object, *args: object) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=target, args=args)  # type: ignore[arg-type]
    process.start()
    return process  # type: ignore[return-value]


def test_processes_at_once_never_choose_the_same(tmp_path: Path) -> None:
    barrier = multiprocessing.get_context("fork").Barrier(9)
    workers = [run(reserve_many, tmp_path, n, barrier) for n in range(8)]
    barrier.wait(60)
    lines = json.loads((tmp_path / FILE_NAME).read_text())["reservations"]
    assert len(lines) == 40
    assert len({line["vmid"] for line in lines}) == len({line["address"] for line in lines}) == 40
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0


def test_reserving_again_replaces_the_own_line(tmp_path: Path) -> None:
    ledger = Reservations(tmp_path)
    ledger.reserve("op-1", "redis", now(), lambda _: HERE)
    ledger.reserve("op-1", "redis", now(), lambda _: Choice(106, {0: IPv4Address("10.99.0.106")}))
    assert ledger.peek() == Held({106: "redis"}, {IPv4Address("10.99.0.106"): "redis"})
    ledger.release("op-1")
    assert ledger.peek() == Held({}, {})


def test_an_address_stays_held_after_the_guest_was_made_and_its_vmid_does_not(tmp_path: Path) -> None:
    ledger = Reservations(tmp_path)
    made(ledger, "op-1", "redis")
    assert ledger.peek() == Held({}, {ADDRESS: "redis"})
    age(tmp_path, hours=1000)
    assert ledger.peek() == Held({}, {ADDRESS: "redis"})


def test_the_address_of_a_destroyed_guest_rests_and_is_then_free(tmp_path: Path) -> None:
    ledger = Reservations(tmp_path, 60)
    made(ledger, "op-1", "redis")
    ledger.forget("redis", 105)
    held = ledger.peek()
    assert (held.addresses, held.departed) == ({}, {ADDRESS: frozenset({MAC})})
    assert held.quarantined[ADDRESS].names == {"redis"}
    assert 55 < (held.quarantined[ADDRESS].until - now()).total_seconds() <= 60
    age(tmp_path, minutes=2)
    assert ledger.peek() == Held({}, {}, {}, {ADDRESS: frozenset({MAC})})
    age(tmp_path, hours=2)
    assert ledger.peek() == Held({}, {})


def test_without_a_quarantine_an_address_is_free_at_once(tmp_path: Path) -> None:
    ledger = Reservations(tmp_path, 0)
    made(ledger, "op-1", "redis")
    ledger.forget("redis", 105)
    assert ledger.peek().quarantined == {}


def test_the_address_of_a_destroyed_guest_without_a_line_rests_too(tmp_path: Path) -> None:
    ledger = Reservations(tmp_path)
    ledger.forget("old", 120, {"10.99.0.120": MAC})
    assert ledger.peek().quarantined[IPv4Address("10.99.0.120")].names == {"old"}
    assert ledger.peek().departed == {IPv4Address("10.99.0.120"): frozenset({MAC})}


def test_a_guest_that_is_not_found_any_more_gives_its_address_to_the_quarantine(tmp_path: Path) -> None:
    ledger = Reservations(tmp_path)
    made(ledger, "op-1", "redis")
    assert [line.operation for line in ledger.used()] == ["op-1"]
    seen: list[Held] = []

    def look(held: Held) -> Choice:
        seen.append(held)
        return Choice(106, {0: IPv4Address("10.99.0.106")})

    ledger.reserve("op-2", "other", now() - timedelta(minutes=1), look, gone={"op-1"})
    assert ADDRESS in seen[0].addresses, "made after the cluster was read"
    ledger.reserve("op-2", "other", now(), look, gone={"op-1"})
    assert ADDRESS in seen[1].quarantined
    assert ADDRESS in ledger.peek().quarantined
    assert ledger.used() == []


def test_a_guest_that_got_another_address_leaves_the_old_one_to_the_quarantine(tmp_path: Path) -> None:
    ledger = Reservations(tmp_path)
    made(ledger, "op-1", "redis")
    ledger.reserve("op-2", "redis", now(), lambda _: Choice(105, {0: IPv4Address("10.99.0.150")}))
    ledger.keep("op-2")
    held = ledger.peek()
    assert held.addresses == {IPv4Address("10.99.0.150"): "redis"}
    assert held.quarantined.keys() == {ADDRESS}


def test_every_fixed_address_of_a_guest_is_held_and_freed(tmp_path: Path) -> None:
    ledger, second = Reservations(tmp_path), IPv4Address("10.98.0.7")
    ledger.reserve("op-1", "redis", now(), lambda _: Choice(105, {0: ADDRESS, 1: second}))
    assert ledger.peek() == Held({105: "redis"}, {ADDRESS: "redis", second: "redis"})
    ledger.keep("op-1", "lxc", [MAC])
    ledger.keep("op-1")
    assert ledger.peek() == Held({}, {ADDRESS: "redis", second: "redis"})
    ledger.forget("redis", 105)
    assert ledger.peek().quarantined.keys() == {ADDRESS, second}
    ledger.reserve("op-2", "redis", now(), lambda _: Choice(105, {0: ADDRESS, 1: second}))
    ledger.release("op-2")
    assert ledger.peek().addresses == {}


def test_lines_of_the_first_format_are_read(tmp_path: Path) -> None:
    holder = {"operation": "op-1", "actor": "root", "pid": 1, "host": "elsewhere", "since": now().isoformat()}
    line = {"operation": "op-1", "name": "redis", "vmid": 105, "address": "10.99.0.105", "at": now().isoformat()}
    lines = [{**line, "status": "used", "holder": holder}]
    lines += [{**line, "operation": "op-2", "address": "10.99.0.106", "status": "reserved", "holder": holder}]
    (tmp_path / FILE_NAME).write_text(json.dumps({"schema_version": 1, "reservations": lines}))
    ledger = Reservations(tmp_path)
    assert [str(address) for address in ledger.peek().addresses] == ["10.99.0.105", "10.99.0.106"]
    ledger.forget("redis", 105)
    assert ADDRESS in ledger.peek().quarantined


def test_a_ledger_of_a_later_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(json.dumps({"schema_version": 4, "reservations": []}))
    with pytest.raises(StateError, match="schema version 4"):
        Reservations(tmp_path).peek()


def test_the_vmid_of_a_guest_that_was_made_since_the_cluster_was_read_is_not_tried(tmp_path: Path) -> None:
    ledger, read_at = Reservations(tmp_path), now()
    made(ledger, "op-1", "redis")
    assert ledger.reserve("op-2", "other", read_at, choose).vmid == 106
    assert ledger.reserve("op-3", "third", now(), choose).vmid == 105, "a later reading knows better"


def test_a_name_that_another_run_is_making_is_refused_with_who_it_is(tmp_path: Path) -> None:
    ledger = Reservations(tmp_path)
    ledger.reserve("op-1", "redis", now(), lambda _: HERE)
    with pytest.raises(PreflightError, match=f"as VMID 105 right now: op-1 by .* .pid {os.getpid()} "):
        ledger.reserve("op-2", "redis", now(), choose)


def test_a_guest_made_since_the_cluster_was_read_calls_for_another_look(tmp_path: Path) -> None:
    ledger, read_at = Reservations(tmp_path), now()
    ledger.reserve("op-1", "redis", now(), lambda _: HERE)
    ledger.keep("op-1")
    with pytest.raises(AppearedMeanwhileError, match="VMID 105"):
        ledger.reserve("op-2", "redis", read_at, choose)
    # Read later and not found there: it is gone again.
    assert ledger.reserve("op-2", "redis", now(), choose).vmid == 105


def test_a_run_that_was_killed_before_it_made_anything_holds_nothing(tmp_path: Path) -> None:
    run(reserve_and_die, tmp_path, "redis").join(30)
    assert Reservations(tmp_path).peek() == Held({}, {})


def test_a_run_that_was_killed_later_holds_its_address_until_its_journal_is_settled(tmp_path: Path) -> None:
    run(reserve_and_die, tmp_path, "redis").join(30)
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / "op-dead.jsonl").write_text("")
    age(tmp_path, hours=2)
    ledger = Reservations(tmp_path)
    assert ledger.peek().addresses == {ADDRESS: "redis"}
    assert ledger.reserve("op-2", "redis", now(), choose).addresses == {0: IPv4Address("10.99.0.106")}
    ledger.release("op-dead")
    assert ADDRESS not in ledger.peek().addresses


def test_a_reservation_of_which_nobody_knows_anything_expires(tmp_path: Path) -> None:
    ledger = Reservations(tmp_path)
    ledger.reserve("op-1", "redis", now(), lambda _: HERE)
    age(tmp_path, hours=2)
    assert ledger.peek() == Held({}, {})


def test_the_line_of_a_guest_without_an_address_expires(tmp_path: Path) -> None:
    ledger = Reservations(tmp_path)
    ledger.reserve("op-1", "redis", now(), lambda _: Choice(105))
    ledger.keep("op-1")
    age(tmp_path, hours=2)
    ledger.release("none")
    assert json.loads((tmp_path / FILE_NAME).read_text())["reservations"] == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"reservations": [{}]}'])
def test_a_damaged_ledger_stops_the_run_and_names_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(StateError, match=FILE_NAME):
        Reservations(tmp_path).reserve("op-1", "redis", now(), choose)


def test_a_full_disk_leaves_the_ledger_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Reservations(tmp_path).reserve("op-1", "one", now(), choose)
    before = (tmp_path / FILE_NAME).read_bytes()

    def fill_up(path: Path, _data: bytes, _mode: int) -> None:
        path.write_bytes(b"{")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "write_new", fill_up)
    with pytest.raises(StateError, match="no space left on device; nothing was chosen"):
        Reservations(tmp_path).reserve("op-2", "two", now(), choose)
    assert (tmp_path / FILE_NAME).read_bytes() == before
    assert not list(tmp_path.glob("*.tmp"))


def test_a_directory_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="file/infrastructure"):
        Reservations(tmp_path / "file" / "infrastructure").reserve("op-1", "redis", now(), choose)


def test_an_ipv6_address_is_held_bound_freed_and_rests_like_any_other(tmp_path: Path) -> None:
    ledger, six = Reservations(tmp_path), IPv6Address("fd00:99::5")
    ledger.reserve("op-1", "redis", now(), lambda _: Choice(105, {0: ADDRESS}, {0: six}))
    assert ledger.peek() == Held({105: "redis"}, {ADDRESS: "redis", six: "redis"})
    ledger.keep("op-1", "lxc", [MAC])
    assert [line.address for line in ledger.used()] == [str(ADDRESS), "fd00:99::5"]
    ledger.forget("redis", 105, {"fd00:99::5": MAC})
    assert ledger.peek().addresses == {}
    assert ledger.peek().quarantined[six].names == {"redis"}
    assert ledger.peek().departed[six] == {MAC}


def test_a_line_of_the_same_guest_and_address_is_replaced_and_others_of_it_rest(tmp_path: Path) -> None:
    ledger, second, third = Reservations(tmp_path), IPv4Address("10.98.0.7"), IPv4Address("10.98.0.8")
    ledger.reserve("op-1", "redis", now(), lambda _: Choice(105, {0: ADDRESS, 1: second}))
    ledger.keep("op-1", "lxc", [MAC])
    ledger.reserve("op-2", "redis", now(), lambda _: Choice(105, {0: ADDRESS, 1: third}))
    ledger.keep("op-2", "lxc", [MAC])
    assert [(line.operation, line.address) for line in ledger.used()] == [("op-2", str(ADDRESS)), ("op-2", str(third))]
    assert ledger.peek().quarantined.keys() == {second}
