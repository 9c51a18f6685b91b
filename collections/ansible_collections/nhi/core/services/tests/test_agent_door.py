# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`nhi-agent`: what an agent may ask for, what then runs with which environment, and what can not hold a run up."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.nhi.core.plugins.module_utils.lock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from nhi_services import agent_door, door_run
from nhi_services.door_rules import KINDS, DoorConfig, DoorError, Read, Run, parse_config, parse_request

CORE = Path(__file__).parents[2]
# What the role lets agents run unless it is told otherwise.
PLAYBOOKS = yaml.safe_load((CORE / "roles/agent_access/defaults/main.yml").read_text())["agent_access_playbooks"]
PLAN = "plan-" + "a2" * 13
Door = Callable[..., int]


def configuration(root: Path, **more: Any) -> dict[str, Any]:
    return {
        "agents": ["ai-agent", "aider"],
        "checkout": str(root),
        "ansible_playbook": str(root / "bin/ansible-playbook"),
        "state_dir": str(root / "state"),
        "settings": str(root / "nhi.toml"),
        "playbooks": PLAYBOOKS,
        "variables": {"nhi_policy": "/var/lib/nhi/policy.json"},
        "environment": {"HOME": "/var/lib/nhi"},
        **more,
    }


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    """The door sets that of its process, which here is that of all tests."""
    before = os.umask(0o022)
    yield
    os.umask(before)


RULES: DoorConfig = parse_config(configuration(Path("/srv")))


# A word that a caller may give: mostly such as the door knows, some with a twist, some of anything.
KNOWN = [
    "plan", "apply", "state", "exec", "logs", "deps", "diff", "plans", "status", "restarts", "history", PLAN, "json",
    *PLAYBOOKS,
    *(f"{name}={value}" for variables in PLAYBOOKS.values() for name in variables
      for value in ("web-1", "true", PLAN, "absent", "-e", "{{ x }}", "a,-b", "localhost", "")),
    "--", "-e", "-e@/etc/shadow", "@/etc/shadow", "../scan", "/etc/x.yml", "--config=/tmp/x", "yesterday 14:00",
]  # fmt: skip
WORDS = st.lists(st.one_of(st.sampled_from(KNOWN), st.text(max_size=30)), max_size=5)


@given(WORDS)
def test_no_word_of_a_caller_becomes_an_option_a_template_or_a_path(words: list[str]) -> None:
    try:
        request = parse_request(RULES, words)
    except DoorError:
        return
    if isinstance(request, Read):
        argv = request.argv
        if argv[0] == "exec":
            # What follows the two hyphens is the command on the guest, which the policy judges.
            assert argv[argv.index("--") + 1 :] == tuple(words[2:])
            argv = argv[: argv.index("--")]
            assert argv[2:] == ("--timeout", "600")
            argv = argv[:2]
        chosen = [word for word in argv if word in words]
        assert not [word for word in chosen if word.startswith(("-", "@")) and word not in ("-n", "--since")]
        assert set(argv) - set(words) <= {"show", "list", "--json", "-n", "--since"}
        assert not any(marker in word for word in request.argv for marker in ("{{", "{%", "{#"))
        return
    program, playbook, *rest = request.argv
    assert program == "/srv/bin/ansible-playbook"
    assert playbook.removeprefix("playbooks/").removesuffix(".yml") in PLAYBOOKS
    assert rest[:-1] == (["--check", "--diff"] if words[0] == "plan" else []) + ["--extra-vars"]
    assert not any(marker in rest[-1] for marker in ("{{", "{%", "{#"))
    values = json.loads(rest[-1])
    assert values.pop("nhi_policy") == "/var/lib/nhi/policy.json"
    assert set(values) <= set(PLAYBOOKS[words[1]])
    assert all(value is True or value is False or not str(value).startswith("-") for value in values.values())


@given(st.sampled_from(sorted(KINDS)), st.text(max_size=40))
def test_no_value_begins_an_option_or_holds_what_another_program_would_read_into(kind: str, text: str) -> None:
    value = KINDS[kind][1](text)
    if isinstance(value, str):
        assert value == text
        assert not set(value) & set("{}[]\"'\\`$&|<>;*?~#%!=\n\r\t\0") - set(";" if kind == "sentence" else "")
        assert value.isascii()
        assert value[0].isalnum()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["approve", PLAN], "is not for agents"),
        (["reject", PLAN], "is not for agents"),
        (["freeze"], "is not for agents"),
        (["scan"], "is not for agents"),
        (["exec", "sh"], "exec takes a guest or service"),
        (["exec", "--json", "sh"], "is an option"),
        (["exec", "../etc", "sh"], "is no guest or service"),
        (["exec", "web-1;id", "sh"], "is no guest or service"),
        (["logs", "web-1", "-f"], "is an option"),
        (["logs", "web-1", "9999999"], "is not a number"),
        (["logs", "web-1", "5", "now", "x"], "arguments"),
        (["plan", "../../tmp/evil"], "is no playbook"),
        (["plan", "/tmp/evil.yml"], "is no playbook"),
        (["plan", "playbooks/scan.yml"], "is no playbook"),
        (["plan", "topology"], "is no playbook"),
        (["plan"], "is no playbook"),
        (["plan", "destroy_guest", "-e", "x=1"], "is an option"),
        (["plan", "--", "destroy_guest"], "is an option"),
        (["plan", "destroy_guest", "@/etc/nhi/nhi.toml"], "is an option or a file"),
        (["plan", "destroy_guest", "state_dir=/tmp"], "is no variable"),
        (["plan", "destroy_guest", "ansible_connection=ssh"], "is no variable"),
        (["plan", "destroy_guest", "nhi_policy=/tmp/p.json"], "is no variable"),
        (["plan", "destroy_guest", "guest"], "is no variable"),
        (["plan", "destroy_guest", "guest={{ lookup('pipe', 'id') }}"], "template"),
        (["plan", "destroy_guest", "guest={% raw %}"], "template"),
        (["plan", "destroy_guest", "guest=a b=c"], "has to be a name"),
        (["plan", "destroy_guest", "guest=localhost"], "has to be a name"),
        (["plan", "destroy_guest", "guest=web-1\nx"], "can not be printed"),
        (["plan", "destroy_guest", "guest=web-1\0"], "can not be printed"),
        (["plan", "destroy_guest", "guest=\u202ew"], "can not be printed"),
        (["plan", "destroy_guest", "guest=\udcff"], "can not be printed"),
        (["plan", "destroy_guest", "guest=\u0661"], "has to be a name"),
        (["plan", "destroy_guest", "guest=" + "a" * 64], "has to be a name"),
        (["plan", "destroy_guest", "guest=" + "a" * 600], "longer"),
        (["plan", "destroy_guest", "guest=a", "guest=b"], "given twice"),
        (["plan", "destroy_guest", f"plan_id={PLAN}"], "belongs to `apply`"),
        (["apply", "destroy_guest", "plan_id=../x"], "has to be a number of a plan"),
        (["plans", "../../plan"], "is not a number of a plan"),
        (["state", "a", "b"], "arguments"),
        (["diff", "now; id"], "is not a moment"),
        (["deps", "a/b"], "is not a name"),
    ],
)
def test_what_is_not_listed_is_refused(words: list[str], why: str) -> None:
    with pytest.raises(DoorError, match=why):
        parse_request(RULES, words)


def test_a_command_on_a_guest_keeps_its_words_and_a_log_its_bounds() -> None:
    words = ["exec", "redis@web-1", "df", "-h", "--", "a b", "$(id)"]
    assert parse_request(RULES, words) == Read(
        ("exec", "redis@web-1", "--timeout", "600", "--", "df", "-h", "--", "a b", "$(id)")
    )
    assert parse_request(RULES, ["logs", "redis", "20", "2 hours ago"]) == Read(
        ("logs", "redis", "-n", "20", "--since", "2 hours ago")
    )


def test_what_is_listed_becomes_one_document_of_values() -> None:
    request = parse_request(RULES, ["apply", "destroy_guest", "guest=web-1", "allow_impact=yes", f"plan_id={PLAN}"])
    assert isinstance(request, Run)
    assert request.argv[1:-1] == ("playbooks/destroy_guest.yml", "--extra-vars")
    assert json.loads(request.argv[-1]) == {
        "guest": "web-1", "allow_impact": True, "plan_id": PLAN, "nhi_policy": "/var/lib/nhi/policy.json",
    }  # fmt: skip


@pytest.mark.parametrize(
    "variable",
    ["ansible_host", "nhi_state_dir", "state_dir", "proxmox_api", "api_token", "policy", "vault_file", "result_file",
     "host", "restart_timer_host", "become_user", "a=b", "-e"],
)  # fmt: skip
def test_a_configuration_that_gives_too_much_away_opens_nothing(variable: str) -> None:
    with pytest.raises(DoorError, match="nothing is allowed"):
        parse_config(configuration(Path("/srv"), playbooks={"scan": {variable: "name"}}))


@pytest.mark.parametrize(
    "change",
    [{"checkout": "relative"}, {"playbooks": {"../scan": {}}}, {"playbooks": {"scan": {"guest": "anything"}}},
     {"playbooks": ["scan"]}, {"agents": None}],
)  # fmt: skip
def test_a_broken_configuration_opens_nothing(change: dict[str, Any]) -> None:
    with pytest.raises(DoorError, match="nothing is allowed"):
        parse_config(configuration(Path("/srv"), **change))


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Door:
    """The door with a program in place of ansible-playbook that prints what it was given."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(agent_door, "forget_inherited_signals", lambda: None)  # they are those of the tests
    (tmp_path / "state").mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / "secret").write_text("s3cret\n")
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "nhi.toml").write_text('[proxmox]\napi_host = "pve"\nvalidate_certs = true\n')
    playbook = tmp_path / "bin/ansible-playbook"
    program = "import json, os, sys\nprint(json.dumps([sys.argv[1:], dict(os.environ)]))\n"
    playbook.write_text(f"#!{sys.executable}\n{program}")
    playbook.chmod(0o755)

    def run(*words: str, agent: str | None = "aider", **more: Any) -> int:
        more = {"token_secret": str(tmp_path / "secret"), **more}
        (tmp_path / "agent_access.json").write_text(json.dumps(configuration(tmp_path, **more)))
        return agent_door.main(words, config=tmp_path / "agent_access.json", caller=lambda: agent)

    return run


def test_a_run_has_the_environment_of_the_configuration_and_nothing_of_the_caller_s(
    door: Door, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NHI_ACTOR", "ANSIBLE_CONFIG", "PYTHONPATH", "LD_PRELOAD", "PAGER", "PROXMOX_HOST", "NHI_STATE_DIR"):
        monkeypatch.setitem(os.environ, name, "evil")
    assert door("plan", "destroy_guest", "guest=web-1") == 0
    arguments, environment = json.loads(capfd.readouterr().out)
    assert arguments[:3] == ["playbooks/destroy_guest.yml", "--check", "--diff"]
    assert "evil" not in environment.values()
    assert environment["NHI_ACTOR"] == "aider"
    assert environment["PROXMOX_HOST"] == "pve"
    assert environment["PROXMOX_VALIDATE_CERTS"] == "true"
    assert environment["PROXMOX_TOKEN_SECRET"] == "s3cret"
    assert set(environment) - {"LC_CTYPE"} == {
        "LANG", "HOME", "PATH", "PYTHONDONTWRITEBYTECODE", "NHI_ACTOR", "NHI_STATE_DIR", "NHI_CONFIG",
        "ANSIBLE_CONFIG", "ANSIBLE_NOCOLOR", "NHI_AUDIT_REQUIRED",
        "PROXMOX_HOST", "PROXMOX_VALIDATE_CERTS", "PROXMOX_TOKEN_SECRET",
    }  # fmt: skip
    assert "s3cret" not in str(arguments)


@pytest.mark.parametrize("agent", [None, "root", "luca", "nhi", ""])
def test_only_an_agent_that_sudo_vouches_for_comes_in(
    door: Door, agent: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    for words in (["status"], ["help"], ["plan", "scan"]):
        assert door(*words, agent=agent) == 1
    out, err = capfd.readouterr()
    assert not out
    assert err.count("\n") == 3


def test_variables_of_sudo_prove_nothing_without_sudo(
    door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    door("help")
    me = subprocess.check_output(["id", "-un"], text=True).strip()
    monkeypatch.setenv("SUDO_USER", me)
    monkeypatch.setenv("SUDO_UID", str(os.getuid()))
    capfd.readouterr()
    assert agent_door.main(["help"], config=tmp_path / "agent_access.json") == 1
    assert "through sudo" in capfd.readouterr().err


def test_a_secret_that_others_can_read_is_not_used(
    door: Door, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "secret").chmod(0o644)
    assert door("plan", "destroy_guest", "guest=web-1") == 1
    assert "can be read by others" in capfd.readouterr().err


def test_the_exit_code_is_that_of_the_playbook(door: Door, tmp_path: Path) -> None:
    (tmp_path / "bin/ansible-playbook").write_text("#!/bin/sh\nexit 4\n")
    assert door("apply", "scan") == 4


def test_runs_of_one_agent_take_turns(
    door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(agent_door, "_TURN_SECONDS", 0.1)
    assert door("apply", "scan") == 0
    with FileLock(tmp_path / "state/agents/aider.lock", "a run"):
        assert door("apply", "scan") == 1
        assert "another run of aider is under way" in capfd.readouterr().err
        assert door("apply", "scan", agent="ai-agent") == 0


def test_what_is_refused_is_told_to_the_audit_log(
    door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NHI_ACTOR", "luca")
    assert door("plan", "destroy_guest", "guest={{ 1 }}") == 1
    (entry,) = [json.loads(line) for file in (tmp_path / "state/audit").glob("*.jsonl") for line in file.open()]
    assert (entry["actor"], entry["operation"], entry["subject"]) == ("aider", "nhi-agent", "plan")
    assert entry["outcome"] == "refused"
    assert "template" in entry["reason"]
    (tmp_path / "state/audit").rename(tmp_path / "elsewhere")
    (tmp_path / "state/audit").touch()
    capfd.readouterr()
    assert door("approve", PLAN) == 1
    assert "is not for agents" in capfd.readouterr().err


def test_what_is_read_is_read_by_the_command(door: Door, capfd: pytest.CaptureFixture[str]) -> None:
    assert door("plans") == 0
    assert "no plans" in capfd.readouterr().out
    assert door("plans", PLAN) == 1
    assert door("help") == 0
    assert door("playbooks") == 0
    assert "destroy_guest: " in capfd.readouterr().out


PATHS = os.pathsep.join((str(CORE / "services/src"), str(CORE.parents[2])))
# A run in a process of its own, so that signals reach it as they would reach the door.
RUNNER = """
import signal, sys
from pathlib import Path
from nhi_services.door_run import forget_inherited_signals, run_apart
forget_inherited_signals()
sys.exit(run_apart(["sh", "-c", sys.argv[1]], {"PATH": "/usr/bin:/bin"}, Path("/"), float(sys.argv[2])))
"""


def start(script: str, seconds: float = 60, **more: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", RUNNER, script, str(seconds)], env={**os.environ, "PYTHONPATH": PATHS}, **more
    )


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.02)


def test_a_run_goes_on_to_its_end_when_nobody_reads_what_it_says(tmp_path: Path) -> None:
    done = tmp_path / "done"
    running = start(f"yes | head -c 3000000; touch {done}", stdout=subprocess.PIPE)
    try:
        wait_for(done)
        assert running.poll() is None, "what was said is kept for a reader that is slow"
    finally:
        out, _err = running.communicate()
    assert len(out) == 3000000


def test_a_reader_that_went_away_costs_only_the_output(tmp_path: Path) -> None:
    running = start(f"echo a; sleep 0.3; echo b; sleep 0.3; touch {tmp_path}/done", stdout=subprocess.PIPE)
    assert running.stdout is not None
    running.stdout.close()
    assert running.wait(20) == 0
    assert (tmp_path / "done").exists()


def test_ctrl_z_stops_nothing_and_hanging_up_ends_the_run_in_order(tmp_path: Path) -> None:
    script = f"trap 'echo in order > {tmp_path}/end; exit 7' INT; touch {tmp_path}/begun; while :; do sleep 0.05; done"
    running = start(script)
    wait_for(tmp_path / "begun")
    for number in (signal.SIGTSTP, signal.SIGTTOU, signal.SIGQUIT, signal.SIGPIPE):
        running.send_signal(number)
    running.send_signal(signal.SIGHUP)
    assert running.wait(20) == 7
    assert (tmp_path / "end").read_text() == "in order\n"


def test_what_the_caller_ignored_or_blocked_is_undone(tmp_path: Path) -> None:
    def spoil() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM, signal.SIGCHLD])

    running = start("grep -E '^Sig(Blk|Ign)' /proc/self/status; exit 3", stdout=subprocess.PIPE, preexec_fn=spoil)
    out, _err = running.communicate(timeout=20)
    assert running.returncode == 3, "a failure would be taken for a success"
    masks = {line.split(b":")[0]: int(line.split()[1], 16) for line in out.splitlines()}
    assert masks[b"SigBlk"] == 0
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE):
        assert not masks[b"SigIgn"] & 1 << (number - 1)


@pytest.mark.parametrize(
    ("limit", "soft", "hard", "refused"),
    [(resource.RLIMIT_FSIZE, 0, 0, True), (resource.RLIMIT_CPU, 1, 60, True), (resource.RLIMIT_NOFILE, 40, 100, True),
     (resource.RLIMIT_FSIZE, 0, resource.RLIM_INFINITY, False), (resource.RLIMIT_NOFILE, 40, 1024, False)],
)  # fmt: skip
def test_a_caller_s_limits_are_lifted_or_nothing_begins(limit: int, soft: int, hard: int, refused: bool) -> None:
    program = (
        "import resource; from nhi_services.door_run import lift_limits; lift_limits();"
        f"print(resource.getrlimit({int(limit)}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": PATHS}, check=False, text=True,
        capture_output=True, preexec_fn=lambda: resource.setrlimit(limit, (soft, hard)),
    )  # fmt: skip
    assert ("could cut a run off" in done.stderr) == refused, done.stderr
    if not refused:
        assert done.stdout.strip() == str((max(512, soft) if limit == resource.RLIMIT_NOFILE else hard, hard))


def test_a_run_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    assert start("sleep 60", 0.2).wait(20) == door_run.TOO_LONG
