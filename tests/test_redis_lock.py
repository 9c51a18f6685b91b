"""Several Brains with one lock in a real Redis, and what can happen between them: no update is ever lost."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.nhi.core.plugins.module_utils._redis import LockClient
from ansible_collections.nhi.core.plugins.module_utils.budget import BudgetLedger, Spending
from ansible_collections.nhi.core.plugins.module_utils.errors import LockBackendError, LockLostError, LockTimeoutError
from ansible_collections.nhi.core.plugins.module_utils.lease import HeldLease, Lease, look
from ansible_collections.nhi.core.plugins.module_utils.lock import Holder
from ansible_collections.nhi.core.plugins.module_utils.lock_settings import lock_settings
from ansible_collections.nhi.core.plugins.module_utils.lock_status import HELD, UNKNOWN, holds_in
from ansible_collections.nhi.core.plugins.module_utils.reservations import Reservations
from ansible_collections.nhi.core.plugins.module_utils.shared_lock import SharedLock, infrastructure_lock
from ansible_collections.nhi.core.plugins.module_utils.state_document import utc_now
from redis import Redis as RedisPackage

from .brains import PASSWORD, TTL_SECONDS, Redis, Site, Writer, brains, count_up, counted
from .conftest import COLLECTIONS, clean_environment

pytestmark = pytest.mark.slow

LONGER_THAN_THE_LEASE = TTL_SECONDS + 0.3


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    server = Redis(tmp_path / "redis")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def shared(tmp_path: Path, redis: Redis) -> Iterator[list[Site]]:
    """Two Brains on one directory."""
    with brains(tmp_path, redis, 2, shared=True) as sites:
        yield sites


@pytest.fixture
def apart(tmp_path: Path, redis: Redis) -> Iterator[list[Site]]:
    """Two Brains, each on a disk of its own."""
    with brains(tmp_path, redis, 2, shared=False) as sites:
        yield sites


@pytest.fixture
def here(shared: list[Site], monkeypatch: pytest.MonkeyPatch) -> Site:
    """The first of them, in this process."""
    for name, value in shared[0].environment.items():
        monkeypatch.setenv(name, value)
    return shared[0]


def client_of(site: Site) -> LockClient:
    return LockClient(lock_settings(site.directory, site.environment))


def lease_of(site: Site, name: str = "test.lock") -> Lease:
    return Lease(client_of(site), "lab", name, ttl_seconds=TTL_SECONDS)


def take(lease: Lease, timeout: float = 5.0, floor: int = 0) -> int:
    lease.acquire(Holder.me("a test", "luca"), floor=floor, timeout=timeout)
    return lease.fence


# Partitions


def test_after_a_partition_a_write_is_refused_by_the_fence(shared: list[Site]) -> None:
    a, b = shared
    assert Writer(b, flock_reaches=False).writes() == "written"
    cut_off = Writer(a, flock_reaches=False)
    cut_off.has_the_lock()
    a.wire.cut()
    assert Writer(b, flock_reaches=False).writes() == "written", "B gets the lock when A's lease ends"
    assert b.count() == 2
    newer, before = b.fence(), (b.directory / "state.json").read_bytes()
    a.wire.mend()
    told = cut_off.goes_on()
    assert told.startswith("LockLostError: ")
    assert f"was written under fence {newer} since this run got the lock under fence" in told
    assert (b.directory / "state.json").read_bytes() == before
    assert Writer(a, flock_reaches=False).writes() == "written"
    assert a.count() == 3
    assert a.fence() > newer


def test_without_a_shared_disk_redis_says_that_the_lock_is_lost(apart: list[Site]) -> None:
    a, b = apart
    cut_off = Writer(a)
    cut_off.has_the_lock()
    a.wire.cut()
    assert Writer(b).writes() == "written"
    a.wire.mend()
    assert "LockLostError: The lock state.lock in Redis is no longer held by this run" in cut_off.goes_on()
    assert a.store.read_or_none() is None
    assert Writer(a).writes() == "written"
    assert a.fence() > b.fence()


def test_who_is_cut_off_writes_nothing(apart: list[Site]) -> None:
    a, _b = apart
    cut_off = Writer(a)
    cut_off.has_the_lock()
    a.wire.cut()
    told = cut_off.goes_on()
    assert told.startswith("LockBackendError: Redis at 127.0.0.1:")
    assert "Nothing was written" in told
    assert a.store.read_or_none() is None
    assert sorted(p.name for p in a.directory.iterdir()) == ["lock.json", "state.lock"]


def test_on_a_disk_whose_locks_reach_the_next_waits_for_the_file_too(shared: list[Site]) -> None:
    a, b = shared
    cut_off = Writer(a)
    cut_off.has_the_lock()
    a.wire.cut()
    waiting = Writer(b)
    time.sleep(LONGER_THAN_THE_LEASE)
    assert cut_off.goes_on().startswith("Lock")
    assert waiting.writes() == "written"
    assert b.count() == 1


def test_a_suspended_holder_finds_its_lock_lost(apart: list[Site]) -> None:
    a, b = apart
    asleep = Writer(a)
    asleep.has_the_lock()
    asleep.stopped()
    try:
        assert Writer(b).writes() == "written"
    finally:
        asleep.continued()
    assert asleep.goes_on().startswith("LockLostError")
    assert a.store.read_or_none() is None


def test_a_killed_holder_keeps_others_out_no_longer_than_its_lease(apart: list[Site]) -> None:
    a, b = apart
    doomed = Writer(a)
    doomed.has_the_lock()
    doomed.killed()
    began = time.monotonic()
    assert Writer(b).writes() == "written"
    assert time.monotonic() - began < 10
    assert Writer(a).writes() == "written", "the file lock went with its process"


def test_where_only_redis_keeps_brains_apart_no_update_is_lost(shared: list[Site]) -> None:
    context = multiprocessing.get_context("spawn")
    failed = context.Queue()
    workers = [
        context.Process(target=count_up, args=(site.directory, site.environment, 15, failed))
        for site in shared
        for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    assert [failed.get(timeout=120) for _worker in workers] == [None] * 4
    for worker in workers:
        worker.join(10)
    assert shared[0].count() == 60


# Redis itself


def test_redis_that_dies_takes_the_write_with_it(shared: list[Site], redis: Redis) -> None:
    a, b = shared
    assert Writer(a).writes() == "written"
    before = (a.directory / "state.json").read_bytes()
    holder = Writer(a)
    holder.has_the_lock()
    redis.kill()
    told = holder.goes_on()
    assert told.startswith("LockBackendError: Redis at 127.0.0.1:")
    assert "set backend to file" in told
    assert PASSWORD not in told
    assert (a.directory / "state.json").read_bytes() == before
    assert not (a.directory / "state.json.tmp").exists()
    redis.start()
    assert Writer(b).writes() == "written"
    assert a.count() == 2


def test_redis_that_lost_its_data_gives_no_number_twice(apart: list[Site], redis: Redis) -> None:
    a, b = apart
    holder = Writer(a)
    holder.has_the_lock()
    fence = look_at(a).fence
    redis.kill()
    redis.start()
    assert look(client_of(a), "lab", "state.lock") is None
    assert Writer(b).writes() == "written"
    assert b.fence() > fence
    assert holder.goes_on().startswith("LockLostError")
    assert a.store.read_or_none() is None


def look_at(site: Site, name: str = "state.lock") -> HeldLease:
    found = look(client_of(site), "lab", name)
    assert found is not None
    return found


def test_a_fence_is_above_the_one_in_the_state_whatever_the_clock_says(here: Site) -> None:
    here.store.amend(counted)
    far = 2**52
    raw = (here.directory / "state.json").read_bytes().replace(str(here.fence()).encode(), str(far).encode())
    (here.directory / "state.json").write_bytes(raw)
    assert here.store.regenerate_checksum()
    here.store.amend(counted)
    assert far < (fence := here.fence()) < far + 10
    (here.directory / "lock.json").unlink()
    here.store.amend(counted)
    assert here.fence() == fence, "a writer without a lease keeps the number"


def test_the_number_goes_with_a_state_that_is_restored(here: Site) -> None:
    document = here.store.amend(counted).document
    fence = here.fence()
    (here.directory / "state.json").write_bytes(b"{}")
    here.store.restore(document)
    assert here.fence() > fence


# The lease alone


def test_a_lease_is_renewed_as_long_as_it_is_held(shared: list[Site]) -> None:
    first, second = (lease_of(site) for site in shared)
    fence = take(first)
    time.sleep(2 * TTL_SECONDS)
    with pytest.raises(
        LockTimeoutError, match=r"test\.lock is held by a test by luca \(pid \d+ on .*gave up after 0 s"
    ):
        take(second, timeout=0.0)
    first.confirm()
    first.release()
    assert take(second) > fence
    second.release()
    assert look(client_of(shared[0]), "lab", "test.lock") is None


def test_only_the_owner_releases(shared: list[Site]) -> None:
    a, b = shared
    first, second = lease_of(a), lease_of(b)
    take(first)
    a.wire.cut()
    fence = take(second)
    a.wire.mend()
    with pytest.raises(LockLostError):
        first.confirm()
    first.release()
    assert look_at(b, "test.lock").fence == fence
    second.confirm()
    second.release()


def test_a_lease_that_can_not_be_renewed_is_known_to_be_lost_when_it_ends(shared: list[Site]) -> None:
    lease = lease_of(shared[0])
    take(lease)
    shared[0].wire.cut()
    with pytest.raises(LockBackendError):
        lease.confirm()
    time.sleep(2 * LONGER_THAN_THE_LEASE)
    with pytest.raises(LockLostError, match="could not be asked since before it ended"):
        lease.confirm()
    lease.release()


def test_locks_of_labs_that_share_a_redis_are_different(shared: list[Site]) -> None:
    client = client_of(shared[0])
    one, other = (Lease(client, lab, "test.lock", ttl_seconds=TTL_SECONDS) for lab in ("one", "other"))
    take(one)
    take(other, timeout=0.0)
    one.release()
    other.release()


# `nhi lock status`


def test_a_lock_that_another_brain_holds_is_told_with_its_end(
    apart: list[Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = apart
    for name, value in b.environment.items():
        monkeypatch.setenv(name, value)
    assert holds_in(b.directory) == []
    lease = lease_of(a, "state.lock")
    lease.acquire(replace(Holder.me("write the state", "luca"), host="attic"), floor=0, timeout=5.0)
    found = {hold.name: hold for hold in holds_in(b.directory)}["state.lock"]
    assert (found.state, found.lives, found.fence) == (HELD, None, lease.fence)
    assert "Held on attic: its lease in Redis ends in" in found.advice
    lease.release()
    doomed = Writer(b)
    doomed.has_the_lock()
    doomed.stopped()
    found = {hold.name: hold for hold in holds_in(b.directory)}["state.lock"]
    assert (found.state, found.lives) == (HELD, True)
    assert found.fence is not None
    doomed.killed()
    found = {hold.name: hold for hold in holds_in(b.directory)}["state.lock"]
    assert "Its holder is gone: its lease in Redis ends in" in found.advice
    b.wire.cut()
    cut_off = next(hold for hold in holds_in(b.directory) if hold.kind == "lease")
    assert cut_off.state == UNKNOWN
    assert PASSWORD not in cut_off.advice


# What is written under it besides the state


def test_the_ledgers_are_not_written_without_the_lock(here: Site) -> None:
    reservations, budgets = Reservations(here.directory), BudgetLedger(here.directory)
    with infrastructure_lock(here.directory, "make", timeout=5.0) as lock:
        assert lock.fence == look_at(here, "infrastructure.lock").fence
    here.wire.cut()
    with pytest.raises(LockBackendError, match="Nothing was written"):
        reservations.release("op-1")
    with pytest.raises(LockBackendError):
        budgets.spend("op-1", "aider", Spending(("create",), "x"), lambda _who: {}, (), utc_now())
    assert not list(here.directory.glob("*.json.tmp"))
    assert {p.name for p in here.directory.glob("*.json")} == {"lock.json"}


def test_a_lock_that_was_lost_under_a_ledger_stops_its_write(here: Site, redis: Redis) -> None:
    committed: list[str] = []

    def budgets_of(_who: str | None) -> dict[str, int]:
        redis.kill()
        redis.start()
        return {}

    with pytest.raises(LockLostError):
        BudgetLedger(here.directory).spend(
            "op-1", "aider", Spending(("create",), "x"), budgets_of, (), utc_now(), lambda: committed.append("used")
        )
    assert committed == [], "the single use of a plan is not spent either"


def test_a_lock_that_redis_does_not_give_leaves_the_file_free(here: Site) -> None:
    with SharedLock(here.directory, "state.lock", "first", timeout=5.0):
        pass
    other = lease_of(here, "state.lock")
    take(other)
    with pytest.raises(LockTimeoutError):
        SharedLock(here.directory, "state.lock", "second", timeout=0.1).acquire()
    other.release()
    with SharedLock(here.directory, "state.lock", "third", timeout=0.1) as lock:
        assert lock.held


def test_a_wrong_password_is_told_without_it(here: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NHI_REDIS_PASSWORD", "open sesame")
    with pytest.raises(LockBackendError) as caught:
        here.store.amend(counted)
    assert "invalid username-password pair" in str(caught.value)
    assert "sesame" not in str(caught.value)


def test_with_the_file_lock_nothing_of_redis_is_loaded(tmp_path: Path) -> None:
    code = """
import sys
from ansible_collections.nhi.core.plugins.module_utils.shared_lock import SharedLock
with SharedLock(sys.argv[1], "state.lock", "x") as lock:
    lock.confirm()
    assert lock.fence is None
print([name for name in sys.modules if "redis" in name.replace("redis_keys", "")])
"""
    environment = {**clean_environment(), "PYTHONPATH": str(COLLECTIONS), "NHI_REDIS_URL": "redis://127.0.0.1:1/0"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "[]\n", done.stderr


def test_a_password_in_the_file_of_settings_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lock.json").write_text(json.dumps({"backend": "redis", "url": "redis://:secret@127.0.0.1/0"}))
    with pytest.raises(LockBackendError, match="does not belong") as caught:
        lock_settings(tmp_path, {})
    assert "secret" not in str(caught.value)


def test_a_connection_that_was_closed_meanwhile_is_made_anew(here: Site, redis: Redis) -> None:
    client = client_of(here)
    first = Lease(client, "lab", "test.lock", ttl_seconds=60)
    take(first)
    operator = RedisPackage(port=redis.port, password=PASSWORD)
    assert operator.execute_command("CLIENT", "KILL", "TYPE", "normal") > 0  # type: ignore[no-untyped-call]
    first.confirm()
    first.release()
