# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules run as they run on a managed host."""

from __future__ import annotations

import pytest
from ansible.module_utils import _internal


@pytest.fixture(autouse=True)
def managed_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module's warnings are in its result.

    Once a test of a controller plugin has run in the same process, ansible-core takes everything after it for the
    controller too, and shows a module's warnings instead of returning them.
    """
    monkeypatch.setattr(_internal, "is_controller", False)
