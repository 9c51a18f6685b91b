# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What users of community.proxmox know by name: options, environment variables, groups for module_defaults."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.nhi.core.plugins.module_utils._proxmox import PROXMOX_ARGS

PEER = "ansible_collections.community.proxmox.plugins"
OURS = "ansible_collections.nhi.core.plugins.modules"
COLLECTION = Path(__file__).parents[4]

# Ours, the peer's, and the options of one name that are another thing there, each with the reason.
PAIRS: list[tuple[str, str, dict[str, str]]] = [
    ("nhi_vm_snapshot", "proxmox_snap", {"vmid": "a number, which they write as text"}),
    (
        "nhi_vm_backup",
        "proxmox_backup",
        {
            "mode": "theirs says which guests are meant, and their backup_mode is an alias of ours",
            "pool": "where a restored guest goes; theirs says which guests are meant",
            "compress": "none, which they write as 0",
        },
    ),
    ("nhi_vm_backup_info", "proxmox_backup_info", {"vm_id": "a number, which they write as text"}),
]


def documented(module: str) -> dict[str, Any]:
    options: dict[str, Any] = yaml.safe_load(importlib.import_module(module).DOCUMENTATION)["options"]
    return options


@pytest.fixture(autouse=True)
def peer() -> Any:
    """community.proxmox as it was published."""
    return pytest.importorskip(f"{PEER}.module_utils.proxmox")


def test_connection_options_have_the_peer_s_names_types_and_environment(peer: Any) -> None:
    for option, spec in peer.proxmox_auth_argument_spec().items():
        if option == "api_password":
            continue  # we take tokens only
        assert PROXMOX_ARGS[option]["type"] == spec["type"]
        assert PROXMOX_ARGS[option]["fallback"][1] == spec["fallback"][1]


@pytest.mark.parametrize(("ours", "theirs", "different"), PAIRS, ids=[pair[0] for pair in PAIRS])
def test_an_option_of_one_name_takes_the_same_kind_of_value(ours: str, theirs: str, different: dict[str, str]) -> None:
    known = documented(f"{PEER}.modules.{theirs}")
    aliases = []
    shared = set()
    for name, option in documented(f"{OURS}.{ours}").items():
        aliases += option.get("aliases", [])
        for spelling in {name, *option.get("aliases", [])} & known.keys() - different.keys():
            shared.add(spelling)
            there = known[spelling]
            assert (option["type"], option.get("elements")) == (there["type"], there.get("elements")), spelling
            if "choices" in option and "choices" in there:
                assert set(option["choices"]) <= set(there["choices"]), spelling
    assert shared
    # An alias is there for those who know the option from the peer, or it has no business here.
    assert set(aliases) <= known.keys()
    assert different.keys() <= known.keys()


def test_every_module_that_talks_to_the_api_takes_the_defaults_of_the_action_group() -> None:
    groups = yaml.safe_load((COLLECTION / "meta" / "runtime.yml").read_text())["action_groups"]
    talking = []
    for file in sorted((COLLECTION / "plugins" / "modules").glob("nhi_*.py")):
        documentation = yaml.safe_load(importlib.import_module(f"{OURS}.{file.stem}").DOCUMENTATION)
        fragments = documentation.get("extends_documentation_fragment", [])
        # What an administrator gives the credentials for once must not be given an agent's.
        if "api_password" in documentation.get("options", {}):
            continue
        if "nhi.core.proxmox" in fragments or "api_token_secret" in documentation.get("options", {}):
            talking.append(file.stem)
    assert groups["proxmox"] == talking
