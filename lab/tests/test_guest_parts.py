"""Disks and interfaces of guests: the text of options, and what becomes of it."""

from __future__ import annotations

import re

import pytest

from lab.guests import networks, volumes
from lab.guests.options import normalize, normalize_tags
from lab.guests.specs import spec_of
from lab.model import Config, Guest, Storage

THIN = Storage("local-lvm", "lvmthin", ["images", "rootdir"])
SHELF = Storage("shelf", "dir", ["images"])


@pytest.mark.parametrize(
    ("text", "mib"), [("8G", 8192), ("512M", 512), ("1T", 1048576), ("1.5G", 1536), ("1048576", 1)]
)
def test_sizes(text: str, mib: float) -> None:
    assert volumes.parse_size(text) == mib


@pytest.mark.parametrize(("mib", "text"), [(8192, "8G"), (1536, "1536M"), (512.2, "513M")])
def test_sizes_are_printed_in_whole_units(mib: float, text: str) -> None:
    assert volumes.print_size(mib) == text


def test_new_volumes_take_the_next_free_number() -> None:
    assert volumes.volume_name(THIN, 100, []) == "local-lvm:vm-100-disk-0"
    assert volumes.volume_name(THIN, 100, ["local-lvm:vm-100-disk-0"]) == "local-lvm:vm-100-disk-1"
    assert volumes.volume_name(SHELF, 100, []) == "shelf:100/vm-100-disk-0.raw"


def test_cds_and_cloud_init_drives_are_no_disks() -> None:
    config: Config = {
        "scsi0": "local-lvm:vm-200-disk-0,size=8G", "ide2": "local-lvm:vm-200-cloudinit,media=cdrom",
        "ide0": "none,media=cdrom", "scsihw": "virtio-scsi-pci",
    }  # fmt: skip
    assert volumes.disk_options(config) == ["scsi0"]
    assert volumes.storages_of(config) == ["local-lvm"]


def test_a_container_s_interface_is_completed_and_ordered() -> None:
    written = networks.complete("lxc", "ip=dhcp,name=eth0,bridge=vmbr0")
    assert re.fullmatch(r"name=eth0,bridge=vmbr0,hwaddr=BC:24:11(:[0-9A-F]{2}){3},ip=dhcp,type=veth", written)


def test_a_machine_s_interface_starts_with_its_card() -> None:
    written = networks.complete("qemu", "virtio,bridge=vmbr0")
    assert re.fullmatch(r"virtio=BC:24:11(:[0-9A-F]{2}){3},bridge=vmbr0", written)
    assert networks.complete("qemu", "model=e1000,macaddr=bc:24:11:00:00:01") == "e1000=BC:24:11:00:00:01"


def test_the_driver_learns_a_machine_s_address_from_ipconfig() -> None:
    config = {
        "net0": "virtio=BC:24:11:00:00:01,bridge=vmbr0",
        "ipconfig0": "ip=10.0.0.5/24,gw=10.0.0.1",
        "memory": "1024",
    }
    spec = spec_of(Guest(200, "qemu", "pve", {**config, "name": "vm", "sshkeys": "ssh-ed25519%20AAAA"}, 0))
    assert spec.nics[0].address == "10.0.0.5/24"
    assert spec.nics[0].gateway == "10.0.0.1"
    assert (spec.memory_mib, spec.ssh_keys) == (1024, "ssh-ed25519 AAAA")


def test_a_machine_without_ipconfig_asks_for_an_address() -> None:
    spec = spec_of(Guest(200, "qemu", "pve", {"net0": "virtio=BC:24:11:00:00:01,bridge=vmbr0"}, 0))
    assert spec.nics[0].address == "dhcp"


def test_only_features_that_are_on_are_told() -> None:
    assert spec_of(Guest(100, "lxc", "pve", {"features": "nesting=1,fuse=0"}, 0)).features == ("nesting",)


def test_tags_are_lower_case_once_and_sorted() -> None:
    assert normalize_tags("b;A,a  c") == "a;b;c"
    assert normalize("lxc", {"tags": ""}) == {}
