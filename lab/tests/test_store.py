"""What the lab remembers survives `kill -9`; what was not finished is not half there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lab.model import Acl, Guest, Pool, Snapshot
from lab.store import Store

ROOT = Path(__file__).resolve().parents[2]
WRITER = """
import sys
from pathlib import Path
from lab.model import Pool
from lab.store import Store
store = Store(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    store.pools[f"pool{number}"] = Pool(f"pool{number}", comment="x" * 500)
    print(number, flush=True)
"""


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    store = Store(tmp_path / "lab.db")
    guest = Guest(100, "lxc", "pve", {"hostname": "web", "memory": 512}, 1, pool="lab")
    guest.snapshots["s1"] = Snapshot({"hostname": "old"}, 2, "before")
    store.guests[100] = guest
    store.close()
    again = Store(tmp_path / "lab.db")
    assert again.guests[100] == guest
    assert again.guests[100].digest == guest.digest
    again.close()


def test_the_digest_follows_configuration_and_snapshots() -> None:
    guest = Guest(100, "lxc", "pve", {"hostname": "web"}, 1)
    first = guest.digest
    guest.config["memory"] = 512
    second = guest.digest
    guest.snapshots["s1"] = Snapshot({}, 2)
    assert len({first, second, guest.digest}) == 3


def test_a_failed_transaction_leaves_nothing_on_disk(tmp_path: Path) -> None:
    store = Store(tmp_path / "lab.db")

    def fail_in_the_middle() -> None:
        with store.database.transaction():
            store.pools["half"] = Pool("half")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        fail_in_the_middle()
    store.close()
    again = Store(tmp_path / "lab.db")
    assert "half" not in again.pools
    again.close()


def test_a_removed_guest_takes_the_grants_on_its_path_along(tmp_path: Path) -> None:
    store = Store(tmp_path / "lab.db")
    store.guests[100] = Guest(100, "lxc", "pve", {}, 1)
    for path in ("/vms/100", "/vms/1000"):
        acl = Acl(path, "ann@pve", "user", "PVEAuditor")
        store.acl[acl.key] = acl
    store.remove_guest(100)
    assert [acl.path for acl in store.acl.values()] == ["/vms/1000"]
    store.close()


def test_every_acknowledged_write_survives_a_kill(tmp_path: Path) -> None:
    for attempt in range(5):
        file = tmp_path / f"lab{attempt}.db"
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(file)], stdout=subprocess.PIPE, text=True, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert writer.stdout is not None
        acknowledged = 0
        for line in writer.stdout:
            acknowledged = int(line)
            if acknowledged >= 20 * (attempt + 1):
                break
        writer.send_signal(signal.SIGKILL)
        writer.wait(10)
        writer.stdout.close()
        store = Store(file)
        assert {f"pool{number}" for number in range(1, acknowledged + 1)} <= set(store.pools)
        store.close()
