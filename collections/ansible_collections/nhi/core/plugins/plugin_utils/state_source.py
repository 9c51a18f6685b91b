# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the controller plugins share: find, read and verify state.json, and refuse one that is too old."""

from __future__ import annotations

import os
from datetime import datetime
from typing import Any

from ansible_collections.nhi.core.plugins.module_utils.errors import StateTooOldError
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.plugins.plugin_utils.state_hosts import age_seconds


def state_directory(configured: str, base: str) -> str:
    """Absolute path of a state directory that was given relative to base, or with a tilde."""
    return os.path.normpath(os.path.join(os.path.abspath(base), os.path.expanduser(configured)))


def read_state(directory: str, *, max_age: int, now: datetime) -> dict[str, Any]:
    """Verified state document of a directory; StateTooOldError when it is older than max_age seconds (0 accepts any)."""
    document = StateStore(directory).read()
    age = age_seconds(document["meta"]["generated_at"], now)
    if max_age and (age is None or age > max_age):
        raise StateTooOldError(
            f"state.json in {directory} is {age} s old and at most {max_age} s are accepted: run a scan, or raise max_age."
        )
    return document
