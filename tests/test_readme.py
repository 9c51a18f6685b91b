"""The README's commands for a real Proxmox VE are enough: played on a lab, their token can do the main job."""

from __future__ import annotations

import json
import re
import shlex
import ssl
import urllib.parse
import urllib.request
from collections.abc import Iterable
from typing import Any

import pytest

from tests.conftest import ROOT, Operator

pytestmark = pytest.mark.e2e

POOL = "ai-lab"


def pveum_commands() -> list[list[str]]:
    """The `# pveum ...` lines of the README, as words."""
    found = re.findall(r"^\s*# pveum (.+)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    return [shlex.split(line) for line in found]


def options(words: Iterable[str]) -> dict[str, str]:
    """`--name value` pairs, as the API names them."""
    words = list(words)
    return {name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2], strict=True)}


class Root:
    """root@pam with a ticket: what `pveum` on the host is."""

    def __init__(self, operator: Operator) -> None:
        self._url = operator.lab.url
        self._context = ssl._create_unverified_context()
        password = json.loads((operator.lab.directory / "credentials.json").read_text())["root_password"]
        self._headers: dict[str, str] = {}
        ticket = self.call("POST", "/access/ticket", {"username": "root@pam", "password": password})
        self._headers = {
            "Cookie": "PVEAuthCookie=" + urllib.parse.quote(ticket["ticket"]),
            "CSRFPreventionToken": ticket["CSRFPreventionToken"],
        }

    def call(self, method: str, path: str, data: dict[str, str] | None = None) -> Any:
        body = urllib.parse.urlencode(data or {}).encode()
        request = urllib.request.Request(self._url + path, body, self._headers, method=method)
        with urllib.request.urlopen(request, context=self._context, timeout=10) as answer:
            return json.load(answer)["data"]

    def pveum(self, words: list[str]) -> Any:
        """One command line of pveum as the API call that it makes."""
        match words:
            case ["pool", "add", name]:
                return self.call("POST", "/pools", {"poolid": name})
            case ["user", "add", name]:
                return self.call("POST", "/access/users", {"userid": name})
            case ["role", "add", name, *rest]:
                return self.call("POST", "/access/roles", {"roleid": name, **options(rest)})
            case ["user", "token", "add", user, token, *rest]:
                return self.call("POST", f"/access/users/{user}/token/{token}", options(rest))
            case ["acl", "modify", path, *rest]:
                return self.call("PUT", "/access/acl", {"path": path, **options(rest)})
        pytest.fail(f"the README has a pveum command that this test does not know: {words}")


def test_the_token_of_the_readme_makes_and_scans_guests_of_its_pool_and_no_others(operator: Operator) -> None:
    root = Root(operator)
    # The lab comes with a pool and a user of these names; a fresh node does not.
    renamed = {
        POOL: "readme-pool",
        "nhi@pve": "readme@pve",
        "NHICreator": "ReadmeCreator",
        f"/pool/{POOL}": "/pool/readme-pool",
    }
    secret = ""
    for words in pveum_commands():
        answer = root.pveum([renamed.get(word, word) for word in words])
        if words[:3] == ["user", "token", "add"]:
            secret = answer["value"]
    assert secret, "the README creates no token"
    operator.extra = {
        "PROXMOX_USER": "readme@pve",
        "PROXMOX_TOKEN_ID": "creator",
        "PROXMOX_TOKEN_SECRET": secret,
    }
    wanted: dict[str, Any] = {
        "state": "started",
        "template": "debian-12",
        "memory": 256,
        "disk": 2,
        "state_dir": str(operator.state_dir),
        "network": {"range": "127.86.0.105-127.86.0.120", "prefix": 24, "gateway": "127.86.0.1"},
    }
    made = operator.module("nhi_vm", name="inside", pool="readme-pool", **wanted)
    assert made.get("changed"), made
    assert operator.module("nhi_state_scan", state_dir=str(operator.state_dir))["counts"]["guests"] == 1
    refused = operator.module("nhi_vm", name="outside", **wanted)
    assert refused.get("failed")
    assert "VM.Allocate" in refused["msg"]
    gone = operator.module("nhi_vm", name="inside", state="absent", confirm="inside", state_dir=str(operator.state_dir))
    assert gone.get("changed"), gone
