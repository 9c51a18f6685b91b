# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of nhi_vm as a user of community.proxmox knows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.nhi.core.plugins.module_utils._proxmox import PROXMOX_ARGS
from ansible_collections.nhi.core.plugins.modules import nhi_vm
from ansible_collections.nhi.core.tests.unit.plugins.modules.module_runner import FakeClient, Run, runner

# Options that bear a name of community.proxmox but take another kind of value, each for a reason.
OTHER_KIND = {
    "clone": "a name or a VMID, for both kinds of guest",
    "disk": "a size, which community.proxmox writes together with the storage",
    "startup": "a dict, which can be compared part by part",
    "template": "what a guest is made from; theirs makes a template of a guest",
    "timeout": "seconds of a request, with fractions",
    "pubkey": "any number of keys",
    "sshkeys": "any number of keys",
}


@pytest.fixture
def pve(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    client = FakeClient()
    monkeypatch.setattr(nhi_vm, "ProxmoxClient", lambda endpoint: client)
    return client


@pytest.fixture
def run(pve: FakeClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(nhi_vm, capsys, state_dir=str(tmp_path))


def test_the_environment_variables_are_those_of_community_proxmox() -> None:
    theirs = pytest.importorskip("ansible_collections.community.proxmox.plugins.module_utils.proxmox")
    for option, spec in theirs.proxmox_auth_argument_spec().items():
        if option in PROXMOX_ARGS:  # we have no passwords
            assert PROXMOX_ARGS[option]["fallback"][1] == spec["fallback"][1], option


def test_options_of_one_name_take_the_same_kind_of_value() -> None:
    pytest.importorskip("ansible_collections.community.proxmox.plugins.module_utils.proxmox")
    ours = {n: s["type"] for name, s in nhi_vm.ARGUMENT_SPEC.items() for n in (name, *s.get("aliases", ()))}
    shared = set()
    for module in ("proxmox", "proxmox_kvm"):
        plugin = __import__(f"ansible_collections.community.proxmox.plugins.modules.{module}", fromlist=["x"])
        for option, documented in yaml.safe_load(plugin.DOCUMENTATION)["options"].items():
            if option in ours and option not in OTHER_KIND:
                shared.add(option)
                assert ours[option] == documented["type"], f"{module}.{option}"
    assert len(shared) > 20
    aliases = {alias for spec in nhi_vm.ARGUMENT_SPEC.values() for alias in spec.get("aliases", ())}
    assert aliases <= shared | set(OTHER_KIND), "an alias is there for those who know it from community.proxmox"


def test_the_names_of_community_proxmox_mean_the_same(pve: FakeClient, run: Run) -> None:
    key = "ssh-ed25519 AAAA a@b"
    made = run(hostname="web", ostemplate="debian-12", pubkey=f"{key}\n{key}c", features=["nesting=1"], swap=0)
    created = next(data for method, _path, data in pve.calls if method == "POST")
    assert (made["vmid"], created["hostname"]) == (105, "web")
    assert created["ssh-public-keys"] == f"{key}\n{key}c"
    assert created["ostemplate"] == pve.templates[0]


def test_a_password_is_shown_nowhere(pve: FakeClient, run: Run) -> None:
    result = run(name="web", type="qemu", cipassword="s3cret-pass")
    assert pve.guests[105]["config"]["cipassword"] == "s3cret-pass"
    assert "s3cret-pass" not in str(result)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"network": {}, "networks": [{}]}, "mutually exclusive"),
        ({"clone": "a", "template": "b"}, "mutually exclusive"),
        ({"startup": {"after": 1}}, "after"), ({"mount_volumes": [{"id": "mp0"}]}, "mountpoint"),
        ({"networks": [{"vlan": 1}]}, "vlan"),
    ],
)  # fmt: skip
def test_options_that_can_not_be_are_refused_by_the_argument_spec(
    pve: FakeClient, run: Run, options: dict[str, Any], words: str
) -> None:
    assert words in run(name="web", **options)["msg"]
    assert pve.calls == []
