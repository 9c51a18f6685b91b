"""What must never be committed: keys, tokens, and addresses of somebody's network in the product."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ("collections/", "playbooks/", "inventory/", "group_vars/", "lab/")

SECRETS = {
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/]{20}",
    "an API token of a Git host": r"\b(ghp|gho|ghs|glpat)[_-][A-Za-z0-9_-]{20,}",
    "an access key of a cloud": r"\bAKIA[0-9A-Z]{16}\b",
    "a key of a model provider": r"\b(sk-[A-Za-z0-9_-]{24,}|AIza[0-9A-Za-z_-]{35}|gsk_[A-Za-z0-9]{20,})",
    "a token of a chat": r"\bxox[abp]-[0-9A-Za-z-]{10,}",
}
HOME_NETWORK = r"\b192\.168\.\d{1,3}\.\d{1,3}\b"


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def findings(pattern: str, names: list[str]) -> list[str]:
    found = []
    for name in names:
        text = (ROOT / name).read_bytes().decode(errors="replace")
        found += [f"{name}:{text.count(chr(10), 0, m.start()) + 1}" for m in re.finditer(pattern, text)]
    return found


@pytest.mark.parametrize("what", SECRETS)
def test_the_tree_holds_no(what: str) -> None:
    assert findings(SECRETS[what], tracked()) == []


def test_the_product_names_no_address_of_a_home_network() -> None:
    product = [name for name in tracked() if name.startswith(PRODUCT) and "/tests/" not in name]
    assert findings(HOME_NETWORK, product) == []


def test_what_is_in_the_vault_is_encrypted() -> None:
    vault = [name for name in tracked() if name.startswith("vault/") and name.endswith((".yml", ".yaml"))]
    plain = [name for name in vault if not (ROOT / name).read_text().startswith("$ANSIBLE_VAULT;")]
    assert plain == []


@pytest.mark.parametrize(
    ("what", "sample"),
    [
        ("a private key", "-----BEGIN OPENSSH PRIVATE " + "KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU\n"),
        ("an API token of a Git host", "ghp" + "_0123456789abcdefghijABCDEFGHIJ"),
        ("an access key of a cloud", "AKIA" + "ABCDEFGHIJKLMNOP"),
        ("a key of a model provider", "sk-" + "proj0123456789abcdefghijkl"),
        ("a token of a chat", "xoxb" + "-1234567890-abcdef"),
    ],
)
def test_the_patterns_find(what: str, sample: str) -> None:
    assert re.search(SECRETS[what], sample)


def test_no_role_puts_a_variable_into_the_environment_of_a_task() -> None:
    """Ansible writes a task's environment into the command line that starts Python, for everybody to read in `ps`."""
    roles = [name for name in tracked() if re.search(r"/roles/[^/]+/(tasks|handlers)/", name)]
    assert roles
    assert findings(r"\n +environment:\n(?: +\S+: .*\n)*? +\S+: .*\{\{", roles) == []
