"""The settings of one lab, remembered in its directory so that later commands need only `--dir`."""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "lab.json"
# Any user may bind addresses of loopback: remembered guests can have embedded servers on theirs (lab.embedded).
DEFAULT_SUBNETS = {"lxc": "10.86.0.0/24", "memory": "127.86.0.0/24"}


class ConfigError(ValueError):
    """One line about a setting that cannot work."""


@dataclass(frozen=True)
class LabConfig:
    """What `up` was asked for; `driver` is never `auto`."""

    driver: str = "memory"
    port: int = 8006
    bind: str = "127.0.0.1"
    subnet: str = DEFAULT_SUBNETS["memory"]
    bridge: str = "nhilab0"
    nodes: tuple[str, ...] = ("pve",)
    pve_version: int = 9
    lag: bool = True
    auth_delay: float = 3.0
    test_endpoint: bool = False

    def __post_init__(self) -> None:
        try:
            network = ipaddress.IPv4Network(self.subnet)
        except ValueError as error:
            raise ConfigError(f"--subnet {self.subnet}: {error}") from error
        if network.prefixlen > 28:
            raise ConfigError(f"--subnet {self.subnet}: too small, give at least a /28")
        for node in self.nodes:
            if not re.fullmatch(r"[a-zA-Z0-9](?:[a-zA-Z0-9\-]{0,61}[a-zA-Z0-9])?", node):
                raise ConfigError(f"--nodes: '{node}' is not a valid node name")
        if not self.nodes or len(set(self.nodes)) != len(self.nodes):
            raise ConfigError("--nodes: give at least one name, and each only once")
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"--port {self.port}: must be between 0 and 65535")
        if self.pve_version not in (8, 9):
            raise ConfigError(f"--pve-version {self.pve_version}: known are 8 and 9")

    @property
    def reachable(self) -> str:
        """Where a client on this machine finds the API."""
        return self.bind if self.bind not in ("0.0.0.0", "::") else "127.0.0.1"

    @property
    def gateway(self) -> str:
        """The first address of the subnet: the bridge's own."""
        return str(ipaddress.IPv4Network(self.subnet).network_address + 1)

    def save(self, directory: Path) -> None:
        text = json.dumps(asdict(self), indent=2, sort_keys=True)
        (directory / FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> LabConfig:
        """The remembered settings; ConfigError when there is no lab."""
        try:
            document = json.loads((directory / FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"no lab in {directory}: start one with `python -m lab up --dir {directory}`") from None
        return cls(**{**document, "nodes": tuple(document["nodes"])})
