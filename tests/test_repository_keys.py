"""The keys of apt repositories that roles ship are the ones that their READMEs name."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import pytest

CORE = Path(__file__).resolve().parent.parent / "collections/ansible_collections/nhi/core"

KEYS = {
    "postgresql/files/apt.postgresql.org.asc": "B97B0AFCAA1A47F044F244A07FCC7D46ACCC4CF8",
    "mongodb/files/server-7.0.asc": "E58830201F7DD82CD808AA84160D26BB1785BA38",
    "mongodb/files/server-8.0.asc": "4B0752C1BCA238C0B4EE14DC41DE058A4E7DCA05",
}


def fingerprint(armored: str) -> str:
    """Of the first packet, an OpenPGP public key of version 4 (RFC 4880, 12.2)."""
    body = armored.split("\n\n", 1)[1].split("\n=", 1)[0]
    packet = base64.b64decode("".join(body.split()))
    assert packet[0] == 0x99, "an old-format public key whose length has two bytes"
    size = int.from_bytes(packet[1:3], "big")
    return hashlib.sha1(packet[: 3 + size]).hexdigest().upper()


@pytest.mark.parametrize("path", KEYS)
def test_a_key_is_the_one_that_the_readme_names(path: str) -> None:
    file = CORE / "roles" / path
    readme = (file.parent.parent / "README.md").read_text()

    assert fingerprint(file.read_text()) == KEYS[path]
    assert KEYS[path] in re.sub(r"\s", "", readme)


def test_every_key_is_looked_at() -> None:
    shipped = {str(file.relative_to(CORE / "roles")) for file in Path(CORE, "roles").glob("*/files/*.asc")}

    assert shipped == set(KEYS)
