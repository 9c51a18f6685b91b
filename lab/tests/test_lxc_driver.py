"""The lxc driver on real containers: their life, their copies, and that nothing of them is left."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lab.drivers.base import DriverError, Nic
from lab.drivers.lxc import LxcDriver
from lab.drivers.lxc_host import why_unusable
from lab.sshkey import fingerprint
from lab.tests.lxc_world import Shell, free_settings, output, python, traces

REASON = why_unusable()
pytestmark = [
    pytest.mark.lxc,
    pytest.mark.skipif(REASON is not None, reason=f"REAL CONTAINERS ARE NOT TESTED: {REASON}"),
    pytest.mark.timeout(600),  # the first run of a host makes the template
]


def unheard(line: str) -> None:
    """For calls whose log no test looks at."""


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    settings = free_settings(tmp_path_factory.mktemp("lxc") / "driver")
    shell = Shell(settings)
    try:
        shell.driver.up(print)
        yield shell
    finally:
        shell.driver.down(print)
    assert traces(settings) == []


@pytest.fixture
def driver(shell: Shell) -> Iterator[LxcDriver]:
    yield shell.driver
    for vmid in sorted(shell.driver.vmids()):
        shell.driver.stop(vmid, unheard)
        shell.driver.destroy(vmid, unheard)


def test_a_guest_answers_on_ssh_within_seconds_and_is_whole(shell: Shell, driver: LxcDriver) -> None:
    started = time.monotonic()
    spec = shell.make(101)
    address = spec.nics[0].address
    assert time.monotonic() - started < 15  # about half a second on an idle machine
    assert shell.ssh(address, "hostname") == "guest101"
    assert shell.ssh(address, "systemctl is-system-running --wait") == "running"
    assert shell.ssh(address, "systemctl --failed --no-legend") == ""
    assert shell.ssh(address, "python3 -c 'import apt; print(1)'") == "1"


def test_host_keys_are_the_guest_s_own_and_files_are_read_from_inside(shell: Shell, driver: LxcDriver) -> None:
    address = shell.make(101).nics[0].address
    keys = driver.host_keys(101)
    driver.create(shell.spec(102), None, unheard)
    assert not set(keys.values()) & set(driver.host_keys(102).values())
    shown = shell.ssh(address, "cat /etc/ssh/ssh_host_ed25519_key.pub; ssh-keygen -lf /etc/ssh/ssh_host_ecdsa_key.pub")
    assert shown.splitlines()[0] == keys["ssh_host_ed25519_key"]
    assert fingerprint(keys["ssh_host_ecdsa_key"]) in shown.splitlines()[1]
    shell.ssh(address, "ln -s /etc/hostname /srv/link")
    assert driver.read_file(101, "/srv/link", 100) == b"guest101\n"
    assert driver.read_file(101, "/srv/link", 5) == b"guest"
    with pytest.raises(DriverError, match=r"^Failed to open file '/nosuch': No such file or directory$"):
        driver.read_file(101, "/nosuch", 100)
    with pytest.raises(DriverError, match="guest 102 does not run"):
        driver.read_file(102, "/etc/hostname", 100)


def test_a_lab_that_is_up_needs_the_shared_cache_no_more(
    shell: Shell, driver: LxcDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered = driver.templates()
    monkeypatch.setattr(driver, "_templates", replace(driver._templates, cache=tmp_path / "gone"))
    assert driver.templates() == offered != {}
    assert shell.ssh(shell.make(101).nics[0].address, "hostname") == "guest101"


def test_usage_and_interfaces_are_those_of_the_container(shell: Shell, driver: LxcDriver) -> None:
    spec = shell.make(101)
    usage = driver.usage(101)
    assert usage.running
    assert 1 << 20 < usage.mem < 256 << 20
    assert usage.disk > 100 << 20
    assert usage.netin > 0
    assert usage.netout > 0
    assert usage.pid is not None
    assert Path(f"/proc/{usage.pid}/comm").read_text().strip() == "systemd"
    eth0 = next(interface for interface in driver.interfaces(101) if interface.name == "eth0")
    assert eth0.mac.upper() == spec.nics[0].mac
    assert spec.nics[0].address in eth0.addresses
    driver.stop(101, unheard)
    assert not driver.usage(101).running
    assert driver.interfaces(101) == []


def test_memory_limit_is_in_force(shell: Shell, driver: LxcDriver) -> None:
    spec = shell.make(101)
    hungry = "python3 -c \"x = bytearray(600 << 20); print('survived')\""
    assert shell.ssh(spec.nics[0].address, hungry, check=False) == ""
    driver.configure(replace(spec, memory_mib=1024), unheard)
    assert shell.ssh(spec.nics[0].address, hungry) == "survived"


def test_apt_and_names_work_inside(shell: Shell, driver: LxcDriver) -> None:
    address = shell.make(101).nics[0].address
    assert shell.ssh(address, "getent hosts deb.debian.org")
    shell.ssh(address, "apt-get install -q -y --no-install-recommends redis-server")
    assert shell.ssh(address, "redis-cli ping") == "PONG"


def test_dhcp_gives_a_lease_of_the_upper_quarter_that_lasts(shell: Shell, driver: LxcDriver) -> None:
    nic = Nic("eth0", "BC:24:11:AA:00:01", "vmbr0", "dhcp")
    spec = shell.spec(101, nics=(nic,))
    driver.create(spec, None, unheard)
    seen = set()
    for _ in range(2):
        driver.start(spec, unheard)
        address = driver.interfaces(101)[1].addresses[0]
        shell.wait(address)
        seen.add(address)
        driver.stop(101, unheard)
    assert len(seen) == 1
    assert 192 <= int(seen.pop().split("/")[0].rpartition(".")[2]) < 255


def test_a_machines_user_has_the_keys_and_sudo(shell: Shell, driver: LxcDriver) -> None:
    spec = shell.make(101, kind="qemu", user="operator", password="not written down")
    address = spec.nics[0].address
    assert shell.ssh(address, "sudo id -u; id -gn", user="operator") == "0\noperator"
    assert shell.ssh(address, "sudo grep -c '^operator:[$]' /etc/shadow", user="operator") == "1"
    for file in shell.settings.directory.rglob("guest.json"):
        assert "not written down" not in file.read_text()


def test_shutdown_is_heard_even_by_a_guest_that_only_just_started(shell: Shell, driver: LxcDriver) -> None:
    spec = shell.spec(101)
    driver.create(spec, None, unheard)
    driver.start(spec, unheard)
    driver.shutdown(101, 30, unheard)
    assert not driver.usage(101).running
    driver.start(spec, unheard)
    shell.wait(spec.nics[0].address)


def test_a_guest_that_reboots_itself_comes_back(shell: Shell, driver: LxcDriver) -> None:
    address = shell.make(101).nics[0].address
    before = driver.usage(101).pid
    shell.ssh(address, "systemctl reboot", check=False)
    deadline = time.monotonic() + 30
    while driver.usage(101).pid in (None, before) and time.monotonic() < deadline:
        time.sleep(0.1)
    shell.wait(address)
    assert driver.usage(101).pid not in (None, before)
    driver.stop(101, unheard)


def test_a_guest_that_does_not_listen_fails_the_shutdown_and_can_be_stopped(shell: Shell, driver: LxcDriver) -> None:
    address = shell.make(101).nics[0].address
    unit = "[Service]\\nType=oneshot\\nRemainAfterExit=yes\\nExecStart=true\\nExecStop=sleep 60\\nTimeoutStopSec=90"
    shell.ssh(
        address, f"printf '{unit}' >/run/systemd/system/slow.service; systemctl daemon-reload; systemctl start slow"
    )
    with pytest.raises(DriverError, match="did not shut down within 2 seconds"):
        driver.shutdown(101, 2, unheard)
    assert driver.usage(101).running
    driver.stop(101, unheard)
    assert not driver.usage(101).running


def test_a_changed_name_and_address_are_taken_over_live(shell: Shell, driver: LxcDriver) -> None:
    spec = shell.make(101)
    moved = replace(spec, hostname="renamed", nics=(replace(spec.nics[0], address=shell.address(150)),))
    driver.configure(moved, unheard)
    shell.wait(shell.address(150))
    assert shell.ssh(shell.address(150), "hostname; ip -4 -o addr show eth0 | wc -l") == "renamed\n1"
    driver.stop(101, unheard)
    driver.start(moved, unheard)
    shell.wait(shell.address(150))
    assert shell.ssh(shell.address(150), "cat /etc/hostname") == "renamed"


def test_an_address_moves_from_one_guest_to_the_next_without_a_gap(shell: Shell, driver: LxcDriver) -> None:
    first = shell.make(101)
    peer = shell.make(102).nics[0].address
    target = first.nics[0].address.split("/")[0]
    shell.ssh(peer, f"ping -c1 {target}")
    driver.stop(101, unheard)
    driver.destroy(101, unheard)
    shell.make(103, nics=(replace(shell.spec(103).nics[0], address=first.nics[0].address),))
    shell.ssh(peer, f"ping -c1 -W1 {target}")


def test_rollback_brings_back_contents_owners_and_deletions(shell: Shell, driver: LxcDriver) -> None:
    spec = shell.make(101)
    address = spec.nics[0].address
    shell.ssh(address, "rm -r /usr/share/doc/adduser; mkdir /usr/share/doc/adduser; rm /etc/issue")
    shell.ssh(address, "useradd -u 4321 ada; install -o ada -m 0640 /dev/null /srv/hers; truncate -s 1G /srv/sparse")
    shell.ssh(address, "echo before >/srv/file; ln /srv/file /srv/link")
    look = "cd /srv; stat -c '%n %u %a %h %s %b' *; cat file; find /usr/share/doc/adduser /etc/issue*"
    before = shell.ssh(address, look, check=False)
    assert "sparse 0 644 1 1073741824 0\n" in before
    driver.snapshot(101, "clean", unheard)
    shell.ssh(address, "echo after >/srv/file; rm /srv/hers; touch /etc/issue /usr/share/doc/adduser/new")
    with pytest.raises(DriverError, match="is running"):
        driver.rollback(101, "clean", unheard)
    driver.stop(101, unheard)
    driver.rollback(101, "clean", unheard)
    driver.start(spec, unheard)
    shell.wait(address)
    assert shell.ssh(address, look, check=False) == before
    with pytest.raises(DriverError, match="exists already"):
        driver.snapshot(101, "clean", unheard)
    driver.delete_snapshot(101, "clean", unheard)
    driver.stop(101, unheard)
    with pytest.raises(DriverError, match="snapshot 'clean' does not exist"):
        driver.rollback(101, "clean", unheard)


def test_a_clone_has_the_files_but_an_identity_of_its_own(shell: Shell, driver: LxcDriver) -> None:
    source = shell.make(101).nics[0].address
    shell.ssh(source, "echo snapshot >/srv/file")
    driver.snapshot(101, "s1", unheard)
    shell.ssh(source, "echo now >/srv/file")
    for vmid, snapshot, expected in ((102, None, "now"), (103, "s1", "snapshot")):
        spec = shell.spec(vmid)
        driver.clone(101, snapshot, spec, unheard)
        driver.start(spec, unheard)
        shell.wait(spec.nics[0].address)
        assert shell.ssh(spec.nics[0].address, "cat /srv/file /etc/hostname") == f"{expected}\nguest{vmid}"
    identity = "cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub"
    assert len({shell.ssh(shell.address(vmid), identity) for vmid in (101, 102, 103)}) == 3
    assert shell.ssh(source, "cat /srv/file") == "now"


def test_a_backup_restores_to_the_same_and_to_another_guest(shell: Shell, driver: LxcDriver, tmp_path: Path) -> None:
    spec = shell.make(101)
    address, archive = spec.nics[0].address, tmp_path / "backup.tar.zst"
    shell.ssh(address, "echo kept >/srv/file; rm /etc/issue; useradd -u 4321 ada; install -o ada /dev/null /srv/hers")
    driver.backup(101, archive, unheard)
    shell.ssh(address, "echo lost >/srv/file")
    driver.restore(shell.spec(102), archive, unheard)
    driver.stop(101, unheard)
    driver.restore(spec, archive, unheard)
    for guest in (spec, shell.spec(102)):
        driver.start(guest, unheard)
        shell.wait(guest.nics[0].address)
        look = "cat /srv/file; stat -c %u /srv/hers; test -e /etc/issue || echo gone; hostname"
        assert shell.ssh(guest.nics[0].address, look) == f"kept\n4321\ngone\n{guest.hostname}"
    assert [path.name for path in tmp_path.iterdir()] == ["backup.tar.zst"]


def test_a_failing_create_leaves_nothing(shell: Shell, driver: LxcDriver, tmp_path: Path) -> None:
    nic = Nic("eth0", "BC:24:11:AA:00:01", "vmbr0", "dhcp")
    broken = tmp_path / "broken.tar.zst"
    broken.write_bytes(b"\x28\xb5\x2f\xfd but not really")
    with pytest.raises(DriverError, match=r"template 'no\.tar\.zst' does not exist: there is debian-12"):
        driver.create(shell.spec(101, nics=(nic,)), "no.tar.zst", unheard)
    with pytest.raises(DriverError, match=r"unpacking broken\.tar\.zst failed"):
        driver.restore(shell.spec(101, nics=(nic,)), broken, unheard)
    with pytest.raises(DriverError, match="is no host name"):
        driver.create(shell.spec(101, hostname="no name"), None, unheard)
    assert driver.vmids() == set()
    assert list((shell.settings.directory / "guests").iterdir()) == []
    assert "101/" not in (shell.settings.directory / "leases.json").read_text()


def test_a_failing_restore_over_a_guest_keeps_what_was_there(shell: Shell, driver: LxcDriver, tmp_path: Path) -> None:
    spec = shell.make(101)
    shell.ssh(spec.nics[0].address, "echo kept >/srv/file")
    driver.stop(101, unheard)
    (tmp_path / "broken.tar").write_bytes(b"nonsense" * 1000)
    with pytest.raises(DriverError, match="unpacking"):
        driver.restore(spec, tmp_path / "broken.tar", unheard)
    driver.start(spec, unheard)
    shell.wait(spec.nics[0].address)
    assert shell.ssh(spec.nics[0].address, "cat /srv/file") == "kept"


def test_what_does_not_exist_or_must_not_be_done_is_refused(shell: Shell, driver: LxcDriver) -> None:
    with pytest.raises(DriverError, match="guest 199 does not exist"):
        driver.start(shell.spec(199), unheard)
    driver.destroy(199, unheard)
    spec = shell.make(101)
    with pytest.raises(DriverError, match="already exists"):
        driver.create(spec, None, unheard)
    with pytest.raises(DriverError, match="is running"):
        driver.destroy(101, unheard)
    with pytest.raises(DriverError, match="cannot shrink"):
        driver.resize(101, 1, unheard)


def test_a_broken_configuration_says_why_it_did_not_start(shell: Shell, driver: LxcDriver) -> None:
    spec = shell.spec(101)
    driver.create(spec, None, unheard)
    two = replace(spec, nics=(spec.nics[0], replace(spec.nics[0], mac="BC:24:11:AA:00:09")))  # both are eth0
    with pytest.raises(DriverError, match=rf"starting {shell.settings.bridge}-101 failed: \w+"):
        driver.start(two, unheard)
    assert not driver.usage(101).running


def test_containers_outlive_their_daemon_and_the_next_one_adopts_them(shell: Shell, driver: LxcDriver) -> None:
    child = python("shell.make(101)\nsys.exit(0)", shell.settings)
    assert child.wait() == 0
    driver.up(shell.log.append)
    assert "adopted 1 running containers" in shell.log
    assert driver.usage(101).running
    assert shell.ssh(shell.address(101), "hostname") == "guest101"


def test_a_guest_frozen_by_a_killed_daemon_goes_on_with_the_next(shell: Shell, driver: LxcDriver) -> None:
    spec = shell.make(101)
    output("lxc-freeze", "-P", str(shell.settings.directory / "guests"), "-n", f"{shell.settings.bridge}-101")
    driver.up(unheard)
    assert shell.ssh(spec.nics[0].address, "hostname") == "guest101"


def test_a_container_whose_monitor_was_killed_does_not_block_its_guest(shell: Shell, driver: LxcDriver) -> None:
    spec = shell.make(101)
    init = driver.usage(101).pid
    assert init is not None
    monitor = int(Path(f"/proc/{init}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(monitor, signal.SIGKILL)
    driver.up(unheard)
    assert not driver.usage(101).running
    driver.start(spec, unheard)
    shell.wait(spec.nics[0].address)


DOOMED = """
import itertools
shell.driver.up(print)
archive = shell.settings.directory.parent / "doomed.tar.zst"
for vmid in itertools.count(101, 3):
    spec = shell.make(vmid)
    driver.snapshot(vmid, "s", print)
    driver.backup(vmid, archive, print)
    driver.clone(vmid, "s", shell.spec(vmid + 1), print)
    driver.restore(shell.spec(vmid + 2), archive, print)
"""


@pytest.mark.slow
def test_down_leaves_nothing_after_a_kill_at_any_moment(tmp_path: Path) -> None:
    settings = replace(free_settings(tmp_path / "driver"), bridge=f"nhic{os.getpid()}")
    chance = random.Random(12)
    for _ in range(8):
        child = python(DOOMED, settings)
        time.sleep(0.4 + chance.random() * 3)
        child.kill()
        child.wait()
        LxcDriver(settings).down(unheard)
        assert traces(settings) == []


@pytest.mark.slow
def test_up_after_a_kill_at_any_moment_has_only_whole_guests(tmp_path: Path) -> None:
    settings = replace(free_settings(tmp_path / "driver"), bridge=f"nhiu{os.getpid()}")
    chance = random.Random(13)
    driver = LxcDriver(settings)
    try:
        for _ in range(4):
            child = python(DOOMED, settings)
            time.sleep(1.0 + chance.random() * 3)
            child.kill()
            child.wait()
            driver.up(unheard)
            shell = Shell(settings)
            for vmid in driver.vmids():
                if not driver.usage(vmid).running:
                    driver.start(shell.spec(vmid), unheard)
                shell.wait(shell.address(vmid))
                driver.stop(vmid, unheard)
                driver.destroy(vmid, unheard)
    finally:
        driver.down(unheard)
    assert traces(settings) == []


def test_two_labs_do_not_meet(shell: Shell, driver: LxcDriver, tmp_path: Path) -> None:
    address = shell.make(101).nics[0].address
    with pytest.raises(DriverError, match="belongs to"):
        LxcDriver(replace(shell.settings, directory=tmp_path / "other")).up(unheard)
    with pytest.raises(DriverError, match="is in use by"):
        LxcDriver(replace(shell.settings, directory=tmp_path / "other", bridge=f"nhio{os.getpid()}")).up(unheard)
    other = replace(free_settings(tmp_path / "other"), bridge=f"nhio{os.getpid()}")
    second = LxcDriver(other)
    second.up(unheard)
    second.down(unheard)
    assert traces(other) == []
    assert shell.ssh(address, "getent hosts deb.debian.org")
