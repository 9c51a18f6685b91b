# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of the `nhi` command: from the environment first, then from a TOML file; read once, then frozen."""

from __future__ import annotations

import stat
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from ansible_collections.nhi.core.plugins.module_utils.errors import HistoryError, NHIError
from ansible_collections.nhi.core.plugins.module_utils.retention import Retention
from ansible_collections.nhi.core.plugins.module_utils.scan_options import ScanOptions

DEFAULT_FILE: Final = Path("/etc/nhi/nhi.toml")
DEFAULT_STATE_DIR: Final = Path("/var/lib/nhi")
CREDENTIAL: Final = "proxmox_token_secret"
SECRET_VARIABLE: Final = "PROXMOX_TOKEN_SECRET"  # noqa: S105 -- a name

_PROXMOX_VARIABLES: Final[Mapping[str, tuple[str, type]]] = {
    "api_host": ("PROXMOX_HOST", str),
    "api_port": ("PROXMOX_PORT", int),
    "api_user": ("PROXMOX_USER", str),
    "api_token_id": ("PROXMOX_TOKEN_ID", str),
    "validate_certs": ("PROXMOX_VALIDATE_CERTS", bool),
    "ca_path": ("PROXMOX_CA_PATH", str),
    "timeout": ("PROXMOX_TIMEOUT", float),
}
# The playbooks read it too: a lab in memory sets it, because nothing listens in its guests.
_SCAN_VARIABLES: Final[Mapping[str, tuple[str, type]]] = {"guest_health_port": ("NHI_GUEST_HEALTH_PORT", int)}
# The Redis in which the router keeps quotas; the module nhi_quota reads the variable too.
_QUOTA_VARIABLES: Final[Mapping[str, tuple[str, type]]] = {
    "redis_url": ("NHI_REDIS_URL", str),
    "redis_password_file": ("NHI_REDIS_PASSWORD_FILE", str),
}
_RESTART_VARIABLES: Final[Mapping[str, tuple[str, type]]] = {
    "health_timeout": ("NHI_HEALTH_TIMEOUT", float), "ssh_user": ("NHI_SSH_USER", str),
    "ssh_private_key": ("NHI_SSH_KEY", str), "known_hosts": ("NHI_KNOWN_HOSTS", str),
}  # fmt: skip
_RESTART_DEFAULTS: Final[Mapping[str, Any]] = {
    "health_timeout": 60.0, "brain_vmid": 100, "ssh_user": "root", "ssh_private_key": None, "known_hosts": None,
}  # fmt: skip
# Where the router's books are, and its router.yml, which knows that too and has the budgets.
_ROUTER_VARIABLES: Final[Mapping[str, tuple[str, type]]] = {
    "dsn": ("NHI_ROUTER_DSN", str),
    "password_file": ("NHI_ROUTER_PASSWORD_FILE", str),
    "config": ("NHI_ROUTER_CONFIG", str),
}
_WORDS: Final[Mapping[str, bool]] = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


class SettingsError(NHIError):
    """A setting is missing or wrong; nothing was tried."""


@dataclass(frozen=True)
class Settings:
    """What the command was told about its surroundings; the secret is read only by what needs it."""

    state_dir: Path
    proxmox: Mapping[str, Any] = field(default_factory=dict)
    secret_file: str | None = None
    scan: Mapping[str, Any] = field(default_factory=dict)
    catalogue: tuple[str, ...] = ()
    dependency_graph: str | None = None
    restart: Mapping[str, Any] = field(default_factory=dict)
    retention: Retention = field(default_factory=Retention)
    router: Mapping[str, str] = field(default_factory=dict)
    # Where the quotas are: redis_url, and redis_password_file.
    quotas: Mapping[str, str] = field(default_factory=dict)


def read_settings(
    environment: Mapping[str, str], *, file: Path | None = None, state_dir: Path | None = None
) -> Settings:
    """Settings from the environment and the file; the file must exist only when it is named."""
    configured = environment.get("NHI_CONFIG")
    path = file or (Path(configured) if configured else DEFAULT_FILE)
    content = read_toml(path, required=file is not None or bool(configured))
    _refuse_unknown(
        content, ("state_dir", "dependency_graph", "proxmox", "restart", "scan", "history", "router"), str(path)
    )
    proxmox, scan, restart, history, router = (
        _table(content, name, path) for name in ("proxmox", "scan", "restart", "history", "router")
    )
    _refuse_unknown(router, tuple(_ROUTER_VARIABLES), f"[router] of {path}")
    defaults = _scan_defaults()
    _refuse_unknown(proxmox, (*_PROXMOX_VARIABLES, "api_token_secret_file"), f"[proxmox] of {path}")
    _refuse_unknown(scan, (*defaults, *_QUOTA_VARIABLES, "catalogue"), f"[scan] of {path}")
    return Settings(
        state_dir=_state_dir(environment, content, path, state_dir),
        proxmox={
            **{
                name: _typed(value, _PROXMOX_VARIABLES[name][1], name, path)
                for name, value in proxmox.items()
                if name in _PROXMOX_VARIABLES
            },
            **_from_environment(environment, _PROXMOX_VARIABLES),
        },
        secret_file=_typed_or_none(proxmox.get("api_token_secret_file"), str, "api_token_secret_file", path),
        scan={
            **defaults,
            **{name: _typed(scan[name], type(defaults[name]), name, path) for name in scan if name in defaults},
            **_from_environment(environment, _SCAN_VARIABLES),
        },
        catalogue=_catalogue(scan, path),
        dependency_graph=_dependency_graph(environment, content, path),
        restart=_restart(environment, restart, path),
        retention=_retention(history, path),
        router={
            **{name: _typed(value, str, name, path) for name, value in router.items()},
            **_from_environment(environment, _ROUTER_VARIABLES),
        },
        quotas={
            **{name: _typed(scan[name], str, name, path) for name in _QUOTA_VARIABLES if name in scan},
            **_from_environment(environment, _QUOTA_VARIABLES),
        },
    )


def proxmox_variables(settings: Settings) -> dict[str, str]:
    """The same settings as variables, for a program that reads only these; without the secret."""
    return {
        variable: str(value).lower() if kind is bool else str(value)
        for name, (variable, kind) in _PROXMOX_VARIABLES.items()
        if (value := settings.proxmox.get(name)) is not None
    }


def _restart(environment: Mapping[str, str], given: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """How to restart, under the names of the module's options."""
    _refuse_unknown(given, tuple(_RESTART_DEFAULTS), f"[restart] of {path}")
    kinds = {name: str if default is None else type(default) for name, default in _RESTART_DEFAULTS.items()}
    return {
        **_RESTART_DEFAULTS,
        **{name: _typed(value, kinds[name], name, path) for name, value in given.items()},
        **_from_environment(environment, _RESTART_VARIABLES),
    }


def _scan_defaults() -> dict[str, Any]:
    """The scan's own defaults, under the names of the module's options."""
    options = ScanOptions()
    return {
        "concurrency": options.per_node,
        "full": options.everything,
        "health_checks": options.health_checks,
        "guest_health_port": options.guest_health_port,
        "probe_deadline_seconds": options.probe_deadline_seconds,
        "config_ttl_seconds": options.lifetimes.config_seconds,
        "address_ttl_seconds": options.lifetimes.address_seconds,
        "dead_agent_ttl_seconds": options.lifetimes.dead_agent_seconds,
    }


def _retention(history: Mapping[str, Any], path: Path) -> Retention:
    _refuse_unknown(history, tuple(asdict(Retention())), f"[history] of {path}")
    try:
        return Retention(**{name: _typed(value, int, name, path) for name, value in history.items()})
    except HistoryError as error:
        raise SettingsError(f"[history] of {path}: {error}") from error


def read_toml(path: Path, *, required: bool) -> dict[str, Any]:
    """The content of a settings file; empty where there is none and none is required."""
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        if required:
            raise SettingsError(f"The settings file {path} does not exist: correct its name or create it.") from None
        return {}
    except OSError as error:
        raise SettingsError(f"The settings file {path} can not be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"The settings file {path} is not TOML: {error}.") from error


def _table(content: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    table = content.get(name, {})
    if not isinstance(table, dict):
        raise SettingsError(f"{name} in {path} must be a table: write [{name}] on a line of its own.")
    return table


def _refuse_unknown(given: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for name in given:
        if name == "api_token_secret":
            raise SettingsError(
                f"api_token_secret does not belong in {where}: put it in a file of mode 0600 and name that as "
                f"api_token_secret_file, or use the variable {SECRET_VARIABLE}."
            )
        if name not in known:
            raise SettingsError(f"{name} in {where} is not a setting: use {', '.join(sorted(known))}.")


def _state_dir(environment: Mapping[str, str], content: Mapping[str, Any], path: Path, option: Path | None) -> Path:
    if option is not None:
        return option
    if configured := environment.get("NHI_STATE_DIR"):
        return Path(configured).expanduser()
    if "state_dir" in content:
        return Path(_typed(content["state_dir"], str, "state_dir", path)).expanduser()
    # Set by the checkout's `activate`.
    if checkout := environment.get("NHI_ROOT"):
        return Path(checkout) / "infrastructure"
    return DEFAULT_STATE_DIR


def _dependency_graph(environment: Mapping[str, str], content: Mapping[str, Any], path: Path) -> str | None:
    """The hand-edited graph; None is the one beside state.json."""
    configured = environment.get("NHI_DEPENDENCY_GRAPH") or _typed_or_none(
        content.get("dependency_graph"), str, "dependency_graph", path
    )
    if configured:
        return str(Path(configured).expanduser())
    # Set by the checkout's `activate`, whose playbooks read this one.
    checkout = environment.get("NHI_ROOT")
    return str(Path(checkout) / "infrastructure" / "dependency_graph.json") if checkout else None


def _typed(value: Any, kind: type, name: str, path: Path) -> Any:
    accepted = (int, float) if kind is float else (kind,)
    if type(value) not in accepted:
        raise SettingsError(f"{name} in {path} must be of type {kind.__name__}, not {type(value).__name__}.")
    return kind(value)


def _typed_or_none(value: Any, kind: type, name: str, path: Path) -> Any:
    return None if value is None else _typed(value, kind, name, path)


def _catalogue(scan: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    directories = scan.get("catalogue", [])
    if not isinstance(directories, list) or not all(isinstance(directory, str) for directory in directories):
        raise SettingsError(f"catalogue in [scan] of {path} must be a list of directories.")
    return tuple(directories)


def _from_environment(environment: Mapping[str, str], variables: Mapping[str, tuple[str, type]]) -> dict[str, Any]:
    found = {}
    for name, (variable, kind) in variables.items():
        text = environment.get(variable, "").strip()
        if text:
            found[name] = _boolean(text, variable) if kind is bool else _number_or_text(text, kind, variable)
    return found


def _boolean(text: str, variable: str) -> bool:
    try:
        return _WORDS[text.lower()]
    except KeyError:
        raise SettingsError(f"{variable} is {text!r}: use yes or no.") from None


def _number_or_text(text: str, kind: type, variable: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise SettingsError(f"{variable} is {text!r}, which is not a number.") from None


def read_secret(settings: Settings, environment: Mapping[str, str]) -> str | None:
    """The token's secret: from the environment, a systemd credential, or a private file; None where there is none."""
    if secret := environment.get(SECRET_VARIABLE):
        return secret
    if directory := environment.get("CREDENTIALS_DIRECTORY"):
        credential = Path(directory) / CREDENTIAL
        if credential.exists():
            # systemd made it readable for this service only.
            return read_private(credential, private=False)
    if settings.secret_file is None:
        return None
    return read_private(Path(settings.secret_file).expanduser(), private=True)


def read_private(path: Path, *, private: bool) -> str:
    """The secret in a file, which must be readable by its owner only where ``private`` says so."""
    try:
        if private and stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise SettingsError(f"The secret in {path} can be read by others: chmod 0600 {path}.")
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise SettingsError(f"The secret in {path} can not be read: {reason}.") from error
