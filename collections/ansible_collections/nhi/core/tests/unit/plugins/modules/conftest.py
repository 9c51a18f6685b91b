# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules under test believe that they run on a host, whatever else the same process has imported."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def on_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of controller plugins turn ansible-core's module_utils into the controller's, which displays warnings."""
    monkeypatch.setattr("ansible.module_utils._internal.is_controller", False)
