# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Start order, features, volumes, cloud-init and the rest: made, corrected, or refused with what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import PreflightError, ProxmoxError
from ansible_collections.nhi.core.plugins.module_utils.guest_config import restart_words, waiting_options
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.guest_lab import GuestLab

NEW: dict[str, Any] = {"name": "web", "template": "debian-12"}
ALL_OF_LXC: dict[str, Any] = {
    "startup": {"order": 3, "up": 10}, "swap": 0, "nameserver": "10.99.0.2 10.99.0.3", "searchdomain": "example.org",
    "timezone": "Europe/Berlin", "features": ["nesting=1"],
    "mount_volumes": [{"id": "mp0", "mountpoint": "/srv", "size": 4}],
}  # fmt: skip
ALL_OF_QEMU: dict[str, Any] = {
    "type": "qemu", "startup": {"order": 3}, "nameserver": "10.99.0.2", "searchdomain": "example.org", "cpu": "host",
    "balloon": 256, "ciuser": "admin",
}  # fmt: skip


@pytest.fixture
def lab(tmp_path: Path) -> GuestLab:
    return GuestLab(tmp_path)


def test_a_container_is_made_with_everything_and_a_second_run_changes_nothing(lab: GuestLab) -> None:
    lab.run({**NEW, **ALL_OF_LXC})
    config = lab.pve.guests[105]["config"]
    wanted = {"startup": "order=3,up=10", "swap": 0, "timezone": "Europe/Berlin", "features": "nesting=1"}
    assert {k: config[k] for k in wanted} == wanted
    assert (config["nameserver"], config["searchdomain"]) == ("10.99.0.2 10.99.0.3", "example.org")
    assert config["mp0"] == "local-lvm:vm-105-mp0,size=4G,mp=/srv"
    assert not lab.run({**NEW, **ALL_OF_LXC}).plan.changed


def test_a_machine_is_made_with_everything_and_a_second_run_changes_nothing(lab: GuestLab) -> None:
    wish = {"name": "web", **ALL_OF_QEMU}
    lab.run({**wish, "cipassword": "s3cret"})
    config = lab.pve.guests[105]["config"]
    assert (config["cpu"], config["balloon"], config["ciuser"], config["startup"]) == ("host", 256, "admin", "order=3")
    assert not lab.run({**wish, "cipassword": "another"}).plan.changed, "a password can not be read back"


def test_all_of_it_is_corrected_in_a_guest_that_somebody_else_made(lab: GuestLab) -> None:
    lab.pve.add(110, "web", running=True, startup="5,down=60", features="keyctl=1,nesting=0", swap=512)
    outcome = lab.run({**NEW, **ALL_OF_LXC})
    config = lab.pve.guests[110]["config"]
    assert config["startup"] == "order=3,down=60,up=10"
    assert config["features"] == "keyctl=1,nesting=1"
    assert (config["swap"], config["timezone"]) == (0, "Europe/Berlin")
    assert config["mp0"].startswith("local-lvm:")
    assert outcome.plan.restart_required == ["nameserver", "searchdomain", "timezone", "features"]
    assert outcome.vm is not None
    assert outcome.vm["managed"] is False
    assert list(lab.pve.guests) == [110]
    assert ("DELETE", "/nodes/pve/lxc/110") not in lab.pve.writes()


def test_a_value_that_still_waits_is_told_again_until_the_restart(lab: GuestLab) -> None:
    lab.pve.add(110, "web", "qemu", running=True)
    assert lab.run({"name": "web", "memory": 1024}, check_mode=True).plan.restart_required == ["memory"]
    assert lab.run({"name": "web", "memory": 1024}).plan.restart_required == ["memory"]
    again = lab.run({"name": "web", "memory": 1024})
    assert (again.plan.changed, again.plan.restart_required) == (False, ["memory"])
    assert "Takes effect at the next restart: memory." in again.plan.summary()
    assert lab.run({"name": "web", "cores": 2}).plan.restart_required == ["cores", "memory"]
    assert lab.run({"name": "web", "state": "restarted"}).plan.restart_required == []
    assert lab.run({"name": "web"}).plan.restart_required == []


def test_what_proxmox_took_over_at_once_needs_no_restart(lab: GuestLab) -> None:
    lab.pve.add(110, "web", "qemu", running=True)
    lab.pve.slow["qemu"] = set()
    assert lab.run({"name": "web", "memory": 1024}).plan.restart_required == []


def test_pending_values_have_the_operators_words() -> None:
    entries: list[dict[str, Any]] = [
        {"key": "net1", "value": "a", "pending": "b"}, {"key": "memory", "value": 512},
        {"key": "ipconfig0", "value": "a", "pending": "b"}, {"key": "cpu", "value": "host", "delete": 1},
    ]  # fmt: skip
    options = waiting_options(entries)
    assert options == ["cpu", "ipconfig0", "net1"]
    assert restart_words(options, {"network.ip": "ipconfig0", "memory": "memory"}) == [
        "network.ip", "cpu", "networks[1]",
    ]  # fmt: skip


def test_a_list_of_pending_values_that_can_not_be_read_is_no_failure(lab: GuestLab) -> None:
    lab.pve.add(110, "web", "qemu", running=True)

    def refuse() -> None:
        raise ProxmoxError("proxy: timeout", status=596)

    lab.pve.hooks["GET /nodes/pve/qemu/110/pending"] = refuse
    assert lab.run({"name": "web", "memory": 1024}).plan.restart_required == ["memory"]


@pytest.mark.parametrize("features", [["keyctl=1"], ["nesting", "fuse"], ["mount=nfs;cifs"]])
def test_features_that_no_token_can_set_are_refused_with_the_command(lab: GuestLab, features: list[str]) -> None:
    lab.pve.add(110, "old", features="nesting=1")
    for options in ({**NEW, "features": features}, {"name": "old", "features": features}):
        with pytest.raises(
            PreflightError, match=r"can not be set with an API token.*root@pam.*pct set VMID --features"
        ):
            lab.run(options)
    assert lab.pve.writes() == []


def test_features_that_are_set_already_are_accepted(lab: GuestLab) -> None:
    lab.pve.add(110, "old", features="keyctl=1,nesting=1")
    assert not lab.run({"name": "old", "features": ["keyctl", "nesting", "fuse=0"]}).plan.changed
    with pytest.raises(PreflightError, match="keyctl of old can not be set"):
        lab.run({"name": "old", "features": ["keyctl=0"]})


def test_no_feature_of_a_privileged_container_can_be_changed(lab: GuestLab) -> None:
    lab.pve.add(110, "old", unprivileged=0)
    for options in ({"name": "old", "nesting": True}, {**NEW, "unprivileged": False, "nesting": True}):
        with pytest.raises(PreflightError, match="is privileged, and Proxmox VE lets only root@pam change any feature"):
            lab.run(options)
    assert lab.pve.writes() == []
    lab.run({**NEW, "unprivileged": False})
    assert "features" not in lab.pve.guests[105]["config"]


def test_volumes_are_added_and_grow_but_never_shrink_or_move(lab: GuestLab) -> None:
    lab.pve.add(110, "web", mp0="local-lvm:vm-110-disk-1,size=4G,mp=/srv,backup=1")
    wish = [{"id": "mp0", "mountpoint": "/srv", "size": 6}, {"id": "mp1", "mountpoint": "/data", "size": 1}]
    outcome = lab.run({"name": "web", "mount_volumes": wish})
    config = lab.pve.guests[110]["config"]
    assert config["mp0"] == "local-lvm:vm-110-disk-1,size=6G,mp=/srv,backup=1"
    assert config["mp1"].endswith("size=1G,mp=/data")
    assert [a.kind for a in outcome.plan.actions] == ["configure", "resize"]
    assert not lab.run({"name": "web", "mount_volumes": wish}).plan.changed
    for change, words in (
        ({"size": 5}, "can not shrink to 5"), ({"storage": "other"}, "lies on local-lvm, not on other"),
        ({"id": "mp2", "mountpoint": "/x", "size": None}, "has no size"),
    ):  # fmt: skip
        with pytest.raises(PreflightError, match=words):
            lab.run({"name": "web", "mount_volumes": [{**wish[0], **change}]})
    lab.run({"name": "web", "mount_volumes": [{"id": "mp0", "mountpoint": "/mnt", "options": {"backup": "0"}}]})
    assert config["mp0"] == "local-lvm:vm-110-disk-1,size=6G,mp=/mnt,backup=0"


def test_a_new_container_with_volumes_that_can_not_be_made_is_refused_at_once(lab: GuestLab) -> None:
    wish = [{"id": "mp0", "mountpoint": "/a"}, {"id": "mp1", "mountpoint": "/b", "size": 1, "storage": "nosuch"},
            {"id": "mp2", "mountpoint": "/c", "size": 900, "storage": "local-lvm"}]  # fmt: skip
    with pytest.raises(PreflightError) as e:
        lab.run({**NEW, "mount_volumes": wish})
    for words in ("mp0 does not exist yet and has no size", "storage nosuch does not exist", "the disk needs 904 GiB"):
        assert words in str(e.value)
    assert lab.pve.writes() == []


def test_an_empty_text_removes_and_a_missing_option_leaves(lab: GuestLab) -> None:
    lab.pve.add(110, "web", nameserver="10.99.0.2", searchdomain="example.org")
    lab.run({"name": "web", "nameserver": ""})
    config = lab.pve.guests[110]["config"]
    assert ("nameserver" in config, config["searchdomain"]) == (False, "example.org")


def test_a_balloon_that_changes_its_size_needs_no_restart(lab: GuestLab) -> None:
    lab.pve.add(110, "web", "qemu", running=True, memory=1024, balloon=512)
    assert lab.run({"name": "web", "balloon": 256}, check_mode=True).plan.restart_required == []
    assert lab.run({"name": "web", "balloon": 0}, check_mode=True).plan.restart_required == ["balloon"]


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        ({"swap": 0}, "VM.Config.Memory"), ({"startup": {"order": 1}}, "VM.Config.Options"),
        ({"searchdomain": "a.b"}, "VM.Config.Network"), ({"nesting": True}, "VM.Allocate"),
        ({"mount_volumes": [{"id": "mp0", "mountpoint": "/srv", "size": 1}]}, "VM.Config.Disk"),
    ],
)  # fmt: skip
def test_each_correction_names_the_privilege_it_needs(lab: GuestLab, options: dict[str, Any], needed: str) -> None:
    lab.pve.add(110, "web")
    lab.pve.lacking = {(needed, "/vms/110")}
    with pytest.raises(PreflightError, match=f"lacks {needed} on /vms/110"):
        lab.run({"name": "web", **options})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"startup": {"order": -1}}, "startup.order -1"), ({"features": ["turbo"]}, "feature 'turbo' does not exist"),
        ({"nesting": False, "features": ["nesting"]}, "give one of them"), ({"swap": -1}, "swap -1 is too small"),
        ({"timezone": "Berlin!"}, "time zone"), ({"searchdomain": "-x"}, "DNS domain"), ({"cpu": "a b"}, "CPU type"),
        ({"nameserver": "dns1"}, "nameserver 'dns1' is not an IP address"), ({"ciuser": "me"}, "ciuser: only virtual"),
        ({"nameserver": "10.0.0.1", "network": {"nameserver": "10.0.0.2"}}, "give one of them"),
        ({"type": "qemu", "template": None, "swap": 5, "timezone": "UTC"}, "swap, timezone: only containers"),
        ({"mount_volumes": [{"id": "mp256", "mountpoint": "/a"}]}, "use mp0 to mp255"),
        ({"mount_volumes": [{"id": "mp0", "mountpoint": "a/b"}]}, "absolute path"),
        ({"mount_volumes": [{"id": "mp0", "mountpoint": "/a/../etc"}]}, "absolute path"),
        ({"mount_volumes": [{"id": "mp0", "mountpoint": "/a", "size": 0}]}, "least is 1"),
        ({"mount_volumes": [{"id": "mp0", "mountpoint": "/a", "options": {"uid": 1}}]}, "has the option uid=1"),
        ({"mount_volumes": [{"id": "mp0", "mountpoint": "/a"}, {"id": "mp0", "mountpoint": "/b"}]}, "two with the id"),
        (
            {"mount_volumes": [{"id": "mp0", "mountpoint": "/a", "host_path": "/tank"}]},
            r"only root@pam.*never an API token.*pct set VMID --mp0 /tank,mp=/a",
        ),
    ],
)  # fmt: skip
def test_what_can_not_be_meant_or_had_is_refused(lab: GuestLab, options: dict[str, Any], words: str) -> None:
    with pytest.raises(PreflightError, match=words):
        lab.run({**NEW, **options})
    assert lab.pve.writes() == []
