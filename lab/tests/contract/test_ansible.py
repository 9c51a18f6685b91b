"""ansible-playbook and ansible-inventory, unchanged, against the lab."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lab.tests.contract.conftest import Clients

pytestmark = pytest.mark.slow

PLAYBOOK = """
- name: Make two guests
  hosts: localhost
  gather_facts: false
  module_defaults:
    group/community.proxmox.proxmox:
      api_host: 127.0.0.1
      api_user: root@pam
      validate_certs: false
  tasks:
    - name: Create, then do it again
      community.proxmox.proxmox: &guest
        node: pve
        vmid: "{{ item.0.vmid }}"
        hostname: "{{ item.0.name }}"
        ostemplate: local:vztmpl/{{ template }}
        storage: local-lvm
        memory: 64
        netif:
          net0: name=eth0,bridge=vmbr0,ip={{ item.0.address }}/24
      loop: "{{ guests | product(['first', 'second']) }}"
      register: created
    - name: Start, then do it again
      community.proxmox.proxmox:
        <<: *guest
        state: started
      loop: "{{ guests | product(['first', 'second']) }}"
      register: started
    - name: Only the first time changes something
      ansible.builtin.assert:
        that:
          - item.results | map(attribute='changed') == [true, false, true, false]
      loop: ["{{ created }}", "{{ started }}"]
      loop_control: {label: ""}
    - name: Create and start a machine with an agent
      community.proxmox.proxmox_kvm:
        node: pve
        vmid: 303
        name: vm1
        memory: 64
        agent: "1"
        pool: ai-lab
        net: {net0: "virtio,bridge=vmbr0"}
        ipconfig: {ipconfig0: ip=10.99.0.33/24}
        state: "{{ item }}"
      loop: [present, started]
  vars:
    guests:
      - {vmid: 301, name: web1, address: 10.99.0.31}
      - {vmid: 302, name: web2, address: 10.99.0.32}
"""
INVENTORY = """
plugin: community.proxmox.proxmox
url: https://127.0.0.1:{port}
user: {user}
token_id: {token_id}
token_secret: {token_secret}
validate_certs: false
want_facts: true
want_proxmox_nodes_ansible_host: false
qemu_extended_statuses: true
keyed_groups:
  - key: proxmox_tags_parsed
    prefix: tag
compose:
  ansible_host: proxmox_lxc_interfaces | selectattr('name', 'equalto', 'eth0') | map(attribute='inet') | first
    | split('/') | first
"""


@pytest.fixture(scope="module")
def project(clients: Clients, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("project")
    (directory / "guests.yml").write_text(PLAYBOOK)
    (directory / "lab.proxmox.yml").write_text(
        INVENTORY.format(
            port=clients.port,
            user=clients.exported["PROXMOX_USER"],
            token_id=clients.exported["PROXMOX_TOKEN_ID"],
            token_secret=clients.exported["PROXMOX_TOKEN_SECRET"],
        )
    )
    return directory


@pytest.fixture(scope="module")
def played(clients: Clients, project: Path) -> str:
    """The output of the playbook."""
    content = clients.ok("proxmox_storage_contents_info", node="pve", storage="local")["proxmox_storage_content"]
    template = next(v["volid"].rpartition("/")[2] for v in content if v["content"] == "vztmpl")
    secret = {"PROXMOX_PASSWORD": clients.root_password, "PROXMOX_PORT": str(clients.port)}
    return clients.run("ansible-playbook", "guests.yml", "-e", f"template={template}", cwd=project, **secret)


def test_the_playbook_changes_once(played: str) -> None:
    recap = played.splitlines()[-2]
    assert re.search(r"ok=4 +changed=3 +unreachable=0 +failed=0", recap), played


def plain(value: dict[str, Any]) -> Any:
    """Values from outside come marked as unsafe for templates."""
    return value["__ansible_unsafe"] if set(value) == {"__ansible_unsafe"} else value


def test_the_inventory_knows_the_guests(clients: Clients, project: Path, played: str) -> None:
    assert played
    for vmid, name in ((301, "web1"), (302, "web2")):
        clients.ok("proxmox", vmid=vmid, node="pve", hostname=name, tags=["web", "lab"], update=True)
    inventory: dict[str, Any] = json.loads(
        clients.run("ansible-inventory", "-i", "lab.proxmox.yml", "--list", cwd=project), object_hook=plain
    )
    assert set(inventory["proxmox_all_lxc"]["hosts"]) == {"web1", "web2"}
    assert set(inventory["proxmox_all_qemu"]["hosts"]) == {"vm1"}
    assert set(inventory["proxmox_all_running"]["hosts"]) == {"web1", "web2", "vm1"}
    assert set(inventory["proxmox_pool_ai_lab"]["hosts"]) == {"vm1"}
    assert set(inventory["proxmox_nodes"]["hosts"]) == {"pve"}
    assert set(inventory["proxmox_pve_lxc"]["hosts"]) == {"web1", "web2"}
    assert set(inventory["tag_web"]["hosts"]) == {"web1", "web2"}
    facts = inventory["_meta"]["hostvars"]["web1"]
    assert (facts["proxmox_vmid"], facts["proxmox_node"], facts["proxmox_status"]) == (301, "pve", "running")
    assert facts["proxmox_snapshots"] == []
    assert facts["proxmox_net0"]["ip"] == "10.99.0.31/24"
    assert facts["ansible_host"] == "10.99.0.31"
    machine = inventory["_meta"]["hostvars"]["vm1"]
    assert (machine["proxmox_qmpstatus"], machine["proxmox_status"]) == ("running", "running")
    addresses = [address for card in machine["proxmox_agent_interfaces"] for address in card["ip-addresses"]]
    assert "10.99.0.33/24" in addresses
    assert "eth0" in [interface["name"] for interface in facts["proxmox_lxc_interfaces"]]
