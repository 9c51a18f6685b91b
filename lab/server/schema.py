"""The served endpoints' parameters, and their verification: every error of a call is reported at once."""

from __future__ import annotations

import copy
import json
import re
from functools import lru_cache
from importlib import resources
from typing import Any

from lab.server.errors import bad_parameters
from lab.server.values import NOT_IN_SCHEMA, check_value

Rules = dict[str, dict[str, Any]]

MISSING = "property is missing and it is not optional"
COUNTS = {
    "dev": 256, "mp": 256, "unused": 256, "net": 32, "ipconfig": 32, "scsi": 31, "virtio": 16, "hostpci": 16,
    "usb": 14, "virtiofs": 10, "numa": 8, "sata": 6, "ide": 4, "serial": 4, "parallel": 3,
}  # fmt: skip

# What version 8 does not know yet (parameters by endpoint ending, sub-keys of property strings).
NEW_IN_9 = {"ha-managed", "entrypoint", "env", "allow-ksm", "intel-tdx"}
NEW_SUB_KEYS_IN_9 = {"net[n]": {"host-managed"}, "mp[n]": {"idmap", "keepattrs"}, "rootfs": {"idmap", "keepattrs"}}


class Endpoint:
    """One method of one path: its rules, its declared permission check, whether tokens may call it."""

    def __init__(self, entry: dict[str, Any]) -> None:
        self.rules: Rules = entry["parameters"]
        self.permissions: dict[str, Any] = entry["permissions"]
        self.allow_token = bool(entry["allowtoken"])

    @property
    def world(self) -> bool:
        """Nobody needs to be logged in."""
        return self.permissions.get("user") == "world"

    def rule(self, name: str) -> dict[str, Any] | None:
        """The rule of a parameter, also of a counted one (`net0` by `net[n]`)."""
        if name in self.rules:
            return self.rules[name]
        match = re.fullmatch(r"([a-z]+)(0|[1-9]\d*)", name)
        if match and f"{match[1]}[n]" in self.rules and int(match[2]) < COUNTS[match[1]]:
            return self.rules[f"{match[1]}[n]"]
        return None

    def verify(self, given: dict[str, Any]) -> dict[str, Any]:
        """The typed parameters, or a 400 that names all that is wrong."""
        errors: dict[str, str] = {}
        typed: dict[str, Any] = {}
        for name, value in given.items():
            rule = self.rule(name)
            if rule is None:
                errors[name] = NOT_IN_SCHEMA
                continue
            typed[name], problem = check_value(rule, value, name)
            if problem:
                errors[name] = problem
            required = rule.get("requires")
            if required and required not in given:
                errors.setdefault(required, f"missing property - '{name}' requires this property")
        for name, rule in self.rules.items():
            if name not in given and not name.endswith("[n]") and not int(rule.get("optional", 0)):
                errors.setdefault(name, MISSING)
        if errors:
            raise bad_parameters(errors)
        return typed


@lru_cache(maxsize=2)
def load(pve_version: int) -> dict[tuple[str, str], Endpoint]:
    """All served endpoints by (method, path template)."""
    text = resources.files("lab.data").joinpath("schema.json").read_text(encoding="utf-8")
    document = json.loads(text)
    if pve_version < 9:
        document = _for_version_8(document)
    return {(method, path): Endpoint(entry) for path, methods in document.items() for method, entry in methods.items()}


def _for_version_8(document: dict[str, Any]) -> dict[str, Any]:
    older = copy.deepcopy(document)
    for path, methods in older.items():
        for entry in methods.values():
            rules = entry["parameters"]
            for name in NEW_IN_9 & rules.keys():
                del rules[name]
            for name, keys in NEW_SUB_KEYS_IN_9.items():
                if isinstance(rules.get(name, {}).get("format"), dict):
                    rules[name]["format"] = {k: v for k, v in rules[name]["format"].items() if k not in keys}
            if path.endswith("/vzdump"):
                rules["maxfiles"] = {"minimum": 1, "optional": 1, "type": "integer"}
            if "/agent" in path and "check" in entry["permissions"]:
                entry["permissions"]["check"] = ["perm", "/vms/{vmid}", ["VM.Monitor"]]
    return older
