"""An agent, logged in by SSH as its user, asks for what it may, and tries every way round it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import time
from typing import Any

import pytest

testinfra_hosts = ["ansible://molecule-agent-access"]

DOOR = "sudo -n -u nhi /usr/local/bin/nhi-agent"
STATE = "/var/lib/nhi"
VICTIM = "guest=molecule-victim confirm=molecule-victim"
SECRETS = {
    "token": os.environ.get("PROXMOX_TOKEN_SECRET", ""),
    "reader's token": os.environ.get("PROXMOX_READER_TOKEN_SECRET", ""),
    "vault password": "molecule-vault-password",
}


class Person:
    """A user of the guest, logged in by SSH; luca, who has no key, by root."""

    def __init__(self, host: Any, name: str) -> None:
        address = host.ansible.get_variables()["ansible_host"]
        options = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o BatchMode=yes"
        self._ssh = ["ssh", *options.split(), "-o", "IdentitiesOnly=yes", "-i", os.environ["NHI_SSH_KEY"]]
        self.there = f"{name}@{address}"

    def does(self, command: str, *options: str, reads: str = "") -> subprocess.CompletedProcess[str]:
        """What comes of a command line in the user's shell, with both streams as one."""
        return subprocess.run(
            [*self._ssh, *options, self.there, command], check=False, text=True, errors="replace", timeout=300,
            input=reads, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def begins(self, command: str, *options: str, **more: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*self._ssh, *options, self.there, command], **more)


@pytest.fixture(scope="module")
def agent(host: Any) -> Person:
    return Person(host, "ai-agent")


def decides(host: Any, command: str) -> Any:
    return host.run("runuser -u luca -- sudo -n -u nhi /usr/local/bin/nhi " + command)


def plan_of(said: str) -> str:
    found = re.search(r"plan-[a-z2-7]{26}", said)
    assert found, said
    return found.group()


def writes(host: Any) -> str:
    """All that an agent must not change, as one fingerprint."""
    places = "/etc /opt/nhi /usr/local/bin /var/lib/nhi/policy.json /var/lib/nhi/plan.key /var/lib/nhi/budgets.json"
    find = f"find {places} -type f -not -name '*.lock' -exec sha256sum {{}} +"
    return str(host.check_output(find + " | sort | sha256sum"))


def revision(host: Any) -> int:
    return int(json.loads(host.file(f"{STATE}/state.json").content)["meta"]["revision"])


# Each has to fail. What stands for a plan that waits is PLAN.
ATTEMPTS = {
    # other commands, other users, other variables
    "a shell": "sudo -n -u nhi sh -c id",
    "root": "sudo -n id",
    "the door as root": "sudo -n -u root /usr/local/bin/nhi-agent status",
    "the door as another agent": "sudo -n -u aider /usr/local/bin/nhi-agent status",
    "the door in another group": "sudo -n -u nhi -g root /usr/local/bin/nhi-agent status",
    "a login": "sudo -n -u nhi -i",
    "a shell of nhi's": "sudo -n -u nhi -s",
    "an editor": "sudo -n -u nhi -e /var/lib/nhi/policy.json",
    "the command nhi": "sudo -n -u nhi /usr/local/bin/nhi plans",
    "its own approval": "sudo -n -u nhi /usr/local/bin/nhi approve PLAN",
    "its own approval without sudo": "/usr/local/bin/nhi approve PLAN",
    "approval by the door": f"{DOOR} approve PLAN",
    "rejection by the door": f"{DOOR} reject PLAN",
    "a freeze": f"{DOOR} freeze now",
    "the interpreter of the door": "sudo -n -u nhi /opt/nhi/agent/current/venv/bin/python -c 'print(1)'",
    "ansible-playbook itself": "sudo -n -u nhi /opt/nhi/agent/current/venv/bin/ansible-playbook --version",
    "the program of the door without sudo": "/usr/local/bin/nhi-agent status",
    "variables of sudo without sudo": "SUDO_USER=ai-agent SUDO_UID=$(id -u) /usr/local/bin/nhi-agent status",
    "a program called sudo": "cp /bin/sh /tmp/sudo; export SUDO_USER=ai-agent SUDO_UID=$(id -u);"
                             " /tmp/sudo -c '/usr/local/bin/nhi-agent status; exit'",
    "a link to the door": "ln -sf /usr/local/bin/nhi-agent /tmp/agent-link; sudo -n -u nhi /tmp/agent-link status",
    "a copy of the door": "cp /usr/local/bin/nhi-agent /tmp/agent-copy; sudo -n -u nhi /tmp/agent-copy status",
    "a hard link to the door": "ln /usr/local/bin/nhi-agent ~/hard && sudo -n -u nhi ~/hard status",
    "another directory": "sudo -n -D /etc -u nhi /usr/local/bin/nhi-agent status",
    "another root": "sudo -n -R /tmp -u nhi /usr/local/bin/nhi-agent status",
    "keeping its variables": "sudo -n -E -u nhi /usr/local/bin/nhi-agent status",
    "being another actor": "sudo -n -u nhi NHI_ACTOR=luca /usr/local/bin/nhi-agent status",
    "another settings file": "sudo -n -u nhi NHI_CONFIG=/tmp/nhi.toml /usr/local/bin/nhi-agent status",
    "preloading a library": "sudo -n -u nhi LD_PRELOAD=/tmp/x.so /usr/local/bin/nhi-agent status",
    "another module path": "sudo -n -u nhi PYTHONPATH=/tmp /usr/local/bin/nhi-agent status",
    "env": "sudo -n -u nhi env NHI_ACTOR=luca /usr/local/bin/nhi-agent status",
    # arguments of the door
    "a playbook elsewhere": f"{DOOR} plan /tmp/evil.yml",
    "a playbook above": f"{DOOR} plan ../../../tmp/evil",
    "a playbook that is none of its": f"{DOOR} plan topology",
    "an option": f"{DOOR} plan scan -e x=1",
    "an option in one word": f"{DOOR} plan scan --extra-vars=@/etc/passwd",
    "two hyphens": f"{DOOR} -- plan scan",
    "verbosity": f"{DOOR} plan scan -vvv",
    "a file of variables": f"{DOOR} plan scan @/etc/nhi/nhi.toml",
    "a file as a value": f"{DOOR} plan destroy_guest guest=@/etc/passwd",
    "a template": f"{DOOR} plan destroy_guest \"guest={{{{ lookup('pipe', 'id') }}}}\"",
    "a block of a template": f"{DOOR} plan destroy_guest 'guest={{% if 1 %}}a{{% endif %}}'",
    "a template in a sentence": f"{DOOR} plan snapshot 'reason={{{{ nhi_vault_dir }}}}'",
    "a second variable in a value": f"{DOOR} plan destroy_guest 'guest=a nhi_policy=/tmp/p'",
    "a new line": f"{DOOR} plan destroy_guest $'guest=a\\nb'",
    "a byte that is no text": f"{DOOR} plan destroy_guest $'guest=\\xff'",
    "the Brain as a guest": f"{DOOR} plan service service=redis guest=localhost",
    "another policy": f"{DOOR} plan destroy_guest {VICTIM} nhi_policy=/tmp/policy.json",
    "another state": f"{DOOR} plan destroy_guest {VICTIM} nhi_state_dir=/tmp",
    "another token": f"{DOOR} plan destroy_guest {VICTIM} proxmox_api=x",
    "another connection": f"{DOOR} plan scan ansible_connection=local",
    "a result file": f"{DOOR} apply service service=redis result_file=/tmp/x",
    "a setting of nhi": f"{DOOR} state --config=/tmp/nhi.toml",
    "a path as a plan": f"{DOOR} plans ../../etc/passwd",
    "a plan that waits": f"{DOOR} apply destroy_guest {VICTIM} plan_id=PLAN",
    # reading
    **{f"reading {path}": f"cat {path}" for path in (
        "/etc/nhi/nhi.toml", "/etc/nhi/agent_access.json", "/etc/nhi/control/token_secret", "/etc/nhi/control/ssh_key",
        "/etc/nhi/control/vault_password", "/etc/nhi/credentials/proxmox_token_secret", "/var/lib/nhi/plan.key",
        "/var/lib/nhi/state.json", "/var/lib/nhi/policy.json", "/var/lib/nhi/plans/PLAN.json",
        "/var/lib/nhi/audit/head.json",
        "/opt/nhi/checkout/current/ansible.cfg", "/etc/shadow", "/etc/sudoers.d/nhi-agents")},
    "listing the state": "ls /var/lib/nhi",
    "listing the secrets": "ls /etc/nhi/control",
    "reading through a link": "ln -sf /var/lib/nhi/plan.key ~/key; cat ~/key",
    "reading through a hard link": "ln /etc/nhi/agent_access.json ~/rules && cat ~/rules",
    "the disk": "head -c 512 /dev/sda || head -c 512 /dev/vda",
    # writing
    **{f"writing {path}": f"echo x >> {path}" for path in (
        "/var/lib/nhi/state.json", "/var/lib/nhi/policy.json", "/var/lib/nhi/dependency_graph.json",
        "/var/lib/nhi/budgets.json", "/var/lib/nhi/plans/PLAN.approved", "/var/lib/nhi/audit/head.json",
        "/var/lib/nhi/infrastructure.lock", "/etc/nhi/agent_access.json", "/etc/nhi/agent_access.nft",
        "/usr/local/bin/nhi-agent", "/opt/nhi/checkout/current/playbooks/scan.yml",
        "/opt/nhi/agent/current/venv/bin/ansible-playbook", "/etc/sudoers.d/x", "/etc/ssh/nhi-agents/ai-agent",
        "/etc/cron.d/x", "/etc/systemd/system/x.service")},
    "a new module": "touch $(echo /opt/nhi/agent/*/venv/lib/python3*/site-packages)/sitecustomize.py",
    "removing the freeze": "rm -f /var/lib/nhi/FREEZE && test -d /var/lib/nhi/plans",
    "replacing the state's directory": "mv /var/lib/nhi /var/lib/nhi2",
    "a job for later": "systemd-run --uid=nhi id",
    "a service manager of its own": "XDG_RUNTIME_DIR=/run/user/$(id -u) systemd-run --user --scope id",
    "another way to be nhi": "su nhi -s /bin/sh -c id </dev/null",
    "the rule": "/usr/sbin/nft delete table inet nhi_agent_access",
    "a limit that would cut a run off": f"ulimit -f 0; {DOOR} apply snapshot",
    "a forged name": "SUDO_USER=luca SUDO_UID=1 NHI_ACTOR=luca sudo -n -u nhi /usr/local/bin/nhi approve PLAN",
}  # fmt: skip


@pytest.fixture(scope="module")
def plan(agent: Person) -> str:
    """A plan that waits for approval."""
    planned = agent.does(f"{DOOR} plan destroy_guest {VICTIM}")
    assert planned.returncode == 0, planned.stdout
    assert "Destroy" in planned.stdout
    return plan_of(planned.stdout)


@pytest.fixture(scope="module")
def outcomes(host: Any, agent: Person, plan: str) -> dict[str, tuple[int, str]]:
    """How all attempts ended, made in one login so that they take seconds."""
    before = writes(host)
    script = "cd /tmp\n" + "".join(
        f"printf '\\n=== %s\\n' {shlex.quote(name)}\n"
        f'timeout 20 bash -c {shlex.quote(line.replace("PLAN", plan))}; echo "--- $?"\n'
        for name, line in ATTEMPTS.items()
    )
    said = agent.does("exec 2>&1; cat > ~/attempts.sh; bash ~/attempts.sh </dev/null", reads=script).stdout
    parts = re.findall(r"^=== (.*?)\n(.*?)^--- (\d+)$", said, re.MULTILINE | re.DOTALL)
    assert [name for name, _said, _code in parts] == list(ATTEMPTS), said[-2000:]
    assert writes(host) == before
    return {name: (int(code), text) for name, text, code in parts}


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_a_way_round_is_closed(outcomes: dict[str, tuple[int, str]], attempt: str) -> None:
    code, said = outcomes[attempt]
    assert code not in (0, 124), said
    assert "Traceback" not in said
    assert "uid=" not in said
    for secret in SECRETS.values():
        assert secret not in said


def test_variables_of_the_caller_reach_nothing(host: Any, agent: Person) -> None:
    host.check_output("rm -rf /tmp/evil; mkdir -m 777 /tmp/evil")
    traps = "ANSIBLE_CONFIG PYTHONPATH PYTHONSTARTUP LD_PRELOAD LD_LIBRARY_PATH BASH_ENV ENV HOME PAGER EDITOR GIT_SSH"
    said = agent.does(
        "cd /tmp/evil; ln -s /etc/shadow ansible.cfg;"
        " echo 'open(\"/tmp/evil/ran\", \"w\")' | tee sitecustomize.py json.py nhi_services.py;"
        " export NHI_ACTOR=luca NHI_STATE_DIR=/tmp/evil NHI_CONFIG=/tmp/evil/x;"
        f" for v in {traps}; do export $v=/tmp/evil; done;"
        f" umask 0777; ulimit -S -t 1 -f 0; trap '' TERM CHLD; {DOOR} apply snapshot reason=kept"
    )  # fmt: skip
    assert said.returncode == 0, said.stdout
    assert not host.file("/tmp/evil/ran").exists
    newest = host.check_output(f"/usr/local/bin/nhi history list --json --state-dir {STATE}")
    assert '"ai-agent"' in newest
    assert "luca" not in newest
    assert host.file(f"{STATE}/state.json").mode & 0o600 == 0o600


def test_what_runs_for_an_agent_is_out_of_its_reach(host: Any, agent: Person) -> None:
    running = agent.begins(f"{DOOR} plan scan > ~/said 2>&1; echo $? > ~/code")
    try:
        deadline = time.monotonic() + 20
        while host.run("pgrep -u nhi -f playbooks/scan.yml").rc:
            assert time.monotonic() < deadline
        tried = agent.does(
            """
            pids=$(pgrep -u nhi)
            echo "seen $(echo $pids | wc -w)"
            for p in $pids; do
                for s in STOP KILL TERM INT CONT; do kill -$s $p 2>/dev/null && echo "signal $s $p"; done
                for f in environ mem maps; do head -c 1 /proc/$p/$f >/dev/null 2>&1 && echo "read $f of $p"; done
                ls /proc/$p/fd >/dev/null 2>&1 && echo "saw files of $p"
                ls /proc/$p/cwd/ >/dev/null 2>&1 && echo "went to the directory of $p"
                g=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/$p/cgroup)
                for f in freeze kill procs; do test -w $g/cgroup.$f && echo "could write $g/cgroup.$f"; done
                tr '\\0' ' ' < /proc/$p/cmdline; echo
                python3 -c "
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
print('traced' if libc.ptrace(16, int(sys.argv[1]), 0, 0) == 0 else '')" $p
            done; true
            """
        )
        assert running.wait(60) == 0
    finally:
        running.kill()
    assert re.search(r"seen [2-9]", tried.stdout, re.MULTILINE), tried.stdout
    gave = re.findall(r"^\s*((?:signal|read|saw|went|could|traced).*)", tried.stdout, re.MULTILINE)
    assert not gave
    assert not [name for name, secret in SECRETS.items() if secret in tried.stdout]
    assert host.file("/home/ai-agent/code").content_string == "0\n", host.file("/home/ai-agent/said").content_string


def test_who_stops_or_kills_the_sudo_that_is_its_own_stops_no_run(host: Any, agent: Person) -> None:
    # sudo's real user is its caller, so that it may be signalled; what it started may not.
    before = revision(host)
    running = agent.begins(f"{DOOR} apply scan > ~/said 2>&1")
    try:
        deadline = time.monotonic() + 20
        while host.run("pgrep -u nhi -f playbooks/scan.yml").rc:
            assert time.monotonic() < deadline
        stopped = agent.does("for s in STOP USR1 USR2 ALRM KILL; do pkill -$s -x sudo; done; true")
        assert stopped.returncode == 0
        while host.run("pgrep -u nhi -f playbooks/scan.yml").rc == 0:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        running.kill()
        running.wait()
    assert revision(host) == before + 1


def test_keys_of_the_terminal_stop_nothing_and_a_hang_up_ends_the_run(host: Any, agent: Person) -> None:
    running = agent.begins(f"{DOOR} plan scan", "-tt", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert running.stdin is not None
    try:
        deadline = time.monotonic() + 20
        while host.run("pgrep -u nhi -f playbooks/scan.yml").rc:
            assert time.monotonic() < deadline
        running.stdin.write(b"\x1a\x1c")  # Ctrl-Z, Ctrl-\
        running.stdin.flush()
        time.sleep(0.3)
        assert "T" not in host.check_output("ps -u nhi -o state= | tr -d '\\n'")
    finally:
        running.kill()
        running.wait()
    deadline = time.monotonic() + 15
    while host.run("pgrep -u nhi -f playbooks/scan.yml").rc == 0:
        assert time.monotonic() < deadline, "it went on without its agent"
        time.sleep(0.2)
    assert host.run(f"/usr/local/bin/nhi state validate --state-dir {STATE}").rc == 0


def test_agents_reach_no_port_of_the_api_and_others_do(host: Any, agent: Person) -> None:
    api, port = os.environ["PROXMOX_HOST"], os.environ["PROXMOX_PORT"]
    connect = f"bash -c 'echo > /dev/tcp/{api}/{port}'"
    refused = agent.does(connect)
    assert refused.returncode != 0
    assert "refused" in refused.stdout
    assert host.run(connect).rc == 0
    assert host.run("runuser -u nhi -- " + connect).rc == 0
    rules = host.check_output("nft list table inet nhi_agent_access")
    for name in ("ai-agent", "aider"):
        assert re.search(rf"\b{host.user(name).uid}\b|\"{name}\"", rules)
    for verb in ("restart", "reload", "stop"):
        host.check_output(f"systemctl {verb} nftables.service")
        assert agent.does(connect).returncode != 0, verb


def test_agents_have_no_group_no_password_and_no_service_manager(host: Any) -> None:
    for name in ("ai-agent", "aider"):
        user = host.user(name)
        assert user.groups == [name]
        assert user.password in ("*", "!*")
        assert host.check_output("systemctl show --value -p LoadState %s", f"user@{user.uid}.service") == "masked"


def test_ssh_forwards_nothing_and_takes_no_key_that_an_agent_added(host: Any, agent: Person) -> None:
    tunnel = agent.does("sleep 1", "-o", "ExitOnForwardFailure=yes", "-R", "127.0.0.1:0:127.0.0.1:22")
    assert tunnel.returncode != 0
    through = agent.does("-", "-W", "127.0.0.1:22")
    assert through.returncode != 0
    assert "OpenSSH" not in through.stdout
    agent.does("mkdir -p ~/.ssh; echo 'ssh-ed25519 AAAA' > ~/.ssh/authorized_keys; echo 'touch ~/rc' > ~/.ssh/rc")
    assert agent.does("true").returncode == 0, "it still comes with the key that it was given"
    assert not host.file("/home/ai-agent/rc").exists


def test_the_sudo_rule_is_valid_and_belongs_to_root(host: Any) -> None:
    host.check_output("visudo -c")
    rules = host.file("/etc/sudoers.d/nhi-agents")
    assert (rules.user, rules.group, rules.mode) == ("root", "root", 0o440)
    for path in ("/usr/local/bin/nhi-agent", "/opt/nhi/checkout", "/opt/nhi/agent", "/etc/nhi/agent_access.json"):
        assert host.file(path).user == "root"
        assert not host.file(path).mode & 0o022


def test_an_operator_approves_and_does_nothing_more(host: Any, plan: str) -> None:
    for wrong in ("scan", f"approve {plan} --state-dir /tmp", f"approve --config=/tmp/x {plan}", "approve ../x",
                  "freeze --state-dir /tmp", f"reject {plan} --config=/tmp/x", "plans --json"):  # fmt: skip
        assert decides(host, wrong).rc != 0
    assert host.run("runuser -u luca -- sudo -n -u nhi /usr/local/bin/nhi-agent status").rc != 0


def test_what_is_approved_is_applied_in_the_agent_s_name(host: Any, agent: Person, plan: str) -> None:
    assert "frozen by luca" in decides(host, "freeze for lunch").stdout
    assert "frozen by luca" in agent.does(f"{DOOR} status").stdout
    assert decides(host, "unfreeze").rc == 0
    assert f"{plan} is approved by luca" in decides(host, f"approve {plan}").stdout
    asked = agent.does(f"{DOOR} plans {plan}").stdout
    assert "ai-agent" in asked
    applied = agent.does(f"{DOOR} apply destroy_guest {VICTIM} plan_id={plan}")
    assert applied.returncode == 0, applied.stdout
    assert "molecule-victim" not in agent.does(f"{DOOR} state 'infrastructure.guests[].name'").stdout
    again = agent.does(f"{DOOR} plans {plan}").stdout
    assert "used" in again
    assert "by ai-agent" in again
    log = [json.loads(line) for line in host.check_output(f"cat {STATE}/audit/*.jsonl").splitlines()]
    told = {(entry["actor"], entry["operation"], entry["outcome"]) for entry in log if plan in str(entry)}
    assert {("ai-agent", "nhi_vm/absent", "done"), ("luca", "approve", "done")} <= told, told
    assert ("ai-agent", "nhi-agent", "refused") in {(e["actor"], e["operation"], e["outcome"]) for e in log}
    assert {entry["actor"] for entry in log} <= {"ai-agent", "luca", "nhi", "nhi-history"}
    journal = host.check_output("journalctl --no-pager -t sudo")
    assert "ai-agent" in journal
    for secret in SECRETS.values():
        assert secret not in journal
