"""SSH host keys: told in the log of a create, and read through a machine's agent."""

from __future__ import annotations

import base64
import re

from lab.sshkey import fingerprint
from lab.tests.harness import TEMPLATE, RunningLab, running

KEY = "/etc/ssh/ssh_host_ed25519_key.pub"


def fingerprints(lab: RunningLab, vmid: int, hostname: str) -> dict[str, str]:
    """Key file to fingerprint, as the log of a create says."""
    params = {"vmid": vmid, "ostemplate": TEMPLATE, "rootfs": "local-lvm:4", "hostname": hostname}
    upid = lab.request("POST", "/nodes/pve/lxc", params).data
    assert lab.wait(upid) == "OK"
    log = "\n".join(line["t"] for line in lab.get(f"/nodes/pve/tasks/{upid}/log", limit=500))
    pattern = r"Creating SSH host key '(\w+)' - this may take some time \.\.\.\ndone: (SHA256:[\w+/]{43}) root@(\S+)"
    found = re.findall(pattern, log)
    assert {name for _, _, name in found} == {hostname.partition(".")[0]}
    return {file: value for file, value, _ in found}


def test_the_log_of_a_create_tells_fingerprints_of_the_container_s_own_keys(lab: RunningLab) -> None:
    first, second = fingerprints(lab, 101, "web.example.org"), fingerprints(lab, 102, "db")
    assert first.keys() == second.keys() >= {"ssh_host_ed25519_key", "ssh_host_ecdsa_key"}
    assert not set(first.values()) & set(second.values())
    keys = lab.lab.driver.host_keys(101)
    assert {file: fingerprint(key) for file, key in keys.items()} == first


def test_a_running_machine_s_key_is_read_through_its_agent(lab: RunningLab) -> None:
    path = "/nodes/pve/qemu/200/agent/file-read"
    lab.machine(200)
    assert lab.request("GET", path, {"file": KEY}).reason == "VM 200 is not running"
    lab.task("POST", "/nodes/pve/qemu/200/status/start")
    found = lab.get(path, file=KEY)
    assert found["content"].startswith("ssh-ed25519 AAAA")
    assert found["bytes-read"] == len(found["content"])
    assert "truncated" not in found
    encoded = lab.get(path, file=KEY, decode=0)["content"]
    assert base64.b64decode(encoded).decode() == found["content"]
    part = lab.get(path, file=KEY, offset=4, count=7)
    assert (part["content"], part["truncated"]) == ("ed25519", 1)
    reply = lab.request("GET", path, {"file": "/nosuch"})
    assert (reply.status, reply.reason) == (
        500,
        "Agent error: Failed to open file '/nosuch': No such file or directory",
    )


def test_a_machine_without_agent_reads_nothing(lab: RunningLab) -> None:
    lab.machine(200, agent="0")
    lab.task("POST", "/nodes/pve/qemu/200/status/start")
    reply = lab.request("GET", "/nodes/pve/qemu/200/agent/file-read", {"file": KEY})
    assert reply.reason == "No QEMU guest agent configured"


def test_reading_a_file_needs_its_own_privilege_on_9_and_monitor_on_8(lab: RunningLab) -> None:
    path = "/nodes/pve/qemu/200/agent/file-read"
    lab.machine(200)
    reply = lab.request("GET", path, {"file": KEY}, lab.token("reader"))
    assert reply.status == 403
    assert "VM.GuestAgent.FileRead|VM.GuestAgent.Unrestricted" in reply.reason
    with running(lab.directory / "eight", pve_version=8) as eight:
        eight.machine(200)
        eight.task("POST", "/nodes/pve/qemu/200/status/start")
        assert eight.request("GET", path, {"file": KEY}, eight.token("reader")).data["content"]


def test_a_restored_guest_has_the_keys_that_were_backed_up(lab: RunningLab) -> None:
    lab.container(101)
    before = lab.lab.driver.host_keys(101)
    assert lab.task("POST", "/nodes/pve/vzdump", {"vmid": 101, "storage": "local", "mode": "stop"}) == "OK"
    [backup] = lab.get("/nodes/pve/storage/local/content", content="backup")
    params = {"vmid": 102, "ostemplate": backup["volid"], "restore": 1, "storage": "local-lvm"}
    assert lab.task("POST", "/nodes/pve/lxc", params) == "OK"
    assert lab.lab.driver.host_keys(102) == before
