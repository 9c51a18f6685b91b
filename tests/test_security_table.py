"""The attacks in SECURITY.md are tried: every test that its table names is there."""

from __future__ import annotations

import re

from .conftest import ROOT

PLACES = (
    "tests",
    "collections/ansible_collections/nhi/core/tests",
    "collections/ansible_collections/nhi/core/services/tests",
)


def test_every_test_in_the_table_of_attacks_is_there() -> None:
    named = re.findall(r"`((?:[a-z_]+/)*test_[a-z_]+\.py)(?:::(test_[a-z0-9_]+))?`", (ROOT / "SECURITY.md").read_text())
    assert len(named) > 40
    files = [path for place in PLACES for path in (ROOT / place).rglob("test_*.py")]
    for file, test in named:
        found = [path for path in files if path.as_posix().endswith(f"/{file}")]
        assert len(found) == 1, f"{file} is {len(found)} files"
        assert not test or f"def {test}(" in found[0].read_text(), f"{file} has no {test}"
