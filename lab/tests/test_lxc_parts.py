"""What the lxc driver decides without touching anything: texts, addresses, host settings."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import tarfile
import time
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest

from lab.drivers import DriverSettings, lxc_host, lxc_network, lxc_template
from lab.drivers import lxc_proc as proc
from lab.drivers.base import DriverError, GuestSpec, Nic
from lab.drivers.lxc import LxcDriver
from lab.drivers.lxc_adopt import HostSettings, apt_settings, certificates, mirrors, nameservers, pip_settings, proxies
from lab.drivers.lxc_config import Controllers, check, container, guest_files, identity_files, limits, with_leases
from lab.drivers.lxc_guest import Guests
from lab.drivers.lxc_host import lacking_capabilities, run
from lab.drivers.lxc_leases import Leases, pool
from lab.drivers.lxc_network import Network
from lab.drivers.lxc_rootfs import as_tar
from lab.drivers.lxc_template import Templates

NIC = Nic("eth0", "BC:24:11:00:00:01", "vmbr0", "10.9.8.7/24", "10.9.8.1")
SPEC = GuestSpec(vmid=105, kind="lxc", hostname="redis-cache", cores=2, memory_mib=256, nics=(NIC,))
V1 = Controllers(1, frozenset({"memory", "cpu", "freezer"}))
V2 = Controllers(2, frozenset({"memory", "cpu", "io"}))
SUBNET = ipaddress.IPv4Network("10.9.8.0/24")


def settings(lines: str) -> dict[str, str]:
    return dict(line.split(" = ", 1) for line in lines.splitlines())


def test_container_gets_its_interface_on_the_labs_bridge() -> None:
    text = settings(container(SPEC, "overlay:/i:/u", "nhilab9", ("nl1234567",), V1))
    assert text["lxc.net.0.link"] == "nhilab9"
    assert text["lxc.net.0.veth.pair"] == "nl1234567"
    assert text["lxc.net.0.hwaddr"] == NIC.mac
    assert text["lxc.net.0.ipv4.address"] == "10.9.8.7/24 10.9.8.255"
    assert text["lxc.net.0.ipv4.gateway"] == "10.9.8.1"
    assert text["lxc.uts.name"] == "redis-cache"


def test_container_is_not_given_a_gateway_outside_of_its_network() -> None:
    spec = replace(SPEC, nics=(replace(NIC, gateway="10.1.1.1"),))
    assert "lxc.net.0.ipv4.gateway" not in settings(container(spec, "x", "b", ("v",), V1))


def test_container_without_interfaces_does_not_get_the_hosts() -> None:
    assert settings(container(replace(SPEC, nics=()), "x", "b", (), V1))["lxc.net.0.type"] == "empty"


@pytest.mark.parametrize(
    ("controllers", "expected"),
    [
        (V1, {"lxc.cgroup.memory.limit_in_bytes": "268435456", "lxc.cgroup.cpu.cfs_quota_us": "200000"}),
        (V2, {"lxc.cgroup2.memory.max": "268435456", "lxc.cgroup2.cpu.max": "200000 100000"}),
    ],
)
def test_limits_are_written_for_the_hosts_cgroup_version(controllers: Controllers, expected: dict[str, str]) -> None:
    assert expected.items() <= settings(container(SPEC, "x", "b", ("v",), controllers)).items()


def test_no_cores_means_no_cpu_limit() -> None:
    unlimited = replace(SPEC, cores=0)
    assert limits(unlimited, V2)[0]["cpu"] == {"cpu.max": "max 100000"}
    assert "lxc.cgroup.cpu.cfs_quota_us" not in settings(container(unlimited, "x", "b", ("v",), V1))


def test_missing_controllers_are_named_and_left_out() -> None:
    present, missing = limits(SPEC, Controllers(2, frozenset({"cpu"})))
    assert (set(present), missing) == ({"cpu"}, ["memory"])


def test_nesting_and_fuse_are_what_features_bring() -> None:
    plain, nested = container(SPEC, "x", "b", ("v",), V1), replace(SPEC, features=("nesting", "fuse=1"))
    more = set(container(nested, "x", "b", ("v",), V1).splitlines()) - set(plain.splitlines())
    assert [line.split()[3] for line in sorted(more)] == ["dev/fuse", "dev/.lxc/proc", "dev/.lxc/sys"]


@pytest.mark.parametrize(
    "bad",
    [
        {"hostname": "a\nlxc.hook.start = /bin/sh"},
        {"hostname": ""},
        {"kind": "qemu", "user": "root; reboot"},
        {"nics": (replace(NIC, name="eth0 = x"),)},
        {"nics": (replace(NIC, mac="nonsense"),)},
        {"nics": (replace(NIC, address="10.9.8.700/24"),)},
        {"nics": (replace(NIC, gateway="no address"),)},
    ],
)
def test_values_that_would_corrupt_a_file_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(DriverError, match="guest 105"):
        check(replace(SPEC, **bad))  # type: ignore[arg-type]


def test_files_name_the_guest_and_configure_each_interface() -> None:
    files = guest_files(replace(SPEC, nics=(NIC, Nic("eth1", NIC.mac, "vmbr1", "manual"))), ("10.0.0.53",))
    assert files["etc/hostname"] == "redis-cache\n"
    assert "10.9.8.7 redis-cache\n" in files["etc/hosts"]
    assert files["etc/resolv.conf"] == "nameserver 10.0.0.53\n"
    assert "Address=10.9.8.7/24\nGateway=10.9.8.1\n" in files["etc/systemd/network/50-lab-eth0.network"]
    assert "Address" not in files["etc/systemd/network/50-lab-eth1.network"]


def test_the_guests_own_name_servers_come_before_the_hosts() -> None:
    files = guest_files(replace(SPEC, nameserver="10.1.1.1 10.1.1.2"), ("10.0.0.53",))
    assert files["etc/resolv.conf"] == "nameserver 10.1.1.1\nnameserver 10.1.1.2\n"


def test_identity_is_empty_when_neither_keys_nor_password_are_given() -> None:
    assert identity_files(SPEC) == {}
    given = identity_files(replace(SPEC, ssh_keys="ssh-ed25519 A\n", password="secret"))
    assert given == {".lab/authorized_keys": "ssh-ed25519 A\n", ".lab/password": "secret"}


def test_dhcp_becomes_the_leased_address_behind_the_labs_gateway() -> None:
    spec = replace(SPEC, nics=(replace(NIC, address="dhcp", gateway=""), replace(NIC, name="eth1")))
    settled = with_leases(spec, lambda nic: "10.9.8.200/24", "10.9.8.1")
    assert [(nic.address, nic.gateway) for nic in settled.nics] == [
        ("10.9.8.200/24", "10.9.8.1"),
        ("10.9.8.7/24", "10.9.8.1"),
    ]


def test_a_lease_stays_until_it_is_given_back(tmp_path: Path) -> None:
    leases = Leases(tmp_path / "leases.json", SUBNET)
    first, second = leases.take(100, "AA", ()), leases.take(101, "BB", ())
    assert first != second
    assert Leases(tmp_path / "leases.json", SUBNET).take(100, "aa", ()) == first
    leases.give_back(100)
    assert leases.take(102, "CC", ()) == first


def test_leases_of_interfaces_that_stay_are_kept(tmp_path: Path) -> None:
    leases = Leases(tmp_path / "leases.json", SUBNET)
    kept, lost = leases.take(100, "AA", ()), leases.take(100, "BB", ())
    leases.give_back(100, keep=["AA"])
    assert leases.take(101, "CC", ()) == lost
    assert leases.take(100, "AA", ()) == kept


def test_giving_back_one_guests_lease_spares_guests_whose_number_begins_alike(tmp_path: Path) -> None:
    leases = Leases(tmp_path / "leases.json", SUBNET)
    other = leases.take(1001, "AA", ())
    leases.give_back(100)
    assert leases.take(1001, "AA", ()) == other


def test_leases_avoid_addresses_in_use_and_end_with_the_pool(tmp_path: Path) -> None:
    subnet = ipaddress.IPv4Network("10.9.8.0/28")
    addresses = [str(address) for address in pool(subnet)]
    assert addresses == ["10.9.8.12", "10.9.8.13", "10.9.8.14"]
    leases = Leases(tmp_path / "leases.json", subnet)
    assert leases.take(1, "AA", ["10.9.8.12"]) == "10.9.8.13/28"
    leases.take(2, "BB", ["10.9.8.12"])
    with pytest.raises(DriverError, match="no free address"):
        leases.take(3, "CC", ["10.9.8.12"])


def test_mirrors_are_found_in_both_formats_and_only_debians() -> None:
    deb822 = "Types: deb\n# URIs: http://old/debian\nURIs: http://mirror.example/debian\nSuites: bookworm\n"
    one_line = "deb [arch=amd64] https://mirror.example/debian-security/ bookworm-security main\n"
    assert mirrors([deb822, one_line]) == ("http://mirror.example/debian", "https://mirror.example/debian-security")
    assert mirrors(["deb http://archive.ubuntu.com/ubuntu noble main"]) == mirrors([])


def test_apt_keeps_the_way_to_the_mirror_but_no_proxy_of_this_hosts_loopback() -> None:
    dump = (
        'Acquire::Check-Date "false";\nAcquire::http::Proxy "http://127.0.0.1:3142";\nAcquire::cdrom::mount "/m";\n'
        'Acquire::https::Proxy "http://proxy.example:8080";\nDPkg::Post-Invoke "x";\nAcquire::http::Proxy "";\n'
    )
    assert apt_settings(dump) == (
        'Acquire::Check-Date "false";',
        'Acquire::https::Proxy "http://proxy.example:8080";',
    )


def test_proxies_come_from_the_environment_in_either_case() -> None:
    assert proxies({"HTTP_PROXY": "http://p:1", "no_proxy": "x"}) == ("http_proxy=http://p:1", "no_proxy=x")
    assert proxies({"http_proxy": "http://localhost:1"}) == ()


def test_pip_settings_leave_this_hosts_folders_behind() -> None:
    text = "[global]\nindex-url = https://pypi.example/simple\nfind-links = /opt/wheels\ncert = /root/own.pem\n"
    expected = "[global]\nindex-url = https://pypi.example/simple\ncert = /etc/ssl/certs/ca-certificates.crt\n"
    assert pip_settings(text) == expected
    assert pip_settings("nonsense") == pip_settings("") == ""


def test_every_certificate_is_taken_once() -> None:
    def pem(body: str) -> str:
        return f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----"

    assert certificates([f"# one\n{pem('A')}\n{pem('B')}\n", pem("A")]) == (pem("A"), pem("B"))
    assert any(pem("A") in text for text in HostSettings(certificates=(pem("A"),)).files().values())


def test_name_servers_on_the_hosts_loopback_are_passed_over(tmp_path: Path) -> None:
    stub, real = tmp_path / "stub", tmp_path / "real"
    stub.write_text("nameserver 127.0.0.53\noptions edns0\n")
    real.write_text("nameserver 10.0.0.53\nnameserver ::1\nnameserver\n")
    assert nameservers([tmp_path / "missing", stub, real]) == ("10.0.0.53",)
    assert nameservers([stub]) == ()


def test_names_of_interfaces_fit_the_kernel_and_differ() -> None:
    network = Network("nhilab0", SUBNET, Path("/x"))
    names = {network.veth(vmid, index) for vmid in (100, 101, 999999999) for index in (0, 31)}
    assert len(names) == 6
    assert all(len(name) <= 15 and name.startswith(network.veth_prefix) for name in names)
    assert replace(network, bridge="nhilab1").veth(100, 0) not in names


@pytest.mark.parametrize(("other_labs", "expected"), [([], "0\n"), ([["-A", "POSTROUTING"]], "1\n")])
def test_forwarding_is_put_back_by_the_last_lab_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other_labs: list[list[str]], expected: str
) -> None:
    forwarding = tmp_path / "ip_forward"
    forwarding.write_text("0\n")
    monkeypatch.setattr(lxc_network, "FORWARDING", forwarding)
    monkeypatch.setattr(lxc_network, "REMEMBERED", tmp_path / "remembered")
    monkeypatch.setattr(lxc_network, "_lab_rules", lambda table: other_labs)
    for _ in range(2):  # a second lab finds it on, and does not take that for what it was
        lxc_network._remember_and_forward()
        assert forwarding.read_text() == "1\n"
    lxc_network._forget_forwarding()
    assert forwarding.read_text() == expected


def test_files_reach_the_guest_with_their_modes() -> None:
    with tarfile.open(fileobj=BytesIO(as_tar({"a/b": "text", "c": ""}, {"c": 0o600}))) as archive:
        assert {member.name: member.mode for member in archive} == {"a/b": 0o644, "c": 0o600}
        content = archive.extractfile("a/b")
        assert content is not None
        assert content.read() == b"text"


def test_a_record_survives_and_never_holds_the_password(tmp_path: Path) -> None:
    guests = Guests(tmp_path, "nhilab9")
    guest = guests.new(replace(SPEC, password="secret", features=("nesting",)), tmp_path / "image")
    assert not guests.exists(105)
    guest.saved(spec=replace(SPEC, password="secret", features=("nesting",)))
    assert guests.load(105).record.spec == replace(SPEC, features=("nesting",))
    assert "secret" not in (guest.directory / "guest.json").read_text()
    assert guests.vmids() == {105}


def test_a_damaged_record_is_reported_with_its_path(tmp_path: Path) -> None:
    guests = Guests(tmp_path, "nhilab9")
    guests.new(SPEC, tmp_path).saved()
    (guests.directory(105) / "guest.json").write_text(json.dumps({"spec": {}}))
    with pytest.raises(DriverError, match=r"guest\.json is damaged"):
        guests.load(105)
    assert list(guests.all()) == []


def test_leftovers_go_and_guests_stay(tmp_path: Path) -> None:
    guests = Guests(tmp_path, "nhilab9")
    guest = guests.new(SPEC, tmp_path / "image").saved()
    for leftover in (guest.layer("old"), guest.directory / "snapshots/s1.partial", tmp_path / "nhilab9-106/layers/x"):
        leftover.mkdir(parents=True)
    (guest.directory / "snapshots/s1").mkdir()
    guests.clear_leftovers()
    assert {path.name for path in guest.layer("x").parent.iterdir()} == {guest.record.layer}
    assert {path.name for path in (guest.directory / "snapshots").iterdir()} == {"s1"}
    assert {path.name for path in tmp_path.iterdir()} == {"nhilab9-105"}


@pytest.mark.parametrize("name", ["../x", "", "a/b", "s1.partial"])
def test_a_snapshots_name_cannot_lead_elsewhere(tmp_path: Path, name: str) -> None:
    guest = Guests(tmp_path, "nhilab9").new(SPEC, tmp_path)
    with pytest.raises(DriverError, match="no name for a snapshot"):
        guest.snapshot_path(name)


def test_a_failing_command_is_one_line_with_its_reason() -> None:
    script = "printf 'warning\\nE: no such suite\\ntar: Exiting with failure status due to previous errors\\n' >&2"
    with pytest.raises(DriverError) as caught:
        run(["sh", "-c", f"{script}; exit 3"], "debootstrap")
    assert str(caught.value) == "debootstrap failed: E: no such suite (exit code 3)"
    with pytest.raises(DriverError, match="packing failed: no-such-command: No such file"):
        run(["no-such-command"], "packing")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"directory": Path("/a b")}, "must be free of"), ({"bridge": "br-0"}, "no bridge name")],
)
def test_a_lab_that_lxc_could_not_name_is_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(DriverError, match=message):
        LxcDriver(replace(DriverSettings(Path("/tmp/lab")), **wrong))  # type: ignore[arg-type]


def test_numbers_are_read_from_both_cgroup_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(proc, "PROC", tmp_path / "proc")
    write(tmp_path / "proc/7/cgroup", "4:memory:/outer/lxc.payload.b-1/init.scope\n3:cpu,cpuacct:/lxc.payload.b-1\n")
    write(tmp_path / "cgroup/memory/outer/lxc.payload.b-1/memory.usage_in_bytes", "5000\n")
    write(tmp_path / "cgroup/memory/outer/lxc.payload.b-1/memory.stat", "cache 9\ntotal_inactive_file 1000\n")
    write(tmp_path / "cgroup/cpu,cpuacct/lxc.payload.b-1/cpuacct.usage", "123\n")
    assert (proc.counters(7).mem, proc.counters(7).cpu_ns) == (4000, 123)

    write(tmp_path / "cgroup/cgroup.controllers", "cpu io memory\n")
    write(tmp_path / "proc/7/cgroup", "0::/lxc.payload.b-1/init.scope\n")
    write(tmp_path / "cgroup/lxc.payload.b-1/memory.current", "700\n")
    write(tmp_path / "cgroup/lxc.payload.b-1/cpu.stat", "usage_usec 5\n")
    write(tmp_path / "cgroup/lxc.payload.b-1/io.stat", "8:0 rbytes=1 wbytes=2 rios=1\n8:16 rbytes=10 wbytes=20\n")
    write(tmp_path / "proc/7/net/dev", "h\nh\n lo: 9 0 0 0 0 0 0 0 9\neth0: 11 0 0 0 0 0 0 0 22 0\n")
    now = proc.counters(7)
    assert (now.mem, now.cpu_ns, now.diskread, now.diskwrite, now.netin, now.netout) == (700, 5000, 11, 22, 11, 22)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def templates(tmp_path: Path, age_days: float) -> Templates:
    """A cache with an archive of that age, unpacked already."""
    made = Templates(tmp_path / "cache", tmp_path / "images")
    write(made.archive, "archive")
    os.utime(made.archive, (time.time() - age_days * 86400,) * 2)
    write(made.archive.parent / made._key(HostSettings()) / "rootfs/etc/issue", "Debian")
    return made


def refuse(*_: object, **__: object) -> str:
    raise DriverError("debootstrap failed: no network")


def test_a_fresh_template_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = templates(tmp_path, age_days=6)
    monkeypatch.setattr(Templates, "_build", refuse)
    monkeypatch.setattr(lxc_template, "link_tree", shutil.copytree)
    assert (made.ensure(HostSettings(), print) / "etc/issue").read_text() == "Debian"


def test_an_old_template_is_kept_with_a_warning_when_no_new_one_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, log = templates(tmp_path, age_days=8), list[str]()
    monkeypatch.setattr(Templates, "_build", refuse)
    monkeypatch.setattr(lxc_template, "link_tree", shutil.copytree)
    assert (made.ensure(HostSettings(), log.append) / "etc/issue").read_text() == "Debian"
    assert log == ["warning: the template is older than a week and stays so: debootstrap failed: no network"]


def test_without_any_template_the_reason_is_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Templates, "_build", refuse)
    with pytest.raises(DriverError, match="no network"):
        Templates(tmp_path / "cache", tmp_path / "images").ensure(HostSettings(), print)


def test_images_that_no_guest_needs_are_removed(tmp_path: Path) -> None:
    made = Templates(tmp_path / "cache", tmp_path / "images")
    for name in ("empty", "image-used", "image-old", "image-new.partial"):
        (made.images / name / "rootfs").mkdir(parents=True)
    made.remove_unused({made.images / "image-used/rootfs"})
    assert {path.name for path in made.images.iterdir()} == {"empty", "image-used"}


@pytest.mark.parametrize(
    ("status", "expected"),
    [("CapEff:\t000001ffffffffff\n", []), ("Name: x\nCapEff:\t00000000a80425fb\n", ["CAP_NET_ADMIN", "CAP_SYS_ADMIN"])],
)
def test_a_root_without_the_needed_capabilities_is_recognised(status: str, expected: list[str]) -> None:
    assert lacking_capabilities(status) == expected


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("shutil.which", lambda name: None if name in ("lxc-start", "debootstrap") else name)
    monkeypatch.setattr(lxc_host, "DEBIAN_KEYRING", Path("/"))
    assert lxc_host.why_unusable() == "packages are missing: apt-get install debootstrap lxc"
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert lxc_host.why_unusable() == "containers need root"
