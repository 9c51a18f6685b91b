# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Host keys of guests: vouched for by Proxmox VE, taken at first sight, unchanged, or refused."""

from __future__ import annotations

import base64
import shutil
import stat
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils import guest_host_key
from ansible_collections.nhi.core.plugins.module_utils.errors import (
    GuestChangeError,
    PermissionDeniedError,
    ProxmoxError,
)
from ansible_collections.nhi.core.plugins.module_utils.guest_host_key import (
    HostKey,
    Known,
    KnownHosts,
    Recorded,
    forget_host_key,
    record_host_key,
)

REDIS = Known("redis", 105, "lxc", "pve", "192.0.2.105")
MINE = [
    HostKey("ssh-ed25519", base64.b64encode(b"mine").decode()),
    HostKey("ssh-rsa", base64.b64encode(b"rsa").decode()),
]
OTHER = [HostKey("ssh-ed25519", base64.b64encode(b"other").decode())]
UPID = "UPID:pve:0000E06D:00051D47:6A6EBBB5:{}:105:nhi@pve!creator:"


class Node:
    """Answers what is asked about tasks."""

    def __init__(self, *tasks: str, keys: list[HostKey] | None = None, refused: bool = False) -> None:
        self.tasks = [{"upid": UPID.format(kind), "type": kind, "starttime": at} for at, kind in enumerate(tasks, 100)]
        self.keys = MINE if keys is None else keys
        self.refused = refused

    def get(self, path: Any, params: Mapping[str, Any] | None = None) -> Any:
        if self.refused:
            raise PermissionDeniedError("no", status=403)
        if path[-1] == "tasks":
            assert params is not None
            assert params["vmid"] == REDIS.vmid
            return list(reversed(self.tasks))
        assert path[-2:] == (UPID.format("vzcreate"), "log")
        lines = ["extracting archive '/var/lib/vz/template/cache/debian-12.tar.zst'"]
        for key in self.keys:
            name = f"ssh_host_{key.type.removeprefix('ssh-')}_key"
            lines.append(f"Creating SSH host key '{name}' - this may take some time ...")
            lines.append(f"done: {key.fingerprint} root@redis")
        return [{"n": n, "t": line} for n, line in enumerate([*lines, "TASK OK"], 1)]

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"recording a key never asks for {name}")


@pytest.fixture
def file(tmp_path: Path) -> KnownHosts:
    return KnownHosts(tmp_path / "known_hosts")


def record(file: KnownHosts, node: Node, shown: list[HostKey], *, made_now: bool = False) -> Recorded:
    return record_host_key(node, REDIS, file, made_now=made_now, scan=lambda _address: shown)


def recorded(file: KnownHosts) -> set[HostKey]:
    assert file.keys(["redis"]) == file.keys([REDIS.address])
    return file.keys(["redis"])


def test_keys_with_the_fingerprints_of_the_creating_task_are_verified(file: KnownHosts) -> None:
    done = record(file, Node("vzcreate", "vzstart"), MINE, made_now=True)
    assert (done.status, done.changed, done.warning) == ("verified", True, None)
    assert recorded(file) == set(MINE)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


def test_a_key_that_nobody_vouches_for_is_not_recorded_beside_one_that_is_verified(file: KnownHosts) -> None:
    assert record(file, Node("vzcreate", keys=MINE[:1]), MINE).status == "verified"
    assert recorded(file) == {MINE[0]}


@pytest.mark.parametrize("made_now", [True, False])
def test_somebody_else_at_the_address_of_a_new_guest_is_not_trusted(file: KnownHosts, made_now: bool) -> None:
    with pytest.raises(
        GuestChangeError, match=r"does not have the host keys that Proxmox VE made for LXC 105 redis"
    ) as e:
        record(file, Node("vzcreate"), OTHER, made_now=made_now)
    assert "\n" not in str(e.value)
    assert not file.path.exists()


@pytest.mark.parametrize(
    "node",
    [Node(), Node("vzcreate", "vzclone"), Node("vzcreate", "vzrestore"), Node("vzcreate", keys=[]), Node(refused=True)],
    ids=["no task", "clone", "restore", "no keys made", "not ours to see"],
)
def test_where_nobody_vouches_the_key_is_taken_at_first_sight_and_that_is_said(file: KnownHosts, node: Node) -> None:
    done = record(file, node, OTHER, made_now=True)
    assert done.status == "first_sight"
    assert "Nobody vouches for the SSH host key of LXC 105 redis" in str(done.warning)
    assert recorded(file) == set(OTHER)


BRAIN = Known("brain", 100, "qemu", "pve", "192.0.2.100")
SILENT = ProxmoxError("no agent", status=500, reason="QEMU guest agent is not running\n")
NO_AGENT = ProxmoxError("no agent", status=500, reason="No QEMU guest agent configured")
FORBIDDEN = PermissionDeniedError("no", status=403)


class Machine:
    """A machine whose agent answers with one thing after the other, the last one again and again."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    def get(self, path: Any, params: Mapping[str, Any] | None = None) -> Any:
        assert path == ("nodes", "pve", "qemu", "100", "agent", "file-read")
        assert params == {"file": "/etc/ssh/ssh_host_ed25519_key.pub"}
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"recording a key never asks for {name}")


def content(key: HostKey) -> dict[str, Any]:
    return {"content": f"{key.type} {key.key} root@brain\n", "bytes-read": 40}


def record_machine(file: KnownHosts, machine: Machine, shown: list[HostKey], *, made_now: bool = True) -> Recorded:
    return record_host_key(machine, BRAIN, file, made_now=made_now, scan=lambda _address: shown)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_host_key, "_PATIENCE_SECONDS", 0.0)


def test_the_key_that_a_machine_s_agent_reads_is_verified(file: KnownHosts) -> None:
    done = record_machine(file, Machine(content(MINE[0])), MINE)
    assert (done.status, done.changed, done.warning) == ("verified", True, None)
    assert file.keys(["brain"]) == file.keys([BRAIN.address]) == {MINE[0]}, "nobody vouches for the RSA key"


def test_an_agent_that_starts_after_sshd_is_waited_for(file: KnownHosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_host_key, "_PAUSE_SECONDS", 0.0)
    assert record_machine(file, Machine(SILENT, SILENT, content(MINE[0])), MINE).status == "verified"


@pytest.mark.parametrize("made_now", [True, False])
def test_somebody_else_at_the_address_of_a_machine_is_not_trusted(file: KnownHosts, made_now: bool) -> None:
    with pytest.raises(GuestChangeError, match=r"host key that the guest agent of VM 100 brain reads") as e:
        record_machine(file, Machine(content(MINE[0])), OTHER, made_now=made_now)
    assert "\n" not in str(e.value)
    assert not file.path.exists()


def test_a_key_that_was_made_anew_in_the_machine_is_verified_by_its_agent(file: KnownHosts) -> None:
    record_machine(file, Machine(content(OTHER[0])), OTHER)
    assert record_machine(file, Machine(content(MINE[0])), MINE, made_now=False).status == "verified"
    assert file.keys(["brain"]) == {MINE[0]}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (SILENT, "could not be asked: QEMU guest agent is not running)"),
        (NO_AGENT, "could not be asked: No QEMU guest agent configured)"),
        (FORBIDDEN, "it lacks VM.GuestAgent.FileRead, before Proxmox VE 9 VM.Monitor, on /vms/100)"),
        ({"content": ""}, "finds no key in /etc/ssh/ssh_host_ed25519_key.pub)"),
        ({"content": "<html> no key"}, "finds no key in"),
        ({"content": "ssh-ed25519 not-base64"}, "finds no key in"),
        (None, "finds no key in"),
    ],
)
def test_a_machine_whose_agent_says_nothing_is_taken_at_first_sight_and_that_is_said(
    file: KnownHosts, impatient: None, answer: Any, words: str
) -> None:
    done = record_machine(file, Machine(answer), MINE)
    assert (done.status, file.keys(["brain"])) == ("first_sight", set(MINE))
    assert "Nobody vouches for the SSH host key of VM 100 brain" in str(done.warning)
    assert words in str(done.warning)
    assert "\n" not in str(done.warning)
    with pytest.raises(GuestChangeError, match="shows another SSH host key"):
        record_machine(file, Machine(answer), OTHER, made_now=False)


def test_the_same_key_again_changes_nothing(file: KnownHosts) -> None:
    record(file, Node("vzcreate"), MINE)
    before = file.path.read_bytes()
    assert record(file, Node(refused=True), MINE) == Recorded("unchanged")
    # A server that no longer shows one kind of key is still the same.
    assert record(file, Node(refused=True), MINE[:1]) == Recorded("unchanged")
    assert file.path.read_bytes() == before


def test_a_changed_key_of_a_guest_that_was_there_is_refused_in_one_sentence(file: KnownHosts) -> None:
    record(file, Node(), MINE)
    with pytest.raises(GuestChangeError, match="shows another SSH host key") as refused:
        record(file, Node(), OTHER)
    assert "\n" not in str(refused.value)
    assert recorded(file) == set(MINE)


def test_a_new_guest_replaces_what_was_recorded_of_an_old_one_at_its_address(file: KnownHosts) -> None:
    file.path.write_text(f"old,{REDIS.address} ssh-ed25519 {MINE[0].key}\nkept ssh-ed25519 QUJD\n# a comment\n")
    assert record(file, Node(), OTHER, made_now=True).status == "first_sight"
    assert recorded(file) == set(OTHER)
    assert file.keys(["old"]) == set()
    assert file.path.read_text().startswith("kept ssh-ed25519 QUJD\n# a comment\n")


def test_a_guest_without_ssh_is_no_failure(file: KnownHosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_host_key, "_PATIENCE_SECONDS", 0.0)
    done = record(file, Node(), [])
    assert done.status == "none"
    assert "shows no SSH host key" in str(done.warning)


def test_a_guest_that_is_gone_is_forgotten_and_others_are_not(file: KnownHosts) -> None:
    record(file, Node(), MINE)
    file.path.write_text(file.path.read_text() + "kept ssh-ed25519 QUJD\n")
    assert forget_host_key(file, "redis")
    assert file.path.read_text() == "kept ssh-ed25519 QUJD\n"
    assert not forget_host_key(file, "redis")


def test_parallel_runs_lose_no_guest(file: KnownHosts) -> None:
    def one(number: int) -> None:
        guest = Known(f"guest-{number}", number, "lxc", "pve", f"192.0.2.{number}")
        record_host_key(Node(refused=True), guest, file, made_now=True, scan=lambda _address: OTHER)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(1, 17)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [file.keys([f"guest-{number}"]) for number in range(1, 17)] == [set(OTHER)] * 16


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs OpenSSH")
def test_fingerprints_are_those_of_openssh(tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    kind, text, _comment = key.with_suffix(".pub").read_text().split()
    said = subprocess.run(["ssh-keygen", "-lf", str(key)], capture_output=True, text=True, check=True).stdout
    assert HostKey(kind, text).fingerprint == said.split()[1]
