"""`python -m lab` as a person uses it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from proxmoxer import ProxmoxAPI

from lab import control, pidfile
from lab.config import LabConfig

ROOT = Path(__file__).resolve().parents[2]


def lab(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lab", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=60, check=False)


@pytest.fixture(autouse=True)
def own_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """requests would prefer this to verify_ssl=False."""
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def up(tmp_path: Path, port: int) -> Iterator[Path]:
    directory = tmp_path / "lab"
    started = lab("up", "--driver", "memory", "--port", str(port), "--dir", directory, "--auth-delay", "0")
    assert started.returncode == 0, started.stderr
    yield directory
    lab("down", "--dir", directory)


def proxmox(directory: Path) -> ProxmoxAPI:
    config = json.loads((directory / "lab.json").read_text())
    token = json.loads((directory / "credentials.json").read_text())["tokens"]["demo"]
    return ProxmoxAPI(
        "127.0.0.1", port=config["port"], user="nhi@pve", token_name="demo", token_value=token, verify_ssl=False
    )


def test_up_is_said_once_and_repeated_without_harm(up: Path, port: int) -> None:
    again = lab("up", "--dir", up)
    assert again.returncode == 0
    assert f"already up: https://127.0.0.1:{port}/api2/json" in again.stdout


def test_down_removes_all_it_made(up: Path) -> None:
    ended = lab("down", "--dir", up)
    assert ended.returncode == 0
    assert not up.exists()
    assert lab("down", "--dir", up).returncode == 0


def test_down_keeps_what_it_did_not_make(up: Path) -> None:
    (up / "notes.txt").write_text("mine")
    lab("down", "--dir", up)
    assert [path.name for path in up.iterdir()] == ["notes.txt"]


def test_a_stopped_lab_goes_on_as_it_was(up: Path, port: int) -> None:
    secret = (up / "env").read_text()
    assert lab("down", "--keep", "--dir", up).returncode == 0
    assert lab("status", "--dir", up).returncode == 3
    assert lab("up", "--dir", up).returncode == 0
    assert (up / "env").read_text() == secret
    assert json.loads(lab("status", "--json", "--dir", up).stdout)["port"] == port


def test_a_stopped_lab_does_not_change_its_network(up: Path) -> None:
    lab("down", "--keep", "--dir", up)
    refused = lab("up", "--dir", up, "--subnet", "10.99.0.0/24")
    assert refused.returncode == 1
    assert "was made with another subnet" in refused.stderr


@pytest.mark.parametrize(("directory", "bridge"), [("lab", "not-a-name"), ("my lab", "nhilab0")])
def test_what_the_driver_can_not_work_with_leaves_nothing(tmp_path: Path, directory: str, bridge: str) -> None:
    refused = lab("up", "--driver", "lxc", "--dir", tmp_path / directory, "--bridge", bridge)
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_killed_daemon_is_noticed_and_started_again(up: Path) -> None:
    before = json.loads(lab("status", "--json", "--dir", up).stdout)["pid"]
    crashed = lab("fault", "crash", "--dir", up)
    assert crashed.returncode == 0, crashed.stderr
    assert json.loads(lab("status", "--json", "--dir", up).stdout)["pid"] not in (None, before)


def test_a_pid_without_its_lock_is_never_believed(tmp_path: Path) -> None:
    file = tmp_path / "daemon.pid"
    file.write_text(f"{os.getpid()}\n")  # alive, but no daemon
    assert pidfile.running_pid(file) is None
    with pidfile.hold(file):
        assert pidfile.running_pid(file) == os.getpid()
        with pytest.raises(pidfile.AlreadyRunning):
            pidfile.hold(file)
    assert pidfile.running_pid(file) is None


def test_up_that_is_interrupted_leaves_no_daemon(tmp_path: Path, port: int) -> None:
    directory = tmp_path / "lab"
    command = [sys.executable, "-m", "lab", "up", "--driver", "memory", "--port", str(port), "--dir", str(directory)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert started.stdout is not None
    assert "starting with the driver 'memory'" in started.stdout.readline()
    started.send_signal(signal.SIGINT)
    _, told = started.communicate(timeout=30)
    if started.returncode == 130:  # else it was up before the signal came
        assert "interrupted" in told
        wait_until(lambda: pidfile.running_pid(directory / "daemon.pid") is None)
    lab("down", "--dir", directory)


def test_an_interrupt_while_the_daemon_is_made_ends_it(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[subprocess.Popen[bytes]] = []

    def interrupted(*arguments: Any, **named: Any) -> subprocess.Popen[bytes]:
        made.append(real(*arguments, **named))
        os.kill(os.getpid(), signal.SIGINT)
        return made[0]

    real = subprocess.Popen
    control.prepare(tmp_path / "lab", LabConfig(port=port))
    monkeypatch.setattr(subprocess, "Popen", interrupted)
    with pytest.raises(KeyboardInterrupt):
        control.start(tmp_path / "lab", lambda _line: None)
    try:
        assert made[0].wait(60) is not None
    finally:
        made[0].kill()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 1
    assert "Traceback" not in result.stdout + result.stderr
    [line] = result.stderr.splitlines()
    return line


def test_a_directory_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    assert "is not empty and no lab" in one_line(lab("up", "--driver", "memory", "--dir", tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_taken_port_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = lab("up", "--driver", "memory", "--port", str(port), "--dir", tmp_path / "lab")
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in refused.stdout
    assert "did not start" in one_line(refused)


@pytest.mark.parametrize(("option", "value"), [("--subnet", "10.0.0.0/30"), ("--subnet", "here"), ("--nodes", "a,a")])
def test_settings_that_cannot_work_are_refused_before_anything_is_made(tmp_path: Path, option: str, value: str) -> None:
    assert option in one_line(lab("up", "--driver", "memory", "--dir", tmp_path / "lab", option, value))
    assert not (tmp_path / "lab").exists()


def test_status_without_a_lab_says_how_to_start_one(tmp_path: Path) -> None:
    assert "python -m lab up" in one_line(lab("status", "--dir", tmp_path))


def test_unlock_is_the_way_out_for_a_guest_that_a_killed_daemon_left_locked(up: Path) -> None:
    connection = proxmox(up)
    assert lab("fault", "set", "task-slow", "--task", "vzcreate", "--delay", "30", "--dir", up).returncode == 0
    template = connection.nodes("pve").storage("local").content.get(content="vztmpl")[0]["volid"]
    connection.nodes("pve").lxc.post(vmid=105, hostname="half", ostemplate=template, storage="local-lvm")
    assert lab("fault", "crash", "--dir", up).returncode == 0
    assert proxmox(up).nodes("pve").lxc(105).config.get()["lock"] == "create"
    assert "the lock 'create' is gone" in lab("unlock", "105", "--dir", up).stdout
    assert "lock" not in proxmox(up).nodes("pve").lxc(105).config.get()
    assert "has no lock" in lab("unlock", "105", "--dir", up).stdout


def test_unlock_of_an_unknown_guest_says_so_and_leaves_the_daemon_running(up: Path) -> None:
    refused = lab("unlock", "999", "--dir", up)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "there is no guest 999" in refused.stderr
    assert json.loads(lab("status", "--json", "--dir", up).stdout)["running"]
