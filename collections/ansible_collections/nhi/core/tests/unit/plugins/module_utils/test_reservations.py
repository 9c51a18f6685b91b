# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import errno
import json
import multiprocessing
import os
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from ansible_collections.nhi.core.plugins.module_utils import reservations
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
HERE = Choice(105, IPv4Address("10.99.0.105"))


def choose(held: Held) -> Choice:
    return Choice(next_vmid(range(105, 200), held.vmids), next_address(POOL, held.addresses))


def now() -> datetime:
    return datetime.now(UTC)


def reserve_many(directory: Path, worker: int) -> None:
    for n in range(5):
        Reservations(directory).reserve(f"op-{worker}-{n}", f"guest-{worker}-{n}", now(), choose)


def reserve_and_die(directory: Path, name: str) -> None:
    Reservations(directory).reserve("op-dead", name, now(), choose)
    os._exit(9)


def run(target: object, *args: object) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=target, args=args)  # type: ignore[arg-type]
    process.start()
    return process  # type: ignore[return-value]


def test_processes_at_once_never_choose_the_same(tmp_path: Path) -> None:
    workers = [run(reserve_many, tmp_path, n) for n in range(8)]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    lines = json.loads((tmp_path / FILE_NAME).read_text())["reservations"]
    assert len(lines) == 40
    assert len({line["vmid"] for line in lines}) == len({line["address"] for line in lines}) == 40


def test_reserving_again_replaces_the_own_line(tmp_path: Path) -> None:
    ledger = Reservations(tmp_path)
    ledger.reserve("op-1", "redis", now(), lambda _: HERE)
    ledger.reserve("op-1", "redis", now(), lambda _: Choice(106, IPv4Address("10.99.0.106")))
    assert ledger.peek() == Held({106: "redis"}, {IPv4Address("10.99.0.106"): "redis"})
    ledger.release("op-1")
    assert ledger.peek() == Held({}, {})


def test_an_address_stays_held_after_the_guest_was_made_and_its_vmid_does_not(tmp_path: Path) -> None:
    ledger = Reservations(tmp_path)
    ledger.reserve("op-1", "redis", now(), lambda _: HERE)
    ledger.keep("op-1")
    assert ledger.peek() == Held({}, {IPv4Address("10.99.0.105"): "redis"})
    ledger.forget("redis", 105)
    assert ledger.peek() == Held({}, {})


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


def test_the_line_of_a_killed_run_frees_the_name_at_once_and_the_address_later(tmp_path: Path) -> None:
    run(reserve_and_die, tmp_path, "redis").join(30)
    ledger = Reservations(tmp_path)
    assert IPv4Address("10.99.0.105") in ledger.peek().addresses
    assert ledger.reserve("op-2", "other", now(), choose).address == IPv4Address("10.99.0.106")
    assert ledger.reserve("op-3", "redis", now(), choose).vmid == 105


def test_lines_expire(tmp_path: Path) -> None:
    ledger = Reservations(tmp_path)
    ledger.reserve("op-1", "redis", now(), lambda _: HERE)
    document = json.loads((tmp_path / FILE_NAME).read_text())
    document["reservations"][0]["at"] = (now() - timedelta(hours=2)).isoformat()
    (tmp_path / FILE_NAME).write_text(json.dumps(document))
    assert ledger.peek() == Held({}, {})


@pytest.mark.parametrize("text", ["", "{", "[]", '{"reservations": [{}]}'])
def test_a_damaged_ledger_stops_the_run_and_names_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(StateError, match=FILE_NAME):
        Reservations(tmp_path).reserve("op-1", "redis", now(), choose)


def test_a_full_disk_leaves_the_ledger_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Reservations(tmp_path).reserve("op-1", "one", now(), choose)
    before = (tmp_path / FILE_NAME).read_bytes()

    def fill_up(path: Path, _data: bytes) -> None:
        path.write_bytes(b"{")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(reservations, "write_new", fill_up)
    with pytest.raises(StateError, match="no space left on device; nothing was chosen"):
        Reservations(tmp_path).reserve("op-2", "two", now(), choose)
    assert (tmp_path / FILE_NAME).read_bytes() == before
    assert not list(tmp_path.glob("*.tmp"))


def test_a_directory_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="file/infrastructure"):
        Reservations(tmp_path / "file" / "infrastructure").reserve("op-1", "redis", now(), choose)
