# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Inventory plugin nhi.core.nhi_state."""

from __future__ import annotations

DOCUMENTATION = r"""
name: nhi_state
short_description: Hosts from the verified state.json of the lab
version_added: "0.1.0"
author:
  - NHI contributors (@nhi-lab)
description:
  - Makes a host of every guest that the last scan saw, with its address, its facts and groups by type, node, status,
    tag, pool and service.
  - Reads C(state.json) and its checksum from a directory. It never asks the Proxmox VE API, so it works while the API
    is down, and what it shows is exactly as old as the state.
  - Every guest is in C(nhi_guests), and in C(nhi_lxc) or C(nhi_qemu). Further groups are C(nhi_node_NODE),
    C(nhi_status_STATUS), C(nhi_pool_POOL), C(nhi_tag_TAG) and C(nhi_service_SERVICE), with each character that Ansible
    does not allow in a group replaced by an underscore.
  - A guest that was not read lately is in C(nhi_stale), one that was never read in C(nhi_unknown).
  - Facts of a guest are variables that begin with C(nhi_). See them with C(ansible-inventory --host NAME).
  - Not for a lab that is never scanned. M(nhi.core.nhi_state_scan) writes the state.
extends_documentation_fragment:
  - ansible.builtin.constructed
notes:
  - The inventory file must be named C(nhi_state.yml) or C(nhi_state.yaml), or end in C(.nhi_state.yml) or
    C(.nhi_state.yaml).
  - There is no cache. C(state.json) is the cache, and a copy of it would be neither verified nor as fresh.
    The task C(meta) with C(refresh_inventory) reads it again, for instance after a scan.
  - Strings that come from the state are never evaluated as templates.
  - A guest whose name is shared with another guest, is missing, or is C(all), C(ungrouped) or C(localhost) is called by
    its name and VMID, such as C(web-105), so that a name never reaches the wrong guest.
  - The group variables of C(all) gain C(nhi_state_dir), which P(nhi.core.nhi_endpoint#lookup) reads.
options:
  plugin:
    description:
      - Marks the file as one for this plugin.
    type: str
    required: true
    choices: [nhi_state, nhi.core.nhi_state]
  state_dir:
    description:
      - Directory of C(state.json), relative to the inventory file. A relative path from the environment is relative to
        the working directory.
      - May be a template.
    type: str
    default: ../infrastructure
    env:
      - name: NHI_STATE_DIR
  max_age:
    description:
      - Refuse a state that was written more than this many seconds ago. V(0) accepts any age.
    type: int
    default: 0
    env:
      - name: NHI_STATE_MAX_AGE
  stale_after:
    description:
      - Mark a guest as stale when its facts were last read more than this many seconds ago. V(0) leaves it to what the
        scan said.
    type: int
    default: 900
  missing_ok:
    description:
      - Give an empty inventory instead of an error when there is no C(state.json) yet. A corrupt state stays an error.
    type: bool
    default: false
  include_templates:
    description:
      - Show templates as well, in the group C(nhi_templates).
    type: bool
    default: false
"""

EXAMPLES = r"""
# inventory/lab.nhi_state.yml: every guest, reached as root
plugin: nhi.core.nhi_state
state_dir: ../infrastructure
compose:
  ansible_user: "'root'"

---
# Only a state of the last ten minutes, and groups of one's own
plugin: nhi.core.nhi_state
max_age: 600
strict: true
groups:
  databases: "'database' in nhi_tags"
  small: nhi_memory_mib | default(0, true) < 1024
keyed_groups:
  - key: nhi_health
    prefix: health

# ansible-inventory -i inventory/lab.nhi_state.yml --graph
#
# @all:
#   |--@ungrouped:
#   |--@nhi_guests:
#   |  |--@nhi_lxc:
#   |  |  |--redis-cache
#   |  |--@nhi_qemu:
#   |--@nhi_stale:
#   |--@nhi_unknown:
#   |--@nhi_node_pve:
#   |  |--redis-cache
#   |--@nhi_status_running:
#   |  |--redis-cache
#   |--@nhi_pool_ai_lab:
#   |  |--redis-cache
#   |--@nhi_tag_svc_redis:
#   |  |--redis-cache
#   |--@nhi_service_redis:
#   |  |--redis-cache
"""

import functools
import re
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleParserError
from ansible.inventory.data import InventoryData
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.inventory import BaseInventoryPlugin, Constructable
from ansible.template import trust_as_template
from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError, StateMissingError
from ansible_collections.nhi.core.plugins.module_utils.state_document import utc_now
from ansible_collections.nhi.core.plugins.plugin_utils.state_hosts import (
    FIXED_GROUPS,
    GUEST_GROUPS,
    InventoryHost,
    inventory_hosts,
    shared_names,
)
from ansible_collections.nhi.core.plugins.plugin_utils.state_source import read_state, shape_explained, state_directory

FILE_ENDINGS = tuple(f"{lead}nhi_state.{ending}" for lead in ("/", ".") for ending in ("yml", "yaml"))


_PLAIN_TEXT = re.compile(r"[A-Za-z0-9_ .:,;/@+-]*")


def _plain(value: Any) -> Any:
    """Trust text in which no template can be, since ansible-inventory prints other text as C(__ansible_unsafe)."""
    if isinstance(value, str):
        return _plain_text(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


@functools.cache
def _plain_text(text: str) -> str:
    return trust_as_template(text) if _PLAIN_TEXT.fullmatch(text) else text


class InventoryModule(BaseInventoryPlugin, Constructable):
    """Hosts from state.json; what a guest looks like as a host is decided in plugin_utils/state_hosts.py."""

    NAME = "nhi.core.nhi_state"

    def verify_file(self, path: str) -> bool:
        """Accept a readable file with one of our endings."""
        return f"/{path}".endswith(FILE_ENDINGS) and bool(super().verify_file(path))

    def parse(self, inventory: InventoryData, loader: DataLoader, path: str, cache: bool = True) -> None:
        """Read the state and add its guests; no guest is added unless all of the state could be used."""
        super().parse(inventory, loader, path, cache)
        self._refuse_unknown_options(self._read_config_data(path), path)
        directory = self._state_directory(path)
        inventory.set_variable("all", "nhi_state_dir", _plain(directory))
        try:
            hosts = self._read_hosts(directory)
        except StateMissingError as error:
            if not self.get_option("missing_ok"):
                raise AnsibleParserError(str(error)) from error
        except NHIError as error:
            raise AnsibleParserError(str(error)) from error
        else:
            self._populate(hosts)

    def _refuse_unknown_options(self, config: dict[str, Any], path: str) -> None:
        """Ansible ignores a misspelt option; a limit that silently does not apply is worse than an error."""
        unknown = sorted(set(config) - set(self.option_definitions))
        if unknown:
            raise AnsibleParserError(f"{path} has options that nhi_state does not know: {', '.join(unknown)}.")

    def _read_hosts(self, directory: str) -> list[InventoryHost]:
        now = utc_now()
        document = read_state(directory, max_age=self.get_option("max_age"), now=now)
        with shape_explained(document):
            for name in shared_names(document["infrastructure"]["guests"]):
                self.display.warning(f"More than one guest is called {name!r}: here their names end in their VMID.")
            return list(
                inventory_hosts(
                    document,
                    now=now,
                    stale_after=self.get_option("stale_after"),
                    include_templates=self.get_option("include_templates"),
                )
            )

    def _state_directory(self, path: str) -> str:
        configured, origin = self.get_option_and_origin("state_dir")
        base = Path() if str(origin).startswith("env:") else Path(path).parent
        return state_directory(str(self.templar.template(configured)), base)

    def _populate(self, hosts: list[InventoryHost]) -> None:
        for group in FIXED_GROUPS:
            self.inventory.add_group(group)
        for group in GUEST_GROUPS:
            self.inventory.add_child("nhi_guests", self.inventory.add_group(group))
        composing = any(self.get_option(option) for option in ("compose", "groups", "keyed_groups"))
        for host in hosts:
            self.inventory.add_host(host.name)
            for variable, value in host.variables.items():
                self.inventory.set_variable(host.name, variable, _plain(value))
            for group in host.groups:
                self.inventory.add_child(self.inventory.add_group(group), host.name)
            if composing:
                self._compose_host(host.name, host.variables)

    def _compose_host(self, name: str, variables: dict[str, Any]) -> None:
        """Apply compose, groups and keyed_groups; templating is most of the cost, so only where one is given."""
        strict = self.get_option("strict")
        self._set_composite_vars(self.get_option("compose"), variables, name, strict=strict)
        self._add_host_to_composed_groups(self.get_option("groups"), variables, name, strict=strict)
        self._add_host_to_keyed_groups(self.get_option("keyed_groups"), variables, name, strict=strict)

    def _compose(self, template: str, variables: dict[str, Any], *options: Any) -> Any:
        return _plain(super()._compose(template, variables, *options))
