# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where settings come from, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ansible_collections.nhi.core.plugins.module_utils.scan_options import options_from_params
from nhi_services.settings import SettingsError, read_secret, read_settings

if TYPE_CHECKING:
    from collections.abc import Callable


FULL = """
state_dir = "/srv/state"

[proxmox]
api_host = "pve.example.net"
api_port = 443
api_user = "nhi@pve"
api_token_id = "reader"
validate_certs = false
timeout = 5

[scan]
concurrency = 2
probe_deadline_seconds = 3
catalogue = ["/etc/nhi/catalogue"]
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def write_file(text: str) -> Path:
        path = tmp_path / "nhi.toml"
        path.write_text(text)
        return path

    return write_file


def secret_file(directory: Path, mode: int = 0o600) -> Path:
    path = directory / "token"
    path.write_text("s3cret\n")
    path.chmod(mode)
    return path


def test_the_file_is_read_with_its_types(write: Callable[[str], Path]) -> None:
    settings = read_settings({}, file=write(FULL))
    assert settings.state_dir == Path("/srv/state")
    assert settings.proxmox == {
        "api_host": "pve.example.net",
        "api_port": 443,
        "api_user": "nhi@pve",
        "api_token_id": "reader",
        "validate_certs": False,
        "timeout": 5.0,
    }
    assert settings.catalogue == ("/etc/nhi/catalogue",)
    options = options_from_params(settings.scan)
    assert (options.per_node, options.probe_deadline_seconds) == (2, 3.0)


def test_the_environment_wins_over_the_file(write: Callable[[str], Path]) -> None:
    environment = {
        "PROXMOX_HOST": "other.example.net",
        "PROXMOX_PORT": "8007",
        "PROXMOX_VALIDATE_CERTS": "Yes",
        "PROXMOX_TIMEOUT": "1.5",
        "PROXMOX_USER": " ",
        "NHI_STATE_DIR": "/srv/other",
    }
    settings = read_settings(environment, file=write(FULL))
    assert settings.state_dir == Path("/srv/other")
    assert settings.proxmox["api_host"] == "other.example.net"
    assert settings.proxmox["api_port"] == 8007
    assert settings.proxmox["validate_certs"] is True
    assert settings.proxmox["timeout"] == 1.5
    assert settings.proxmox["api_user"] == "nhi@pve"


def test_the_port_that_playbooks_ask_guests_on_is_asked_by_the_command_too(write: Callable[[str], Path]) -> None:
    file = write("[scan]\nguest_health_port = 2222\n")
    assert read_settings({}, file=file).scan["guest_health_port"] == 2222
    assert read_settings({"NHI_GUEST_HEALTH_PORT": "0"}, file=file).scan["guest_health_port"] == 0


def test_the_state_directory_falls_back_step_by_step(write: Callable[[str], Path]) -> None:
    nowhere = write("")
    assert read_settings({}, file=nowhere).state_dir == Path("/var/lib/nhi")
    assert read_settings({"NHI_ROOT": "/src/nhi"}, file=nowhere).state_dir == Path("/src/nhi/infrastructure")
    environment = {"NHI_ROOT": "/src/nhi", "NHI_STATE_DIR": "/srv/state"}
    assert read_settings(environment, file=nowhere).state_dir == Path("/srv/state")
    assert read_settings(environment, file=nowhere, state_dir=Path("/tmp/x")).state_dir == Path("/tmp/x")


def test_the_defaults_are_those_of_the_scan(write: Callable[[str], Path]) -> None:
    assert read_settings({}, file=write("")).scan["concurrency"] == 4


def test_a_file_that_nobody_named_may_be_missing_and_a_named_one_may_not(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    with pytest.raises(SettingsError, match=r"missing\.toml does not exist"):
        read_settings({}, file=missing)
    with pytest.raises(SettingsError, match=r"missing\.toml does not exist"):
        read_settings({"NHI_CONFIG": str(missing)})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", "is not TOML"),
        (
            "colour = 1",
            "colour in .* is not a setting: use dependency_graph, history, proxmox, restart, router, scan, state_dir",
        ),
        ("scan = 1", r"scan in .* must be a table"),
        ("state_dir = 1", "state_dir in .* must be of type str, not int"),
        ("[proxmox]\nhost = 'x'", r"host in \[proxmox\] of .* is not a setting"),
        ("[proxmox]\napi_port = '1'", "api_port in .* must be of type int, not str"),
        ("[proxmox]\napi_port = true", "api_port in .* must be of type int, not bool"),
        ("[proxmox]\nvalidate_certs = 'no'", "validate_certs in .* must be of type bool, not str"),
        ("[scan]\nconcurrency = 1.5", "concurrency in .* must be of type int, not float"),
        ("[scan]\ncatalogue = 'x'", "must be a list of directories"),
        ("[proxmox]\napi_token_secret = 's3cret'", "does not belong in .*: put it in a file of mode 0600"),
        ("[proxmox]\napi_token_secret_file = 1", "api_token_secret_file in .* must be of type str, not int"),
    ],
)
def test_a_wrong_file_is_one_line_that_says_what_to_do(write: Callable[[str], Path], text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        read_settings({}, file=write(text))
    assert "\n" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "environment",
    [
        {"PROXMOX_PORT": "https"},
        {"PROXMOX_TIMEOUT": "soon"},
        {"NHI_GUEST_HEALTH_PORT": "ssh"},
        {"PROXMOX_VALIDATE_CERTS": "perhaps"},
    ],
)
def test_a_wrong_variable_is_named(write: Callable[[str], Path], environment: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=next(iter(environment))):
        read_settings(environment, file=write(""))


def secret_of(environment: dict[str, str], file: Path) -> str | None:
    return read_secret(read_settings(environment, file=file), environment)


def test_the_secret_comes_from_the_environment_then_a_credential_then_a_file(
    tmp_path: Path, write: Callable[[str], Path]
) -> None:
    file = write(f"[proxmox]\napi_token_secret_file = '{secret_file(tmp_path)}'")
    assert secret_of({}, file) == "s3cret"
    credentials = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert secret_of(credentials, file) == "s3cret"
    (tmp_path / "proxmox_token_secret").write_text("from systemd\n")
    assert secret_of(credentials, file) == "from systemd"
    assert secret_of({**credentials, "PROXMOX_TOKEN_SECRET": "from env"}, file) == "from env"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_secret_that_others_can_read_is_refused(tmp_path: Path, write: Callable[[str], Path], mode: int) -> None:
    file = write(f"[proxmox]\napi_token_secret_file = '{secret_file(tmp_path, mode)}'")
    with pytest.raises(SettingsError, match="can be read by others: chmod 0600") as caught:
        secret_of({}, file)
    assert "s3cret" not in str(caught.value)


def test_a_secret_that_can_not_be_read_stops_only_what_needs_it(write: Callable[[str], Path]) -> None:
    file = write("[proxmox]\napi_token_secret_file = '/nowhere/token'")
    settings = read_settings({}, file=file)
    with pytest.raises(SettingsError, match="/nowhere/token can not be read: No such file"):
        read_secret(settings, {})


def test_without_any_secret_there_is_none(write: Callable[[str], Path]) -> None:
    assert secret_of({}, write("")) is None
