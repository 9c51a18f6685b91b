# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a module's main() with options against a node in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.fake_proxmox import FakeProxmox

API = {
    "api_host": "pve.example.net",
    "api_user": "nhi@pve",
    "api_token_id": "x",
    "api_token_secret": "00000000-0000-4000-8000-000000000000",
}

Run = Callable[..., dict[str, Any]]


class FakeClient(FakeProxmox):
    """The node as the client that a module opens."""

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *exc: object) -> None:
        return None


def runner(module: ModuleType, capsys: pytest.CaptureFixture[str], *, api: bool = True, **defaults: Any) -> Run:
    """A function that runs the module with options over the defaults and returns its result."""

    def call(*, check: bool = False, **options: Any) -> dict[str, Any]:
        arguments = {**(API if api else {}), **defaults, "_ansible_check_mode": check, **options}
        with patch_module_args(arguments), pytest.raises(SystemExit) as ended:
            module.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert bool(result.get("failed")) == (ended.value.code != 0)
        return result

    return call
